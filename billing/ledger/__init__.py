"""
The only writer of the ledger, and the reader of balances.

Double entry, append-only: an entry's postings sum to zero, a correction is another entry.
docs/accounting.md teaches it. Every function here that writes assumes the caller's transaction and
the lock of every account it posts to (billing/locks.py); the running balances rest on it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connection
from django.db.models import F, Q

from billing.models import (
    CreditGrant,
    Dispute,
    Invoice,
    LedgerAccount,
    LedgerEntry,
    Payment,
    PaymentAttempt,
    PaymentReversal,
    Posting,
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


@dataclass(frozen=True)
class Standing:
    """What an account owes and has, at one instant, in minor units of its currency."""

    account_id: int
    currency: str
    due_minor: int  # all it owes
    overdue_minor: int  # the part past its due date
    credit_minor: int  # unused credit
    in_flight_minor: int  # attempts whose end is not known
    as_of: datetime

    @property
    def uncovered_minor(self) -> int:
        """What is overdue beyond what is on its way: a debit at the bank is not chased."""
        return max(0, self.overdue_minor - self.in_flight_minor)

    @property
    def facts(self) -> dict[str, Any]:
        """The numbers as a Decision keeps them."""
        return {
            "due_minor": self.due_minor,
            "overdue_minor": self.overdue_minor,
            "credit_minor": self.credit_minor,
            "in_flight_minor": self.in_flight_minor,
            "currency": self.currency,
            "as_of": self.as_of.isoformat(),
        }


# --- what is true now


def standing(account_id: int, *, as_of: datetime) -> Standing:
    """What one account owes and has. To act on it, hold the account's lock."""
    return standings([account_id], as_of=as_of)[account_id]


def standings(account_ids: Iterable[int], *, as_of: datetime) -> dict[int, Standing]:
    """What each account owes and has, in one query."""
    with connection.cursor() as cursor:
        cursor.execute(
            STANDINGS,
            {
                "accounts": list(account_ids),
                "as_of": as_of,
                "in_flight": list(PaymentAttempt.IN_FLIGHT),
            },
        )
        return {row[0]: Standing(*(*row, as_of)) for row in cursor.fetchall()}


STANDINGS = """
SELECT a.id, a.currency, coalesce(receivable.balance_minor, 0), coalesce(overdue.due_minor, 0)::bigint,
       coalesce(-credit.balance_minor, 0), coalesce(flying.amount_minor, 0)::bigint
  FROM accounts_account a
  LEFT JOIN LATERAL (
        SELECT p.balance_minor FROM billing_ledgeraccount l JOIN billing_posting p ON p.ledger_account_id = l.id
         WHERE l.account_id = a.id AND l.currency = a.currency AND l.kind = 'RECEIVABLE'
           AND p.version IS NOT NULL
         ORDER BY p.version DESC LIMIT 1) receivable ON true
  LEFT JOIN LATERAL (
        SELECT p.balance_minor FROM billing_ledgeraccount l JOIN billing_posting p ON p.ledger_account_id = l.id
         WHERE l.account_id = a.id AND l.currency = a.currency AND l.kind = 'CUSTOMER_CREDIT'
           AND p.version IS NOT NULL
         ORDER BY p.version DESC LIMIT 1) credit ON true
  LEFT JOIN LATERAL (
        SELECT sum(i.total_minor - coalesce(
                   (SELECT sum(x.amount_minor) FROM billing_allocation x WHERE x.invoice_id = i.id), 0)) AS due_minor
          FROM billing_invoice i
         WHERE i.account_id = a.id AND i.state = 'ISSUED' AND i.settled_at IS NULL
           AND i.due_at <= %(as_of)s) overdue ON true
  LEFT JOIN LATERAL (
        SELECT sum(t.amount_minor) AS amount_minor FROM billing_paymentattempt t
         WHERE t.account_id = a.id AND t.state = ANY(%(in_flight)s)) flying ON true
 WHERE a.id = ANY(%(accounts)s)
"""


