"""What an account owes and has, now or as of an instant."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection
from django.db.models import F

from billing.models import Invoice, PaymentAttempt, Posting
from billing.past_due import LEAST, PAST_DUE, TRIED_AGAIN


@dataclass(frozen=True)
class Standing:
    """What an account owes and has, at one instant, in minor units of its currency."""

    account_id: int
    currency: str
    due_minor: int  # all it owes
    past_due_minor: int  # the part past its due date, and not less than the least amount
    credit_minor: int  # unused credit
    in_flight_minor: int  # attempts whose end is not known
    least_minor: int  # below this nothing is asked for: it is carried to the next invoice
    is_tried_again: bool  # it is in dunning, not held, and its card is to be tried another day
    as_of: datetime

    @property
    def overdue_minor(self) -> int:
        """What is past its due date and not tried any more: who is charged by us is not late meanwhile."""
        return 0 if self.is_tried_again else self.past_due_minor

    @property
    def uncovered_minor(self) -> int:
        """What is overdue beyond the attempts in flight: we do not chase a debit that is at the bank."""
        uncovered_minor = max(0, self.overdue_minor - self.in_flight_minor)
        return uncovered_minor if uncovered_minor >= self.least_minor else 0

    @property
    def is_too_little(self) -> bool:
        """Whether something is due, but less than is asked for: it is carried to the next invoice."""
        return 0 < self.due_minor < self.least_minor

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


STANDINGS = f"""
SELECT a.id, a.currency, coalesce(receivable.balance_minor, 0),
       CASE WHEN late.due_minor >= least.amount_minor THEN late.due_minor ELSE 0 END::bigint,
       coalesce(-credit.balance_minor, 0), coalesce(flying.amount_minor, 0)::bigint, least.amount_minor,
       coalesce(late.due_minor, 0) > 0 AND {TRIED_AGAIN}
  FROM accounts_account a
 CROSS JOIN LATERAL (SELECT {LEAST} AS amount_minor) least
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
         WHERE i.account_id = a.id AND {PAST_DUE}) late ON true
  LEFT JOIN LATERAL (
        SELECT sum(t.amount_minor) AS amount_minor FROM billing_paymentattempt t
         WHERE t.account_id = a.id AND t.state = ANY(%(in_flight)s)) flying ON true
 WHERE a.id = ANY(%(accounts)s)
"""


def past_due_invoices(account_ids: Iterable[int], *, as_of: datetime) -> dict[int, list[Invoice]]:
    """The invoices past their due date of each account that has some, oldest due first."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT i.id FROM billing_invoice i WHERE i.account_id = ANY(%(accounts)s) AND {PAST_DUE}",
            {"accounts": list(account_ids), "as_of": as_of},
        )
        ids = [pk for (pk,) in cursor.fetchall()]
    found: dict[int, list[Invoice]] = defaultdict(list)
    for invoice in Invoice.objects.filter(pk__in=ids).order_by("due_at", "pk"):
        found[invoice.account_id].append(invoice)
    return dict(found)


def overdue_invoices(standing: Standing) -> set[int]:
    """The ids of the invoices that an account's overdue amount is made of."""
    if not standing.uncovered_minor:
        return set()
    past_due = past_due_invoices([standing.account_id], as_of=standing.as_of)
    return {invoice.pk for invoice in past_due.get(standing.account_id, [])}


def balance(kind: str, *, account_id: int, as_of: datetime) -> int:
    """
    The balance of a customer-side ledger account at an instant, in the account's currency.

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
