"""Invoices: the list, one whose lines explain themselves, and the same as a table to download."""

import csv
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.http import content_disposition_header
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_safe

from accounts import clock
from billing.ledger import settlement
from billing.models import Allocation, CreditGrant, Invoice, LineItem
from billing.money import to_major
from billing.reports import csv_cells
from billing.views import numbers
from billing.views.access import Seat, members_only, show
from billing.views.customer import went_back
from billing.views.customer.rows import by_transfer, invoice_row, invoice_rows, issued

FILTERS = ("all", "open")


@require_safe
@members_only
def listed(request: HttpRequest, seat: Seat) -> HttpResponse:
    """All invoices, or those that are not settled."""
    which = request.GET.get("show", "all")
    if which not in FILTERS:
        raise Http404
    as_of = clock.now()
    context = {
        "tab": "invoices",
        "show": which,
        "as_of": seat.reader.instant(as_of),
        "invoices": invoice_rows(seat, open_only=which == "open", as_of=as_of),
    }
    return show(request, seat, "billing/invoices.html", context)


@require_safe
@members_only
def detail(request: HttpRequest, seat: Seat, invoice_id: int) -> HttpResponse:
    """One invoice: its lines, what paid it, what is left."""
    invoice = _find(seat, invoice_id)
    as_of = clock.now()
    due_minor = settlement.dues([invoice])[invoice.pk]
    context = {
        "tab": "invoices",
        "as_of": seat.reader.instant(as_of),
        "entity": invoice.entity.name,
        "addressee": invoice.account_name,
        "invoice": invoice_row(
            seat,
            invoice,
            due_minor=due_minor,
            is_written_off=invoice.pk in settlement.written_off([invoice.pk]),
            as_of=as_of,
        ),
        "lines": [_line(seat, line, invoice.currency) for line in _lines(invoice)],
        "allocations": _paid_by(seat, invoice),
        "transfer": by_transfer(invoice.entity, seat.account),
    }
    return show(request, seat, "billing/invoice.html", context)


@require_safe
@members_only
def download(request: HttpRequest, seat: Seat, invoice_id: int) -> HttpResponse:
    """The lines as CSV, for a spreadsheet: one row per line, exact numbers."""
    invoice = _find(seat, invoice_id)
    response = HttpResponse(content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = content_disposition_header(
        as_attachment=True, filename=f"{invoice.number}.csv"
    )
    sheet = csv.DictWriter(response, COLUMNS)
    sheet.writeheader()
    for line in _lines(invoice):
        sheet.writerow(csv_cells.safe(_csv_row(invoice, line)))
    return response


COLUMNS = (
    "invoice", "position", "kind", "product", "description", "quantity", "free_quantity", "unit",
    "unit_price", "starts_at", "ends_at", "amount_unrounded", "amount", "currency",
)  # fmt: skip


def _csv_row(invoice: Invoice, line: LineItem) -> dict[str, Any]:
    return {
        "invoice": invoice.number,
        "position": line.position,
        "kind": line.kind,
        "product": line.product.code,
        "description": line.description,
        "quantity": _plain(line.quantity),
        "free_quantity": _plain(line.free_quantity),
        "unit": line.unit,
        "unit_price": "" if line.unit_price is None else _plain(line.unit_price),
        "starts_at": line.starts_at.isoformat(),
        "ends_at": line.ends_at.isoformat(),
        "amount_unrounded": _plain(line.amount_unrounded),
        "amount": to_major(line.amount_minor, invoice.currency),
        "currency": invoice.currency,
    }


def _plain(value: Decimal) -> str:
    """Exact, without zeros that say nothing, and never 1E+2."""
    return format(value.normalize(), "f")


def _find(seat: Seat, invoice_id: int) -> Invoice:
    invoice = issued(seat).select_related("entity", "period").filter(pk=invoice_id).first()
    if invoice is None:
        raise Http404
    return invoice


def _lines(invoice: Invoice) -> Iterable[LineItem]:
    return invoice.lines.select_related("product").order_by("position")


def _line(seat: Seat, line: LineItem, currency: str) -> dict[str, Any]:
    locale = seat.reader.locale
    return {
        "description": line.description,
        "kind": line.kind,
        "quantity": numbers.quantity(line.quantity, locale=locale),
        "free": numbers.quantity(line.free_quantity, locale=locale) if line.free_quantity else "",
        "unit": line.unit,
        "rate": (
            ""
            if line.unit_price is None
            else numbers.rate(line.unit_price, currency, locale=locale)
        ),
        "period": seat.reader.period(timezone.localtime(line.starts_at).date()),
        "amount": seat.reader.money(line.amount_minor, currency),
    }


# The reason of a grant is support's; customers read what kind of credit it was.
CREDITS = {
    CreditGrant.Kind.PROMOTIONAL: _("Promotional credit"),
    CreditGrant.Kind.GOODWILL: _("Goodwill credit"),
    CreditGrant.Kind.SURPLUS: _("Credit from an earlier payment"),
    CreditGrant.Kind.RETURNED: _("Credit from a refund that came back"),
    CreditGrant.Kind.INVOICE: _("Credit from an earlier invoice"),
    CreditGrant.Kind.WRITE_OFF: _("Written off"),
}


def _paid_by(seat: Seat, invoice: Invoice) -> list[dict[str, Any]]:
    """What settled it, in order; what went back of a payment stands where that is named first."""
    allocations = list(
        invoice.allocations.select_related("payment", "grant", "invoice").order_by("pk")
    )
    paid = {each.payment_id for each in allocations if each.payment_id is not None}
    gone = went_back.by_payment(seat, paid)
    return [
        {**_allocation(seat, each), "went_back": gone.pop(each.payment_id or 0, [])}
        for each in allocations
    ]


def _allocation(seat: Seat, allocation: Allocation) -> dict[str, Any]:
    payment, grant = allocation.payment, allocation.grant
    return {
        "date": seat.reader.date(allocation.allocated_at),
        "source": payment.method if payment else _credit(grant),
        "is_taken_back": allocation.reverses_id is not None,
        "amount": seat.reader.money(allocation.amount_minor, allocation.invoice.currency),
    }


def _credit(grant: CreditGrant | None) -> str:
    assert grant is not None, "an allocation comes from a payment or from a grant"
    return str(CREDITS[CreditGrant.Kind(grant.kind)])
