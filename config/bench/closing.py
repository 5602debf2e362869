"""The whole close, on real clusters."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection

from accounts.models import BillingEntity
from billing import step_kinds
from billing.close import runs
from billing.management import progress_bar
from billing.models import CloseRun, Executor
from billing.reports import progress as progress_report
from billing.workers import doorbell
from config.bench import watching

LOOK_EVERY_SECONDS = 1.0
STARTED_WITHIN_SECONDS = 60

# When each kind of step was at work, in seconds since the run started; and what became of it.
WINDOWS = """
SELECT kind, count(*), extract(epoch FROM min(finished_at) - %(started_at)s),
       extract(epoch FROM max(finished_at) - %(started_at)s)
  FROM billing_step WHERE run_id = %(run)s GROUP BY kind
"""


@dataclass(frozen=True)
class Closed:
    """A close that was measured."""

    run: CloseRun
    seconds: float
    document: dict[str, Any]


def close(
    entity: BillingEntity, *, month: date, workers: int, clock: Callable[[], datetime]
) -> Closed:
    """Close an entity's month on one cluster per queue, and say what that took."""
    with _clusters(workers) as pids:
        _await_clusters()
        groups = {"workers": lambda: watching.descendants(pids), **server_groups()}
        with watching.Watch(groups) as watch:
            began = time.monotonic()
            run, _ = runs.start(entity=entity, month=month, started_by="bench", as_of=clock())
            _wait_for_its_end(run)
            seconds = time.monotonic() - began
    return Closed(run, seconds, _told(run, watch, seconds))


def server_groups() -> dict[str, Callable[[], list[int]]]:
    """The other processes on this machine that a close keeps busy, by what they are."""
    postmaster = _postmaster_pid()
    return {
        "postgres": lambda: watching.descendants([postmaster]) if postmaster else [],
        "provider": lambda: [int(os.environ["BENCH_PROVIDER_PID"])],
        "mail_server": lambda: [int(os.environ["BENCH_MAIL_PID"])],
    }


def _postmaster_pid() -> int | None:
    """The server's main process; None where it runs on another machine."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (backend,) = cursor.fetchone()
    stat = watching.PROC / f"{backend}/stat"
    if not stat.exists() or "postgres" not in stat.read_text():
        return None
    return int(stat.read_text().rpartition(")")[2].split()[1])


@contextmanager
def _clusters(workers: int) -> Iterator[list[int]]:
    """One supervised cluster per queue, as in a large installation."""
    manage = str(settings.BASE_DIR / "manage.py")
    log_path = Path(settings.EMBEDDED_DB_DIR).parent / "clusters.log"
    with log_path.open("w") as log:
        clusters = [
            subprocess.Popen(  # noqa: S603 - our own manage.py
                [
                    *(sys.executable, manage, "cluster", "--supervise"),
                    *("--queues", queue, "--workers", str(workers)),
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, "WORKERS": str(workers)},
            )
            for queue in doorbell.queues()
        ]
        try:
            yield [cluster.pid for cluster in clusters]
        finally:
            for cluster in clusters:
                cluster.terminate()
            for cluster in clusters:
                cluster.wait()
    sys.stderr.write(log_path.read_text()[-2000:] if "ERROR" in log_path.read_text() else "")


def _await_clusters() -> None:
    """In production they run already when a month is over."""
    give_up_at = time.monotonic() + STARTED_WITHIN_SECONDS
    while Executor.objects.count() < len(doorbell.queues()) and time.monotonic() < give_up_at:
        time.sleep(LOOK_EVERY_SECONDS / 10)


def _wait_for_its_end(run: CloseRun) -> None:
    shown = 0
    total = progress_report.counts(run).everything
    with progress_bar.bar(f"Closing {run}", total=total, unit="steps") as bar:
        while not run.is_finished:
            time.sleep(LOOK_EVERY_SECONDS)
            run.refresh_from_db()
            ended = progress_report.counts(run).ended
            bar.advance(ended - shown)
            shown = ended


def _told(run: CloseRun, watch: watching.Watch, seconds: float) -> dict[str, Any]:
    steps = {}
    with connection.cursor() as cursor:
        cursor.execute(WINDOWS, {"run": run.pk, "started_at": run.started_at})
        for kind, count, first, last in cursor.fetchall():
            steps[kind] = {
                "accounts": count,
                "first_ended_after_seconds": round(float(first), 2),
                "last_ended_after_seconds": round(float(last), 2),
                "accounts_per_second": round(count / max(0.01, float(last - first)), 1),
            }
    order = [each.kind for each in step_kinds.installed() if each.kind in steps]
    return {
        "steps_in_the_close": {kind: steps[kind] for kind in order},
        "outcomes": progress_report.steps(run),
        "cpu_seconds": {name: round(watch.cpu_seconds(name), 1) for name in watch.groups},
        "cpu_share_of_the_machine": round(
            sum(watch.cpu_seconds(name) for name in watch.groups)
            / (seconds * (os.cpu_count() or 1)),
            2,
        ),
        "worker_memory_mb": {
            "peak": round(watch.peak_mb("workers"), 1),
            "by_quarter": watch.memory_by_quarter_mb("workers"),
        },
    }
