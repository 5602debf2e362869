"""What closing an account would do: the act's own steps, in a transaction that is rolled back."""

from dataclasses import dataclass
from datetime import datetime

from django.db import transaction

from billing import ledger, locks
from billing.closure import closing, final_invoice
from billing.models import UntalliedUsage, UsageBatch


@dataclass(frozen=True)
class Preview:
    """In minor units of the account's currency, as of one instant."""

    currency: str
    # What was used and not invoiced.
    invoiced_minor: int
    # After that invoice, and the credit that it uses.
    due_minor: int
    credit_minor: int
    in_flight_minor: int
    # Of the credit, what can be paid back by itself; the rest is given by us, or came outside a provider.
    payable_minor: int
    # Why it cannot be invoiced; empty: it can.
    cannot: str
    # Whether usage has come in that is in none of these.
    more_usage_waits: bool


@transaction.atomic(durable=True)
def preview(*, account_id: int, as_of: datetime) -> Preview:
    """Say what closing the account now would invoice, and what would be due or credit then. Writes nothing."""
    account = locks.account_for_update(account_id)
    cannot, invoiced_minor = "", 0
    point = transaction.savepoint()
    try:
        invoice = final_invoice.issue(account, as_of=as_of)
        invoiced_minor = invoice.total_minor if invoice else 0
    except final_invoice.CannotInvoice as error:
        cannot = str(error)
    standing = ledger.standing(account_id, as_of=as_of)
    seen = Preview(
        currency=standing.currency,
        invoiced_minor=invoiced_minor,
        due_minor=standing.due_minor,
        credit_minor=standing.credit_minor,
        in_flight_minor=standing.in_flight_minor,
        payable_minor=closing.payable_minor(account_id),
        cannot=cannot,
        more_usage_waits=UsageBatch.objects.filter(tallied_at=None).exists()
        or UntalliedUsage.objects.filter(account=account).exists(),
    )
    transaction.savepoint_rollback(point)
    transaction.set_rollback(True)
    return seen
