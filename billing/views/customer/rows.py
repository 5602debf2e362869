"""Invoices and payments of an account as rows of plain values, in its reader's words."""

from datetime import datetime
from typing import Any

from django.db.models import Exists, OuterRef, QuerySet
from django.urls import reverse
from django.utils.translation import gettext as _

from accounts.models import Account, BillingEntity
from billing.ledger import settlement
from billing.models import Dispute, Invoice, Payment, PaymentAttempt
from billing.payments import charges
from billing.references import reference_of
from billing.views.access import Seat
from billing.views.customer import went_back


def by_transfer(entity: BillingEntity, account: Account) -> dict[str, str] | None:
    """How to pay by bank transfer; None where the entity names no bank account."""
    if not entity.bank_details:
        return None
    return {"bank_details": entity.bank_details, "reference": reference_of(account.pk)}


def charge_day(seat: Seat, attempt: PaymentAttempt, *, as_of: datetime) -> str:
    """The day a debit will be collected on; empty once it is at the bank, and for a card."""
    if attempt.charge_date is None or not charges.waits_for_its_day(attempt, as_of=as_of):
        return ""
    return seat.reader.day(attempt.charge_date)


def issued(seat: Seat) -> QuerySet[Invoice]:
    """The invoices a customer may see: drafts are ours alone."""
    return Invoice.objects.filter(account=seat.account, state=Invoice.State.ISSUED)


def invoice_rows(
    seat: Seat, *, as_of: datetime, open_only: bool = False, limit: int | None = None
) -> list[dict[str, Any]]:
    """The account's invoices, newest first; open ones oldest due first."""
    invoices = issued(seat).select_related("period").order_by("-issued_at", "-pk")
    if open_only:
        invoices = invoices.filter(settled_at=None).order_by("due_at", "pk")
    shown = list(invoices[:limit])
    dues = settlement.dues(shown)
    written_off = settlement.written_off(invoice.pk for invoice in shown)
    return [
        invoice_row(
            seat,
            invoice,
            due_minor=dues[invoice.pk],
            is_written_off=invoice.pk in written_off,
            as_of=as_of,
        )
        for invoice in shown
    ]


def invoice_row(
    seat: Seat, invoice: Invoice, *, due_minor: int, is_written_off: bool, as_of: datetime
) -> dict[str, Any]:
    """One invoice in words."""
    reader = seat.reader
    assert invoice.issued_at is not None, f"{invoice} is not issued"
    assert invoice.due_at is not None, f"{invoice} is not issued"
    return {
        "id": invoice.pk,
        "number": invoice.number,
        "url": reverse("invoice", args=[seat.account.pk, invoice.pk]),
        "period": reader.period(invoice.period.month),
        "issued": reader.date(invoice.issued_at),
        "due_date": reader.date(invoice.due_at),
        "total": reader.money(invoice.total_minor, invoice.currency),
        "due": reader.money(max(due_minor, 0), invoice.currency),
        "is_open": invoice.settled_at is None,
        **_state(invoice, is_written_off=is_written_off, as_of=as_of),
    }


def _state(invoice: Invoice, *, is_written_off: bool, as_of: datetime) -> dict[str, str]:
    if invoice.total_minor < 0:
        return {"state": _("Credit"), "tone": "good"}
    if invoice.settled_at is not None:
        return {"state": _("Written off") if is_written_off else _("Paid"), "tone": "good"}
    if invoice.is_overdue(as_of):
        return {"state": _("Overdue"), "tone": "bad"}
    return {"state": _("Due"), "tone": "warn"}


def payment_rows(seat: Seat, *, limit: int) -> list[dict[str, Any]]:
    """The account's payments, newest first."""
    disputes = Dispute.objects.filter(payment=OuterRef("pk"), closed_at=None)
    newest = (
        Payment.objects.filter(account=seat.account)
        .annotate(is_disputed=Exists(disputes))
        .order_by("-pk")[:limit]
    )
    gone = went_back.by_payment(seat, [payment.pk for payment in newest])
    return [
        {
            "date": seat.reader.date(payment.received_at),
            "method": payment.method,
            "amount": seat.reader.money(payment.amount_minor, payment.currency),
            "is_disputed": payment.is_disputed,
            "went_back": gone.get(payment.pk, []),
        }
        for payment in newest
    ]
