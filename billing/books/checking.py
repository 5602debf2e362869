"""
Hold the books against every promise, in one snapshot, while everything else goes on.

It writes nothing: the providers' books are copied in beside ours, compared, and rolled back.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from django.db import connection, transaction

from billing import gateways, step_kinds
from billing.books import schema
from billing.books.promises import Promise, promises
from billing.gateways import Observation

# Enough to see what the broken rows have in common.
ROWS_KEPT = 100
ROWS_PER_INSERT = 10_000

PROVIDER_RECORDS = "billing_providerrecord"

# Every query goes over everything, once. With little memory it would sort on disk; compiling it costs
# more than it saves; and a nested loop, chosen where statistics are old, as they are after a close,
# would take hours.
SETTINGS = """
SELECT set_config('books.as_of', %s, true), set_config('work_mem', '128MB', true),
       set_config('jit', 'off', true), set_config('enable_nestloop', 'off', true)
"""

# Materialized, because a limit that the planner can see makes it hope for an early end, and in good
# books there is none.
BROKEN = """
WITH broken AS MATERIALIZED (SELECT * FROM {view})
SELECT count(*) OVER (), * FROM broken LIMIT {rows}
"""

PAID_THROUGH = (
    "SELECT DISTINCT gateway FROM billing_payment WHERE gateway NOT IN ('manual', 'transfer')"
)

# A provider that is read page by page may list an object twice.
COPY_IN = f"""
INSERT INTO {PROVIDER_RECORDS} (gateway, provider_ref, own_reference, status, currency, amount_minor)
SELECT %s, * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[])
ON CONFLICT DO NOTHING
"""

WITHOUT_ATTEMPT = f"""
SELECT r.own_reference FROM {PROVIDER_RECORDS} r
  LEFT JOIN billing_paymentattempt a ON a.id::text = r.own_reference
 WHERE a.id IS NULL
"""


@dataclass(frozen=True)
class Finding:
    """A broken promise: how many rows break it, and the first of them."""

    promise: Promise
    count: int
    rows: list[dict[str, Any]]


class BookUnreadable(Exception):
    """A provider's book could not be read, so nothing was checked."""


class ViewsMissing(Exception):
    """The database does not have the views of the promises."""


def check(
    *,
    as_of: datetime,
    only: Sequence[str] = (),
    on_progress: Callable[[Promise], None] = lambda _: None,
) -> list[Finding]:
    """
    Find what breaks the promises of these names, or any; an empty list: all hold.

    Calls `on_progress` after each promise. Safe while a close runs: it locks nothing and writes nothing.

    :raises BookUnreadable: if a provider does not show its book.
    :raises UnknownPromise: if there is no promise of a name.
    :raises ViewsMissing: if the database is not migrated.
    """
    chosen = promises(only)
    if schema.standing(connection).isdisjoint({promise.name for promise in chosen}):
        raise ViewsMissing("the database has no such checks: run manage.py migrate")
    with _snapshot(as_of=as_of):
        return find(chosen, on_progress=on_progress)


@contextmanager
def _snapshot(*, as_of: datetime) -> Iterator[None]:
    """Everything inside sees one instant, and nothing of it stays."""
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        # The first query fixes the instant: before any provider's book is read.
        cursor.execute(SETTINGS, [as_of.isoformat()])
        yield
        transaction.set_rollback(True)


def find(
    chosen: Iterable[Promise], *, on_progress: Callable[[Promise], None] = lambda _: None
) -> list[Finding]:
    """Find what breaks these promises, in the caller's transaction, which it leaves to be rolled back."""
    chosen = list(chosen)
    _say_what_follows_what()
    if any(PROVIDER_RECORDS in promise.query for promise in chosen):
        _copy_in_providers_books()
    findings = []
    for promise in chosen:
        finding = _broken(promise)
        findings += [finding] if finding.count else []
        on_progress(promise)
    return findings


def _say_what_follows_what() -> None:
    """For the view `books_follows`, until the end of the transaction."""
    told = [{"kind": each.kind, "follows": each.follows} for each in step_kinds.installed()]
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('books.steps', %s, true)", [json.dumps(told)])


def _broken(promise: Promise) -> Finding:
    with connection.cursor() as cursor:
        cursor.execute(BROKEN.format(view=promise.name, rows=ROWS_KEPT))
        names = [column.name for column in cursor.description[1:]]
        rows = cursor.fetchall()
    return Finding(
        promise,
        count=rows[0][0] if rows else 0,
        rows=[dict(zip(names, row[1:], strict=True)) for row in rows],
    )


# --- the providers' books


def _copy_in_providers_books() -> None:
    """
    Copy what each provider says beside what we say.

    A network call with a transaction open, on purpose: the rule against it protects locks, and this
    holds none. The book is read after our snapshot, so that of a payment in flight it can only know
    more than we do: a success whose attempt we still see in flight is no violation, and a payment of
    ours that it does not know is one.
    """
    with connection.cursor() as cursor:
        # Also those this installation no longer charges through: their payments are in our books.
        cursor.execute(PAID_THROUGH)
        for name in sorted({*gateways.names(), *(name for (name,) in cursor.fetchall())}):
            try:
                _copy_in(name, gateways.get(name).book())
            except Exception as error:
                raise BookUnreadable(f"the book of {name} cannot be read: {error!r}") from error
        cursor.execute(f"ANALYZE {PROVIDER_RECORDS}")
    _leave_out_newer()


def _copy_in(gateway: str, book: Iterable[Observation]) -> None:
    objects = iter(book)
    with connection.cursor() as cursor:
        while some := list(islice(objects, ROWS_PER_INSERT)):
            cursor.execute(
                COPY_IN,
                [
                    gateway,
                    [each.ref for each in some],
                    [each.own_reference for each in some],
                    [each.status.value for each in some],
                    [each.currency for each in some],
                    [each.amount_minor for each in some],
                ],
            )


def _leave_out_newer() -> None:
    """
    Leave out the objects of attempts that began after our snapshot: they are the next check's.

    An attempt is committed before its provider hears of it. So the database as it is now, seen
    through another connection, knows every object of ours that the book has.
    """
    with connection.cursor() as cursor:
        cursor.execute(WITHOUT_ATTEMPT)
        unknown = [reference for (reference,) in cursor.fetchall()]
        if unknown:
            cursor.execute(
                f"DELETE FROM {PROVIDER_RECORDS} WHERE own_reference = ANY(%s)",
                [_attempts_now(unknown)],
            )


def _attempts_now(references: list[str]) -> list[str]:
    with closing(connection.copy()) as beside, beside.cursor() as cursor:
        cursor.execute(
            "SELECT id::text FROM billing_paymentattempt WHERE id::text = ANY(%s)", [references]
        )
        return [reference for (reference,) in cursor.fetchall()]
