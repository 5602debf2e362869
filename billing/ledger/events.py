"""What each business event books: ledger accounts, amounts and source. Nothing is written to the database here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from billing.models import (
    CreditGrant,
    Dispute,
    Invoice,
    LedgerAccount,
    LedgerEntry,
    Payment,
    PaymentReversal,
    Refund,
)

Kind = LedgerAccount.Kind


@dataclass(frozen=True)
class Leg:
    """A debit (positive) or credit (negative), in minor units, of one ledger account."""

    kind: str
    amount_minor: int
    gateway: str = ""


@dataclass(frozen=True)
class Event:
    """One business event, about to be booked."""

    kind: str
    source: str
    account_id: int
    entity_id: int
    currency: str
    description: str
    effective_at: datetime
    legs: Sequence[Leg] = field(default_factory=tuple)


def invoice_issued(invoice: Invoice) -> Event:
    """An issued invoice: above zero it is owed, below zero it is credit of the customer's."""
    owed = Kind.RECEIVABLE if invoice.total_minor > 0 else Kind.CUSTOMER_CREDIT
    return Event(
        kind=LedgerEntry.Kind.INVOICE_ISSUED,
        source=f"invoice:{invoice.pk}",
        account_id=invoice.account_id,
        entity_id=invoice.entity_id,
        currency=invoice.currency,
        description=f"Invoice {invoice.number}",
        effective_at=_said(invoice.issued_at),
        legs=(Leg(owed, invoice.total_minor), Leg(Kind.REVENUE, -invoice.total_minor)),
    )


def _said(instant: datetime | None) -> datetime:
    assert instant is not None, "an issued invoice says when"
    return instant


def credit_granted(grant: CreditGrant, *, entity_id: int, as_of: datetime) -> Event:
    """A credit granted: it costs us promotions, or a bad debt that is written off; and we owe it to the customer."""
    cost = Kind.BAD_DEBT if grant.kind == CreditGrant.Kind.WRITE_OFF else Kind.PROMOTIONS
    return _credit(
        LedgerEntry.Kind.CREDIT_GRANTED,
        f"grant:{grant.pk}",
        grant,
        entity_id=entity_id,
        as_of=as_of,
        legs=(
            Leg(cost, grant.amount_minor),
            Leg(Kind.CUSTOMER_CREDIT, -grant.amount_minor),
        ),
    )


def credit_applied(
    grant: CreditGrant, *, allocation_id: int, amount_minor: int, entity_id: int, as_of: datetime
) -> Event:
    """Credit applied to an invoice: we owe less credit, the customer owes less money."""
    return _credit(
        LedgerEntry.Kind.CREDIT_APPLIED,
        f"allocation:{allocation_id}",
        grant,
        entity_id=entity_id,
        as_of=as_of,
        legs=(Leg(Kind.CUSTOMER_CREDIT, amount_minor), Leg(Kind.RECEIVABLE, -amount_minor)),
    )


def credit_expired(
    grant: CreditGrant, *, amount_minor: int, entity_id: int, as_of: datetime
) -> Event:
    """Credit expired: we no longer owe it."""
    return _credit(
        LedgerEntry.Kind.CREDIT_EXPIRED,
        f"grant:{grant.pk}",
        grant,
        entity_id=entity_id,
        as_of=as_of,
        legs=(Leg(Kind.CUSTOMER_CREDIT, amount_minor), Leg(Kind.PROMOTIONS, -amount_minor)),
    )


def _credit(
    kind: str,
    source: str,
    grant: CreditGrant,
    *,
    entity_id: int,
    as_of: datetime,
    legs: Sequence[Leg],
) -> Event:
    return Event(
        kind=kind,
        source=source,
        account_id=grant.account_id,
        entity_id=entity_id,
        currency=grant.currency,
        description=str(grant),
        effective_at=as_of,
        legs=legs,
    )


def payment_received(payment: Payment, *, allocated_minor: int, entity_id: int) -> Event:
    """A payment received: it settles what is owed, and the rest is the customer's credit."""
    legs = [Leg(Kind.CASH, payment.amount_minor, payment.gateway)]
    if allocated_minor:
        legs.append(Leg(Kind.RECEIVABLE, -allocated_minor))
    if surplus_minor := payment.amount_minor - allocated_minor:
        legs.append(Leg(Kind.CUSTOMER_CREDIT, -surplus_minor))
    return Event(
        kind=LedgerEntry.Kind.PAYMENT_RECEIVED,
        source=f"payment:{payment.pk}",
        account_id=payment.account_id,
        entity_id=entity_id,
        currency=payment.currency,
        description=f"Payment by {payment.method}",
        effective_at=payment.received_at,
        legs=legs,
    )


def payment_reversed(reversal: PaymentReversal, *, out_of: str, entity_id: int) -> Event:
    """
    Book a reversed payment: reopen the receivable and remove unused credit.

    `out_of` is the ledger account that the money leaves: cash, or disputed money that left cash earlier.
    What we had refunded before cannot be asked for again: it stays our cost.
    """
    payment = reversal.payment
    parts = (
        (Kind.RECEIVABLE, reversal.owed_minor),
        (Kind.CUSTOMER_CREDIT, reversal.credit_minor),
        (Kind.REFUNDS, reversal.lost_minor),
    )
    return Event(
        kind=LedgerEntry.Kind.PAYMENT_REVERSED,
        source=f"reversal:{reversal.pk}",
        account_id=payment.account_id,
        entity_id=entity_id,
        currency=payment.currency,
        description=str(reversal),
        effective_at=reversal.reversed_at,
        legs=[
            *(Leg(kind, amount_minor) for kind, amount_minor in parts if amount_minor),
            Leg(out_of, -reversal.amount_minor, payment.gateway),
        ],
    )


