"""The invoice: what for, how much, what is due, and how it will be paid."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any

from django.db.models import Q, Sum, prefetch_related_objects

from accounts.models import Account
from billing import ledger
from billing.messages.letters import compose
from billing.messages.prospects import ASKED_TO_PAY, Prospect, prospects, words
from billing.messages.rechecks import (
    cancel,
    keep_or_rerender,
    look,
    look_ahead,
    stated,
    subject,
)
from billing.models import Allocation, Invoice, LineItem
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
    accounts = {bill.account.pk: bill.account for bill in bills}
    prefetch_related_objects([*accounts.values()], "entity")
    owed = {bill.account.pk: bill.due_minor for bill in bills}
    standings = {
        pk: replace(standing, due_minor=owed[pk])
        for pk, standing in ledger.standings(accounts, as_of=as_of).items()
    }
    ahead = prospects(accounts, standings, as_of=as_of)
    return outbox.enqueue_all(_invoices(bills, ahead, as_of=as_of))


def _invoices(
    bills: Sequence[Bill], ahead: Mapping[int, Prospect], *, as_of: datetime
) -> list[Letter]:
    ids = [bill.invoice.pk for bill in bills]
    settled, products = _settled_by(ids), _products(ids)
    return [
        _invoice(
            bill,
            settled=settled.get(bill.invoice.pk, (0, 0)),
            products=products.get(bill.invoice.pk, []),
            prospect=ahead[bill.account.pk],
            as_of=as_of,
        )
        for bill in bills
    ]


def _invoice(
    bill: Bill,
    *,
    settled: tuple[int, int],
    products: list[tuple[str, int]],
    prospect: Prospect,
    as_of: datetime,
) -> Letter:
    invoice, account = bill.invoice, bill.account
    reader = Reader.of(account)
    credit_minor, paid_minor = settled
    left_minor = max(invoice.total_minor, 0) - credit_minor - paid_minor
    assert invoice.issued_at is not None, "an issued invoice says when"
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
        **_declined(prospect, invoice.issued_at),
        **words(prospect, reader, invoiced_at=invoice.issued_at),
        "bank_details": invoice.entity.bank_details,
        "reference": reference_of(account.pk),
    }
    fact = f"invoice:{invoice.pk}"
    return compose(INVOICE, fact, context, account=account, due_minor=bill.due_minor, as_of=as_of)


def _declined(prospect: Prospect, issued_at: datetime) -> dict[str, str]:
    """The card that was declined since, where that is how it stands."""
    is_news = prospect.was_declined_since(issued_at) or prospect.case is not None
    stands = prospect.next(invoiced_at=issued_at) in ASKED_TO_PAY
    if not is_news or not stands or prospect.declined is None:
        return {"declined_card": "", "declined_mandate": ""}
    method = prospect.declined.payment_method
    return {
        "declined_card": "" if method.is_mandate else str(method),
        "declined_mandate": str(method) if method.is_mandate else "",
    }


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


def recheck_invoices(messages: Sequence[Message], as_of: datetime) -> list[Verdict]:
    """Cancel those that a payment has settled: the receipt tells it. Render anew what would say something else."""
    looked = look(messages, as_of=as_of)
    invoices = Invoice.objects.select_related("period", "entity").in_bulk(
        [_invoice_of(message) for message in messages]
    )
    paid = _paid_by_a_payment(_invoice_of(m) for m in messages if stated(m) > 0)
    anew = [each for each in looked if _invoice_of(each[0]) not in paid]
    bills = [
        Bill(invoices[_invoice_of(message)], account, standing.due_minor)
        for message, account, standing in anew
    ]
    ahead = look_ahead(anew, as_of=as_of)
    anew_ids = [message.pk for message, *_ in anew]
    letters = dict(zip(anew_ids, _invoices(bills, ahead, as_of=as_of), strict=True))
    verdicts: list[Verdict] = []
    for message, _account, standing in looked:
        if message.pk in letters:
            again = partial(letters.__getitem__, message.pk)
            verdicts.append(keep_or_rerender(message, standing, again))
        else:
            because = "settled meanwhile: the receipt tells it"
            verdicts.append(cancel(message, standing, because=because))
    return verdicts


def _paid_by_a_payment(invoice_ids: Iterable[int]) -> set[int]:
    """The invoices that are settled, at least in part by a payment that has not gone back."""
    settled = Invoice.objects.filter(pk__in=[*invoice_ids], settled_at__isnull=False)
    paid = Sum("allocations__amount_minor", filter=Q(allocations__payment__isnull=False))
    return set(settled.annotate(paid=paid).filter(paid__gt=0).values_list("pk", flat=True))


def _invoice_of(message: Message) -> int:
    return int(subject(message))
