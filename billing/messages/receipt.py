"""The receipt for a payment: which invoices it paid, and what it leaves as credit."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from django.db.models import prefetch_related_objects

from accounts.models import Account
from billing.messages.letters import compose, tell_all
from billing.messages.rechecks import keep_or_rerender, look, subject
from billing.models import Allocation, Invoice, Payment
from notifications.catalog import Keep, Verdict
from notifications.formats import Reader
from notifications.models import Message
from notifications.outbox import Letter

RECEIPT = "RECEIPT"


@dataclass(frozen=True)
class Receipt:
    """A payment, what it paid of which invoice, and the debt and credit of its locked account now."""

    payment: Payment
    account: Account
    allocations: Sequence[tuple[Invoice, int]]
    due_minor: int
    credit_minor: int


def payments_received(receipts: Sequence[Receipt], *, as_of: datetime) -> list[Message | None]:
    """Send receipts: which invoices each paid, what it leaves as credit, what is still due."""
    prefetch_related_objects([receipt.account for receipt in receipts], "entity")
    return tell_all([_receipt(receipt, as_of=as_of) for receipt in receipts])


def _receipt(receipt: Receipt, *, as_of: datetime) -> Letter:
    payment, reader = receipt.payment, Reader.of(receipt.account)
    surplus_minor = payment.amount_minor - sum(minor for _invoice, minor in receipt.allocations)
    credit_minor = receipt.credit_minor
    context = {
        "amount": reader.money(payment.amount_minor, payment.currency),
        "method": payment.method,
        "received_at": reader.instant(payment.received_at),
        "paid": [
            {"number": invoice.number, "amount": reader.money(minor, payment.currency)}
            for invoice, minor in receipt.allocations
        ],
        "surplus": reader.money(surplus_minor, payment.currency) if surplus_minor > 0 else "",
        "credit": reader.money(credit_minor, payment.currency) if credit_minor > 0 else "",
    }
    return compose(
        RECEIPT,
        f"payment:{payment.pk}",
        context,
        account=receipt.account,
        due_minor=receipt.due_minor,
        as_of=as_of,
    )


def recheck_receipts(messages: Sequence[Message], as_of: datetime) -> list[Verdict]:
    """Never cancel it: the money came. What is due, and what credit is left, may have changed."""
    looked = look(messages, as_of=as_of)
    ids = [int(subject(message)) for message in messages if message.fact.startswith("payment:")]
    payments, paid = Payment.objects.in_bulk(ids), _paid_when_booked(ids)
    verdicts: list[Verdict] = []
    for message, account, standing in looked:
        payment = payments.get(int(subject(message)))
        if payment is None:
            # Of no payment of ours: there is nothing to hold it against.
            verdicts.append(Keep())
            continue
        receipt = Receipt(
            payment,
            account,
            paid[payment.pk],
            due_minor=standing.due_minor,
            credit_minor=standing.credit_minor,
        )
        again = partial(_receipt, receipt, as_of=as_of)
        verdicts.append(keep_or_rerender(message, standing, again))
    return verdicts


def _paid_when_booked(payment_ids: Sequence[int]) -> dict[int, list[tuple[Invoice, int]]]:
    """By payment: what it paid of which invoice. What a reversal takes back is a row of its own, below zero."""
    paid: dict[int, list[tuple[Invoice, int]]] = defaultdict(list)
    for allocation in (
        Allocation.objects.filter(payment__in=payment_ids, amount_minor__gt=0)
        .select_related("invoice")
        .order_by("pk")
    ):
        assert allocation.payment_id is not None, "it was asked for by its payment"
        paid[allocation.payment_id].append((allocation.invoice, allocation.amount_minor))
    return paid
