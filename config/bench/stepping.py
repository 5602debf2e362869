"""
Each step by itself, in worker processes that do nothing else; and the old way, one account after another.

A worker is `manage.py bench_close --work KIND`: it gets ready, waits for a line on standard input,
works until nothing is ready, and prints what that took as one JSON object.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

from django.conf import settings
from django.db import connection

from accounts.models import BillingEntity
from billing import step_kinds
from billing.close import pipeline, runs
from billing.close.engine import runner
from billing.close.step import ChunkModule, FlowModule, StepModule
from billing.close.steps import charge
from billing.management import progress_bar
from billing.models import Step
from config.bench import limits, watching
from config.bench.closing import server_groups

ONE_BY_ONE = "ONE_BY_ONE"
# Nothing is ready, but something soon will be: a mail is tried again, a payment's end is awaited.
LOOK_AGAIN_SECONDS = 0.1
SOON = timedelta(minutes=5)

ROWS = "SELECT sum(n_tup_ins + n_tup_upd)::bigint FROM pg_stat_user_tables"


# --- in a worker


def work(kind: str, *, clock: Callable[[], datetime]) -> dict[str, Any]:
    """Work on one kind of step, or one account after another, until nothing is ready."""
    if kind == ONE_BY_ONE:
        modules = [one_at_a_time(pipeline.BY_KIND[each]) for each in _account_kinds()]
    else:
        modules = [pipeline.BY_KIND[kind]]
    chunks: list[float] = []
    began, cpu_began, steps = time.monotonic(), time.process_time(), 0
    while True:
        taken = 0
        for module in modules:
            chunk_began = time.monotonic()
            if of_this := runner.work_once(module, as_of=clock()):
                chunks.append(time.monotonic() - chunk_began)
                taken += of_this
        steps += taken
        if not taken:
            if not _is_open([module.kind for module in modules], until=clock() + SOON):
                break
            time.sleep(LOOK_AGAIN_SECONDS)
    return {
        "steps": steps,
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - cpu_began,
        "longest_chunk_seconds": max(chunks, default=0.0),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }


def one_at_a_time(module: ChunkModule | FlowModule) -> ChunkModule | FlowModule:
    """The same step, which takes one account at once."""
    alone = SimpleNamespace(**{name: getattr(module, name) for name in StepModule.__annotations__})
    if isinstance(module, FlowModule):
        alone.open_flow = ChargingAlone
    else:
        alone.perform, alone.batch = module.perform, 1
    return cast("ChunkModule | FlowModule", alone)


class ChargingAlone(charge.Charging):
    """One account's charge on its way, and no other beside it."""

    @property
    def room(self) -> int:
        return min(1, super().room)


def _is_open(kinds: Sequence[str], *, until: datetime) -> bool:
    """Whether a step of these kinds waits for its turn, or is in another worker's hands."""
    return Step.objects.filter(
        kind__in=kinds, state__in=[*Step.CLAIMABLE, Step.State.RUNNING], run_at__lte=until
    ).exists()


def _account_kinds() -> list[str]:
    return [each.kind for each in step_kinds.of_accounts()]


# --- around them


def measure_steps(
    entity: BillingEntity,
    *,
    month: date,
    workers: int,
    accounts: int,
    clock: Callable[[], datetime],
) -> dict[str, dict[str, Any]]:
    """Close an entity's month one kind of step after the other, each by itself."""
    _start(entity, month, clock)
    measured = {}
    with progress_bar.bar("Measuring each step", total=len(_account_kinds()), unit="steps") as bar:
        for kind in _account_kinds():
            bar.say(f"Measuring {kind.lower()} of {accounts:,} accounts")
            measured[kind] = _measure(kind, workers=workers, accounts=accounts)
            if kind in limits.WRITTEN:
                _hold_against_the_limit(
                    measured[kind], limits.bare_insert(kind, entity_id=entity.pk)
                )
            bar.advance()
    return measured


def _hold_against_the_limit(measured: dict[str, Any], bare: limits.Bare) -> None:
    """By the clock; and by processor time, which other work on the machine does not stretch."""
    measured["limit"] = {
        "bare_insert_seconds": round(bare.seconds, 3),
        "bare_insert_cpu_seconds": round(bare.cpu_seconds, 3),
        "rows": bare.rows,
    }
    measured["times_the_limit"] = round(measured["seconds"] / bare.seconds, 2)
    cpu_seconds = measured["cpu_seconds"]["workers"] + measured["cpu_seconds"]["postgres"]
    if bare.cpu_seconds:
        measured["times_the_limit_in_cpu"] = round(cpu_seconds / bare.cpu_seconds, 2)


def measure_one_by_one(
    entity: BillingEntity, *, month: date, accounts: int, clock: Callable[[], datetime]
) -> dict[str, Any]:
    """Close an entity's month as one process did it once: one account after another."""
    _start(entity, month, clock)
    with progress_bar.bar(f"Closing {accounts:,} accounts one by one") as bar:
        measured = _measure(ONE_BY_ONE, workers=1, accounts=accounts)
        bar.advance(accounts)
    return measured


def _start(entity: BillingEntity, month: date, clock: Callable[[], datetime]) -> None:
    runs.start(entity=entity, month=month, started_by="bench", as_of=clock())


def _measure(kind: str, *, workers: int, accounts: int) -> dict[str, Any]:
    with _workers(kind, workers) as processes:
        rows_before = _rows_written()
        with watching.Watch(dict(server_groups())) as watch:
            for process in processes:
                _say_go(process)
            told = [json.loads(process.communicate()[0]) for process in processes]
        seconds = max(each["seconds"] for each in told)
        cpu = {"workers": sum(each["cpu_seconds"] for each in told)}
        cpu |= {name: watch.cpu_seconds(name) for name in watch.groups}
    return {
        "accounts": accounts,
        "seconds": round(seconds, 2),
        "accounts_per_second": round(accounts / seconds, 1) if seconds else None,
        "cpu_seconds": {name: round(spent, 2) for name, spent in cpu.items()},
        "accounts_per_cpu_second": round(accounts / max(0.01, cpu["workers"] + cpu["postgres"]), 1),
        "peak_worker_mb": round(max(each["peak_mb"] for each in told), 1),
        "longest_chunk_seconds": round(max(each["longest_chunk_seconds"] for each in told), 3),
        "rows_written": _rows_written() - rows_before,
    }


@contextmanager
def _workers(kind: str, number: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Worker processes that are ready, and wait to be told."""
    manage = str(settings.BASE_DIR / "manage.py")
    processes = [
        subprocess.Popen(  # noqa: S603 - our own manage.py
            [sys.executable, manage, "bench_close", "--work", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )
        for _ in range(number)
    ]
    try:
        for process in processes:
            assert process.stdout is not None, "it was asked for"
            assert process.stdout.readline() == "ready\n", "a worker did not come up"
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _say_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None, "it was asked for"
    process.stdin.write("go\n")
    process.stdin.flush()


def _rows_written() -> int:
    """By everybody so far; sessions tell it when they end."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush(), pg_stat_clear_snapshot()")
        cursor.execute(ROWS)
        return int(cursor.fetchone()[0])
