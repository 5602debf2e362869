"""
From usage events to the tally that invoices are made of.

Events arrive in batches. The tally adds each batch to the open summaries of its accounts exactly
once, so the close reads a few summaries per account and never the events.

An account whose events cannot be added up stops no other: they are left (UntalliedUsage), listed for a
person, and added up as soon as that can be done.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction

from accounts import zones
from accounts.models import Account
from billing import unbillable
from billing.models import UntalliedUsage, UsageBatch
from billing.usage.billing_periods import open_periods_of
from billing.usage.partitions import Span, span_of
from notifications import bisect
from notifications.faults import is_the_databases_fault

logger = logging.getLogger(__name__)

# Where nobody knows what is wrong. An account that somebody mends has its events added up at once.
TRY_AGAIN_AFTER = timedelta(hours=1)

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
   AND (%(only)s::bigint[] IS NULL OR event.account_id = ANY(%(only)s))
   AND event.account_id <> ALL(%(without)s::bigint[])
 GROUP BY event.account_id, period.id, event.product_id, event.kind, event.item, event.unit,
          event.unit_price, (event.amount IS NULL)
"""

EVENTS = """
SELECT count(*) FROM billing_usageevent event
 WHERE event.batch_id = %(batch)s
   AND event.effective_at >= %(first_at)s AND event.effective_at <= %(last_at)s
   AND (%(only)s::bigint[] IS NULL OR event.account_id = ANY(%(only)s))
   AND event.account_id <> ALL(%(without)s::bigint[])
"""

ACCOUNTS = """
SELECT DISTINCT account_id FROM billing_usageevent
 WHERE batch_id = %(batch)s AND effective_at >= %(first_at)s AND effective_at <= %(last_at)s
 ORDER BY account_id
"""

WITHOUT_ZONE = """
SELECT account.id FROM accounts_account account
 WHERE account.time_zone = ANY(%(zones)s)
   AND EXISTS (SELECT 1 FROM billing_usageevent event
                WHERE event.batch_id = %(batch)s AND event.account_id = account.id
                  AND event.effective_at >= %(first_at)s AND event.effective_at <= %(last_at)s)
 ORDER BY account.id
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
    """Some events fall into no billing period. Nothing of what was tried was tallied."""


def tally(*, as_of: datetime, on_progress: Callable[[UsageBatch], None] | None = None) -> int:
    """
    Add every batch that is not tallied yet to the summaries, and return how many.

    One transaction per batch, exactly once each. A batch that another process is tallying right
    now is left to it. What could not be added up of earlier ones is tried again.
    """
    tallied = 0
    _tally_what_was_left(as_of=as_of)
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
    with connection.cursor() as cursor:
        span = span_of(batch.pk, cursor)
    if span.events:
        _leave(batch, _add_all_that_can_be(batch, span), as_of=as_of)
    batch.tallied_at = as_of
    batch.save(update_fields=["tallied_at"])
    return batch


def _add_all_that_can_be(batch: UsageBatch, span: Span) -> dict[int, str]:
    """Add the batch up; after an error in halves of its accounts. Returns those left, and why."""
    left = dict.fromkeys(_without_zone(batch, span), "")
    try:
        _add_to_summaries(batch, span, without=left)
    except Exception as error:
        if is_the_databases_fault(error):
            raise
        accounts = [pk for pk in _accounts_of(batch, span) if pk not in left]

        def add(some: Sequence[int]) -> None:
            _add_to_summaries(batch, span, only=some)

        left |= {
            pk: f"{type(why).__name__}: {why}"
            for pk, why in bisect.failures(add, accounts, what="accounts of a batch", tried=error)
        }
    return left


def _without_zone(batch: UsageBatch, span: Span) -> list[int]:
    """The batch's accounts whose months nobody can cut: known without trying, since a batch may be large."""
    names = Account.objects.order_by().values_list("time_zone", flat=True).distinct()
    wrong = [name for name in names if not zones.is_known(name)]
    if not wrong:
        return []
    with connection.cursor() as cursor:
        cursor.execute(WITHOUT_ZONE, {**_parameters(batch, span), "zones": wrong})
        return [pk for (pk,) in cursor.fetchall()]


def _accounts_of(batch: UsageBatch, span: Span) -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute(ACCOUNTS, _parameters(batch, span))
        return [pk for (pk,) in cursor.fetchall()]


def _parameters(
    batch: UsageBatch,
    span: Span,
    *,
    only: Collection[int] | None = None,
    without: Collection[int] = (),
) -> dict[str, Any]:
    return {
        "batch": batch.pk,
        "first_at": span.first_at,
        "last_at": span.last_at,
        "only": None if only is None else list(only),
        "without": list(without),
    }


@transaction.atomic
def _add_to_summaries(
    batch: UsageBatch,
    span: Span,
    *,
    only: Collection[int] | None = None,
    without: Collection[int] = (),
) -> None:
    """
    Add the events of these accounts, or of all but those, up.

    :raises EventsWithoutPeriod: if some of them fall into no period; then nothing was added.
    """
    parameters = _parameters(batch, span, only=only, without=without)
    events = span.events
    with connection.cursor() as cursor:
        if only is not None or without:
            cursor.execute(EVENTS, parameters)
            (events,) = cursor.fetchone()
        cursor.execute("DROP TABLE IF EXISTS pg_temp.tally")
        cursor.execute(TALLY, parameters)
        cursor.execute(EVENTS_TALLIED)
        (tallied,) = cursor.fetchone()
        if tallied != events:
            raise EventsWithoutPeriod(
                f"usage batch {batch.pk} ({batch.name}): of {events} events only {tallied}"
                " fall into a billing period of their account"
            )
        cursor.execute(LOCK_ACCOUNTS)
        cursor.execute(ADD_TO_SUMMARIES)


# --- what could not be added up


def _leave(batch: UsageBatch, left: dict[int, str], *, as_of: datetime) -> None:
    """Note whose events of the batch are left, for a person and for the next try."""
    for account in Account.objects.filter(pk__in=left).order_by("pk"):
        because = unbillable.why(account) or left[account.pk]
        logger.error("usage of %s in %s could not be added up: %s", account, batch, because)
        UntalliedUsage.objects.create(
            batch=batch,
            account=account,
            because=because[:300],
            noted_at=as_of,
            again_at=as_of if unbillable.why(account) else as_of + TRY_AGAIN_AFTER,
        )


def _tally_what_was_left(*, as_of: datetime) -> None:
    """Try what was left once more: at once where its account was mended, else within the hour."""
    due = UntalliedUsage.objects.filter(again_at__lte=as_of)
    for left in due.select_related("account").order_by("pk"):
        if unbillable.why(left.account):
            continue
        try:
            open_periods_of(left.batch_id, account_id=left.account_id)
            _tally_left(left.pk)
        except Exception as error:
            if is_the_databases_fault(error):
                raise
            logger.exception("usage of %s could not be added up again", left.account)
            UntalliedUsage.objects.filter(pk=left.pk).update(
                because=f"{type(error).__name__}: {error}"[:300], again_at=as_of + TRY_AGAIN_AFTER
            )


@transaction.atomic(durable=True)
def _tally_left(left_id: int) -> None:
    """Add an account's events of a batch up, unless another process has, or is at it."""
    waiting = UntalliedUsage.objects.select_for_update(skip_locked=True, of=("self",))
    left = waiting.select_related("batch").filter(pk=left_id).first()
    if left is None:
        return
    with connection.cursor() as cursor:
        span = span_of(left.batch_id, cursor)
    _add_to_summaries(left.batch, span, only=[left.account_id])
    left.delete()
