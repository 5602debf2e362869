"""The announcement of a direct debit: how much, and on which day."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from accounts.models import Account
from billing.messages.attempts import attempt_of, attempts_of
from billing.messages.letters import compose, tell
from billing.messages.prospects import Prospect, stops
from billing.messages.rechecks import cancel, keep_or_rerender, look, look_ahead
from billing.models import PaymentAttempt
from notifications.catalog import Verdict
from notifications.formats import Reader
from notifications.models import Message
from notifications.outbox import Letter

CHARGE_ANNOUNCED = "CHARGE_ANNOUNCED"


def charge_announced(
    attempt: PaymentAttempt, *, account: Account, due_minor: int, as_of: datetime
) -> Message | None:
    """Announce a direct debit some days before: what it will collect, and on which day."""
    return tell(_charge_announced(attempt, account=account, due_minor=due_minor, as_of=as_of))


def _charge_announced(
    attempt: PaymentAttempt, *, account: Account, due_minor: int, as_of: datetime
) -> Letter:
    assert attempt.charge_date is not None, f"{attempt} is charged at once"
    reader = Reader.of(account)
    context = {
        "amount": reader.money(attempt.amount_minor, attempt.currency),
        "card": str(attempt.payment_method),
        "charge_date": reader.day(attempt.charge_date),
    }
    fact = f"attempt:{attempt.pk}"
    return compose(
        CHARGE_ANNOUNCED, fact, context, account=account, due_minor=due_minor, as_of=as_of
    )


def recheck_charge_announced(messages: Sequence[Message], as_of: datetime) -> list[Verdict]:
    """Cancel it once the debit was, or will be, given up, or its day is over: it would be wrong, or too late."""
    looked = look(messages, as_of=as_of)
    attempts, ahead = attempts_of(messages), look_ahead(looked, as_of=as_of)
    verdicts: list[Verdict] = []
    for message, account, standing in looked:
        attempt = attempt_of(message, attempts)
        because = _no_longer(attempt, ahead[account.pk])
        if because is not None:
            verdicts.append(cancel(message, standing, because=because, attempt=attempt))
            continue
        again = partial(
            _charge_announced, attempt, account=account, due_minor=standing.due_minor, as_of=as_of
        )
        verdicts.append(keep_or_rerender(message, standing, again, attempt=attempt))
    return verdicts


def _no_longer(attempt: PaymentAttempt, prospect: Prospect) -> str | None:
    """Why a debit is not collected as announced, or need not be announced any more; None where it is."""
    if attempt.state not in {PaymentAttempt.State.RESERVED, PaymentAttempt.State.PREPARED}:
        return "collected already" if attempt.submitted_at else "not collected on that day"
    if because := stops(attempt, prospect):
        return f"not collected on that day: {because}"
    assert attempt.charge_date is not None, f"{attempt} is charged at once"
    return "its day is over" if attempt.charge_date < prospect.today else None