def dispute_opened(dispute: Dispute, *, entity_id: int, as_of: datetime) -> Event:
    """A dispute opened: the provider has withdrawn the money and a fee. The customer owes the same as before."""
    legs = [Leg(Kind.DISPUTED, dispute.amount_minor, dispute.gateway)]
    if dispute.fee_minor:
        legs.append(Leg(Kind.DISPUTE_FEES, dispute.fee_minor))
    legs.append(Leg(Kind.CASH, -dispute.amount_minor - dispute.fee_minor, dispute.gateway))
    return _dispute(LedgerEntry.Kind.DISPUTE_OPENED, dispute, legs, entity_id, as_of)


def dispute_won(dispute: Dispute, *, entity_id: int, as_of: datetime) -> Event:
    """A dispute won: the money comes back, the fee does not."""
    legs = (
        Leg(Kind.CASH, dispute.amount_minor, dispute.gateway),
        Leg(Kind.DISPUTED, -dispute.amount_minor, dispute.gateway),
    )
    return _dispute(LedgerEntry.Kind.DISPUTE_WON, dispute, legs, entity_id, as_of)


def _dispute(
    kind: str, dispute: Dispute, legs: Sequence[Leg], entity_id: int, as_of: datetime
) -> Event:
    return Event(
        kind=kind,
        source=f"dispute:{dispute.pk}",
        account_id=dispute.account_id,
        entity_id=entity_id,
        currency=dispute.currency,
        description=f"{dispute.provider_ref}, of the payment by {dispute.payment}",
        effective_at=as_of,
        legs=legs,
    )


def refund_reserved(refund: Refund, *, entity_id: int, as_of: datetime) -> Event:
    """A refund reserved: first out of the credit that the payment had left, then out of our revenue."""
    parts = ((Kind.CUSTOMER_CREDIT, refund.credit_minor), (Kind.REFUNDS, refund.cost_minor))
    return _refund(
        LedgerEntry.Kind.REFUND_RESERVED,
        refund,
        entity_id=entity_id,
        as_of=as_of,
        legs=[
            *(Leg(kind, amount_minor) for kind, amount_minor in parts if amount_minor),
            Leg(Kind.REFUNDS_IN_TRANSIT, -refund.amount_minor, refund.gateway),
        ],
    )


def refund_sent(refund: Refund, *, entity_id: int, as_of: datetime) -> Event:
    """A refund sent: the money has left us."""
    return _refund(
        LedgerEntry.Kind.REFUND_SENT,
        refund,
        entity_id=entity_id,
        as_of=as_of,
        legs=(
            Leg(Kind.REFUNDS_IN_TRANSIT, refund.amount_minor, refund.gateway),
            Leg(Kind.CASH, -refund.amount_minor, refund.gateway),
        ),
    )


def refund_undone(refund: Refund, *, entity_id: int, as_of: datetime) -> Event:
    """
    A refund undone: the money never left us, and everything is booked back.

    Credit that a reversal has taken meanwhile does not come back. Where the reversal booked a loss because
    of this refund, the loss is undone instead.
    """
    parts = (
        (Kind.CUSTOMER_CREDIT, refund.credit_minor - refund.lost_minor),
        (Kind.REFUNDS, refund.cost_minor + refund.lost_minor),
    )
    return _refund(
        LedgerEntry.Kind.REFUND_UNDONE,
        refund,
        entity_id=entity_id,
        as_of=as_of,
        legs=[
            *(Leg(kind, -amount_minor) for kind, amount_minor in parts if amount_minor),
            Leg(Kind.REFUNDS_IN_TRANSIT, refund.amount_minor, refund.gateway),
        ],
    )


def refund_taken_of_credit(
    refund: Refund, *, amount_minor: int, entity_id: int, as_of: datetime
) -> Event:
    """A refund's cost taken from credit: its payment has credit again, so our revenue need not pay for it."""
    return _refund(
        LedgerEntry.Kind.REFUND_FROM_CREDIT,
        refund,
        entity_id=entity_id,
        as_of=as_of,
        legs=(Leg(Kind.CUSTOMER_CREDIT, amount_minor), Leg(Kind.REFUNDS, -amount_minor)),
    )


def refund_returned(refund: Refund, *, entity_id: int, as_of: datetime) -> Event:
    """
    A refund returned: the money had left us and came back. It is the customer's credit.

    Where a reversal booked a loss because of this refund, the loss is undone first.
    """
    parts = (
        (Kind.CUSTOMER_CREDIT, refund.amount_minor - refund.lost_minor),
        (Kind.REFUNDS, refund.lost_minor),
    )
    return _refund(
        LedgerEntry.Kind.REFUND_RETURNED,
        refund,
        entity_id=entity_id,
        as_of=as_of,
        legs=[
            Leg(Kind.CASH, refund.amount_minor, refund.gateway),
            *(Leg(kind, -amount_minor) for kind, amount_minor in parts if amount_minor),
        ],
    )


def _refund(
    kind: str, refund: Refund, *, entity_id: int, as_of: datetime, legs: Sequence[Leg]
) -> Event:
    return Event(
        kind=kind,
        source=f"refund:{refund.pk}",
        account_id=refund.account_id,
        entity_id=entity_id,
        currency=refund.currency,
        description=f"Refund of the payment by {refund.payment}",
        effective_at=as_of,
        legs=legs,
    )
