"""The notice that a hold was lifted."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from accounts.models import Account, Hold
from billing.messages.hold_placed import HOLD_PLACED
from billing.messages.letters import compose, tell
from billing.messages.rechecks import cancel, keep_or_rerender, look, subject
from notifications.catalog import Cancel, Verdict, Wait
from notifications.models import Message
from notifications.outbox import Letter

HOLD_LIFTED = "HOLD_LIFTED"

State = Message.State


def hold_lifted(hold: Hold, *, account: Account, due_minor: int, as_of: datetime) -> Message | None:
    """Tell the customer that the hold was lifted."""
    return tell(_hold_lifted(hold, account=account, due_minor=due_minor, as_of=as_of))


def _hold_lifted(hold: Hold, *, account: Account, due_minor: int, as_of: datetime) -> Letter:
    fact = f"hold:{hold.pk}:lifted"
    return compose(HOLD_LIFTED, fact, {}, account=account, due_minor=due_minor, as_of=as_of)


def recheck_hold_lifted(messages: Sequence[Message], as_of: datetime) -> list[Verdict]:
    """
    Cancel it where the customer was never told of the hold, or is on hold again: it would only puzzle them.

    While the message about the hold is in line for the mail server, or at it, nobody knows whether they were told.
    """
    looked = look(messages, as_of=as_of)
    holds = Hold.objects.in_bulk([int(subject(message)) for message in messages])
    told = _told([*holds])
    held = set(
        Hold.objects.filter(account__in=[m.account_id for m in messages], lifted_at=None)
        .exclude(pk__in=[*holds])
        .values_list("account", flat=True)
    )
    verdicts: list[Verdict] = []
    for message, account, standing in looked:
        hold = holds[int(subject(message))]
        placed = told.get(hold.pk)
        if account.pk in held:
            because = "another hold is on the account"
            verdicts.append(cancel(message, standing, because=because, hold=hold))
        elif placed is not None and placed.state == State.SENT:
            again = partial(
                _hold_lifted, hold, account=account, due_minor=standing.due_minor, as_of=as_of
            )
            verdicts.append(keep_or_rerender(message, standing, again, hold=hold))
        elif placed is not None and _is_on_its_way(placed):
            verdicts.append(Wait("the message about the hold is not at its end"))
        else:
            # The decision about that one says why.
            verdicts.append(Cancel("they were never told of the hold"))
    return verdicts


def _told(hold_ids: Sequence[int]) -> dict[int, Message]:
    """By hold: the message that told of it."""
    facts = {f"hold:{pk}:placed": pk for pk in hold_ids}
    placed = Message.objects.filter(kind=HOLD_PLACED, fact__in=facts)
    said = ("subject", "body_text", "body_html")
    return {facts[message.fact]: message for message in placed.defer(*said)}


def _is_on_its_way(placed: Message) -> bool:
    """Whether it will yet be sent or cancelled. One that is parked has reached nobody, as far as anybody knows."""
    return placed.state in {State.QUEUED, State.SENDING} and placed.parked_at is None
