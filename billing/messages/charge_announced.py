"""The announcement of a direct debit: how much, and on which day."""

import uuid
from datetime import datetime

from accounts.models import Account
from billing.messages.letters import compose, tell
from billing.messages.rechecks import Looked, cancel, keep_or_rerender, one_by_one, subject
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


@one_by_one
def recheck_charge_announced(looked: Looked, as_of: datetime) -> Verdict:
    """Cancel it once the debit was given up, or is at the bank: it would be wrong, or too late."""
    message, account, standing = looked
    attempt = PaymentAttempt.objects.get(pk=uuid.UUID(subject(message)))
    if attempt.state not in {PaymentAttempt.State.RESERVED, PaymentAttempt.State.PREPARED}:
        because = "not collected on that day" if not attempt.submitted_at else "collected already"
        return cancel(message, standing, because=because, attempt=attempt)
    return keep_or_rerender(
        message,
        standing,
        lambda: _charge_announced(
            attempt, account=account, due_minor=standing.due_minor, as_of=as_of
        ),
        attempt=attempt,
    )
