"""The finance answer: did we collect the money yet? By currency, for one close run."""

from datetime import datetime
from typing import Any

from django.db import connection, transaction

from billing.models import CloseRun, PaymentAttempt, Refund
from billing.money import to_major
from billing.past_due import LEAST, PAST_DUE, TRIED_AGAIN


def answer(run: CloseRun, *, as_of: datetime) -> dict[str, Any]:
    """
    Add up a run's invoices by currency; amounts are strings in major units.

    invoiced = collected + credited + outstanding - kept_as_credit. Outstanding includes money in flight
    and what is overdue; overdue leaves out what money in flight covers. `kept_as_credit` is what invoices
    below zero gave back as credit.

    Every amount is that of the run's own invoices: each column, summed over the runs, is what the accounts
    have in all. Money in flight is spread over an account's invoices as it will settle them, oldest due first;
    what of it will settle none is told with the account's last invoice.

    `reversed` was collected once and is owed again: returned debits and lost disputes. `paid_back` (refunds,
    also those on their way) and `disputed` (what banks hold until a dispute is decided) are part of what is
    collected: collected = in_hand + paid_back + disputed.
    """
    with connection.cursor() as cursor:
        cursor.execute(ANSWER, {**_about(run), "unpaid": list(Refund.UNPAID), "as_of": as_of})
        names = [column.name for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    return {
        "month": f"{run.month:%Y-%m}",
        "entity": run.entity.slug,
        "as_of": as_of.isoformat(),
        "currencies": [_in_major_units(row) for row in rows],
    }


def waits_for(run: CloseRun) -> list[dict[str, Any]]:
    """
    Count the payments on their way to a run's invoices, and the accounts in dunning for these.

    Each with the last day it may take, or none. A row whose count is zero is left out.
    """
    with transaction.atomic(savepoint=False), connection.cursor() as cursor:
        # In the middle of a close the tables' statistics are of before it: the planner would have it loop over a
        # hundred thousand rows for each of as many.
        cursor.execute(f"SET LOCAL enable_nestloop = off; {WAITS_FOR}", _about(run))
        counted = cursor.fetchall()
        cursor.execute("SET LOCAL enable_nestloop = on")
    return [
        {
            "what": what,
            "count": count,
            "until": last.isoformat() if (last := day or at) else None,
        }
        for what, count, day, at in counted
        if count
    ]


def _about(run: CloseRun) -> dict[str, Any]:
    return {
        "entity": run.entity_id,
        "month": run.month,
        "in_flight": list(PaymentAttempt.IN_FLIGHT),
    }


# An account's other months are read where they are not settled: money in flight settles these first.
SPREAD = """
WITH invoices AS (
    SELECT i.id, i.account_id, i.currency, i.total_minor, i.issued_at, i.due_at, i.settled_at
      FROM billing_invoice i JOIN billing_billingperiod p ON p.id = i.period_id
     WHERE i.entity_id = %(entity)s AND p.month = %(month)s AND i.state = 'ISSUED'
), flying AS (
    SELECT t.account_id, t.currency, sum(t.amount_minor) AS amount, count(*) AS payments, max(t.charge_date) AS day
      FROM billing_paymentattempt t
     WHERE t.state = ANY(%(in_flight)s)
       AND EXISTS (SELECT FROM invoices i WHERE i.account_id = t.account_id AND i.currency = t.currency)
     GROUP BY t.account_id, t.currency
), unsettled AS (
    SELECT i.id, i.account_id, i.currency, i.due_at,
           i.total_minor - coalesce(sum(x.amount_minor), 0) AS outstanding
      FROM billing_invoice i LEFT JOIN billing_allocation x ON x.invoice_id = i.id
     WHERE i.state = 'ISSUED' AND i.settled_at IS NULL AND i.total_minor > 0
       AND i.account_id IN (SELECT account_id FROM invoices WHERE settled_at IS NULL
                            UNION SELECT account_id FROM flying)
     GROUP BY i.id
), in_order AS (
    SELECT u.*, coalesce(sum(outstanding) OVER (PARTITION BY account_id, currency ORDER BY due_at, id
                                                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS older
      FROM unsettled u
), spread AS (
    SELECT o.id, o.account_id, o.currency, o.outstanding, o.older,
           least(o.outstanding, greatest(coalesce(f.amount, 0) - o.older, 0)) AS in_flight
      FROM in_order o LEFT JOIN flying f USING (account_id, currency)
), beyond AS (
    SELECT last.id, f.account_id, f.currency, f.amount - coalesce(o.outstanding, 0) AS in_flight
      FROM flying f
      LEFT JOIN (SELECT account_id, currency, sum(outstanding) AS outstanding FROM unsettled
                  GROUP BY account_id, currency) o USING (account_id, currency)
     CROSS JOIN LATERAL (SELECT i.id FROM billing_invoice i
                          WHERE i.account_id = f.account_id AND i.currency = f.currency AND i.state = 'ISSUED'
                          ORDER BY i.due_at DESC, i.id DESC LIMIT 1) last
     WHERE f.amount > coalesce(o.outstanding, 0)
)"""
# Refunds and disputes are counted against what their payment settled last, as a reversal would take it.
#
# Each part reads the invoices once, by currency: a hundred thousand take a fraction of a second. Only what
# waits is added up by account, and only where an invoice is not settled.
ANSWER = f"""{SPREAD}, issued AS (
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
), late AS (
    SELECT s.id, s.account_id, s.outstanding - s.in_flight AS uncovered
      FROM spread s JOIN billing_invoice i ON i.id = s.id
     WHERE s.outstanding > s.in_flight AND {PAST_DUE}
), chased AS (
    SELECT a.id AS account_id
      FROM accounts_account a JOIN (SELECT account_id, sum(uncovered) AS uncovered FROM late GROUP BY account_id) l
                                ON l.account_id = a.id
     WHERE l.uncovered >= {LEAST} AND NOT ({TRIED_AGAIN})
), waiting AS (
    SELECT i.currency, sum(w.in_flight) AS in_flight, sum(w.overdue) AS overdue
      FROM (SELECT id, in_flight, 0 AS overdue FROM spread
             UNION ALL
            SELECT id, 0, uncovered FROM late JOIN chased USING (account_id)
             UNION ALL
            SELECT id, in_flight, 0 FROM beyond) w JOIN invoices i USING (id)
     GROUP BY i.currency
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
# An account is in dunning for an invoice that the charge declined last was to settle.
WAITS_FOR = f"""{SPREAD}, dunned AS (
    SELECT c.account_id, c.ends_at
      FROM billing_dunningcase c
     CROSS JOIN LATERAL (SELECT t.currency, t.amount_minor, t.created_at FROM billing_paymentattempt t
                          WHERE t.case_id = c.id ORDER BY t.created_at DESC LIMIT 1) declined
      JOIN invoices i ON i.account_id = c.account_id AND i.issued_at <= declined.created_at
      JOIN in_order o ON o.id = i.id AND o.currency = declined.currency AND o.older < declined.amount_minor
     WHERE c.closed_at IS NULL
)
SELECT 'payments', coalesce(sum(f.payments), 0)::bigint, max(f.day), NULL::timestamptz
  FROM flying f
 WHERE EXISTS (SELECT FROM (SELECT * FROM invoices i JOIN (SELECT id FROM spread WHERE in_flight > 0
                                                           UNION ALL SELECT id FROM beyond) w USING (id)) i
                WHERE i.account_id = f.account_id AND i.currency = f.currency)
UNION ALL
SELECT 'dunning', count(DISTINCT account_id), NULL, max(ends_at) FROM dunned
"""
MONEY = (
    "invoiced", "collected", "credited", "outstanding", "in_flight", "overdue", "kept_as_credit",
    "reversed", "paid_back", "disputed", "in_hand",
)  # fmt: skip
# The keys of a row, in their order.
COLUMNS = ("currency", "invoices", *MONEY)


def _in_major_units(row: dict[str, Any]) -> dict[str, Any]:
    return row | {name: str(to_major(row[name], row["currency"])) for name in MONEY}
