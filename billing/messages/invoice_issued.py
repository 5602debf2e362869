"""The invoice: what for, how much, what is due, and how it will be paid."""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any

from django.db.models import Q, Sum, prefetch_related_objects

from accounts.models import Account, PaymentMethod
from billing.messages.letters import compose
from billing.messages.rechecks import Looked, cancel, keep_or_rerender, look, stated, subject
from billing.models import AccountClosure, Allocation, Invoice, LineItem
from billing.references import reference_of
from notifications import outbox
from notifications.catalog import Verdict
from notifications.formats import Reader
from notifications.models import Message
from notifications.outbox import Letter

INVOICE = "INVOICE"

# A longer list helps no reader of a mail; the invoice's page shows all.
PRODUCTS_LISTED = 20


@dataclass(frozen=True)
class Bill:
    """An issued invoice, its locked account, and what the account owes now."""

    invoice: Invoice
    account: Account
    due_minor: int


def invoices_issued(bills: Sequence[Bill], *, as_of: datetime) -> list[Message | None]:
    """
    Send invoices: what they are for, how much, what is due, and how it will be paid.

    :raises NoRecipient: if an account has no email address.
    """
    return outbox.enqueue_all(_invoices(bills, as_of=as_of))


def _invoices(bills: Sequence[Bill], *, as_of: datetime) -> list[Letter]:
    ids = [bill.invoice.pk for bill in bills]
    settled, products = _settled_by(ids), _products(ids)
    cards = _cards_to_charge([bill.account.pk for bill in bills], as_of=as_of)
    prefetch_related_objects([bill.account for bill in bills], "entity")
    return [
        _invoice(
            bill,
            settled=settled.get(bill.invoice.pk, (0, 0)),
            products=products.get(bill.invoice.pk, []),
            card=cards.get(bill.account.pk),
            as_of=as_of,
        )
        for bill in bills
    ]


def _invoice(
    bill: Bill,
    *,
    settled: tuple[int, int],
    products: list[tuple[str, int]],
    card: PaymentMethod | None,
    as_of: datetime,
) -> Letter:
    invoice, account = bill.invoice, bill.account
    reader = Reader.of(account)
    credit_minor, paid_minor = settled
    left_minor = max(invoice.total_minor, 0) - credit_minor - paid_minor
    context = {
        "number": invoice.number,
        "period": reader.period(invoice.period.month),
        **_rows(products, currency=invoice.currency, reader=reader),
        "total": reader.money(invoice.total_minor, invoice.currency),
        "is_credit": invoice.total_minor < 0,
        "credit": reader.money(-credit_minor, invoice.currency) if credit_minor else "",
        "paid": reader.money(-paid_minor, invoice.currency) if paid_minor else "",
        "left": reader.money(left_minor, invoice.currency),
        "due_date": reader.day(invoice.last_day(reader.time_zone)) if left_minor > 0 else "",
        "card": str(card) if card else "",
        "is_mandate": card.is_mandate if card else False,
        "bank_details": invoice.entity.bank_details,
        "reference": reference_of(account.pk),
    }
    fact = f"invoice:{invoice.pk}"
    return compose(INVOICE, fact, context, account=account, due_minor=bill.due_minor, as_of=as_of)


def _settled_by(invoice_ids: Sequence[int]) -> dict[int, tuple[int, int]]:
    """By invoice: how much of it credit has settled, and how much payments."""
    sums = (
        Allocation.objects.filter(invoice__in=invoice_ids)
        .values_list("invoice")
        .annotate(
            credit=Sum("amount_minor", filter=Q(grant__isnull=False), default=0),
            paid=Sum("amount_minor", filter=Q(payment__isnull=False), default=0),
        )
    )
    return {invoice: (credit, paid) for invoice, credit, paid in sums}


def _products(invoice_ids: Sequence[int]) -> dict[int, list[tuple[str, int]]]:
    """By invoice: the total of each product, the greatest first."""
    sums = (
        LineItem.objects.filter(invoice__in=invoice_ids)
        .values_list("invoice", "product__name")
        .annotate(minor=Sum("amount_minor"))
        .order_by("invoice", "-minor", "product__name")
    )
    return {
        invoice: [(name, minor) for _invoice, name, minor in rows]
        for invoice, rows in groupby(sums, key=itemgetter(0))
    }


def _rows(products: list[tuple[str, int]], *, currency: str, reader: Reader) -> dict[str, Any]:
    listed, more = products[:PRODUCTS_LISTED], products[PRODUCTS_LISTED:]
    return {
        "products": [
            {"name": name, "amount": reader.money(minor, currency)} for name, minor in listed
        ],
        "more_count": len(more),
        "more_amount": reader.money(sum(minor for _, minor in more), currency) if more else "",
    }


def _cards_to_charge(account_ids: Sequence[int], *, as_of: datetime) -> dict[int, PaymentMethod]:
    """By account: the card or mandate the close will charge, if one can be charged."""
    # Of a closed account nothing is charged by itself.
    closed = AccountClosure.objects.standing(account_ids).values_list("account", flat=True)
    cards = PaymentMethod.objects.default_of(account_ids).exclude(account__in=closed)
    return {card.account_id: card for card in cards if not card.has_expired(as_of)}


def recheck_invoices(messages: Sequence[Message], as_of: datetime) -> list[Verdict]:
    """Cancel those that a payment has settled: the receipt tells it. Render anew where the balance differs."""
    looked = look(messages, as_of=as_of)
    paid = _paid_by_a_payment(_invoice_of(m) for m in messages if stated(m) > 0)
    anew = _invoices_anew(
        [each for each in looked if _invoice_of(each[0]) not in paid], as_of=as_of
    )
    verdicts: list[Verdict] = []
    for message, _account, standing in looked:
        if stated(message) > 0 and _invoice_of(message) in paid:
            because = "settled meanwhile: the receipt tells it"
            verdicts.append(cancel(message, standing, because=because))
        else:
            verdicts.append(
                keep_or_rerender(message, standing, partial(anew.__getitem__, message.pk))
            )
    return verdicts


def _paid_by_a_payment(invoice_ids: Iterable[int]) -> set[int]:
    """The invoices that are settled, at least in part by a payment."""
    settled = Invoice.objects.filter(pk__in=[*invoice_ids], settled_at__isnull=False)
    return set(settled.filter(allocations__payment__isnull=False).values_list("pk", flat=True))


def _invoices_anew(looked: Sequence[Looked], *, as_of: datetime) -> dict[uuid.UUID, Letter]:
    """By message: the new letter of each that states another balance than the account has now."""
    changed = [each for each in looked if each[2].due_minor != stated(each[0])]
    if not changed:
        return {}
    invoices = Invoice.objects.select_related("period", "entity").in_bulk(
        [_invoice_of(message) for message, *_ in changed]
    )
    bills = [
        Bill(invoices[_invoice_of(message)], account, standing.due_minor)
        for message, account, standing in changed
    ]
    letters = _invoices(bills, as_of=as_of)
    return {message.pk: letter for (message, *_), letter in zip(changed, letters, strict=True)}


def _invoice_of(message: Message) -> int:
    return int(subject(message))
