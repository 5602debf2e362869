"""The close runs: did we collect the money yet, what is stuck, where had the world changed."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.auth.models import AnonymousUser
from django.core.paginator import Paginator
from django.db.models import Count, Exists, OuterRef, Q, QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from accounts import clock
from accounts.models import Account, BillingEntity, Hold, User
from billing import decisions, periods, step_kinds, unbillable
from billing.close import runs
from billing.models import (
    AccountClosure,
    CloseRun,
    Decision,
    Dispute,
    ReconciliationBreak,
    RunProgress,
    Step,
    UntalliedUsage,
    UsageSummary,
)
from billing.payments import guard, restores
from billing.reports import finance, lines, pace, progress, rejected_rows
from billing.views.csv_files import csv_file
from billing.views.staff.afterwards import counted_afterwards
from billing.views.staff.forms import StartCloseForm
from billing.views.staff.permission import staff_only
from billing.workers import halting
from notifications import formats

SEE = "billing.view_closerun"
START = "billing.add_closerun"
STEER = "billing.change_step"
CHANGES_PER_PAGE = 50
UNBILLABLE_SHOWN = 20


@require_safe
@staff_only(SEE)
def listed(request: HttpRequest) -> HttpResponse:
    """All runs, newest month first."""
    found = list(CloseRun.objects.select_related("entity").order_by("-month", "entity"))
    counted = {kept.run_id: kept for kept in RunProgress.objects.filter(run__in=found)}
    cannot, closed = unbillable.accounts(), _closed_with_usage()
    context = {
        "tab": "runs",
        "runs": [{**_summary(run), **_how_far(counted.get(run.pk))} for run in found],
        "may_start": request.user.has_perm(START),
        **_what_stops_all(),
        "unbillable": [
            {"account": str(account), "because": because, "url": account.get_absolute_url()}
            for account, because in cannot[:UNBILLABLE_SHOWN]
        ],
        "more_unbillable": max(len(cannot) - UNBILLABLE_SHOWN, 0),
        "closed_with_usage": [
            {"account": str(account), "url": account.get_absolute_url()}
            for account in closed[:UNBILLABLE_SHOWN]
        ],
        "more_closed_with_usage": max(closed.count() - UNBILLABLE_SHOWN, 0),
        "untallied": UntalliedUsage.objects.values("account").distinct().count(),
        "coming": [_coming(entity) for entity in BillingEntity.objects.order_by("name")],
        "breaks_open": ReconciliationBreak.objects.filter(
            state=ReconciliationBreak.State.OPEN
        ).count(),
        "disputes_open": Dispute.objects.filter(state=Dispute.State.NEEDS_RESPONSE).count(),
    }
    return render(request, "billing/runs.html", context)


def _closed_with_usage() -> QuerySet[Account]:
    """Closed accounts with usage that came after their final invoice: no close takes it."""
    is_closed = AccountClosure.objects.filter(account=OuterRef("pk"), reopened_at=None)
    later = UsageSummary.objects.filter(account=OuterRef("pk"), invoice=None)
    return Account.objects.filter(Exists(is_closed), Exists(later)).order_by("pk")


def _coming(entity: BillingEntity) -> dict[str, Any]:
    """The month that is closed next: nobody has started it, or could."""
    as_of = clock.now()
    # One pass over the accounts, which may be many.
    is_active = Q(state=Account.State.ACTIVE)
    of_entity = Account.objects.filter(entity=entity).order_by()
    by_zone = dict(
        of_entity.values_list("time_zone").annotate(active=Count("pk", filter=is_active))
    )
    zones = list(by_zone)
    over = periods.latest_month_over(as_of, zones)
    is_over = not CloseRun.objects.filter(entity=entity, month=over).exists()
    month = over if is_over else periods.next_month(over)
    return {
        "entity": entity.name,
        "month": formats.period(month, "en"),
        "accounts": sum(by_zone.values()),
        "is_over": is_over,
        "closes_at": _instant(periods.closes_at(month, zones)),
    }


def _what_stops_all() -> dict[str, Any]:
    """The order that workers begin nothing more, the gateways that nobody is charged through, what a restore lost."""
    order = halting.halt()
    return {
        "halted": f"{order}. Since {_instant(order.ordered_at)}" if order is not None else "",
        "paused": [(each.gateway, each.paused_because) for each in guard.paused()],
        "restored": [
            (str(restore), reverse("admin:billing_restore_change", args=[restore.pk]))
            for restore in restores.not_dealt_with()
        ],
    }


def _how_far(kept: RunProgress | None) -> dict[str, Any]:
    """What was counted last of a run; nobody waits here for more."""
    if kept is None:
        return {"ended": "", "stopped": 0}
    seen = kept.seen
    return {
        "ended": f"{seen['steps_ended']:,} of {seen['steps_all']:,}",
        "stopped": _stopped(seen),
        "as_of": _instant(datetime.fromisoformat(seen["as_of"])),
    }


def _stopped(seen: dict[str, Any]) -> int:
    """How many steps wait for a person."""
    return sum(
        states.get(state, 0) for states in seen["steps"].values() for state in progress.STUCK
    )


def _summary(run: CloseRun) -> dict[str, Any]:
    return {
        "url": reverse("run", args=[run.pk]),
        "month": formats.period(run.month, "en"),
        "entity": run.entity.name,
        "state": run.get_state_display(),
        "is_finished": run.is_finished,
        "started_by": run.started_by,
        "started_at": _instant(run.started_at),
        "finished_at": _instant(run.finished_at) if run.finished_at else "",
    }


@require_safe
@staff_only(SEE)
def detail(request: HttpRequest, run_id: int) -> HttpResponse:
    """One run as it stands now; run.js keeps it up to date."""
    run = get_object_or_404(CloseRun.objects.select_related("entity"), pk=run_id)
    sight = progress.current(run, as_of=clock.now())
    so_far = sight.seen
    as_of = datetime.fromisoformat(so_far["as_of"])
    context = {
        "tab": "runs",
        "run": {**_summary(run), "id": run.pk, "policy": run.get_when_balance_changed_display()},
        "may_steer": request.user.has_perm(STEER),
        "as_of": f"{formats.in_full(as_of.date(), 'en')}, {as_of:%H:%M:%S} (UTC)",
        "said": _in_a_sentence(run, so_far),
        "stopped": _stopped(so_far),
        "bar": {"ended": so_far["steps_ended"], "all": so_far["steps_all"]},
        "left": pace.in_words(so_far),
        "money": _money(so_far),
        "charges": _charges(so_far),
        "parts": CHARGE_PARTS.values(),
        "states": Step.State.labels,
        "steps": _steps(run, so_far),
        "final": [_final(row) for row in so_far["final"]],
        "rejected": [_rejected(row) for row in rejected_rows.of_run(run)],
        "stuck": [_stuck(run, row) for row in sorted(so_far["stuck"], key=_first_step_first)],
        "waiting": [_waiting(run, row) for row in sorted(so_far["waiting"], key=_first_step_first)],
        "held": [_held(row) for row in so_far["held"]],
        "lanes": [_lane(row) for row in so_far["lanes"]],
        "hosts": [_host(row) for row in so_far["hosts"]],
        "clusters": [_cluster(row) for row in so_far["clusters"]],
        "trouble": so_far["trouble"],
        **_what_stops_all(),
        "changes": so_far["world_changed"],
    }
    response = render(request, "billing/run.html", context)
    return counted_afterwards(response, run) if sight.is_due else response


def _rejected(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "file": row["file"],
        "said": rejected_rows.in_words(row),
        "url": reverse("admin:billing_usagebatch_change", args=[row["import"]]),
    }


def _in_a_sentence(run: CloseRun, so_far: dict[str, Any]) -> str:
    """What a screen reader hears when the page has changed."""
    told = f"{so_far['steps_ended']:,} of {so_far['steps_all']:,} steps have ended"
    waits = f" {stopped:,} wait for a person." if (stopped := _stopped(so_far)) else ""
    if run.is_finished:
        return f"The run is finished. {told}.{waits}"
    left = pace.in_words(so_far)
    return f"{told}{f', {left} left' if left else ''}.{waits}"


def _money(so_far: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            **{name: _grouped(row[name]) for name in MONEY},
            "currency": row["currency"],
            "invoices": row["invoices"],
            "share": pace.share_collected(row),
            "went_back": {name: _grouped(row[name]) for name in WENT_BACK if Decimal(row[name])},
            "in_hand": _grouped(row["in_hand"]),
        }
        for row in so_far["answer"]["currencies"]
    ]


MONEY = ("invoiced", "collected", "credited", "outstanding", "in_flight", "overdue")
WENT_BACK = ("paid_back", "disputed", "reversed")


def _grouped(amount: str) -> str:
    """ "1234.50" → "1,234.50"."""
    whole, point, decimals = amount.partition(".")
    return f"{int(whole):,}{point}{decimals}" if abs(int(whole)) >= 1000 else amount


CHARGE_PARTS = {
    "to_charge": "Still to be charged",
    "charged": "Charged",
    "on_its_way": "On its way",
    "review": "In review",
    "declined": "Declined",
}


def _charges(so_far: dict[str, Any]) -> list[dict[str, Any]]:
    nothing = {"count": 0, "amount": ""}
    return [
        {
            "currency": row["currency"],
            "parts": [
                {
                    "count": row.get(part, nothing)["count"],
                    "amount": _grouped(row[part]["amount"]) if part in row else "",
                }
                for part in CHARGE_PARTS
            ],
        }
        for row in so_far["charges"]
    ]


def _steps(run: CloseRun, so_far: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "kind": kind,
            "title": step_kinds.title(kind),
            "speed": "" if run.is_finished else pace.speed_in_words(so_far["per_second"].get(kind)),
            "states": [
                {
                    "state": state,
                    "count": states.get(state, 0),
                    "url": _steps_url(run, kind=kind, state=state),
                }
                for state in Step.State.values
            ],
        }
        for kind, states in so_far["steps"].items()
    ]


def _first_step_first(row: dict[str, Any]) -> tuple[int, str]:
    """What stops one step stops those after it: the cause stands on top."""
    return step_kinds.place(row["kind"])


def _stuck(run: CloseRun, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": step_kinds.title(row["kind"]),
        "state": Step.State(row["state"]).label,
        "because": row["because"],
        "accounts": row["accounts"],
        "url": _steps_url(run, kind=row["kind"], state=row["state"], because=row["because"]),
    }


def _waiting(run: CloseRun, row: dict[str, Any]) -> dict[str, Any]:
    told = {
        "kind": step_kinds.title(row["kind"]),
        "state": Step.State(row["state"]).label,
        "because": row["because"] or "its time has not come",
        "steps": row["steps"],
    }
    if "provider" in row:
        # By what lies in its lane, not by the step's own words.
        url = _steps_url(run, kind=row["kind"], state=row["state"], provider=row["provider"])
        return {**told, "first": "as its lane lets it", "last": "", "url": url}
    first, last = (datetime.fromisoformat(row[name]) for name in ("first_at", "last_at"))
    return {
        **told,
        "first": _instant(first),
        "last": _instant(last) if last - first >= timedelta(minutes=1) else "",
        "url": _steps_url(run, kind=row["kind"], state=row["state"], because=row["because"]),
    }


def _held(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "reason": Hold.Reason(row["reason"]).label,
        "owed": _grouped(row["owed"]),
        "url": f"{reverse('admin:accounts_hold_changelist')}?{urlencode(HELD_NOW | {'reason__exact': row['reason']})}",
    }


HELD_NOW = {"lifted_at__isnull": "True"}


def _lane(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "provider": row["provider"],
        "speed": pace.speed_in_words(row["per_second"]),
        "limit": pace.speed_in_words(row["rate"]),
        "in_flight": row["in_flight"],
        "cap": row["cap"],
        "saturation": None if row["saturation"] is None else round(100 * row["saturation"]),
        "because": row["shut"] or row["slowed"],
        "is_shut": bool(row["shut"]),
    }


def _host(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "host": row["host"],
        "kind": step_kinds.title(row["kind"]),
        "processes": row["processes"],
        "steps": row["steps"],
        "speed": pace.speed_in_words(float(row["per_second"])),
        "last": _instant(datetime.fromisoformat(row["last_at"])),
    }


def _cluster(row: dict[str, Any]) -> str:
    workers = row["workers"]
    return f"{row['host']}: {workers} worker{'' if workers == 1 else 's'} for {', '.join(row['lanes'])}"


# Of one, and of more.
WAITS_FOR = {
    "steps": (
        "step waits for its time, such as a due date",
        "steps wait for their time, such as a due date",
    ),
    "payments": ("payment is on its way", "payments are on their way"),
    "dunning": ("account is in dunning", "accounts are in dunning"),
}


def _final(row: dict[str, Any]) -> dict[str, Any]:
    until = row["until"]
    day = formats.in_full(datetime.fromisoformat(until).date(), "en") if until else ""
    of_one, of_more = WAITS_FOR[row["what"]]
    what = of_one if row["count"] == 1 else of_more
    return {"what": what, "count": row["count"], "until": day}


def _steps_url(run: CloseRun, **chosen: str) -> str:
    return f"{reverse('run-steps', args=[run.pk])}?{urlencode(chosen)}"


# --- where the world had changed


@require_safe
@staff_only(SEE)
def changes(request: HttpRequest, run_id: int) -> HttpResponse:
    """The decisions where what was seen was not what was expected, by step if asked."""
    run = get_object_or_404(CloseRun.objects.select_related("entity"), pk=run_id)
    act = request.GET.get("act", "")
    page = Paginator(_changes(run, act), CHANGES_PER_PAGE).get_page(request.GET.get("page"))
    context = {
        "tab": "runs",
        "run": {**_summary(run), "id": run.pk},
        "act": act,
        "acts": _acts(run),
        "page": page,
        "decisions": [_decision(decision) for decision in page],
        "as_of": _instant(clock.now()),
    }
    return render(request, "billing/run_changes.html", context)


@require_safe
@staff_only(SEE)
def changes_csv(request: HttpRequest, run_id: int) -> HttpResponse:
    """The same as a table to download."""
    run = get_object_or_404(CloseRun.objects.select_related("entity"), pk=run_id)
    rows = [_decision(decision) for decision in _changes(run, request.GET.get("act", ""))]
    return csv_file(f"{run.entity.slug}-{run.month:%Y-%m}-changes", rows, CHANGES)


CHANGES = ("account", "act", "expected", "saw", "did", "because", "actor", "decided_at")


def _changes(run: CloseRun, act: str) -> Any:
    found = run.decisions.filter(world_changed=True).select_related("account").order_by("pk")
    return found.filter(act=act) if act else found


def _acts(run: CloseRun) -> list[str]:
    acts = run.decisions.filter(world_changed=True).order_by("act")
    return list(acts.values_list("act", flat=True).distinct())


def _decision(decision: Decision) -> dict[str, Any]:
    return {
        "account": decision.account.external_id if decision.account else "",
        "account_name": decision.account.name if decision.account else "",
        "url": decision.account.get_absolute_url() if decision.account else "",
        "act": decision.act,
        "expected": decisions.in_words(decision.expected),
        "saw": decisions.in_words(decision.saw),
        "did": decision.get_did_display(),
        "because": decision.because,
        "actor": decision.actor,
        "decided_at": _instant(decision.decided_at),
    }


# --- what was invoiced


@require_safe
@staff_only(SEE)
def report_csv(request: HttpRequest, run_id: int) -> HttpResponse:
    """What was invoiced, by account and product, as CSV."""
    run = get_object_or_404(CloseRun.objects.select_related("entity"), pk=run_id)
    return csv_file(f"{run.entity.slug}-{run.month:%Y-%m}-invoiced", _invoiced(run), INVOICED)


@require_safe
@staff_only(SEE)
def report_json(request: HttpRequest, run_id: int) -> HttpResponse:
    """The finance answer and what was invoiced by account and product, as JSON."""
    run = get_object_or_404(CloseRun.objects.select_related("entity"), pk=run_id)
    answer = finance.answer(run, as_of=clock.now())
    rejected = rejected_rows.of_run(run)
    return JsonResponse({**answer, "rejected_rows": rejected, "lines": _invoiced(run)})


INVOICED = ("account", "product", "currency", "amount_unrounded", "amount", "lines")


def _invoiced(run: CloseRun) -> list[dict[str, Any]]:
    return lines.invoiced(entity_id=run.entity_id, month=run.month, by=["account", "product"])


# --- starting one


@require_http_methods(["GET", "HEAD", "POST"])
@staff_only(START)
def start(request: HttpRequest) -> HttpResponse:
    """Ask which month; show what that means; start it, once."""
    as_of = clock.now()
    form = StartCloseForm(request.POST if request.method == "POST" else None, as_of=as_of)
    if not form.is_valid():
        return render(request, "billing/run_start.html", {"tab": "runs", "form": form})
    try:
        if "confirmed" not in request.POST:
            return render(request, "billing/run_confirm.html", _plan(form, as_of=as_of))
        run, is_new = runs.start(started_by=_email(request.user), as_of=as_of, **form.cleaned_data)
    except runs.NotOverYet as not_yet:
        form.add_error("month", str(not_yet))
        return render(request, "billing/run_start.html", {"tab": "runs", "form": form})
    if not is_new:
        messages.info(request, f"{run} was started already by {run.started_by}: this is that run.")
    return redirect("run", run.pk)


def _plan(form: StartCloseForm, *, as_of: datetime) -> dict[str, Any]:
    entity, month = form.cleaned_data["entity"], form.cleaned_data["month"]
    policy = CloseRun.ChangedBalance(form.cleaned_data["when_balance_changed"])
    standing = CloseRun.objects.filter(entity=entity, month=month).first()
    if standing is None:
        runs.check_is_over(entity=entity, month=month, as_of=as_of)
    return {
        "tab": "runs",
        "form": form,
        "entity": entity.name,
        "month": formats.period(month, "en"),
        "policy": policy.label,
        "accounts": Account.objects.filter(entity=entity, state=Account.State.ACTIVE).count(),
        "stands": _summary(standing) if standing else None,
    }


def _email(user: User | AnonymousUser) -> str:
    assert isinstance(user, User), "staff_only lets nobody else in"
    return user.email


def _instant(moment: datetime) -> str:
    return formats.instant(moment, "en", "UTC")