def balance(kind: str, *, account_id: int, as_of: datetime) -> int:
    """
    The balance of a customer-side ledger account, in the account's currency, as it stood in the books at an instant.

    In minor units; positive is a debit (a receivable they owe), negative a credit (credit they have).
    """
    posting = (
        Posting.objects.filter(
            ledger_account__account=account_id,
            ledger_account__kind=kind,
            ledger_account__currency=F("ledger_account__account__currency"),
            posted_at__lte=as_of,
        )
        .order_by("-version")
        .first()
    )
    return posting.balance_minor or 0 if posting else 0


# --- what happened


def invoice_issued(invoice: Invoice) -> Event:
    """An invoice above zero is owed; one below zero is credit the customer has."""
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


def credit_granted(grant: CreditGrant, *, entity_id: int, as_of: datetime) -> Event:
    """A credit given away costs us promotions, and we owe it to the customer."""
    return _credit(
        LedgerEntry.Kind.CREDIT_GRANTED,
        f"grant:{grant.pk}",
        grant,
        entity_id=entity_id,
        as_of=as_of,
        legs=(
            Leg(Kind.PROMOTIONS, grant.amount_minor),
            Leg(Kind.CUSTOMER_CREDIT, -grant.amount_minor),
        ),
    )


def credit_applied(
    grant: CreditGrant, *, allocation_id: int, amount_minor: int, entity_id: int, as_of: datetime
) -> Event:
    """Credit used on an invoice: we owe less credit, they owe less money."""
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
    """Credit not used in time is no longer owed."""
    return _credit(
        LedgerEntry.Kind.CREDIT_EXPIRED,
        f"grant:{grant.pk}",
        grant,
        entity_id=entity_id,
        as_of=as_of,
        legs=(Leg(Kind.CUSTOMER_CREDIT, amount_minor), Leg(Kind.PROMOTIONS, -amount_minor)),
    )


def payment_received(payment: Payment, *, allocated_minor: int, entity_id: int) -> Event:
    """Cash came in: it settles what is owed, and what is left over is the customer's credit."""
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
    Money that we had is gone: what it had settled is owed again, what it had left as credit is not theirs.

    `out_of` is the ledger account that it leaves: cash, or what a dispute had taken from it already.
    What we had paid back before cannot be asked for again: it stays our cost.
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
    """The provider has withdrawn the disputed money, and a fee; nobody owes more or less by that yet."""
    legs = [Leg(Kind.DISPUTED, dispute.amount_minor, dispute.gateway)]
    if dispute.fee_minor:
        legs.append(Leg(Kind.DISPUTE_FEES, dispute.fee_minor))
    legs.append(Leg(Kind.CASH, -dispute.amount_minor - dispute.fee_minor, dispute.gateway))
    return _dispute(LedgerEntry.Kind.DISPUTE_OPENED, dispute, legs, entity_id, as_of)


def dispute_won(dispute: Dispute, *, entity_id: int, as_of: datetime) -> Event:
    """The disputed money is back; the fee is not."""
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
    """Money is to be paid back: what the payment had left as credit, and beyond that our revenue."""
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
    """It has left us."""
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
    It never left us: everything is as it was before, but for credit that has gone back meanwhile.

    What the reversal had to count as lost, because this refund had taken it, is not lost.
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
    """What it had cost us of revenue is taken of credit, which is there again."""
    return _refund(
        LedgerEntry.Kind.REFUND_FROM_CREDIT,
        refund,
        entity_id=entity_id,
        as_of=as_of,
        legs=(Leg(Kind.CUSTOMER_CREDIT, amount_minor), Leg(Kind.REFUNDS, -amount_minor)),
    )


