"""What will be true after money comes in: for the page that asks before it is booked."""

from dataclasses import dataclass
from typing import Any

from accounts.models import Account
from billing.admin.cells import money
from billing.ledger import Standing, settlement
from billing.models import Invoice


@dataclass(frozen=True)
class Settles:
    """What one invoice would get of it."""

    invoice: Invoice
    due_minor: int
    gets_minor: int


def of(account: Account, standing: Standing, *, amount_minor: int) -> dict[str, Any]:
    """The balance before and after, the invoices it settles, and what is left over as credit."""
    settles = _settles(account, amount_minor=amount_minor)
    used_minor = sum(each.gets_minor for each in settles)
    currency = account.currency
    return {
        "amount": money(amount_minor, currency),
        "due_before": money(standing.due_minor, currency),
        "due_after": money(standing.due_minor - used_minor, currency),
        "credit_before": money(standing.credit_minor, currency),
        "credit_after": money(standing.credit_minor + amount_minor - used_minor, currency),
        "settles": [
            {
                "number": str(each.invoice),
                "due": money(each.due_minor, currency),
                "gets": money(each.gets_minor, currency),
                "left": money(each.due_minor - each.gets_minor, currency),
            }
            for each in settles
        ],
    }


def _settles(account: Account, *, amount_minor: int) -> list[Settles]:
    """As settlement.allocate will spread it: oldest due first."""
    invoices = sorted(
        account.invoices.filter(state=Invoice.State.ISSUED, settled_at=None),
        key=lambda invoice: (invoice.due_at, invoice.pk),
    )
    dues = settlement.dues(invoices)
    settles, left_minor = [], amount_minor
    for invoice in invoices:
        gets_minor = min(left_minor, dues[invoice.pk])
        if gets_minor > 0:
            left_minor -= gets_minor
            settles.append(Settles(invoice, dues[invoice.pk], gets_minor))
    return settles
