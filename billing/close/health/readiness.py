"""
Whether this process may be sent requests, and what an operator should know. Cheap: asked every few seconds.

`NotReady` means that no page would work: the database does not answer, or lacks tables. Everything else
is said in words beside an answer that is good: a close that stands still does not keep customers from
their invoices.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from django.db import Error, ProgrammingError, connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.db.models import Count

from billing import step_kinds
from billing.close.engine import claiming
from billing.close.health import damage
from billing.models import CloseRun, Step
from billing.payments import guard, restores
from billing.reports import kinds
from billing.workers import doorbell, halting, heartbeats
from notifications import lanes

State = Step.State

# Two sweeps may fail to come; the third is missed. They are a minute apart.
SWEEP_IS_LATE_SECONDS = 180
# A queue whose oldest step is due for this long, while none of its steps has ended for as long, stands
# still. A long queue alone is only work: a provider that takes 100 a second needs hours for a million.
STANDS_STILL_SECONDS = 300

# The oldest step that is due, by kind: among the first thousand in each line (claiming.py), found by the index
# `steps_to_claim` without reading those behind them, however many they are. Those with less priority may
# stand behind more than a thousand, and be older; they are seen when it comes to them.
OLDEST = f"""
SELECT k.kind, extract(epoch FROM now() - min(first.run_at))
  FROM unnest(%s) AS k (kind)
 CROSS JOIN billing_closerun r
 CROSS JOIN LATERAL (
       WITH RECURSIVE each (provider) AS (
           SELECT min(provider) FROM billing_step
            WHERE run_id = r.id AND kind = k.kind AND state IN ('READY', 'UNKNOWN')
           UNION ALL
           SELECT (SELECT min(s.provider) FROM billing_step s
                    WHERE s.run_id = r.id AND s.kind = k.kind AND s.state IN ('READY', 'UNKNOWN')
                      AND s.provider > each.provider)
             FROM each WHERE each.provider IS NOT NULL)
       SELECT provider FROM each WHERE provider IS NOT NULL) p
 CROSS JOIN LATERAL (
       SELECT run_at FROM billing_step
        WHERE run_id = r.id AND kind = k.kind AND provider = p.provider AND {claiming.DUE}
        ORDER BY {claiming.IN_LINE} LIMIT 1000) first
 WHERE r.state = 'RUNNING' GROUP BY k.kind
"""
# When a step of a kind last ended; a row for each process that works on a run that goes on.
LAST_ENDED = """
SELECT c.kind, extract(epoch FROM now() - max(c.last_at))
  FROM billing_contribution c JOIN billing_closerun r ON r.id = c.run_id
 WHERE r.state = 'RUNNING' GROUP BY c.kind
"""
# By the index `steps_leased`.
OVERDUE_LEASE = """
SELECT extract(epoch FROM now() - min(lease_until)) FROM billing_step
 WHERE state = 'RUNNING' AND lease_until < now()
