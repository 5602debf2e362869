"""Where a close run stands: steps by kind and state, money by currency, what is stuck and why."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, Min

from billing.models import CloseRun, Decision, Step
from billing.reports import finance

State = Step.State
STUCK = (State.BLOCKED, State.DEAD)


def steps(run: CloseRun) -> dict[str, dict[str, int]]:
    """The run's steps, by kind and state, in the order of the pipeline; states without any are left out."""
    counts: dict[str, dict[str, int]] = {kind: {} for kind in Step.Kind.values}
    rows = run.steps.values_list("kind", "state").annotate(Count("id")).order_by("kind", "state")
    for kind, state, count in rows:
        counts[kind][state] = count
    return counts


@dataclass(frozen=True)
class Counts:
    """How many steps a run has, and how many have ended."""

    ended: int
    everything: int


def counts(run: CloseRun) -> Counts:
    """How far a run is, in steps."""
    totals: Counter[str] = Counter()
    for states in steps(run).values():
        totals.update(states)
    return Counts(
        ended=sum(count for state, count in totals.items() if state not in Step.OPEN),
        everything=totals.total(),
    )


def of(run: CloseRun, *, as_of: datetime) -> dict[str, Any]:
    """Everything the run's page shows, as plain values."""
    so_far = counts(run)
    first = next_at(run)
    return {
        "run": run.pk,
        "month": f"{run.month:%Y-%m}",
        "state": run.state,
        "as_of": as_of.isoformat(),
        "steps": steps(run),
        "steps_all": so_far.everything,
        "steps_ended": so_far.ended,
        "next_at": first.isoformat() if first else None,
        "stuck": stuck(run),
        "world_changed": run.decisions.filter(world_changed=True).count(),
        "answer": finance.answer(run, as_of=as_of),
    }


def stuck(run: CloseRun) -> list[dict[str, Any]]:
    """What a person has to look at: each reason, and how many accounts it stops."""
    rows = (
        run.steps.filter(state__in=STUCK)
        .values("kind", "state", "because")
        .annotate(accounts=Count("account"))
        .order_by("kind", "-accounts", "because")[:50]
    )
    return [{**row} for row in rows]


def changes(run: CloseRun) -> list[Decision]:
    """The decisions where the world had changed, in the order they were made."""
    return list(run.decisions.filter(world_changed=True).select_related("account").order_by("pk"))


def next_at(run: CloseRun) -> datetime | None:
    """When the next step may be worked on: now, or later; None while all are leased, or none is open."""
    if run.steps.filter(state=State.RUNNING).exists():
        return None
    first: datetime | None = run.steps.filter(state__in=Step.CLAIMABLE).aggregate(
        first=Min("run_at")
    )["first"]
    return first
