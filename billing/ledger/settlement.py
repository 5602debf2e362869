"""Spread money over what is owed: oldest due first, each invoice marked when it is settled."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Sum

from billing.models import Allocation, CreditGrant, Invoice, Payment


@dataclass
class Source:
    """Money of one account that may settle invoices: a payment, or a credit grant. Minor units."""

    account_id: int
    available_minor: int
    payment: Payment | None = None
    grant: CreditGrant | None = None

    @property
    def currency(self) -> str:
        money = self.payment or self.grant
        assert money is not None, "a source is a payment or a grant"
        return money.currency


def dues(invoices: Sequence[Invoice]) -> dict[int, int]:
    """What is still due of each invoice, in minor units, by invoice id."""
    allocated = dict(
        Allocation.objects.filter(invoice__in=invoices)
        .values_list("invoice")
        .annotate(Sum("amount_minor"))
    )
    return {invoice.pk: invoice.total_minor - allocated.get(invoice.pk, 0) for invoice in invoices}


def written_off(invoice_ids: Iterable[int]) -> set[int]:
    """The ids of those invoices of which something was written off: nobody has paid that part."""
    of_them = Allocation.objects.filter(
        invoice__in=[*invoice_ids], grant__kind=CreditGrant.Kind.WRITE_OFF
    )
    amounts = of_them.values_list("invoice").annotate(Sum("amount_minor"))
    return {invoice_id for invoice_id, amount_minor in amounts if amount_minor > 0}


def allocate(
    *, sources: Sequence[Source], invoices: Sequence[Invoice], as_of: datetime
) -> list[Allocation]:
    """
    Spread the sources, in their order, over the (locked, ordered) open invoices of their accounts.

    Money settles only what is owed in its own currency. Each source's `available_minor` is lowered by
    what it gave; the caller books what is left over.
    """
    due = dues(invoices)
    owed_by: dict[tuple[int, str], list[Invoice]] = defaultdict(list)
    for invoice in invoices:
        owed_by[invoice.account_id, invoice.currency].append(invoice)

    allocations = []
    for source in sources:
        for invoice in owed_by[source.account_id, source.currency]:
            amount_minor = min(source.available_minor, due[invoice.pk])
            if amount_minor > 0:
                source.available_minor -= amount_minor
                due[invoice.pk] -= amount_minor
                allocations.append(
                    Allocation(
                        invoice=invoice,
                        payment=source.payment,
                        grant=source.grant,
                        amount_minor=amount_minor,
                    )
                )
    Allocation.objects.bulk_create(allocations)
    _mark_settled([invoice for invoice in invoices if due[invoice.pk] == 0], as_of=as_of)
    return allocations


def _mark_settled(invoices: Sequence[Invoice], *, as_of: datetime) -> None:
    for invoice in invoices:
        invoice.settled_at = as_of
    Invoice.objects.filter(pk__in=[invoice.pk for invoice in invoices]).update(settled_at=as_of)