"""


class NotReady(Exception):
    """No page would work; the message says why."""


@dataclass(frozen=True)
class Queue:
    """How a queue stands. Seconds are since then; None: nothing is due, nothing has ended."""

    oldest_due_seconds: int | None
    last_ended_seconds: int | None
    clusters: int

    @property
    def stands_still(self) -> bool:
        waits = self.oldest_due_seconds is not None and (
            self.oldest_due_seconds > STANDS_STILL_SECONDS
        )
        return waits and (
            self.last_ended_seconds is None or self.last_ended_seconds > STANDS_STILL_SECONDS
        )


@dataclass(frozen=True)
class Readiness:
    """What an operator should know; `degraded` in words, the rest as facts."""

    queues: dict[str, Queue]
    overdue_lease_seconds: int | None
    last_sweep_seconds: int | None
    last_sweep_failed: str
    last_close: dict[str, Any] | None
    paused: list[str]
    # Providers through which nothing begins, and why: paused by hand, or they do not answer.
    shut: dict[str, str]
    # The order that has workers begin nothing more, in words; empty: there is none.
    halted: str
    # Kinds of which steps wait, and that CLOSE_STEPS does not list here.
    not_installed: list[str]
    # What a restore may have lost, as long as nobody has dealt with it.
    restored: list[str]
    # Tables whose rows may stand twice, and schedules that do.
    damaged: list[str]
    degraded: list[str] = field(default_factory=list)


def look() -> Readiness:
    """
    Say how the installation stands, by the database's clock.

    :raises NotReady: if the database does not answer, or lacks a migration.
    """
    try:
        _require_migrations()
        return _with_words(
            Readiness(
                queues=_queues(),
                overdue_lease_seconds=_seconds(OVERDUE_LEASE),
                last_sweep_seconds=None
                if (last := heartbeats.last_sweep()) is None
                else int(last[1]),
                last_sweep_failed="" if last is None else last[0].failed,
                last_close=_last_close(),
                paused=[each.gateway for each in guard.paused()],
                shut={
                    each.lane.provider: each.why_shut for each in lanes.sights() if each.why_shut
                },
                halted="" if (order := halting.halt()) is None else str(order),
                not_installed=kinds.not_installed(),
                restored=[str(each) for each in restores.not_dealt_with()],
                damaged=damage.found(),
            )
        )
    except Error as error:
        raise NotReady(f"the database does not answer: {type(error).__name__}") from error


# --- facts


def _require_migrations() -> None:
    """New tables that this code does not know yet do no harm: those of the next release, while it comes."""
    try:
        applied = set(MigrationRecorder(connection).migration_qs.values_list("app", "name"))
    except ProgrammingError as error:
        raise NotReady("the database has no tables: run manage.py migrate") from error
    missing = sorted(".".join(each) for each in _on_disk() if each not in applied)
    if missing:
        raise NotReady(
            f"{len(missing)} migrations are missing, the first is {missing[0]}: run manage.py migrate"
        )


@cache
def _on_disk() -> frozenset[tuple[str, str]]:
    """Read once: the code of a process does not change."""
    return frozenset(MigrationLoader(None).disk_migrations)


def _queues() -> dict[str, Queue]:
    oldest = _by_queue(
        _seconds_by_kind(OLDEST, [[each.kind for each in step_kinds.installed()]]), worst=max
    )
    ended = _by_queue(_seconds_by_kind(LAST_ENDED, []), worst=min)
    alive = [each for each in heartbeats.seen() if each.is_alive]
    return {
        queue: Queue(
            oldest_due_seconds=oldest.get(queue),
            last_ended_seconds=ended.get(queue),
            clusters=sum(queue in each.queues for each in alive),
        )
        for queue in doorbell.queues()
    }


def _by_queue(by_kind: Mapping[str, int], *, worst: Any) -> dict[str, int]:
    found: dict[str, list[int]] = {}
    for kind, seconds in by_kind.items():
        if described := step_kinds.find(kind):
            found.setdefault(described.queue, []).append(seconds)
    return {queue: worst(all_of_them) for queue, all_of_them in found.items()}


def _seconds_by_kind(query: str, parameters: list[Any]) -> dict[str, int]:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return {kind: int(seconds) for kind, seconds in cursor.fetchall()}


def _seconds(query: str) -> int | None:
    with connection.cursor() as cursor:
        cursor.execute(query)
        (seconds,) = cursor.fetchone()
    return None if seconds is None else int(seconds)


def _last_close() -> dict[str, Any] | None:
    run = CloseRun.objects.select_related("entity").order_by("-started_at", "-pk").first()
    if run is None:
        return None
    stuck = dict(
        run.steps.filter(state__in=[State.DEAD, State.BLOCKED])
        .values_list("state")
        .annotate(Count("pk"))
    )
    return {
        "month": f"{run.month:%Y-%m}",
        "entity": run.entity.slug,
        "state": run.state,
        "started_at": run.started_at.isoformat(timespec="seconds"),
        "finished_at": run.finished_at and run.finished_at.isoformat(timespec="seconds"),
        "dead": stuck.get(State.DEAD, 0),
        "blocked": stuck.get(State.BLOCKED, 0),
    }


# --- words


def _with_words(ready: Readiness) -> Readiness:
    words = ready.degraded
    for name, queue in ready.queues.items():
        if not queue.clusters:
            words.append(
                f"queue {name}: no cluster serves it, none has given a sign of life for"
                f" {heartbeats.SILENT_SECONDS} s"
            )
        elif queue.stands_still and not ready.halted:
            since = (
                "none has ended in this run"
                if queue.last_ended_seconds is None
                else f"none has ended for {queue.last_ended_seconds} s"
            )
            words.append(
                f"queue {name}: its oldest step is due for {queue.oldest_due_seconds} s, and {since}"
            )
    if ready.last_sweep_seconds is None:
        words.append("nobody has ever swept")
    elif ready.last_sweep_seconds > SWEEP_IS_LATE_SECONDS:
        words.append(f"nobody has swept for {ready.last_sweep_seconds} s")
    elif ready.last_sweep_failed:
        words.append(f"the last sweep failed at: {ready.last_sweep_failed}")
    if (ready.overdue_lease_seconds or 0) > SWEEP_IS_LATE_SECONDS:
        words.append(
            f"a lease ran out {ready.overdue_lease_seconds} s ago, and nobody has freed its step"
        )
    words += [
        f"{kind} steps wait, and CLOSE_STEPS lists no such step" for kind in ready.not_installed
    ]
    words += [f"after a restore {each} may be missing or repeated" for each in ready.restored]
    words += ready.damaged
    words += [f"charging through {gateway} is paused" for gateway in ready.paused]
    if ready.halted:
        words.append(ready.halted)
    words += [f"provider {provider}: {why}" for provider, why in ready.shut.items()]
    return ready
