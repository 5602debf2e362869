"""
What Prometheus is told, read from the database when it asks.

Nothing is counted in processes: they are many, short-lived and on several machines, and our rows are the
truth. So a scrape needs no files shared between them, and each gets the same numbers wherever it asks.
Cheap: steps and money are those of the run's page, as it was counted last (reports/progress.py).
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import Q, QuerySet
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily

from billing import waiting
from billing.close.health import readiness
from billing.models import CloseRun, PaymentAttempt
from billing.payments import guard
from billing.reports import progress
from billing.workers import halting, heartbeats
from notifications import lanes

# Runs that go on are counted every minute; what is paid after the end changes slowly.
RUNNING_AT_MOST = timedelta(minutes=2)
FINISHED_AT_MOST = timedelta(minutes=15)


def text(*, as_of: datetime) -> bytes:
    """Write all of it in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Collector(as_of))
    return generate_latest(registry)


class _Collector:
    def __init__(self, as_of: datetime) -> None:
        self.as_of = as_of

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing: else registering would ask the database twice."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        sights = [(run, _seen(run, as_of=self.as_of)) for run in _runs()]
        yield from _of_steps([each for each in sights if not each[0].is_finished], self.as_of)
        yield from _of_money(sights)
        yield from _of_lanes()
        yield from _of_waiting(self.as_of)
        yield from _of_health()
        yield from _counted()


def _runs() -> QuerySet[CloseRun]:
    """Those that go on, and the latest of each entity."""
    latest = CloseRun.objects.order_by("entity", "-month").distinct("entity")
    shown = Q(state=CloseRun.State.RUNNING) | Q(pk__in=list(latest.values_list("pk", flat=True)))
    return CloseRun.objects.filter(shown).select_related("entity").order_by("entity", "month")


Seen = list[tuple[CloseRun, dict[str, Any]]]


def _seen(run: CloseRun, *, as_of: datetime) -> dict[str, Any]:
    at_most = FINISHED_AT_MOST if run.is_finished else RUNNING_AT_MOST
    return progress.current(run, as_of=as_of, at_most=at_most).seen


def _of_steps(running: Seen, as_of: datetime) -> Iterator[GaugeMetricFamily]:
    steps = _gauge("steps", "Steps of runs that go on", "entity", "month", "kind", "state")
    speed = _gauge("steps_per_second", "Steps ended, lately", "entity", "month", "kind")
    left = _gauge("run_seconds_left", "Until what can be worked on is done", "entity", "month")
    age = _gauge("run_counted_seconds", "Since its numbers were counted", "entity", "month")
    trouble = _gauge(
        "trouble", "Outcomes refused, workers that died, suspects", "entity", "month", "what"
    )
    for run, seen in running:
        names = _names(run)
        for kind, states in seen["steps"].items():
            for state, count in states.items():
                steps.add_metric([*names, kind, state], count)
        for kind, rate in seen["per_second"].items():
            speed.add_metric([*names, kind], rate)
        if seen["seconds_left"] is not None:
            left.add_metric(names, seen["seconds_left"])
        for what, count in seen["trouble"].items():
            trouble.add_metric([*names, what], count)
        counted_at = datetime.fromisoformat(seen["as_of"])
        age.add_metric(names, max((as_of - counted_at).total_seconds(), 0))
    yield from (steps, speed, left, age, trouble)


def _of_money(sights: Seen) -> Iterator[GaugeMetricFamily]:
    money = _gauge(
        "money", "The finance answer, in major units", "entity", "month", "currency", "what"
    )
    charges = _gauge(
        "charges", "Accounts by what became of their charge", "entity", "month", "currency", "what"
    )
    for run, seen in sights:
        for row in seen["answer"]["currencies"]:
            for what in MONEY:
                money.add_metric([*_names(run), row["currency"], what], float(row[what]))
        for row in seen["charges"]:
            for what in progress.PARTS:
                if what in row:
                    names = [*_names(run), row["currency"], what]
                    charges.add_metric(names, row[what]["count"])
    yield from (money, charges)


MONEY = ("invoiced", "collected", "credited", "outstanding", "in_flight", "overdue")


def _of_lanes() -> Iterator[GaugeMetricFamily]:
    done = _gauge("lane_per_second", "Pieces of work ended, lately", "provider")
    rate = _gauge("lane_rate", "What it may do a second now; absent: no limit", "provider")
    saturation = _gauge("lane_saturation", "Of what it may do, 0 to 1", "provider")
    shut = _gauge("lane_shut", "1: nothing begins", "provider", "why")
    for sight in lanes.sights():
        provider = [sight.lane.provider]
        done.add_metric(provider, sight.speed.per_second)
        if sight.speed.rate_now is not None:
            rate.add_metric(provider, sight.speed.rate_now)
        if sight.saturation is not None:
            saturation.add_metric(provider, sight.saturation)
        shut.add_metric([*provider, "paused"], int(sight.lane.paused_at is not None))
        shut.add_metric([*provider, "breaker"], int(sight.lane.opened_at is not None))
        shut.add_metric([*provider, "throttled"], int(sight.slowed_because != ""))
    yield from (done, rate, saturation, shut)


