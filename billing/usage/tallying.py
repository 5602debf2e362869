"""
From usage events to the tally that invoices are made of.

Events arrive in batches. The tally adds each batch to the open summaries of its accounts exactly
once, so the close reads a few summaries per account and never the events.
"""

from collections.abc import Callable
from datetime import datetime

from django.db import connection, transaction

from billing.models import UsageBatch
from billing.usage.billing_periods import open_periods_of
from billing.usage.partitions import span_of

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

# Only open summaries: one that an invoice has taken meanwhile stays as it is, and a new one begins.
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


class EventsWithoutPeriod(Exception):
    """Some events of a batch fall into no billing period. Nothing of the batch was tallied."""


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
        open_periods_of(batch_id)
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
        # The process that was tallying them has died.
        tally(as_of=as_of)


@transaction.atomic(durable=True)
def _tally_batch(*, batch_id: int, as_of: datetime) -> UsageBatch | None:
    """Tally one batch, unless it is tallied already or another process is tallying it."""
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
        span = span_of(batch.pk, cursor)
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
