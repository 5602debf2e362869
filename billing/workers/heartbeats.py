"""
Who works, and how much: signs of life of the clusters, and what each process did of a run.

All times are the database's clock.
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db import connection
from django.db.models import DurationField, ExpressionWrapper, F
from django.db.models.functions import Now

from billing.models import Executor, Sweep

# How often a cluster says that it lives, and after how long a silent one no longer counts.
BEAT_SECONDS = 10
SILENT_SECONDS = 60
# Whoever was silent for longer is forgotten.
FORGOTTEN_AFTER_DAYS = 1

BEAT = """
INSERT INTO billing_executor AS e (host, pid, lanes, workers, started_at, beat_at)
VALUES (%(host)s, %(pid)s, %(queues)s, %(workers)s, now(), now())
ON CONFLICT (host, pid) DO UPDATE
   SET lanes = excluded.lanes, workers = excluded.workers, beat_at = excluded.beat_at,
       started_at = CASE WHEN %(is_first)s THEN excluded.started_at ELSE e.started_at END
"""
FORGET = """
DELETE FROM billing_executor WHERE beat_at < now() - %s * interval '1 day'
"""

CONTRIBUTE = """
INSERT INTO billing_contribution AS c (run_id, kind, host, pid, steps, first_at, last_at)
VALUES (%(run)s, %(kind)s, %(host)s, %(pid)s, %(steps)s, now(), clock_timestamp())
ON CONFLICT (run_id, kind, host, pid) DO UPDATE
   SET steps = c.steps + excluded.steps, last_at = excluded.last_at
"""

# One row for good.
SWEPT = """
INSERT INTO billing_sweep AS s (id, host, ended_at, failed, stopped_at)
VALUES (1, %s, clock_timestamp(), %s, %s)
ON CONFLICT (id) DO UPDATE
   SET host = excluded.host, ended_at = excluded.ended_at, failed = excluded.failed,
       stopped_at = excluded.stopped_at
"""


@dataclass(frozen=True)
class Seen:
    """A cluster, and how many seconds ago it last gave a sign of life."""

    host: str
    pid: int
    queues: tuple[str, ...]
    workers: int
    started_at: datetime
    silent_seconds: float

    @property
    def is_alive(self) -> bool:
        return self.silent_seconds <= SILENT_SECONDS


def beat(*, queues: Sequence[str], workers: int, is_first: bool) -> None:
    """Note that the cluster whose process calls it lives, and forget those long gone."""
    with connection.cursor() as cursor:
        cursor.execute(
            BEAT,
            {
                "host": settings.HOST_NAME,
                "pid": os.getpid(),
                "queues": ",".join(queues),
                "workers": workers,
                "is_first": is_first,
            },
        )
        cursor.execute(FORGET, [FORGOTTEN_AFTER_DAYS])


def seen() -> list[Seen]:
    """Every cluster that was there within a day, by host."""
    silent = ExpressionWrapper(Now() - F("beat_at"), output_field=DurationField())
    rows = Executor.objects.annotate(silent=silent).order_by("host", "pid")
    return [
        Seen(
            row.host,
            row.pid,
            tuple(row.lanes.split(",")),
            row.workers,
            row.started_at,
            row.silent.total_seconds(),
        )
        for row in rows
    ]


def contribute(*, run_id: int, kind: str, steps: int) -> None:
    """
    Count steps that this process ended, in the caller's transaction.

    Last in it: threads of one process share a row, and wait for one another from here on.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            CONTRIBUTE,
            {
                "run": run_id,
                "kind": kind,
                "host": settings.HOST_NAME,
                "pid": os.getpid(),
                "steps": steps,
            },
        )


def note_sweep(*, failed: Collection[str], left: str = "") -> None:
    """Note that a sweep ended just now, which of its parts failed, and which was the first it had no time for."""
    with connection.cursor() as cursor:
        cursor.execute(SWEPT, [settings.HOST_NAME, ",".join(failed)[:300], left])


def swept_until() -> str:
    """Return the part that the last sweep had no time for; empty where it came to its end, or there was none."""
    return Sweep.objects.values_list("stopped_at", flat=True).first() or ""


def last_sweep() -> tuple[Sweep, float] | None:
    """The last sweep, and how many seconds ago it ended; None: there never was one."""
    ago = ExpressionWrapper(Now() - F("ended_at"), output_field=DurationField())
    row = Sweep.objects.annotate(ago=ago).first()
    return None if row is None else (row, row.ago.total_seconds())
