"""The notice of a declined charge: why it failed, and what to do."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from django.utils.functional import Promise

from accounts.models import Account
from billing.messages.attempts import attempt_of, attempts_of
from billing.messages.decline_words import decline_in_words, needs_another
from billing.messages.letters import compose, tell
from billing.messages.prospects import Next, Prospect, prospect_of, words
from billing.messages.rechecks import cancel, keep_or_rerender, look, look_ahead
from billing.models import PaymentAttempt
from notifications.catalog import Verdict
from notifications.formats import Reader
from notifications.models import Message
from notifications.outbox import Letter

PAYMENT_FAILED = "PAYMENT_FAILED"

# With these, what was declined is being seen to: there is nothing to advise.
SEEN_TO = frozenset({Next.CONFIRM, Next.COLLECTED, Next.ON_ITS_WAY, Next.CHARGED, Next.WAITS})
# Here it is up to the customer whether the account is held at the end.
UP_TO_THEM = frozenset({Next.CONFIRM, Next.TRIED_AGAIN, Next.PAY})


def payment_failed(
    attempt: PaymentAttempt, *, account: Account, due_minor: int, as_of: datetime
) -> Message | None:
    """Tell the customer that a charge was declined, why, and what to do."""
    ahead = prospect_of(account, due_minor=due_minor, as_of=as_of)
    # Its end is written down after this.
    in_flight = None if ahead.in_flight == attempt else ahead.in_flight
    ahead = replace(ahead, in_flight=in_flight, declined=attempt)
    return tell(_payment_failed(attempt, ahead, due_minor=due_minor, as_of=as_of))


def _payment_failed(
    attempt: PaymentAttempt, prospect: Prospect, *, due_minor: int, as_of: datetime
) -> Letter:
    account = prospect.account
    reader = Reader.of(account)
    case = prospect.case
    is_held_then = (
        case is not None
        and not prospect.is_paused
        and not prospect.is_held
        and prospect.next() in UP_TO_THEM
    )
    context = {
        "amount": reader.money(attempt.amount_minor, attempt.currency),
        "card": str(attempt.payment_method),
        "is_mandate": attempt.payment_method.is_mandate,
        "reason": decline_in_words(attempt)[0],
        "advice": _advice(attempt, prospect),
        "held_on": reader.day(prospect.last_day) if is_held_then and prospect.last_day else "",
        **words(prospect, reader),
    }
    fact = f"attempt:{attempt.pk}"
    return compose(PAYMENT_FAILED, fact, context, account=account, due_minor=due_minor, as_of=as_of)


def _advice(attempt: PaymentAttempt, prospect: Prospect) -> Promise | str:
    """What helps now: nothing where it is seen to, or another card is there; another card where that one is gone."""
    if prospect.next() in SEEN_TO | {Next.CARRIED_OVER}:
        return ""
    if prospect.card is None:
        return needs_another(attempt)
    return decline_in_words(attempt)[1] if prospect.card == attempt.payment_method else ""


def recheck_payment_failed(messages: Sequence[Message], as_of: datetime) -> list[Verdict]:
    """Cancel it once nothing is due any more, it has gone through after all, or a later one has failed as well."""
    looked = look(messages, as_of=as_of)
    attempts = attempts_of(messages)
    ahead, later = look_ahead(looked, as_of=as_of), _told_later(attempts.values())
    verdicts: list[Verdict] = []
    for message, _account, standing in looked:
        attempt = attempt_of(message, attempts)
        if standing.due_minor <= 0:
            because = "settled meanwhile"
        elif attempt.state == PaymentAttempt.State.SUCCEEDED:
            because = "it went through after all: the receipt tells it"
        elif attempt.pk in later:
            because = "a later one failed as well: its own message tells it"
        else:
            again = partial(
                _payment_failed,
                attempt,
                ahead[attempt.account_id],
                due_minor=standing.due_minor,
                as_of=as_of,
            )
            verdicts.append(keep_or_rerender(message, standing, again, attempt=attempt))
            continue
        verdicts.append(cancel(message, standing, because=because, attempt=attempt))
    return verdicts


def _told_later(attempts: Collection[PaymentAttempt]) -> set[object]:
    """Those after which another attempt of the account was declined whose message is not cancelled."""
    told = (
        Message.objects.filter(
            kind=PAYMENT_FAILED, account__in={attempt.account_id for attempt in attempts}
        )
        .exclude(state=Message.State.CANCELLED)
        .values_list("account", "fact")
    )
    theirs = {fact.split(":")[1]: account for account, fact in told}
    created = PaymentAttempt.objects.filter(pk__in=theirs).values_list("account", "created_at")
    newest: dict[int, datetime] = {}
    for account, created_at in created:
        newest[account] = max(created_at, newest.get(account, created_at))
    return {a.pk for a in attempts if a.created_at < newest.get(a.account_id, a.created_at)}
