"""Usage: a month of events tallied as they come in, a file imported, and check_books over many postings."""

import csv
import io
import os
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection, transaction

from accounts.models import Account, BillingEntity
from billing import periods
from billing.management import progress_bar
from billing.models import Product, UsageBatch
from billing.usage import imports, tallying
from config.bench import building, limits, watching

# As a month is metered: a batch a day.
BATCHES = 30
COPY_OF_THE_ROWS = "COPY (SELECT * FROM billing_usageevent WHERE batch_id = {batch}) TO STDOUT"


def measure_tally(
    entity: BillingEntity,
    *,
    month: date,
    products: list[Product],
    events: int,
    clock: Callable[[], datetime],
) -> dict[str, Any]:
    """Store a month of events, a batch a day, and tally each batch as it comes."""
    accounts = Account.objects.filter(entity=entity).count()
    per_batch = max(1, events // (BATCHES * accounts * len(products)))
    stored, seconds, cpu_seconds = 0, [], 0.0
    with progress_bar.bar("Tallying a month", total=BATCHES, unit="batches") as bar:
        for day in range(BATCHES):
            stored += building.add_usage(
                entity, month=month, products=products, events=per_batch, source=f"day{day}"
            )
            began, cpu_began = time.monotonic(), limits.own_cpu_seconds()
            tallying.tally(as_of=clock())
            seconds.append(time.monotonic() - began)
            cpu_seconds += limits.own_cpu_seconds() - cpu_began
            bar.advance()
    return {
        "events": stored,
        "accounts": accounts,
        "seconds": round(sum(seconds), 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "events_per_second": round(stored / sum(seconds)),
        "events_per_cpu_second": round(stored / max(0.01, cpu_seconds)),
        # Each adds to what those before have tallied, and takes no longer for it.
        "first_and_last_batch_seconds": [round(seconds[0], 3), round(seconds[-1], 3)],
    }


def measure_import(
    entity: BillingEntity, *, month: date, rows: int, clock: Callable[[], datetime]
) -> dict[str, Any]:
    """Import a usage file, and copy the rows that came of it into the bare tables."""
    path = Path(settings.EMBEDDED_DB_DIR).parent / "usage.csv"
    _write_file(path, entity, month=month, rows=rows)
    began, cpu_began = time.monotonic(), _cpu_seconds()
    phases: dict[str, float] = {}
    cpu: dict[str, float] = {}

    def reached(phase: str) -> None:
        phases[phase] = time.monotonic() - began
        cpu[phase] = _cpu_seconds() - cpu_began

    imported = imports.import_usage(
        path=path,
        form=imports.FORMATS["csv"],
        as_of=clock(),
        rejects_path=path.with_suffix(".rejects.csv"),
        watch=imports.Watch(on_phase=reached),
    )
    seconds = phases["Tallying"]
    total, cpu_seconds = time.monotonic() - began, cpu["Tallying"]
    bare_seconds, bare_cpu_seconds = _bare_copy(imported.batch)
    return {
        "rows": imported.batch.rows_added,
        "seconds": round(seconds, 2),
        "of_which_reading_and_checking": round(phases["Storing"], 2),
        "and_tallying_seconds": round(total - seconds, 2),
        "rows_per_second": round(rows / seconds),
        "cpu_seconds": round(cpu_seconds, 2),
        "rows_per_cpu_second": round(rows / max(0.01, cpu_seconds)),
        "limit": {
            "bare_copy_seconds": round(bare_seconds, 6),
            "bare_copy_cpu_seconds": round(bare_cpu_seconds, 6),
        },
        "share_of_bare_copy": round(bare_seconds / seconds, 2),
        "share_of_bare_copy_in_cpu": round(bare_cpu_seconds / max(0.01, cpu_seconds), 2),
    }


def _write_file(path: Path, entity: BillingEntity, *, month: date, rows: int) -> None:
    accounts = list(
        Account.objects.filter(entity=entity).order_by("pk").values_list("external_id", flat=True)
    )
    first_at = periods.starts_at(month, "UTC") + timedelta(days=2)
    instants = [(first_at + timedelta(hours=n)).isoformat() for n in range(24 * 20)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["event_id", "account", "product", "unit", "quantity", "starts_at"])
        for n in range(rows):
            writer.writerow(
                [
                    f"event-{n}",
                    accounts[n % len(accounts)],
                    f"bench-{n % building.LINES_PER_ACCOUNT + 1}",
                    "hour",
                    f"{n % 9973 / 100}",
                    instants[n % len(instants)],
                ]
            )


def _bare_copy(batch: UsageBatch) -> tuple[float, float]:
    """COPY of the same rows into a table with the same index and checks, in one transaction."""
    rows = io.StringIO()
    with connection.cursor() as cursor:
        cursor.copy_expert(COPY_OF_THE_ROWS.format(batch=batch.pk), rows)
        cursor.execute("DROP TABLE IF EXISTS bench_events")
        cursor.execute("CREATE TABLE bench_events (LIKE billing_usageevent INCLUDING ALL)")
    rows.seek(0)
    began, cpu_began = time.monotonic(), _cpu_seconds()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.copy_expert("COPY bench_events FROM STDIN", rows)
    return time.monotonic() - began, _cpu_seconds() - cpu_began


def _cpu_seconds() -> float:
    """Of the server's process that works for this connection, and of this one."""
    own = watching.use(os.getpid())
    return limits.own_cpu_seconds() + (own.cpu_seconds if own else 0.0)


# --- many postings

# Credit granted in many small pieces: the shortest entry there is, and the longest histories.
GRANTS = """
INSERT INTO billing_creditgrant (account_id, token, kind, currency, amount_minor, remaining_minor, expired_minor,
       refunded_minor, reversed_minor, reason, granted_by)
SELECT a.id, gen_random_uuid(), 'GOODWILL', a.currency, 1 + n, 1 + n, 0, 0, 0, 'bench', 'bench'
  FROM accounts_account a CROSS JOIN generate_series(1, %(each)s) n
 WHERE a.entity_id = %(entity)s
"""
BOOKED = ("billing_ledgerentry", "billing_posting")
CREDIT_ACCOUNTS = """
INSERT INTO billing_ledgeraccount (kind, currency, account_id, entity_id, gateway)
SELECT 'CUSTOMER_CREDIT', currency, id, NULL, '' FROM accounts_account WHERE entity_id = %(entity)s
 UNION ALL SELECT 'PROMOTIONS', 'EUR', NULL, %(entity)s, ''
    ON CONFLICT DO NOTHING
"""
ENTRIES = """
INSERT INTO billing_ledgerentry (kind, source, currency, account_id, description, effective_at)
SELECT 'CREDIT_GRANTED', 'grant:' || g.id, g.currency, g.account_id, 'Goodwill: bench', %(as_of)s
  FROM billing_creditgrant g JOIN accounts_account a ON a.id = g.account_id
 WHERE a.entity_id = %(entity)s ORDER BY g.account_id, g.id
"""
POSTINGS = """
INSERT INTO billing_posting (entry_id, ledger_account_id, amount_minor, version, balance_minor)
SELECT e.id, l.id, -g.amount_minor, row_number() OVER so_far, -(sum(g.amount_minor) OVER so_far)::bigint
  FROM billing_ledgerentry e
  JOIN billing_creditgrant g ON e.source = 'grant:' || g.id
  JOIN accounts_account a ON a.id = e.account_id
  JOIN billing_ledgeraccount l ON l.account_id = e.account_id AND l.kind = 'CUSTOMER_CREDIT'
 WHERE a.entity_id = %(entity)s
WINDOW so_far AS (PARTITION BY l.id ORDER BY e.id)
 UNION ALL
SELECT e.id, l.id, g.amount_minor, NULL, NULL
  FROM billing_ledgerentry e
  JOIN billing_creditgrant g ON e.source = 'grant:' || g.id
  JOIN billing_ledgeraccount l ON l.entity_id = %(entity)s AND l.kind = 'PROMOTIONS'
  JOIN accounts_account a ON a.id = e.account_id
 WHERE a.entity_id = %(entity)s
"""


def build_postings(entity: BillingEntity, *, postings: int, as_of: datetime) -> int:
    """Book so many postings, two to an entry, and return how many there are."""
    accounts = Account.objects.filter(entity=entity).count()
    names: dict[str, Any] = {
        "entity": entity.pk,
        "each": max(1, postings // (2 * accounts)),
        "as_of": as_of,
    }
    with transaction.atomic(), connection.cursor() as cursor:
        # That they sum to zero is what check_books is about to find out.
        for table in BOOKED:
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        for statement in (GRANTS, CREDIT_ACCOUNTS, ENTRIES, POSTINGS):
            cursor.execute(statement, names)
        # Else the foreign keys are still to be checked, and nothing can be altered.
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for table in BOOKED:
            cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
        cursor.execute("SELECT count(*) FROM billing_posting")
        return int(cursor.fetchone()[0])
