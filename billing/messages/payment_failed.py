"""The notice of a declined charge: why it failed, and what to do."""

import uuid
from datetime import datetime

from accounts.models import Account
from billing.messages.decline_words import decline_in_words
from billing.messages.letters import compose, tell
from billing.messages.outlook import last_days_to_pay
from billing.messages.rechecks import Looked, cancel, keep_or_rerender, one_by_one, subject
from billing.models import PaymentAttempt
from notifications.catalog import Verdict
from notifications.formats import Reader
from notifications.models import Message
from notifications.outbox import Letter

PAYMENT_FAILED = "PAYMENT_FAILED"


def payment_failed(
    attempt: PaymentAttempt, *, account: Account, due_minor: int, as_of: datetime
) -> Message | None:
    """Tell the customer that a charge was declined, why, and what to do."""
    return tell(_payment_failed(attempt, account=account, due_minor=due_minor, as_of=as_of))


def _payment_failed(
    attempt: PaymentAttempt, *, account: Account, due_minor: int, as_of: datetime
) -> Letter:
    reader = Reader.of(account)
    reason, advice = decline_in_words(attempt)
    case = attempt.case if attempt.case and attempt.case.closed_at is None else None
    next_try_at = case.next_try_at if case else None
    last_day = (
        last_days_to_pay({account.pk: account}, as_of=as_of).get(account.pk) if case else None
    )
    context = {
        "amount": reader.money(attempt.amount_minor, attempt.currency),
        "card": str(attempt.payment_method),
        "is_mandate": attempt.payment_method.is_mandate,
        "reason": reason,
        "advice": advice,
        "next_try": reader.date(next_try_at) if next_try_at else "",
        "held_on": reader.day(last_day) if last_day else "",
    }
    fact = f"attempt:{attempt.pk}"
    return compose(PAYMENT_FAILED, fact, context, account=account, due_minor=due_minor, as_of=as_of)


@one_by_one
def recheck_payment_failed(looked: Looked, as_of: datetime) -> Verdict:
    """Cancel it once nothing is due any more."""
    message, account, standing = looked
    attempt = PaymentAttempt.objects.get(pk=uuid.UUID(subject(message)))
    if standing.due_minor <= 0:
        return cancel(message, standing, because="settled meanwhile", attempt=attempt)
    return keep_or_rerender(
        message,
        standing,
        lambda: _payment_failed(
            attempt, account=account, due_minor=standing.due_minor, as_of=as_of
        ),
        attempt=attempt,
    )
