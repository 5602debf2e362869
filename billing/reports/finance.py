"""The finance answer: did we collect the money yet? By currency, for one close run."""

from datetime import datetime
from typing import Any

from django.db import connection

from billing.models import CloseRun, PaymentAttempt, Refund
from billing.money import to_major
from billing.past_due import PAST_DUE


def answer(run: CloseRun, *, as_of: datetime) -> dict[str, Any]:
    """
    Add up a run's invoices by currency; amounts are strings in major units.

    invoiced = collected + credited + outstanding - kept_as_credit. Outstanding includes money in flight
    and what is overdue; overdue leaves out what money in flight covers. `kept_as_credit` is what invoices
    below zero gave back as credit.

    `reversed` was collected once and is owed again: returned debits and lost disputes. `paid_back` (refunds,
    also those on their way) and `disputed` (what banks hold until a dispute is decided) are part of what is
    collected: collected = in_hand + paid_back + disputed.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            ANSWER,
            {
                "entity": run.entity_id,
                "month": run.month,
                "in_flight": list(PaymentAttempt.IN_FLIGHT),
                "unpaid": list(Refund.UNPAID),
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


# Refunds and disputes are counted against what their payment settled last, as a reversal would take it.
#
# Each part reads the invoices once, by currency: a hundred thousand take a fraction of a second. Only
# overdue amounts are added up by account, and only of invoices that are not settled.
ANSWER = f"""
WITH invoices AS (
    SELECT i.id, i.account_id, i.entity_id, i.period_id, i.state, i.currency, i.total_minor, i.due_at, i.settled_at
      FROM billing_invoice i JOIN billing_billingperiod p ON p.id = i.period_id
     WHERE i.entity_id = %(entity)s AND p.month = %(month)s AND i.state = 'ISSUED'
), issued AS (
    SELECT currency, count(*) AS invoices, sum(total_minor) AS invoiced,
           sum(greatest(total_minor, 0)) AS payable, sum(greatest(-total_minor, 0)) AS kept_as_credit
      FROM invoices GROUP BY currency
), allocated AS (
    SELECT i.currency, sum(x.amount_minor) AS amount,
           coalesce(sum(x.amount_minor) FILTER (WHERE x.payment_id IS NOT NULL), 0) AS collected,
           coalesce(-sum(x.amount_minor) FILTER (WHERE x.payment_id IS NOT NULL AND x.reverses_id IS NOT NULL), 0) AS reversed,
           coalesce(sum(x.amount_minor) FILTER (WHERE x.grant_id IS NOT NULL), 0) AS credited
      FROM invoices i JOIN billing_allocation x ON x.invoice_id = i.id GROUP BY i.currency
), touched AS (
    SELECT payment_id, sum(back) AS back, sum(disputed) AS disputed
      FROM (SELECT payment_id, cost_minor AS back, 0 AS disputed FROM billing_refund
             WHERE state <> ALL(%(unpaid)s)
             UNION ALL
            SELECT payment_id, 0, amount_minor FROM billing_dispute WHERE state = 'NEEDS_RESPONSE') each_of_them
     GROUP BY payment_id
), settled AS (
    SELECT x.invoice_id, x.amount, t.back, t.disputed,
           coalesce(sum(x.amount) OVER (PARTITION BY x.payment_id ORDER BY x.first_id DESC
                                        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS newer
      FROM touched t
      JOIN (SELECT payment_id, invoice_id, coalesce(reverses_id, id) AS first_id, sum(amount_minor) AS amount
              FROM billing_allocation WHERE payment_id IN (SELECT payment_id FROM touched)
             GROUP BY payment_id, invoice_id, coalesce(reverses_id, id)) x USING (payment_id)
), went AS (
    SELECT i.currency, sum(least(s.amount, greatest(s.back - s.newer, 0))) AS paid_back,
           sum(least(s.amount, greatest(s.back + s.disputed - s.newer, 0))) AS away
      FROM settled s JOIN invoices i ON i.id = s.invoice_id GROUP BY i.currency
), flying AS (
    SELECT t.account_id, t.currency, sum(t.amount_minor) AS in_flight
      FROM billing_paymentattempt t
     WHERE t.state = ANY(%(in_flight)s)
       AND EXISTS (SELECT FROM invoices i WHERE i.account_id = t.account_id AND i.currency = t.currency)
     GROUP BY t.account_id, t.currency
), late AS (
    SELECT account_id, currency, sum(outstanding) AS overdue
      FROM (SELECT i.account_id, i.currency, i.total_minor - coalesce(sum(x.amount_minor), 0) AS outstanding
              FROM invoices i LEFT JOIN billing_allocation x ON x.invoice_id = i.id
             WHERE i.total_minor > 0 AND {PAST_DUE}
             GROUP BY i.id, i.account_id, i.currency, i.total_minor) o
     GROUP BY account_id, currency
), waiting AS (
    SELECT currency, sum(coalesce(f.in_flight, 0)) AS in_flight,
           sum(greatest(coalesce(l.overdue, 0) - coalesce(f.in_flight, 0), 0)) AS overdue
      FROM late l FULL JOIN flying f USING (account_id, currency) GROUP BY currency
)
SELECT i.currency, i.invoices, i.invoiced::bigint,
       coalesce(a.collected, 0)::bigint AS collected, coalesce(a.credited, 0)::bigint AS credited,
       (i.payable - coalesce(a.amount, 0))::bigint AS outstanding,
       coalesce(w.in_flight, 0)::bigint AS in_flight, coalesce(w.overdue, 0)::bigint AS overdue,
       i.kept_as_credit::bigint, coalesce(a.reversed, 0)::bigint AS reversed,
       coalesce(g.paid_back, 0)::bigint AS paid_back, coalesce(g.away - g.paid_back, 0)::bigint AS disputed,
       (coalesce(a.collected, 0) - coalesce(g.away, 0))::bigint AS in_hand
  FROM issued i LEFT JOIN allocated a USING (currency) LEFT JOIN waiting w USING (currency)
  LEFT JOIN went g USING (currency)
 ORDER BY i.currency
"""
MONEY = (
    "invoiced", "collected", "credited", "outstanding", "in_flight", "overdue", "kept_as_credit",
    "reversed", "paid_back", "disputed", "in_hand",
)  # fmt: skip
# The keys of a row, in their order.
COLUMNS = ("currency", "invoices", *MONEY)


def _in_major_units(row: dict[str, Any]) -> dict[str, Any]:
    return row | {name: str(to_major(row[name], row["currency"])) for name in MONEY}
