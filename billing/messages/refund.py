"""The notices that a refund was sent, and that a refund was returned to us."""

import uuid
from datetime import datetime

from accounts.models import Account
from billing.messages.letters import compose, tell
from billing.messages.rechecks import Looked, keep_or_rerender, one_by_one, subject
from billing.models import Refund
from notifications.catalog import Verdict
from notifications.formats import Reader
from notifications.models import Message
from notifications.outbox import Letter

REFUND_SENT = "REFUND_SENT"
REFUND_RETURNED = "REFUND_RETURNED"


def refund_sent(
    refund: Refund, *, account: Account, due_minor: int, as_of: datetime
) -> Message | None:
    """Tell the customer that a refund was sent, and how."""
    return tell(_refund(REFUND_SENT, refund, account=account, due_minor=due_minor, as_of=as_of))


def refund_returned(
    refund: Refund, *, account: Account, due_minor: int, as_of: datetime
) -> Message | None:
    """Tell the customer that a refund was returned to us, and is their credit now."""
    return tell(_refund(REFUND_RETURNED, refund, account=account, due_minor=due_minor, as_of=as_of))


def _refund(
    kind: str, refund: Refund, *, account: Account, due_minor: int, as_of: datetime
) -> Letter:
    payment, reader = refund.payment, Reader.of(account)
    context = {
        "amount": reader.money(refund.amount_minor - refund.lost_minor, refund.currency),
        "method": payment.method,
        "paid_on": reader.date(payment.received_at),
    }
    fact = f"refund:{refund.pk}:{'sent' if kind == REFUND_SENT else 'returned'}"
    return compose(kind, fact, context, account=account, due_minor=due_minor, as_of=as_of)


@one_by_one
def recheck_refund_returned(looked: Looked, as_of: datetime) -> Verdict:
    """Never cancel it: the refund stays returned. Only the balance may have changed."""
    message, account, standing = looked
    refund = Refund.objects.select_related("payment").get(pk=uuid.UUID(subject(message)))
    return keep_or_rerender(
        message,
        standing,
        lambda: _refund(
            REFUND_RETURNED, refund, account=account, due_minor=standing.due_minor, as_of=as_of
        ),
    )
