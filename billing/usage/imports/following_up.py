"""
Rejected rows are kept until they come again, in whatever file: repaired, or rejected once more.

A row is known again by what the file of rejects says; by being in a file of the same bytes; in one of
the same name and length that has all the other rows of the earlier one; or by the id of its event.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection, transaction

from billing import decisions, locks
from billing.models import Decision, RejectedRow, UsageBatch
from billing.usage.imports.rejects import Rejects, Rows
from billing.usage.imports.rows import Format

KEEP = """
COPY billing_rejectedrow (batch_id, number, field, account, event_id, currency, amount, month)
FROM STDIN
"""

# Where a row states no currency, it is its account's; where it states none that there is, nobody
# knows how much its amount is.
NAME_THE_CURRENCY = """
UPDATE billing_rejectedrow kept
   SET currency = coalesce(account.currency, ''),
       amount = CASE WHEN account.currency IS NOT NULL THEN kept.amount END
  FROM billing_rejectedrow row
  LEFT JOIN accounts_account account ON account.external_id = row.account AND row.currency = ''
 WHERE kept.id = row.id AND row.batch_id = %(batch)s AND row.currency IN ('', '?')
"""

COMES_AGAIN = """
UPDATE billing_rejectedrow kept SET again_in_id = %(batch)s
  FROM billing_usagebatch earlier{found}
 WHERE earlier.id = kept.batch_id AND earlier.source = %(source)s AND earlier.id <> %(batch)s
   AND kept.again_in_id IS NULL AND ({known_by})
"""

BY_THE_FILE_OF_REJECTS = """
(kept.batch_id, kept.number) IN (SELECT * FROM unnest(%(imports)s::bigint[], %(numbers)s::bigint[]))
"""
BY_THE_SAME_BYTES = "earlier.sha256 = %(sha256)s"
# All the other rows of the earlier file are in this one, so what is left of it are the rejected ones.
BY_THE_OTHER_ROWS = """
earlier.name = %(name)s AND earlier.rows_read = %(read)s
AND earlier.rows_added + earlier.rows_known <= %(known)s
"""
# A row whose id was the fault: the event that has it is another one.
BY_THE_EVENT = """
kept.field <> 'event_id' AND kept.event_id = found.event_id
AND (kept.account IN ('', found.account) OR found.account = '')
"""
EVENTS = """, (
    SELECT event_id, account FROM usage_staging
     UNION ALL
    SELECT event_id, account FROM billing_rejectedrow
     WHERE batch_id = %(batch)s AND field <> 'event_id' AND event_id <> '') found
"""

# Whoever set aside the rows of these bytes need not do it again.
STAYS_SET_ASIDE = """
UPDATE billing_usagebatch batch
   SET set_aside_at = earlier.set_aside_at, set_aside_by = earlier.set_aside_by,
       set_aside_because = earlier.set_aside_because
  FROM billing_usagebatch earlier
 WHERE batch.id = %(batch)s AND earlier.id = (
       SELECT max(id) FROM billing_usagebatch
        WHERE sha256 = %(sha256)s AND source = %(source)s AND id <> %(batch)s
          AND set_aside_at IS NOT NULL)
"""

# Parameters of one statement.
PAGE = 50_000


class NothingToSetAside(Exception):
    """No rejected row of the import waits any more."""


@dataclass(frozen=True)
class _Known:
    sql: str
    # What else it reads.
    found: str
    parameters: dict[str, Any]


def follow_up(*, batch: UsageBatch, form: Format, rows: Rows, rejected: Rejects) -> int:
    """
    Keep the rejected rows of an import and say how many of earlier ones have come again in it.

    In the transaction that stores the import.
    """
    _keep(batch, rejected)
    others = RejectedRow.objects.filter(again_in=None, batch__source=batch.source)
    came_again = 0
    if others.exclude(batch=batch).exists():
        came_again = sum(_comes_again(batch, known) for known in _ways(batch, form, rows))
    _execute(STAYS_SET_ASIDE, {"batch": batch.pk, "sha256": batch.sha256, "source": batch.source})
    return came_again


def _keep(batch: UsageBatch, rejected: Rejects) -> None:
    if not rejected.count:
        return
    rejected.kept.seek(0)
    with connection.cursor() as cursor, connection.wrap_database_errors:
        cursor.copy_expert(KEEP, rejected.kept)
    _execute(NAME_THE_CURRENCY, {"batch": batch.pk})


def _ways(batch: UsageBatch, form: Format, rows: Rows) -> list[_Known]:
    listed = [
        _Known(
            BY_THE_FILE_OF_REJECTS,
            "",
            {
                "imports": list(rows.imports[start : start + PAGE]),
                "numbers": list(rows.numbers[start : start + PAGE]),
            },
        )
        for start in range(0, len(rows.imports), PAGE)
    ]
    by_event = [_Known(BY_THE_EVENT, EVENTS, {})] if form.has_event_ids else []
    return [
        *listed,
        _Known(BY_THE_SAME_BYTES, "", {"sha256": batch.sha256}),
        _Known(
            BY_THE_OTHER_ROWS,
            "",
            {"name": batch.name, "read": batch.rows_read, "known": batch.rows_known},
        ),
        *by_event,
    ]


def _comes_again(batch: UsageBatch, known: _Known) -> int:
    return _execute(
        COMES_AGAIN.format(known_by=known.sql, found=known.found),
        {"batch": batch.pk, "source": batch.source, **known.parameters},
    )


def _execute(sql: str, parameters: dict[str, Any]) -> int:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return int(cursor.rowcount)


@transaction.atomic(durable=True)
def set_aside(*, batch_id: int, reason: str, actor: str, as_of: datetime) -> UsageBatch:
    """
    Say that the rejected rows of an import will not be billed, and why: nobody is asked any more.

    :raises NothingToSetAside: if none waits.
    """
    batch = locks.usage_batch_for_update(batch_id)
    waiting = RejectedRow.objects.filter(batch=batch, again_in=None)
    if batch.set_aside_at is not None or not (count := waiting.count()):
        raise NothingToSetAside(f"no rejected row of {batch} waits")
    batch.set_aside_at, batch.set_aside_by, batch.set_aside_because = as_of, actor, reason[:300]
    batch.save(update_fields=["set_aside_at", "set_aside_by", "set_aside_because"])
    decisions.record(
        decisions.decision(
            act="SET_ASIDE_REJECTS",
            did=Decision.Did.DONE,
            because=f"{count} rejected rows of import {batch.pk}, {batch}: {reason}",
            account_id=None,
            saw={"import": batch.pk, "rows": count},
            actor=actor,
        )
    )
    return batch
