"""
Reverse payments: a direct debit that its bank returns, a dispute that is lost.

It is as if the money had never come. Unused credit that the payment left is taken first; then what it had
settled is owed again, newest first. Nothing is edited: another allocation takes an allocation back.
"""

from collections.abc import Iterable
from datetime import datetime

from django.db.models import Sum

from accounts import timeline
from accounts.models import Account
from billing import decisions, ledger, locks, messages
from billing.invoices import credits
from billing.ledger import Kind
from billing.models import Allocation, CreditGrant, Decision, Invoice, Payment, PaymentReversal
from billing.money import money


class MoreThanThePayment(ValueError):
    """More would be reversed than the payment was."""


def reverse_payment(
    payment: Payment,
    *,
    account: Account,
    amount_minor: int,
    provider_ref: str,
    reason: str,
    as_of: datetime,
    out_of: str = Kind.CASH,
    actor: str = "system",
) -> PaymentReversal:
    """
    Book that an amount of a payment was reversed, in minor units of its currency.

    In the caller's transaction, with the (locked) account. `provider_ref` is the reversal's own at the
    payment's gateway: the same one again changes nothing. `out_of` is the ledger account that the
    money leaves. `reason` is what staff and the customer read: "returned by the bank".

    :raises MoreThanThePayment: if more would be reversed than the payment was.
    """
    known = PaymentReversal.objects.filter(gateway=payment.gateway, provider_ref=provider_ref)
    if (before := known.first()) is not None:
        return before
    left_minor = payment.amount_minor - reversed_minor(payment)
    if not 0 < amount_minor <= left_minor:
        raise MoreThanThePayment(
            f"{money(amount_minor, payment.currency)} of {payment}, of which"
            f" {money(left_minor, payment.currency)} can go back"
        )
    grants = list(CreditGrant.objects.filter(payment=payment).order_by("-pk"))
    credit_minor = _take_credit(grants, amount_minor)
    taken = _plan([*_used(grants), *_settled(payment)], amount_minor - credit_minor)
    owed_minor = sum(minor for _, minor in taken)
    reversal = PaymentReversal.objects.create(
        account=account,
        payment=payment,
        gateway=payment.gateway,
        provider_ref=provider_ref,
        amount_minor=amount_minor,
        credit_minor=credit_minor,
        owed_minor=owed_minor,
        lost_minor=amount_minor - credit_minor - owed_minor,
        reason=reason[:300],
        recorded_by=actor,
        reversed_at=as_of,
    )
    _take_back(reversal, taken, grants)
    ledger.post([ledger.payment_reversed(reversal, out_of=out_of, entity_id=account.entity_id)])
    # Other credit of the account settles what is open again.
    credits.apply_credits([account], as_of=as_of)
    _tell(reversal, account=account, as_of=as_of)
    return reversal


def reversed_minor(payment: Payment) -> int:
    """How much of a payment was reversed already, in minor units."""
    return int(payment.reversals.aggregate(total=Sum("amount_minor", default=0))["total"])


def _take_credit(grants: Iterable[CreditGrant], amount_minor: int) -> int:
    """Take unused credit, newest first, up to an amount; return how much. The caller saves the grants."""
    taken_minor = 0
    for grant in grants:
        minor = min(grant.remaining_minor, amount_minor - taken_minor)
        grant.remaining_minor -= minor
        grant.reversed_minor += minor
        taken_minor += minor
    return taken_minor


def _used(grants: Iterable[CreditGrant]) -> list[Allocation]:
    return list(Allocation.objects.filter(grant__in=grants, reverses=None).order_by("-pk"))


def _settled(payment: Payment) -> list[Allocation]:
    return list(payment.allocations.filter(reverses=None).order_by("-pk"))


def _plan(allocations: list[Allocation], amount_minor: int) -> list[tuple[Allocation, int]]:
    """How much to take back of each allocation: in their order, up to what is left of each."""
    gone = dict(
        Allocation.objects.filter(reverses__in=allocations)
        .values_list("reverses")
        .annotate(Sum("amount_minor"))
    )
    taken = []
    for allocation in allocations:
        minor = min(allocation.amount_minor + gone.get(allocation.pk, 0), amount_minor)
        if minor > 0:
            amount_minor -= minor
            taken.append((allocation, minor))
    return taken


def _take_back(
    reversal: PaymentReversal,
    taken: Iterable[tuple[Allocation, int]],
    grants: Iterable[CreditGrant],
) -> None:
    invoices = locks.invoices_for_update({allocation.invoice_id for allocation, _ in taken})
    Allocation.objects.bulk_create(
        Allocation(
            invoice_id=allocation.invoice_id,
            payment_id=allocation.payment_id,
            grant_id=allocation.grant_id,
            amount_minor=-minor,
            reverses=allocation,
            reversal=reversal,
        )
        for allocation, minor in taken
    )
    by_id = {grant.pk: grant for grant in grants}
    for allocation, minor in taken:
        if allocation.grant_id is not None:
            by_id[allocation.grant_id].reversed_minor += minor
    CreditGrant.objects.bulk_update(by_id.values(), ["remaining_minor", "reversed_minor"])
    Invoice.objects.filter(pk__in=[invoice.pk for invoice in invoices]).update(settled_at=None)


def _tell(reversal: PaymentReversal, *, account: Account, as_of: datetime) -> None:
    payment, standing = reversal.payment, ledger.standing(account.pk, as_of=as_of)
    amount = money(reversal.amount_minor, payment.currency)
    decisions.record(
        decisions.decision(
            act="REVERSE_PAYMENT",
            did=Decision.Did.DONE,
            because=f"{amount} {reversal.reason}",
            account_id=account.pk,
            saw=standing.facts,
            attempt=payment.attempt,
            actor=reversal.recorded_by,
        )
    )
    timeline.record(
        timeline.event(
            account_id=account.pk,
            kind="payment.reversed",
            summary=f"{amount} of the payment by {payment} went back: {reversal.reason};"
            f" {money(reversal.owed_minor, payment.currency)} is owed again",
            actor=reversal.recorded_by,
            payment=payment.pk,
            reversal=reversal.pk,
        )
    )
    messages.payment_reversed(reversal, account=account, due_minor=standing.due_minor, as_of=as_of)
