"""The monthly partitions of usage events, and which of them a batch's events are in."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

from billing import periods

# One at a time, across processes: each sees the partitions of the one before.
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('usage partitions', 0))"

PARTITIONS = """
SELECT child.relname FROM pg_inherits
  JOIN pg_class child ON child.oid = inhrelid
 WHERE inhparent = 'billing_usageevent'::regclass
"""

# Attached, not created in place: attaching waits for nobody who reads or writes other months.
CREATE_PARTITION = """
CREATE TABLE {name} (LIKE billing_usageevent INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
ALTER TABLE billing_usageevent ATTACH PARTITION {name} FOR VALUES FROM ('{start}') TO ('{end}');
"""


def ensure_partitions(months: Iterable[date]) -> None:
    """Create the monthly partitions of usage events that do not exist yet (UTC months)."""
    wanted = {f"billing_usageevent_{month:%Y_%m}": month for month in months}
    with transaction.atomic(), connection.cursor() as cursor:
        if not _missing(wanted, cursor):
            return
        cursor.execute(LOCK)
        for name in sorted(_missing(wanted, cursor)):
            month = wanted[name]
            start, end = periods.starts_at(month, "UTC"), periods.ends_at(month, "UTC")
            cursor.execute(CREATE_PARTITION.format(name=name, start=start, end=end))


def _missing(wanted: Iterable[str], cursor: CursorWrapper) -> set[str]:
    cursor.execute(PARTITIONS)
    return set(wanted) - {name for (name,) in cursor.fetchall()}


SPAN = """
SELECT count(*), min(effective_at), max(effective_at) FROM billing_usageevent WHERE batch_id = %s
"""


@dataclass(frozen=True)
class Span:
    """How many events a batch has, and between which instants: which partitions to look at."""

    events: int
    first_at: datetime
    last_at: datetime


def span_of(batch_id: int, cursor: CursorWrapper) -> Span:
    """The span of a batch's events."""
    cursor.execute(SPAN, [batch_id])
    return Span(*cursor.fetchone())