def refund_returned(refund: Refund, *, entity_id: int, as_of: datetime) -> Event:
    """
    It had left us, and came back: it is the customer's, so we owe it to them.

    But for what a reversal had to count as lost because of it: that is not lost.
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


def _said(instant: datetime | None) -> datetime:
    assert instant is not None, "an issued invoice says when"
    return instant


# --- writing it down


def post(events: Sequence[Event]) -> None:
    """
    Book the events, in order, set-wise.

    :raises IntegrityError: if an event is booked already, or does not sum to zero (at commit).
    """
    if not events:
        return
    accounts = _ledger_accounts(events)
    with connection.cursor() as cursor:
        cursor.execute(
            ENTRIES,
            {
                "kinds": [event.kind for event in events],
                "sources": [event.source for event in events],
                "currencies": [event.currency for event in events],
                "accounts": [event.account_id for event in events],
                "descriptions": [event.description[:300] for event in events],
                "effective": [event.effective_at for event in events],
            },
        )
        entries = {(kind, source): pk for pk, kind, source in cursor.fetchall()}
        legs = [(event, leg) for event in events for leg in event.legs]
        cursor.execute(
            POSTINGS,
            {
                "entries": [entries[event.kind, event.source] for event, _ in legs],
                "ledger_accounts": [accounts[_key(event, leg)] for event, leg in legs],
                "amounts": [leg.amount_minor for _, leg in legs],
                "running": [leg.kind in LedgerAccount.CUSTOMER_SIDE for _, leg in legs],
            },
        )


# One statement each, however many events: a close books several for every account.
ENTRIES = """
INSERT INTO billing_ledgerentry (kind, source, currency, account_id, description, effective_at)
SELECT * FROM unnest(%(kinds)s::text[], %(sources)s::text[], %(currencies)s::text[], %(accounts)s::bigint[],
                     %(descriptions)s::text[], %(effective)s::timestamptz[])
RETURNING id, kind, source
"""

# A running balance goes on from the latest posting of its ledger account, in the order of the legs.
POSTINGS = """
INSERT INTO billing_posting (entry_id, ledger_account_id, amount_minor, version, balance_minor)
SELECT leg.entry_id, leg.ledger_account_id, leg.amount_minor,
       CASE WHEN leg.is_running THEN coalesce(latest.version, 0) + row_number() OVER so_far END,
       CASE WHEN leg.is_running
            THEN coalesce(latest.balance_minor, 0) + (sum(leg.amount_minor) OVER so_far)::bigint END
  FROM unnest(%(entries)s::bigint[], %(ledger_accounts)s::bigint[], %(amounts)s::bigint[],
              %(running)s::boolean[])
       WITH ORDINALITY AS leg(entry_id, ledger_account_id, amount_minor, is_running, position)
  LEFT JOIN LATERAL (
       SELECT version, balance_minor FROM billing_posting
        WHERE leg.is_running AND ledger_account_id = leg.ledger_account_id AND version IS NOT NULL
        ORDER BY version DESC LIMIT 1) latest ON true
WINDOW so_far AS (PARTITION BY leg.ledger_account_id ORDER BY leg.position)
 ORDER BY leg.position
"""


# kind, currency, account, entity, gateway: what makes a ledger account one of its kind.
Key = tuple[str, str, int | None, int | None, str]


def _key(event: Event, leg: Leg) -> Key:
    if leg.kind in LedgerAccount.CUSTOMER_SIDE:
        return (leg.kind, event.currency, event.account_id, None, "")
    return (leg.kind, event.currency, None, event.entity_id, leg.gateway)


def _ledger_accounts(events: Sequence[Event]) -> dict[Key, int]:
    keys = {_key(event, leg) for event in events for leg in event.legs}
    found = _find(keys)
    if missing := sorted(keys - found.keys(), key=repr):
        # Another worker may open the same company-side account at the same time: one wins.
        with connection.cursor() as cursor:
            columns = [list(column) for column in zip(*missing, strict=True)]
            cursor.execute(OPEN_LEDGER_ACCOUNTS, columns)
        found = _find(keys)
    return found


def _find(keys: set[Key]) -> dict[Key, int]:
    rows = LedgerAccount.objects.filter(
        Q(account__in={key[2] for key in keys if key[2] is not None})
        | Q(entity__in={key[3] for key in keys if key[3] is not None})
    ).values_list("kind", "currency", "account", "entity", "gateway", "pk")
    return {row[:5]: row[5] for row in rows if row[:5] in keys}


OPEN_LEDGER_ACCOUNTS = """
INSERT INTO billing_ledgeraccount (kind, currency, account_id, entity_id, gateway)
SELECT * FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::text[])
ON CONFLICT DO NOTHING
"""
