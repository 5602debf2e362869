"""Money is here: book it once, settle the oldest invoices with it, keep the rest as credit, say so."""

import uuid
from collections.abc import Iterable
from datetime import datetime

from django.db import transaction

from accounts import timeline
from accounts.models import Account
from billing import dunning, ledger, locks, messages, settlement
from billing.charge_protocol import State
from billing.models import Allocation, CreditGrant, Payment, PaymentAttempt
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
    This will book money that came in outside a gateway, in minor units: a bank transfer, cash.

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
    This will book a bank transfer, in minor units of the (locked) account's currency, in the caller's transaction.

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
    """A payment with this token stands."""


def book(payment: Payment, *, account: Account, as_of: datetime) -> Payment:
    """Money is here: settle the oldest invoices with it, keep the rest as credit, say so."""
    payment.save(force_insert=True)
    # A debit that waits for its day need not wait to learn that it is not needed.
    PaymentAttempt.objects.filter(
        account=account, state=State.PREPARED, charge_date__isnull=False
    ).update(next_action_at=as_of)
    source = settlement.Source(account.pk, payment.amount_minor, payment=payment)
    allocations = settlement.allocate(
        sources=[source], invoices=locks.open_invoices_for_update([account.pk]), as_of=as_of
    )
    surplus_minor = source.available_minor
    ledger.post(
        [
            ledger.payment_received(
                payment,
                allocated_minor=payment.amount_minor - surplus_minor,
                entity_id=account.entity_id,
            )
        ]
    )
    if surplus_minor:
        CreditGrant.objects.create(
            account=account,
            kind=CreditGrant.Kind.SURPLUS,
            payment=payment,
            currency=payment.currency,
            amount_minor=surplus_minor,
            remaining_minor=surplus_minor,
            reason=f"Left over from the payment by {payment.method}"[:300],
        )
    timeline.record(
        timeline.event(
            account_id=account.pk,
            kind="payment.received",
            summary=f"{money(payment.amount_minor, payment.currency)} received by {payment.method}",
            actor=payment.recorded_by,
            payment=payment.pk,
            reason=payment.reason,
        )
    )
    dunning.lift_settled_holds([account.pk], because="paid", as_of=as_of)
    _send_receipt(payment, allocations, account=account, as_of=as_of)
    return payment


def _send_receipt(
    payment: Payment, allocations: Iterable[Allocation], *, account: Account, as_of: datetime
) -> None:
    standing = ledger.standing(account.pk, as_of=as_of)
    messages.payment_received(
        payment,
        account=account,
        allocations=[(a.invoice, a.amount_minor) for a in allocations],
        due_minor=standing.due_minor,
        credit_minor=standing.credit_minor,
        as_of=as_of,
    )
