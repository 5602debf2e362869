"""The steps of a run as a list: filtered by step, state and reason, and as CSV."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.http import require_safe

from accounts import clock
from billing import step_kinds
from billing.models import CloseRun, Step
from billing.reports import kinds, progress
from billing.views.csv_files import csv_stream
from billing.views.staff.permission import staff_only
from notifications import formats

SEE = "billing.view_closerun"
STEPS_PER_PAGE = 100
# Read at once for the CSV.
CHUNK = 2000
COLUMNS = (
    "account",
    "account_name",
    "kind",
    "state",
    "because",
    "attempts",
    "run_at",
    "finished_at",
)
# Not a state of a step: blocked or dead.
STUCK = "STUCK"
FILTERS = ("kind", "state", "because", "provider")


@require_safe
@staff_only(SEE)
def listed(request: HttpRequest, run_id: int) -> HttpResponse:
    """A page of them; the next begins after the last, so that each is as quick as the first."""
    run = get_object_or_404(CloseRun.objects.select_related("entity"), pk=run_id)
    chosen = _chosen(request, run)
    rows = list(
        _after(_steps(run, chosen), _number(request.GET.get("after")))[: STEPS_PER_PAGE + 1]
    )
    shown = rows[:STEPS_PER_PAGE]
    more = {**chosen, "after": shown[-1].pk} if len(rows) > len(shown) else None
    context = {
        "tab": "runs",
        "run": {"id": run.pk, "month": formats.period(run.month, "en"), "entity": run.entity.name},
        "chosen": chosen,
        "kinds": [(kind, step_kinds.title(kind)) for kind in kinds.listed(run)],
        "states": [*Step.State.choices, (STUCK, "Waiting for a person")],
        "steps": [_row(step) for step in shown],
        "more": urlencode(more) if more else "",
        "query": urlencode(chosen),
        "in_the_admin": _admin_url(run, chosen),
        "as_of": _instant(clock.now()),
    }
    return render(request, "billing/run_steps.html", context)


@require_safe
@staff_only(SEE)
def listed_csv(request: HttpRequest, run_id: int) -> StreamingHttpResponse:
    """All of them as a table to download."""
    run = get_object_or_404(CloseRun.objects.select_related("entity"), pk=run_id)
    name = f"{run.entity.slug}-{run.month:%Y-%m}-steps"
    return csv_stream(name, _all(_steps(run, _chosen(request, run))), COLUMNS)


def _chosen(request: HttpRequest, run: CloseRun) -> dict[str, str]:
    """What is asked for, of what there is."""
    known = {"kind": kinds.listed(run), "state": [*Step.State.values, STUCK]}
    return {
        name: value
        for name in FILTERS
        if (value := request.GET.get(name, "")) and value in known.get(name, [value])
    }


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() and len(text) < 19 else 0


def _steps(run: CloseRun, chosen: dict[str, str]) -> QuerySet[Step]:
    steps = Step.objects.filter(run=run).select_related("account")
    exact = {name: value for name, value in chosen.items() if name != "because"}
    if exact.get("state") == STUCK:
        del exact["state"]
        steps = steps.filter(state__in=progress.STUCK)
    steps = steps.filter(**exact)
    return progress.with_reason(steps, chosen["because"]) if "because" in chosen else steps


def _after(steps: QuerySet[Step], pk: int) -> QuerySet[Step]:
    return steps.filter(pk__gt=pk).order_by("pk")


def _all(steps: QuerySet[Step]) -> Iterator[dict[str, Any]]:
    last = 0
    while chunk := list(_after(steps, last)[:CHUNK]):
        for step in chunk:
            yield _row(step)
        last = chunk[-1].pk


def _row(step: Step) -> dict[str, Any]:
    return {
        "account": step.account.external_id if step.account else "",
        "account_name": step.account.name if step.account else "",
        "url": step.account.get_absolute_url() if step.account else "",
        "kind": step.title,
        "state": step.get_state_display(),
        "is_stuck": step.state in {Step.State.BLOCKED, Step.State.DEAD},
        "because": step.because or step.last_error[:200],
        "attempts": step.attempts,
        "run_at": _instant(step.run_at) if step.state in Step.CLAIMABLE else "",
        "finished_at": _instant(step.finished_at) if step.finished_at else "",
    }


def _admin_url(run: CloseRun, chosen: dict[str, str]) -> str:
    exact = {
        f"{name}__exact": chosen[name]
        for name in ("kind", "state")
        if chosen.get(name, STUCK) != STUCK
    }
    found = {"run__id__exact": run.pk, **exact}
    if "because" in chosen:
        found["q"] = chosen["because"]
    return f"{reverse('admin:billing_step_changelist')}?{urlencode(found)}"


def _instant(moment: Any) -> str:
    return formats.instant(moment, "en", "UTC")
