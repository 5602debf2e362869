"""The request to confirm a payment with the bank."""

import uuid
from datetime import datetime

from accounts.models import Account
from billing.messages.letters import attempt_link, compose, tell
from billing.messages.rechecks import Looked, cancel, one_by_one, subject
from billing.models import PaymentAttempt
from notifications.catalog import Keep, Verdict
from notifications.formats import Reader
from notifications.models import Message

CONFIRMATION_NEEDED = "CONFIRMATION_NEEDED"


def confirmation_needed(
    attempt: PaymentAttempt, *, account: Account, until: datetime, due_minor: int, as_of: datetime
) -> Message | None:
    """Ask the customer to confirm a payment with the bank: where, and until when."""
    reader = Reader.of(account)
    context = {
        "amount": reader.money(attempt.amount_minor, attempt.currency),
        "card": str(attempt.payment_method),
        "until": reader.instant(until),
        "confirm_link": attempt_link(attempt),
    }
    return tell(
        compose(
            CONFIRMATION_NEEDED,
            f"attempt:{attempt.pk}",
            context,
            account=account,
            due_minor=due_minor,
            as_of=as_of,
        )
    )


def was_asked_to_confirm(attempt: PaymentAttempt) -> bool:
    """Whether the customer has had this mail about the attempt. It says what happens next."""
    return Message.objects.filter(kind=CONFIRMATION_NEEDED, fact=f"attempt:{attempt.pk}").exists()


@one_by_one
def recheck_confirmation_needed(looked: Looked, as_of: datetime) -> Verdict:
    """Cancel it once the payment was confirmed or given up."""
    message, _account, standing = looked
    attempt = PaymentAttempt.objects.get(pk=uuid.UUID(subject(message)))
    if attempt.state != PaymentAttempt.State.REQUIRES_ACTION:
        because = "there is nothing to confirm any more"
        return cancel(message, standing, because=because, attempt=attempt)
    return Keep()
