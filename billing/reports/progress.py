"""Where a close run stands: steps by kind and state, money by currency, what is stuck and why."""

from collections import defaultdict
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


def of(run: CloseRun, *, as_of: datetime) -> dict[str, Any]:
    """Everything the run's page shows, as plain values."""
    by_kind = steps(run)
    totals: dict[str, int] = defaultdict(int)
    for states in by_kind.values():
        for state, count in states.items():
            totals[state] += count
    everything = sum(totals.values())
    ended = sum(count for state, count in totals.items() if state not in Step.OPEN)
    return {
        "run": run.pk,
        "month": f"{run.month:%Y-%m}",
        "state": run.state,
        "as_of": as_of.isoformat(),
        "steps": by_kind,
        "steps_all": everything,
        "steps_ended": ended,
        "next_at": _next_at(run),
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
    return list(rows)


def changes(run: CloseRun) -> list[Decision]:
    """The decisions where the world had changed, in the order they were made."""
    return list(run.decisions.filter(world_changed=True).select_related("account").order_by("pk"))


def _next_at(run: CloseRun) -> str | None:
    """When the next open step may be worked on; None where none is open."""
    first = run.steps.filter(state__in=Step.CLAIMABLE).aggregate(first=Min("run_at"))["first"]
    return first.isoformat() if first else None
