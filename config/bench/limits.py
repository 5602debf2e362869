"""
What PostgreSQL alone needs to write what a step wrote: the same rows, into copies of the same tables.

The copies carry the same indexes, checks, foreign keys and constraint triggers. Rows that the step
changed count as written, too: PostgreSQL writes a changed row anew. One connection, one statement per
table, all of it warm.
"""

import time
from dataclasses import dataclass

from django.db import connection, transaction

from config.bench import watching

SCHEMA = "bench_copies"


@dataclass(frozen=True)
class Written:
    """Rows that a step added or changed: of which table, and which of them."""

    table: str
    where: str


OF_THE_ENTITY = "account_id IN (SELECT id FROM accounts_account WHERE entity_id = %(entity)s)"
STEPS = "run_id IN (SELECT id FROM billing_closerun WHERE entity_id = %(entity)s)"

WRITTEN = {
    "INVOICE": (
        Written("billing_invoice", OF_THE_ENTITY),
        Written(
            "billing_lineitem",
            "invoice_id IN (SELECT id FROM billing_invoice WHERE entity_id = %(entity)s)",
        ),
        Written("billing_ledgerentry", f"kind = 'INVOICE_ISSUED' AND {OF_THE_ENTITY}"),
        Written(
            "billing_posting",
            "entry_id IN (SELECT id FROM billing_ledgerentry"
            f" WHERE kind = 'INVOICE_ISSUED' AND {OF_THE_ENTITY})",
        ),
        Written("billing_ledgeraccount", f"kind = 'RECEIVABLE' AND {OF_THE_ENTITY}"),
        Written("accounts_timelineevent", f"kind = 'invoice.issued' AND {OF_THE_ENTITY}"),
        Written("billing_decision", f"act = 'INVOICE' AND {STEPS}"),
        Written("billing_usagesummary", OF_THE_ENTITY),
        Written("billing_step", f"kind IN ('INVOICE', 'CHARGE', 'EMAIL') AND {STEPS}"),
    ),
    "HOLD": (
        Written("billing_decision", f"act = 'HOLD' AND {STEPS}"),
        Written("accounts_hold", OF_THE_ENTITY),
        Written("accounts_timelineevent", f"kind = 'hold.placed' AND {OF_THE_ENTITY}"),
        Written("billing_step", f"kind = 'HOLD' AND {STEPS}"),
    ),
}

CONSTRAINTS = """
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
 WHERE conrelid = %s::regclass AND contype = 'f'
"""
TRIGGERS = """
SELECT pg_get_triggerdef(oid) FROM pg_trigger
 WHERE tgrelid = %s::regclass AND NOT tgisinternal AND tgconstraint <> 0
"""
OPTIONS = "SELECT reloptions FROM pg_class WHERE oid = %s::regclass"


@dataclass(frozen=True)
class Bare:
    """What the rows of a step take by themselves."""

    seconds: float
    cpu_seconds: float
    rows: int


def bare_insert(kind: str, *, entity_id: int) -> Bare:
    """Write the rows of a kind of step again, and nothing else."""
    tables = {written.table for written in WRITTEN[kind]}
    with connection.cursor() as cursor:
        # At its best: with statistics of what the step has written.
        cursor.execute(f"VACUUM ANALYZE {', '.join(sorted(tables))}")
    _copy_tables(tables)
    cpu_began = own_cpu_seconds()
    began, rows = time.monotonic(), 0
    with transaction.atomic(), connection.cursor() as cursor:
        for written in WRITTEN[kind]:
            cursor.execute(
                f"INSERT INTO {SCHEMA}.{written.table} SELECT * FROM {written.table}"
                f" WHERE {written.where}",
                {"entity": entity_id},
            )
            rows += cursor.rowcount
    seconds = time.monotonic() - began
    return Bare(seconds, own_cpu_seconds() - cpu_began, rows)


def own_cpu_seconds() -> float:
    """Of the server's process that works for this connection; 0 where it is on another machine."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        used = watching.use(int(cursor.fetchone()[0]))
    return used.cpu_seconds if used else 0.0


def _copy_tables(tables: set[str]) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        cursor.execute(f"CREATE SCHEMA {SCHEMA}")
        for table in sorted(tables):
            copy = f"{SCHEMA}.{table}"
            cursor.execute(f"CREATE TABLE {copy} (LIKE {table} INCLUDING ALL)")
            cursor.execute(OPTIONS, [table])
            if (options := cursor.fetchone()[0]) is not None:
                cursor.execute(f"ALTER TABLE {copy} SET ({', '.join(options)})")
            cursor.execute(CONSTRAINTS, [table])
            for name, definition in cursor.fetchall():
                cursor.execute(f'ALTER TABLE {copy} ADD CONSTRAINT "{name}" {definition}')
            cursor.execute(TRIGGERS, [table])
            for (definition,) in cursor.fetchall():
                cursor.execute(definition.replace(f"ON public.{table}", f"ON {copy}"))
