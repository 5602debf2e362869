"""The notice of a payment that was reversed."""

from datetime import datetime

from accounts.models import Account
from billing.messages.letters import compose, tell
from billing.messages.rechecks import Looked, keep_or_rerender, one_by_one, subject
from billing.models import PaymentReversal
from notifications.catalog import Verdict
from notifications.formats import Reader
from notifications.models import Message
from notifications.outbox import Letter

PAYMENT_REVERSED = "PAYMENT_REVERSED"


def payment_reversed(
    reversal: PaymentReversal, *, account: Account, due_minor: int, as_of: datetime
) -> Message | None:
    """Tell the customer that a payment was reversed, and what is owed now."""
    return tell(_payment_reversed(reversal, account=account, due_minor=due_minor, as_of=as_of))


def _payment_reversed(
    reversal: PaymentReversal, *, account: Account, due_minor: int, as_of: datetime
) -> Letter:
    payment, reader = reversal.payment, Reader.of(account)
    context = {
        "amount": reader.money(reversal.amount_minor, payment.currency),
        "method": payment.method,
        "paid_on": reader.date(payment.received_at),
    }
    fact = f"reversal:{reversal.pk}"
    return compose(
        PAYMENT_REVERSED, fact, context, account=account, due_minor=due_minor, as_of=as_of
    )


@one_by_one
def recheck_payment_reversed(looked: Looked, as_of: datetime) -> Verdict:
    """Never cancel it: the payment stays reversed. Only the balance may have changed."""
    message, account, standing = looked
    reversal = PaymentReversal.objects.select_related("payment").get(pk=int(subject(message)))
    return keep_or_rerender(
        message,
        standing,
        lambda: _payment_reversed(
            reversal, account=account, due_minor=standing.due_minor, as_of=as_of
        ),
    )
