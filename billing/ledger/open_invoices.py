"""What an account owes, invoice by invoice: the parts of its standing, so that rows and headline agree."""

from collections.abc import Sequence
from dataclasses import dataclass

from billing.ledger.settlement import dues
from billing.ledger.standing import Standing
from billing.models import Invoice


@dataclass(frozen=True)
class OpenInvoice:
    """
    An invoice that is not settled, and what of it stands how, in minor units.

    Over all of an account these sum to its standing's `due_minor`, `uncovered_minor` and, unless more is in
    flight than is due, `in_flight_minor`.
    """

    invoice: Invoice
    due_minor: int
    in_flight_minor: int  # what a payment in flight will settle of it
    overdue_minor: int  # what of the rest is past its due date

    @property
    def not_yet_due_minor(self) -> int:
        return self.due_minor - self.in_flight_minor - self.overdue_minor


def open_invoices(standing: Standing) -> list[OpenInvoice]:
    """Spread an account's standing over its open invoices as money is spread: oldest due first."""
    found = Invoice.objects.filter(
        account=standing.account_id, state=Invoice.State.ISSUED, settled_at=None
    )
    return _spread(standing, list(found.select_related("period").order_by("due_at", "pk")))


def _spread(standing: Standing, invoices: Sequence[Invoice]) -> list[OpenInvoice]:
    due = dues(invoices)
    flying_minor, overdue_minor = standing.in_flight_minor, standing.uncovered_minor
    shares = []
    for invoice in invoices:
        covered_minor = min(due[invoice.pk], flying_minor)
        late_minor = min(due[invoice.pk] - covered_minor, overdue_minor)
        flying_minor -= covered_minor
        overdue_minor -= late_minor
        shares.append(OpenInvoice(invoice, due[invoice.pk], covered_minor, late_minor))
    return shares
