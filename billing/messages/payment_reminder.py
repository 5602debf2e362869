"""The reminder, some days before an invoice is due."""

from datetime import datetime

from accounts.models import Account
from billing.ledger import settlement
from billing.messages.letters import compose, tell
from billing.messages.rechecks import Looked, cancel, keep_or_rerender, one_by_one, subject
from billing.models import Invoice
from billing.references import reference_of
from notifications.catalog import Verdict
from notifications.formats import Reader
from notifications.models import Message
from notifications.outbox import Letter

PAYMENT_REMINDER = "PAYMENT_REMINDER"


def payment_reminder(
    invoice: Invoice, *, account: Account, due_minor: int, as_of: datetime
) -> Message | None:
    """Remind the customer of an invoice: what is left to pay, and until which day."""
    return tell(_payment_reminder(invoice, account=account, due_minor=due_minor, as_of=as_of))


def _payment_reminder(
    invoice: Invoice, *, account: Account, due_minor: int, as_of: datetime
) -> Letter:
    assert invoice.due_date is not None, f"{invoice} was due at once"
    reader = Reader.of(account)
    left_minor = settlement.dues([invoice])[invoice.pk]
    context = {
        "number": invoice.number,
        "left": reader.money(left_minor, invoice.currency),
        "due_date": reader.day(invoice.due_date),
        "bank_details": account.entity.bank_details,
        "reference": reference_of(account.pk),
    }
    fact = f"invoice:{invoice.pk}"
    return compose(
        PAYMENT_REMINDER,
        fact,
        context,
        account=account,
        due_minor=due_minor,
        as_of=as_of,
        left_minor=left_minor,
    )


@one_by_one
def recheck_payment_reminder(looked: Looked, as_of: datetime) -> Verdict:
    """Cancel it once the invoice is settled, a payment is on its way, or the day is over."""
    message, account, standing = looked
    invoice = Invoice.objects.get(pk=int(subject(message)))
    assert invoice.due_at is not None, f"{invoice} is not issued"
    if invoice.settled_at is not None:
        return cancel(message, standing, because="settled meanwhile")
    if standing.in_flight_minor:
        return cancel(message, standing, because="a payment is on its way")
    if standing.is_too_little:
        return cancel(message, standing, because="less is due than is asked for")
    if invoice.due_at <= as_of:
        return cancel(message, standing, because="its last day to pay is over")
    anew = _payment_reminder(invoice, account=account, due_minor=standing.due_minor, as_of=as_of)
    return keep_or_rerender(message, standing, lambda: anew)
