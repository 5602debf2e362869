"""Book money that came in, once: settle the oldest invoices, keep the rest as credit, send a receipt."""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from django.db import transaction

from accounts import timeline
from accounts.models import Account, TimelineEvent
from billing import dunning, ledger, locks, messages
from billing.ledger import settlement
from billing.models import Allocation, CreditGrant, Invoice, Payment
from billing.money import money


@transaction.atomic(durable=True)
def record_payment(
    *,
    account_id: int,
    token: uuid.UUID,
    amount_minor: int,
    currency: str,
    method: str,
    reason: str,
    recorded_by: str,
    as_of: datetime,
) -> Payment:
    """
    Book money that came in outside a gateway, in minor units: a bank transfer, cash.

    It settles the oldest invoices; what is left over becomes the customer's credit.

    :raises AlreadyRecorded: if the token was used: the form was sent twice.
    :raises ValueError: if the currency is not the account's.
    """
    account = locks.account_for_update(account_id)
    if currency != account.currency:
        raise ValueError(
            f"currency {currency}: account {account.external_id} is in {account.currency}"
        )
    if Payment.objects.filter(gateway="manual", provider_ref=str(token)).exists():
        raise AlreadyRecorded(token)
    return book(
        Payment(
            account=account,
            gateway="manual",
            provider_ref=str(token),
            currency=currency,
            amount_minor=amount_minor,
            method=method,
            reason=reason,
            recorded_by=recorded_by,
            received_at=as_of,
        ),
        account=account,
        as_of=as_of,
    )


def book_transfer(
    *,
    account: Account,
    bank_ref: str,
    amount_minor: int,
    method: str,
    reason: str,
    recorded_by: str,
    as_of: datetime,
) -> Payment:
    """
    Book a bank transfer, in minor units of the (locked) account's currency, in the caller's transaction.

    :raises IntegrityError: if one with the bank's id is booked.
    """
    return book(
        Payment(
            account=account,
            gateway="transfer",
            provider_ref=bank_ref,
            currency=account.currency,
            amount_minor=amount_minor,
            method=method,
            reason=reason[:300],
            recorded_by=recorded_by,
            received_at=as_of,
        ),
        account=account,
        as_of=as_of,
    )


class AlreadyRecorded(Exception):
    """A payment with this token is booked already."""


def book(payment: Payment, *, account: Account, as_of: datetime) -> Payment:
    """Book one payment of a (locked) account; see `book_all`."""
    book_all([payment], {account.pk: account}, as_of=as_of)
    return payment


def book_all(
    payments: Sequence[Payment], accounts: Mapping[int, Account], *, as_of: datetime
) -> None:
    """
    Book payments: settle the oldest invoices, keep the rest as credit, send receipts.

    At most one payment of each (locked) account: a second would not see what the first has settled.
    """
    if not payments:
        return
    ids = [payment.account_id for payment in payments]
    assert len(set(ids)) == len(ids), "two payments of one account, booked at once"
    Payment.objects.bulk_create(payments)
    sources = [settlement.Source(p.account_id, p.amount_minor, payment=p) for p in payments]
    allocations = settlement.allocate(
        sources=sources, invoices=locks.open_invoices_for_update(ids), as_of=as_of
    )
    ledger.post(
        [
            ledger.payment_received(
                payment,
                allocated_minor=payment.amount_minor - source.available_minor,
                entity_id=accounts[payment.account_id].entity_id,
            )
            for payment, source in zip(payments, sources, strict=True)
        ]
    )
    CreditGrant.objects.bulk_create(
        _surplus(source) for source in sources if source.available_minor
    )
    timeline.record(*(_received(payment) for payment in payments))
    dunning.lift_settled_holds(ids, because="paid", as_of=as_of)
    _send_receipts(payments, allocations, accounts, as_of=as_of)


def _surplus(source: settlement.Source) -> CreditGrant:
    payment = source.payment
    assert payment is not None, "what is left over is left over from a payment"
    return CreditGrant(
        account_id=payment.account_id,
        kind=CreditGrant.Kind.SURPLUS,
        payment=payment,
        currency=payment.currency,
        amount_minor=source.available_minor,
        remaining_minor=source.available_minor,
        reason=f"Left over from the payment by {payment.method}"[:300],
    )


def _received(payment: Payment) -> TimelineEvent:
    return timeline.event(
        account_id=payment.account_id,
        kind="payment.received",
        summary=f"{money(payment.amount_minor, payment.currency)} received by {payment.method}",
        actor=payment.recorded_by,
        payment=payment.pk,
        reason=payment.reason,
    )


def _send_receipts(
    payments: Sequence[Payment],
    allocations: Iterable[Allocation],
    accounts: Mapping[int, Account],
    *,
    as_of: datetime,
) -> None:
    standings = ledger.standings([payment.account_id for payment in payments], as_of=as_of)
    paid: dict[int, list[tuple[Invoice, int]]] = defaultdict(list)
    for allocation in allocations:
        assert allocation.payment_id is not None, "what a payment settles names it"
        paid[allocation.payment_id].append((allocation.invoice, allocation.amount_minor))
    messages.payments_received(
        [
            messages.Receipt(
                payment,
                accounts[payment.account_id],
                paid[payment.pk],
                due_minor=standings[payment.account_id].due_minor,
                credit_minor=standings[payment.account_id].credit_minor,
            )
            for payment in payments
        ],
        as_of=as_of,
    )
