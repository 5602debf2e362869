"""Invoices and payments of an account as rows of plain values, in its reader's words."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.db.models import Exists, OuterRef, QuerySet
from django.urls import reverse
from django.utils.translation import gettext as _

from accounts.models import Account, BillingEntity
from billing import ledger
from billing.ledger import OpenInvoice, Standing
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


def confirm_until(seat: Seat, attempt: PaymentAttempt) -> str:
    """Until when the customer is asked to confirm it with the bank; empty where nobody is asked."""
    if attempt.state != PaymentAttempt.State.REQUIRES_ACTION:
        return ""
    return seat.reader.instant(charges.may_confirm_until(attempt))


def in_flight(seat: Seat, *, as_of: datetime) -> dict[str, Any] | None:
    """The payment that is in flight: where it stands, and what its customer is asked to do, until when."""
    attempt = (
        PaymentAttempt.objects.filter(account=seat.account, state__in=PaymentAttempt.IN_FLIGHT)
        .select_related("payment_method")
        .first()
    )
    if attempt is None:
        return None
    return {
        "id": attempt.pk,
        "amount": seat.reader.money(attempt.amount_minor, attempt.currency),
        "card": str(attempt.payment_method),
        "since": seat.reader.instant(attempt.created_at),
        "day": charge_day(seat, attempt, as_of=as_of),
        "confirm_until": confirm_until(seat, attempt),
    }


def issued(seat: Seat) -> QuerySet[Invoice]:
    """The invoices a customer may see: drafts are ours alone."""
    return Invoice.objects.filter(account=seat.account, state=Invoice.State.ISSUED)


def invoice_rows(
    seat: Seat, standing: Standing, *, open_only: bool = False, limit: int | None = None
) -> list[dict[str, Any]]:
    """The account's invoices, newest first; open ones oldest due first."""
    still_open = _by_invoice(standing)
    if open_only:
        shown = [each.invoice for each in still_open.values()]
    else:
        invoices = issued(seat).select_related("period")
        shown = list(invoices.order_by("-issued_at", "-pk")[:limit])
    waits, written_off = _waits_for_customer(seat), ledger.written_off(each.pk for each in shown)
    return [
        _row(
            seat, each, still_open.get(each.pk), waits=waits, is_written_off=each.pk in written_off
        )
        for each in shown
    ]


def invoice_row(seat: Seat, invoice: Invoice, standing: Standing) -> dict[str, Any]:
    """One invoice in words."""
    return _row(
        seat,
        invoice,
        _by_invoice(standing).get(invoice.pk),
        waits=_waits_for_customer(seat),
        is_written_off=invoice.pk in ledger.written_off([invoice.pk]),
    )


def due_rows(seat: Seat, standing: Standing) -> list[dict[str, Any]]:
    """
    What is due, by invoice and by how it stands, oldest due first.

    The amounts sum to the balance due, and those of one state to what the overview says of that state. An
    invoice that a payment in flight covers in part has two rows.
    """
    waits = _waits_for_customer(seat)
    return [
        {**_about(seat, each.invoice), **words, "due": _money(seat, each.invoice, minor)}
        for each in ledger.open_invoices(standing)
        for words, minor in _parts(each, waits=waits)
    ]


def _by_invoice(standing: Standing) -> dict[int, OpenInvoice]:
    return {each.invoice.pk: each for each in ledger.open_invoices(standing)}


def _waits_for_customer(seat: Seat) -> bool:
    """Whether what is in flight is nowhere yet: the customer is asked to confirm it."""
    waiting = PaymentAttempt.objects.filter(
        account=seat.account, state=PaymentAttempt.State.REQUIRES_ACTION
    )
    return waiting.exists()


def _row(
    seat: Seat,
    invoice: Invoice,
    still_open: OpenInvoice | None,
    *,
    waits: bool,
    is_written_off: bool,
) -> dict[str, Any]:
    due_minor = still_open.due_minor if still_open else 0
    return {
        **_about(seat, invoice),
        "total": _money(seat, invoice, invoice.total_minor),
        "due": _money(seat, invoice, due_minor),
        "is_open": still_open is not None,
        **_state(invoice, still_open, waits=waits, is_written_off=is_written_off),
    }


def _about(seat: Seat, invoice: Invoice) -> dict[str, Any]:
    reader = seat.reader
    assert invoice.issued_at is not None, f"{invoice} is not issued"
    return {
        "id": invoice.pk,
        "number": invoice.number,
        "url": reverse("invoice", args=[seat.account.pk, invoice.pk]),
        "period": reader.period(invoice.period.month),
        "issued": reader.date(invoice.issued_at),
        "due_date": reader.day(invoice.last_day(reader.time_zone)),
    }


def _money(seat: Seat, invoice: Invoice, amount_minor: int) -> str:
    return seat.reader.money(amount_minor, invoice.currency)


def _state(
    invoice: Invoice, still_open: OpenInvoice | None, *, waits: bool, is_written_off: bool
) -> dict[str, str]:
    """Of an invoice in several states the one that asks most of its customer."""
    if invoice.total_minor < 0:
        return {"state": _("Credit"), "tone": "good"}
    if still_open is None:
        return {"state": _("Written off") if is_written_off else _("Paid"), "tone": "good"}
    return min(_parts(still_open, waits=waits), key=lambda part: URGENCY.index(part[0]["tone"]))[0]


URGENCY = ("bad", "warn", "info")


def _parts(each: OpenInvoice, *, waits: bool) -> Iterator[tuple[dict[str, str], int]]:
    """The parts of an open invoice that stand differently: in words, and how much."""
    covered = (
        {"state": _("To be confirmed"), "tone": "warn"}
        if waits
        else {"state": _("On its way"), "tone": "info"}
    )
    parts = (
        (covered, each.in_flight_minor),
        ({"state": _("Overdue"), "tone": "bad"}, each.overdue_minor),
        ({"state": _("Due"), "tone": "warn"}, each.not_yet_due_minor),
    )
    return ((words, minor) for words, minor in parts if minor > 0)


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
