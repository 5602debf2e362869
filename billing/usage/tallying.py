"""
From usage events to the tally that invoices are made of.

Events arrive in batches. The tally adds each batch to the open summaries of its accounts exactly
once, so the close reads a few summaries per account and never the events.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

from billing import periods
from billing.models import UsageBatch

# One at a time, across processes: each sees the partitions, or the periods, of the one before.
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"

PARTITIONS = """
SELECT child.relname FROM pg_inherits
  JOIN pg_class child ON child.oid = inhrelid
 WHERE inhparent = 'billing_usageevent'::regclass
"""

# Attached rather than created in place: that waits for nobody who reads or writes other months.
CREATE_PARTITION = """
CREATE TABLE {name} (LIKE billing_usageevent INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
ALTER TABLE billing_usageevent ATTACH PARTITION {name} FOR VALUES FROM ('{start}') TO ('{end}');
"""

# A stored neighbour's bound wins over the zone's: periods tile even where the zone has changed.
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

SPAN = """
SELECT count(*), min(effective_at), max(effective_at) FROM billing_usageevent WHERE batch_id = %s
"""

ZONES = "SELECT DISTINCT time_zone FROM accounts_account"

# Accounts and months of events that no stored period contains. Where the account's month is stored
# and still does not contain the event, the zone has changed: the neighbour will take it.
MISSING_PERIODS = """
WITH homeless AS MATERIALIZED (
    SELECT event.account_id, event.effective_at
      FROM billing_usageevent event
     WHERE event.batch_id = %(batch)s
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

TALLY = """
CREATE TEMPORARY TABLE tally ON COMMIT DROP AS
SELECT event.account_id, period.id AS period_id, event.product_id, event.kind, event.item,
       event.unit, event.unit_price, sum(event.quantity) AS quantity, sum(event.amount) AS amount,
       count(*) AS events, min(event.starts_at) AS first_at, max(event.ends_at) AS last_at
  FROM billing_usageevent event
  JOIN billing_billingperiod period
    ON period.account_id = event.account_id
   AND period.starts_at <= event.effective_at AND event.effective_at < period.ends_at
 WHERE event.batch_id = %(batch)s
   AND event.effective_at >= %(first_at)s AND event.effective_at <= %(last_at)s
 GROUP BY event.account_id, period.id, event.product_id, event.kind, event.item, event.unit,
          event.unit_price, (event.amount IS NULL)
"""

EVENTS_TALLIED = "SELECT coalesce(sum(events), 0)::bigint FROM tally"

# The same mutex and order as billing/locks.py. As a statement: a batch may name every account.
LOCK_ACCOUNTS = """
SELECT count(*) FROM (
    SELECT id FROM accounts_account WHERE id IN (SELECT account_id FROM tally)
     ORDER BY id FOR NO KEY UPDATE
) locked
"""

# Open summaries only: one that an invoice has taken meanwhile is left alone, a new one begins.
ADD_TO_SUMMARIES = """
INSERT INTO billing_usagesummary AS summary (
    account_id, period_id, product_id, kind, item, unit, unit_price, quantity, amount, events,
    first_at, last_at)
SELECT account_id, period_id, product_id, kind, item, unit, unit_price, quantity, amount, events,
       first_at, last_at
  FROM tally
 ORDER BY account_id, period_id, product_id, kind, item, unit, unit_price, (amount IS NULL)
ON CONFLICT (account_id, period_id, product_id, kind, item, unit, unit_price, (amount IS NULL))
      WHERE invoice_id IS NULL
DO UPDATE SET quantity = summary.quantity + excluded.quantity,
              amount = summary.amount + excluded.amount,
              events = summary.events + excluded.events,
              first_at = least(summary.first_at, excluded.first_at),
              last_at = greatest(summary.last_at, excluded.last_at)
"""


@dataclass(frozen=True)
class Span:
    """How many events a batch has, and between which instants: which partitions to look at."""

    events: int
    first_at: datetime
    last_at: datetime


class EventsWithoutPeriod(Exception):
    """Some events of a batch fall into no billing period. Nothing of the batch was tallied."""


def ensure_partitions(months: Iterable[date]) -> None:
    """Create the monthly partitions of usage events that do not exist yet (UTC months)."""
    wanted = {f"billing_usageevent_{month:%Y_%m}": month for month in months}
    with transaction.atomic(), connection.cursor() as cursor:
        if not _missing(wanted, cursor):
            return
        cursor.execute(LOCK, ["usage partitions"])
        for name in sorted(_missing(wanted, cursor)):
            month = wanted[name]
            start, end = periods.starts_at(month, "UTC"), periods.ends_at(month, "UTC")
            cursor.execute(CREATE_PARTITION.format(name=name, start=start, end=end))


def _missing(wanted: Iterable[str], cursor: CursorWrapper) -> set[str]:
    cursor.execute(PARTITIONS)
    return set(wanted) - {name for (name,) in cursor.fetchall()}


def open_periods(*, month: date, account_ids: Sequence[int] | None = None) -> int:
    """
    Store the billing periods of a month that are not stored yet, and return how many.

    Cut in each account's time zone, then fitted to the periods stored before and after, so that an
    account's periods tile. For all active accounts where none are named.
    """
    month = month.replace(day=1)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(LOCK, ["billing periods"])
        zones = _zones(cursor)
        cursor.execute(
            OPEN_PERIODS,
            {
                "month": month,
                "previous_month": periods.previous_month(month),
                "next_month": periods.next_month(month),
                "zones": zones,
                "starts": [periods.starts_at(month, zone) for zone in zones],
                "ends": [periods.ends_at(month, zone) for zone in zones],
                "account_ids": None if account_ids is None else list(account_ids),
            },
        )
        return int(cursor.rowcount)


def open_periods_to_close(*, month: date, entity_id: int) -> int:
    """
    Store the month's period of an entity's accounts that have only late usage, and say how many.

    The others' were opened when their usage was tallied. Whoever opens a period waits for all who do
    so: a close does it once, before its workers start.
    """
    with connection.cursor() as cursor:
        cursor.execute(WITHOUT_PERIOD, {"month": month, "entity": entity_id})
        account_ids = [account_id for (account_id,) in cursor.fetchall()]
    return open_periods(month=month, account_ids=account_ids) if account_ids else 0


def _zones(cursor: CursorWrapper) -> list[str]:
    cursor.execute(ZONES)
    return [zone for (zone,) in cursor.fetchall()]


def tally(*, as_of: datetime, on_progress: Callable[[UsageBatch], None] | None = None) -> int:
    """
    Add every batch that is not tallied yet to the summaries, and return how many.

    One transaction per batch, exactly once each. A batch that another process is tallying right
    now is left to it.

    :raises EventsWithoutPeriod: if a batch cannot be tallied whole; those before it are.
    """
    tallied = 0
    for batch_id in (
        UsageBatch.objects.filter(tallied_at=None).order_by("pk").values_list("pk", flat=True)
    ):
        _open_periods_of(batch_id)
        batch = _tally_batch(batch_id=batch_id, as_of=as_of)
        if batch is None:
            continue
        tallied += 1
        if on_progress is not None:
            on_progress(batch)
    return tallied


def tally_everything(*, as_of: datetime) -> None:
    """
    Tally as `tally` does, and wait for what other processes are tallying right now.

    For a close: accounts invoiced before such a batch is tallied would get its usage a month late.
    """
    tally(as_of=as_of)
    with transaction.atomic(durable=True):
        left = list(UsageBatch.objects.select_for_update().filter(tallied_at=None).order_by("pk"))
    if left:
        # Whoever was at it has died.
        tally(as_of=as_of)


def _open_periods_of(batch_id: int) -> None:
    """Its own transactions: they would hold up every other opener for as long as the tally takes."""
    for account_ids, month in _missing_periods(batch_id):
        open_periods(month=month, account_ids=account_ids)


def _missing_periods(batch_id: int) -> Iterator[tuple[list[int], date]]:
    with connection.cursor() as cursor:
        span = _span(batch_id, cursor)
        if not span.events:
            return
        bounds = _bounds(_zones(cursor), span)
        cursor.execute(
            MISSING_PERIODS,
            {
                "batch": batch_id,
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


def _span(batch_id: int, cursor: CursorWrapper) -> Span:
    cursor.execute(SPAN, [batch_id])
    return Span(*cursor.fetchone())


def _bounds(zones: Sequence[str], span: Span) -> list[tuple[str, date]]:
    """Every zone with every month that an event of the span can fall into there."""
    month = periods.previous_month(span.first_at.date())
    months = []
    while month <= periods.next_month(span.last_at.date()):
        months.append(month)
        month = periods.next_month(month)
    return [(zone, month) for zone in zones for month in months]


@transaction.atomic(durable=True)
def _tally_batch(*, batch_id: int, as_of: datetime) -> UsageBatch | None:
    """Tally one batch, unless it is tallied already or another process is at it."""
    waiting = UsageBatch.objects.select_for_update(skip_locked=True).filter(tallied_at=None)
    batch = waiting.filter(pk=batch_id).first()
    if batch is None:
        return None
    _add_to_summaries(batch)
    batch.tallied_at = as_of
    batch.save(update_fields=["tallied_at"])
    return batch


def _add_to_summaries(batch: UsageBatch) -> None:
    with connection.cursor() as cursor:
        span = _span(batch.pk, cursor)
        if not span.events:
            return
        cursor.execute("DROP TABLE IF EXISTS pg_temp.tally")
        cursor.execute(
            TALLY, {"batch": batch.pk, "first_at": span.first_at, "last_at": span.last_at}
        )
        cursor.execute(EVENTS_TALLIED)
        (events,) = cursor.fetchone()
        if events != span.events:
            raise EventsWithoutPeriod(
                f"usage batch {batch.pk} ({batch.name}): of its {span.events} events only {events}"
                " fall into a billing period of their account"
            )
        cursor.execute(LOCK_ACCOUNTS)
        cursor.execute(ADD_TO_SUMMARIES)