def _of_waiting(as_of: datetime) -> Iterator[GaugeMetricFamily]:
    """Every state, also those of which nothing waits: an alert on one that is absent says nothing."""
    many = _gauge(
        "needs_a_person", "What waits for longer than its state may", "what", "is_looked_after"
    )
    oldest = _gauge("needs_a_person_seconds", "How long the oldest of it waits", "what")
    since: dict[str, datetime] = {}
    for kind, is_owned, count, began_at in waiting.counted(as_of=as_of):
        many.add_metric([kind, "yes" if is_owned else "no"], count)
        since[kind] = min(since.get(kind, as_of), began_at or as_of)
    for kind, began_at in since.items():
        oldest.add_metric([kind], (as_of - began_at).total_seconds())
    yield from (many, oldest)


def _of_health() -> Iterator[GaugeMetricFamily]:
    ready = readiness.look()
    oldest = _gauge("oldest_due_seconds", "How long the oldest step is due", "lane")
    clusters = _gauge("clusters", "Clusters that have given a sign of life", "lane")
    for name, queue in ready.queues.items():
        oldest.add_metric([name], queue.oldest_due_seconds or 0)
        clusters.add_metric([name], queue.clusters)
    workers = _gauge("workers", "Worker processes of living clusters", "host")
    by_host: dict[str, int] = {}
    for cluster in heartbeats.seen():
        by_host[cluster.host] = by_host.get(cluster.host, 0) + cluster.is_alive * cluster.workers
    for host, count in by_host.items():
        workers.add_metric([host], count)
    yield from (oldest, clusters, workers)
    yield _value(
        "overdue_lease_seconds",
        "Since the oldest lease ran out without anybody freeing its step",
        ready.overdue_lease_seconds or 0,
    )
    if ready.last_sweep_seconds is not None:
        yield _value("last_sweep_seconds", "Since the last sweep", ready.last_sweep_seconds)
    yield _value("halted", "1: workers begin nothing more", int(halting.halt() is not None))
    yield _value("gateways_paused", "Gateways that do not charge", len(guard.paused()))


def _counted() -> Iterator[GaugeMetricFamily]:
    """What one query counts, by its index."""
    families = {
        name: _gauge(name, help_text, *labels) for name, (help_text, *labels) in COUNTED.items()
    }
    with connection.cursor() as cursor:
        cursor.execute(COUNTS)
        for name, first, second, count in cursor.fetchall():
            family = families[name]
            family.add_metric([first, second][: len(family._labelnames)], count)
    yield from families.values()


COUNTED = {
    "attempts_in_flight": ("Payment attempts that have not ended", "gateway", "state"),
    "leased": ("Steps that a worker has in hand", "kind", "provider"),
    "outbox": ("Messages that wait to be sent, are dead, or are parked (PARKED)", "state"),
    "doorbells": ("Rows of django-q2's queue", "lane", "when"),
    "breaks_open": ("Differences with a provider that somebody has to look at",),
    "disputes_open": ("Disputes that want an answer",),
}
# The literals are those of partial indexes, which are used only for the same words.
COUNTS = f"""
SELECT 'attempts_in_flight', gateway, state, count(*) FROM billing_paymentattempt
 WHERE state IN ({", ".join(f"'{state}'" for state in PaymentAttempt.IN_FLIGHT)})
 GROUP BY gateway, state
UNION ALL
SELECT 'leased', kind, provider, count(*) FROM billing_step WHERE state = 'RUNNING' GROUP BY kind, provider
UNION ALL
SELECT 'outbox', CASE WHEN parked_at IS NULL THEN state ELSE 'PARKED' END AS stands, '', count(*)
  FROM notifications_message WHERE state IN ('QUEUED', 'SENDING', 'DEAD') GROUP BY stands
UNION ALL
SELECT 'doorbells', key, CASE WHEN lock <= now() THEN 'now' ELSE 'later' END AS due, count(*)
  FROM django_q_ormq GROUP BY key, due
UNION ALL
SELECT 'breaks_open', '', '', count(*) FROM billing_reconciliationbreak WHERE state = 'OPEN'
UNION ALL
SELECT 'disputes_open', '', '', count(*) FROM billing_dispute WHERE state = 'NEEDS_RESPONSE'
"""


def _names(run: CloseRun) -> list[str]:
    return [run.entity.slug, f"{run.month:%Y-%m}"]


def _gauge(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"month_close_{name}", documentation, labels=labels)


def _value(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"month_close_{name}", documentation, value=value)
