"""Opening billing periods: cut in each account's time zone, stored once, without gaps."""

import logging
from collections.abc import Iterator, Sequence
from datetime import date

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

from accounts import zones
from billing import periods
from billing.usage.partitions import Span, span_of
from notifications import bisect

logger = logging.getLogger(__name__)

# One at a time, across processes: each sees the periods of the one before.
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('billing periods', 0))"

# The stored bound of a neighbouring period wins over the zone's: periods leave no gap even if the zone has changed.
OPEN_PERIODS = """
INSERT INTO billing_billingperiod (account_id, month, starts_at, ends_at)
SELECT account.id, %(month)s,
       coalesce(before.ends_at, bounds.starts_at), coalesce(after.starts_at, bounds.ends_at)
  FROM accounts_account account
  JOIN unnest(%(zones)s::text[], %(starts)s::timestamptz[], %(ends)s::timestamptz[])
       AS bounds (zone, starts_at, ends_at) ON bounds.zone = account.time_zone
  LEFT JOIN billing_billingperiod before
         ON before.account_id = account.id AND before.month = %(previous_month)s
  LEFT JOIN billing_billingperiod after
         ON after.account_id = account.id AND after.month = %(next_month)s
 WHERE account.id = ANY(%(account_ids)s)
    OR (%(account_ids)s::bigint[] IS NULL AND account.state = 'ACTIVE')
ON CONFLICT DO NOTHING
"""

WITHOUT_PERIOD = """
SELECT DISTINCT summary.account_id
  FROM billing_usagesummary summary
  JOIN accounts_account account ON account.id = summary.account_id
 WHERE account.entity_id = %(entity)s AND summary.invoice_id IS NULL
   AND NOT EXISTS (SELECT 1 FROM billing_billingperiod period
                    WHERE period.account_id = summary.account_id AND period.month = %(month)s)
"""

ZONES = "SELECT DISTINCT time_zone FROM accounts_account"

# Accounts and months of events that no stored period contains. Where the account's month is stored
# and still does not contain the event, the zone has changed: the neighbour will take it.
MISSING_PERIODS = """
WITH homeless AS MATERIALIZED (
    SELECT event.account_id, event.effective_at
      FROM billing_usageevent event
     WHERE event.batch_id = %(batch)s
       AND (%(account)s::bigint IS NULL OR event.account_id = %(account)s)
       AND event.effective_at >= %(first_at)s AND event.effective_at <= %(last_at)s
       AND NOT EXISTS (
               SELECT 1 FROM billing_billingperiod period
                WHERE period.account_id = event.account_id
                  AND period.starts_at <= event.effective_at AND event.effective_at < period.ends_at)
)
SELECT DISTINCT event.account_id,
       CASE WHEN event.effective_at >= stored.ends_at THEN bounds.next_month
            WHEN event.effective_at < stored.starts_at THEN bounds.previous_month
            ELSE bounds.month END
  FROM homeless event
  JOIN accounts_account account ON account.id = event.account_id
  JOIN unnest(%(zones)s::text[], %(starts)s::timestamptz[], %(ends)s::timestamptz[],
              %(previous_months)s::date[], %(months)s::date[], %(next_months)s::date[])
       AS bounds (zone, starts_at, ends_at, previous_month, month, next_month)
    ON bounds.zone = account.time_zone
   AND bounds.starts_at <= event.effective_at AND event.effective_at < bounds.ends_at
  LEFT JOIN billing_billingperiod stored
         ON stored.account_id = event.account_id AND stored.month = bounds.month
 ORDER BY 1, 2
"""


def open_periods(*, month: date, account_ids: Sequence[int] | None = None) -> int:
    """
    Store the billing periods of a month that are not stored yet, and return how many.

    They are cut in each account's time zone, then fitted to the periods stored before and after, so that
    an account's periods leave no gap. Without `account_ids`, for all active accounts.
    """
    month = month.replace(day=1)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(LOCK)
        in_zones = _zones(cursor)
        cursor.execute(
            OPEN_PERIODS,
            {
                "month": month,
                "previous_month": periods.previous_month(month),
                "next_month": periods.next_month(month),
                "zones": in_zones,
                "starts": [periods.starts_at(month, zone) for zone in in_zones],
                "ends": [periods.ends_at(month, zone) for zone in in_zones],
                "account_ids": None if account_ids is None else list(account_ids),
            },
        )
        return int(cursor.rowcount)


def open_periods_to_close(*, month: date, entity_id: int) -> int:
    """
    Store the month's period of an entity's accounts that have only late usage, and return how many.

    The tally opens the others'. Opening waits for everyone else who opens, so a close does it once, before
    its workers start.
    """
    with connection.cursor() as cursor:
        cursor.execute(WITHOUT_PERIOD, {"month": month, "entity": entity_id})
        account_ids = [account_id for (account_id,) in cursor.fetchall()]
    return _open_one_by_one_if_need_be(month, account_ids)


def open_periods_of(batch_id: int, *, account_id: int | None = None) -> None:
    """
    Store the billing periods of a batch's events, or of one account's, that are not stored yet.

    In transactions of their own: within the tally's, every other opener would wait for the whole tally.
    """
    for account_ids, month in _missing_periods(batch_id, account_id):
        _open_one_by_one_if_need_be(month, account_ids)


def _open_one_by_one_if_need_be(month: date, account_ids: Sequence[int]) -> int:
    """Store the month's periods of these accounts, of all but those whose period cannot be. Returns how many."""
    opened = 0

    def open_them(some: Sequence[int]) -> None:
        nonlocal opened
        opened += open_periods(month=month, account_ids=some)

    for account_id, error in bisect.failures(open_them, account_ids, what="accounts"):
        logger.error("account %s has no period %s: %r", account_id, f"{month:%Y-%m}", error)
    return opened


def _missing_periods(batch_id: int, account_id: int | None) -> Iterator[tuple[list[int], date]]:
    with connection.cursor() as cursor:
        span = span_of(batch_id, cursor)
        if not span.events:
            return
        bounds = _bounds(_zones(cursor), span)
        cursor.execute(
            MISSING_PERIODS,
            {
                "batch": batch_id,
                "account": account_id,
                "first_at": span.first_at,
                "last_at": span.last_at,
                "zones": [zone for zone, _ in bounds],
                "starts": [periods.starts_at(month, zone) for zone, month in bounds],
                "ends": [periods.ends_at(month, zone) for zone, month in bounds],
                "previous_months": [periods.previous_month(month) for _, month in bounds],
                "months": [month for _, month in bounds],
                "next_months": [periods.next_month(month) for _, month in bounds],
            },
        )
        missing: dict[date, list[int]] = {}
        for account_id, month in cursor.fetchall():
            missing.setdefault(month, []).append(account_id)
    for month in sorted(missing):
        yield missing[month], month


def _zones(cursor: CursorWrapper) -> list[str]:
    """Those that exist: the accounts of a name that does not get no period, and no bill before it is mended."""
    cursor.execute(ZONES)
    return zones.known(zone for (zone,) in cursor.fetchall())


def _bounds(in_zones: Sequence[str], span: Span) -> list[tuple[str, date]]:
    """Each zone with each month in which an event of the span can fall there."""
    month = periods.previous_month(span.first_at.date())
    months = []
    while month <= periods.next_month(span.last_at.date()):
        months.append(month)
        month = periods.next_month(month)
    return [(zone, month) for zone in in_zones for month in months]
