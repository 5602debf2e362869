"""The notice that a hold was placed."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from accounts.models import Account, Hold
from billing.messages.letters import compose, tell
from billing.messages.prospects import Prospect, prospect_of, words
from billing.messages.rechecks import cancel, keep_or_rerender, look, look_ahead, subject
from notifications.catalog import Verdict
from notifications.formats import Reader
from notifications.models import Message
from notifications.outbox import Letter

HOLD_PLACED = "HOLD_PLACED"


def hold_placed(hold: Hold, *, account: Account, due_minor: int, as_of: datetime) -> Message | None:
    """Tell the customer that the account is on hold, and what lifts the hold."""
    ahead = prospect_of(account, due_minor=due_minor, as_of=as_of)
    return tell(_hold_placed(hold, ahead, due_minor=due_minor, as_of=as_of))


def _hold_placed(hold: Hold, prospect: Prospect, *, due_minor: int, as_of: datetime) -> Letter:
    account = prospect.account
    context = {
        "is_overdue": hold.reason == Hold.Reason.OVERDUE,
        **words(prospect, Reader.of(account)),
    }
    fact = f"hold:{hold.pk}:placed"
    return compose(HOLD_PLACED, fact, context, account=account, due_minor=due_minor, as_of=as_of)


def recheck_hold_placed(messages: Sequence[Message], as_of: datetime) -> list[Verdict]:
    """Cancel it once the hold was lifted."""
    looked = look(messages, as_of=as_of)
    holds = Hold.objects.in_bulk([int(subject(message)) for message in messages])
    ahead = look_ahead(looked, as_of=as_of)
    verdicts: list[Verdict] = []
    for message, account, standing in looked:
        hold = holds[int(subject(message))]
        if hold.lifted_at is not None:
            because = "the hold was lifted meanwhile"
            verdicts.append(cancel(message, standing, because=because, hold=hold))
            continue
        again = partial(
            _hold_placed, hold, ahead[account.pk], due_minor=standing.due_minor, as_of=as_of
        )
        verdicts.append(keep_or_rerender(message, standing, again, hold=hold))
    return verdicts
