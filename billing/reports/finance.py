"""The finance answer: did we collect the money yet? By currency, for one close run."""

from datetime import datetime
from typing import Any

from django.db import connection

from billing.models import CloseRun, PaymentAttempt
from billing.money import to_major


def answer(run: CloseRun, *, as_of: datetime) -> dict[str, Any]:
    """
    This will add up a run's invoices by currency; amounts are strings in major units.

    invoiced = collected + credited + outstanding - kept_as_credit. Money in flight is part of what
    is outstanding; so is what is overdue, which counts money in flight as covered. `kept_as_credit` is what invoices below zero gave back as credit.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            ANSWER,
            {
                "entity": run.entity_id,
                "month": run.month,
                "in_flight": list(PaymentAttempt.IN_FLIGHT),
                "as_of": as_of,
            },
        )
        names = [column.name for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    return {
        "month": f"{run.month:%Y-%m}",
        "entity": run.entity.slug,
        "as_of": as_of.isoformat(),
        "currencies": [_in_major_units(row) for row in rows],
    }


ANSWER = """
WITH invoices AS (
    SELECT i.id, i.account_id, i.currency, i.total_minor, i.due_at
      FROM billing_invoice i JOIN billing_billingperiod p ON p.id = i.period_id
     WHERE i.entity_id = %(entity)s AND p.month = %(month)s AND i.state = 'ISSUED'
), allocated AS (
    SELECT i.id, i.account_id, i.currency, i.due_at,
           greatest(i.total_minor, 0) - coalesce(sum(x.amount_minor), 0) AS outstanding,
           coalesce(sum(x.amount_minor) FILTER (WHERE x.payment_id IS NOT NULL), 0) AS collected,
           coalesce(sum(x.amount_minor) FILTER (WHERE x.grant_id IS NOT NULL), 0) AS credited
      FROM invoices i LEFT JOIN billing_allocation x ON x.invoice_id = i.id
     GROUP BY i.id, i.account_id, i.currency, i.total_minor, i.due_at
), flying AS (
    SELECT account_id, currency, sum(amount_minor) AS in_flight
      FROM billing_paymentattempt
     WHERE state = ANY(%(in_flight)s) AND account_id IN (SELECT account_id FROM invoices)
     GROUP BY account_id, currency
), waiting AS (
    SELECT a.currency, sum(coalesce(f.in_flight, 0)) AS in_flight,
           sum(greatest(a.overdue - coalesce(f.in_flight, 0), 0)) AS overdue
      FROM (SELECT account_id, currency,
                   coalesce(sum(outstanding) FILTER (WHERE due_at <= %(as_of)s), 0) AS overdue
              FROM allocated GROUP BY account_id, currency) a
      LEFT JOIN flying f USING (account_id, currency)
     GROUP BY a.currency
)
SELECT i.currency, count(*) AS invoices,
       sum(i.total_minor)::bigint AS invoiced,
       sum(a.collected)::bigint AS collected,
       sum(a.credited)::bigint AS credited,
       sum(a.outstanding)::bigint AS outstanding,
       max(w.in_flight)::bigint AS in_flight,
       max(w.overdue)::bigint AS overdue,
       sum(greatest(-i.total_minor, 0))::bigint AS kept_as_credit
  FROM invoices i JOIN allocated a ON a.id = i.id JOIN waiting w ON w.currency = i.currency
 GROUP BY i.currency ORDER BY i.currency
"""
MONEY = (
    "invoiced", "collected", "credited", "outstanding", "in_flight", "overdue", "kept_as_credit",
)  # fmt: skip
# The keys of a row, in their order.
COLUMNS = ("currency", "invoices", *MONEY)


def _in_major_units(row: dict[str, Any]) -> dict[str, Any]:
    return row | {name: str(to_major(row[name], row["currency"])) for name in MONEY}
