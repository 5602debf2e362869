"""Close runs, their steps with Retry and Cancel, and the decisions."""

import time
from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts import clock
from accounts.admin import CodeFilter
from billing import decisions, step_kinds
from billing.admin.asks import email_of
from billing.admin.forms import ReasonForm
from billing.admin.in_words import ReadableAdmin
from billing.close import steering
from billing.models import BillingPeriod, CloseRun, Decision, Step
from billing.reports import at_stake, kinds

# A request that takes longer is cut off by whoever stands between us and the browser.
REQUEST_SECONDS = 15
LEFT = (
    "Their state does not allow it, a worker has them in hand, or the step before them is stuck and"
    " goes first."
)


@admin.register(CloseRun)
class CloseRunAdmin(ReadableAdmin):
    list_display = ("__str__", "state", "page", "started_by", "started_at", "finished_at")
    list_filter = ("state", "entity")
    list_select_related = ("entity",)
    ordering = ("-month", "entity")

    @admin.display(description="page")
    def page(self, run: CloseRun) -> SafeString:
        return format_html(
            '<a href="{}">Money, steps, what is stuck</a>', reverse("run", args=[run.pk])
        )

    def get_urls(self) -> list[Any]:
        return [
            path(
                f"<int:run_id>/{act}/",
                self.admin_site.admin_view(getattr(self, act)),
                name=f"billing_closerun_{act}",
            )
            for act in ("retry", "cancel")
        ] + super().get_urls()

    def retry(self, request: HttpRequest, run_id: int) -> HttpResponse:
        """Ask for a reason, then retry all that is stuck in a run."""
        return self._steer(request, run_id, "retry", steering.stuck_of, steering.retry_run)

    def cancel(self, request: HttpRequest, run_id: int) -> HttpResponse:
        """Ask for a reason, then cancel all of a run that has not started."""
        return self._steer(request, run_id, "cancel", steering.not_started_of, steering.cancel_run)

    def _steer(
        self,
        request: HttpRequest,
        run_id: int,
        act: str,
        about: Callable[[CloseRun], QuerySet[Step]],
        do: Callable[..., steering.Steered],
    ) -> HttpResponse:
        if not _may_steer(request):
            raise PermissionDenied
        run = get_object_or_404(CloseRun.objects.select_related("entity"), pk=run_id)
        form = ReasonForm(request.POST if request.method == "POST" else None)
        if form.is_valid():
            steered = do(
                run,
                actor=email_of(request),
                reason=form.cleaned_data["reason"],
                as_of=clock.now(),
                until=_time_is_up(),
            )
            _say(self, request, act, steered)
            if not steered.not_reached:
                return redirect("run", run.pk)
        context = {
            **self.admin_site.each_context(request),
            "title": f"{act.capitalize()} {WHOLE[act]} {run}",
            "back": reverse("run", args=[run.pk]),
            "act": act,
            "form": form,
            "stake": at_stake.of(about(run)),
            "hidden": [],
        }
        return render(request, "admin/billing/step/steer.html", context)


WHOLE = {"retry": "all that is stuck in", "cancel": "all that has not started in"}


def _may_steer(request: HttpRequest) -> bool:
    return request.user.has_perm("billing.change_step")


def _time_is_up() -> Callable[[], bool]:
    stop_at = time.monotonic() + REQUEST_SECONDS
    return lambda: time.monotonic() > stop_at


def _say(where: ReadableAdmin, request: HttpRequest, act: str, steered: steering.Steered) -> None:
    became = {"retry": "Retried", "cancel": "Cancelled"}[act]
    where.message_user(
        request, f"{became}: {steered.changed} of {steered.chosen}.", messages.SUCCESS
    )
    if steered.left:
        where.message_user(request, f"Left as they were: {steered.left}. {LEFT}", messages.WARNING)
    if steered.not_reached:
        where.message_user(
            request,
            f"Still to do: {steered.not_reached}. Send it again to go on.",
            messages.WARNING,
        )


class KindFilter(admin.SimpleListFilter):
    """By kind of step, also such as are not installed any more."""

    title = "kind"
    parameter_name = "kind__exact"

    def lookups(self, _request: HttpRequest, _admin: Any) -> list[tuple[str, str]]:
        return [(kind, step_kinds.title(kind)) for kind in kinds.listed()]

    def queryset(self, _request: HttpRequest, steps: QuerySet[Step]) -> QuerySet[Step]:
        return steps.filter(kind=self.value()) if self.value() else steps


@admin.register(Step)
class StepAdmin(ReadableAdmin):
    list_display = ("__str__", "run", "kind_title", "state", "because", "attempts", "run_at")
    list_filter = ("run", KindFilter, "state")
    list_select_related = ("run__entity", "account")
    search_fields = ("account__name", "=account__external_id", "because")
    ordering = ("-run", "pk")
    actions = ("retry", "cancel")
    exclude = ("lease_token",)

    @admin.display(description="kind", ordering="kind")
    def kind_title(self, step: Step) -> str:
        return step.title

    def has_steer_permission(self, request: HttpRequest) -> bool:
        return _may_steer(request)

    @admin.action(description="Retry", permissions=["steer"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Step]) -> HttpResponse | None:
        """Ask for a reason, then retry the dead, blocked and cancelled ones among them."""
        return self._steer(request, queryset, "retry", steering.retry_all)

    @admin.action(description="Cancel", permissions=["steer"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Step]) -> HttpResponse | None:
        """Ask for a reason, then end the ones that have not started."""
        return self._steer(request, queryset, "cancel", steering.cancel_all)

    def _steer(
        self,
        request: HttpRequest,
        queryset: QuerySet[Step],
        act: str,
        do: Callable[..., steering.Steered],
    ) -> HttpResponse | None:
        form = ReasonForm(request.POST if "confirmed" in request.POST else None)
        if not form.is_valid():
            return self._ask(request, queryset, act, form=form)
        try:
            steered = do(
                queryset,
                actor=email_of(request),
                reason=form.cleaned_data["reason"],
                as_of=clock.now(),
                until=_time_is_up(),
            )
        except steering.NotOpen as not_open:
            self.message_user(request, str(not_open), messages.ERROR)
            return None
        _say(self, request, act, steered)
        return self._ask(request, queryset, act, form=form) if steered.not_reached else None

    def _ask(
        self, request: HttpRequest, queryset: QuerySet[Step], act: str, *, form: ReasonForm
    ) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": f"{act.capitalize()} steps",
            "back": reverse("admin:billing_step_changelist"),
            "act": act,
            "form": form,
            "stake": at_stake.of(queryset),
            "hidden": [
                ("action", act),
                ("select_across", request.POST.get("select_across", "0")),
                *((ACTION_CHECKBOX_NAME, pk) for pk in request.POST.getlist(ACTION_CHECKBOX_NAME)),
            ],
        }
        return render(request, "admin/billing/step/steer.html", context)


@admin.register(Decision)
class DecisionAdmin(ReadableAdmin):
    list_display = (
        "decided_at",
        "account",
        "act",
        "expecting",
        "seeing",
        "did",
        "because",
        "actor",
    )
    list_filter = ("world_changed", "did", ("act", CodeFilter), "run")
    list_select_related = ("account",)
    search_fields = ("account__name", "=account__external_id", "because")
    ordering = ("-pk",)

    @admin.display(description="expected")
    def expecting(self, decision: Decision) -> str:
        return decisions.in_words(decision.expected) or "–"

    @admin.display(description="saw")
    def seeing(self, decision: Decision) -> str:
        return decisions.in_words(decision.saw) or "–"


@admin.register(BillingPeriod)
class BillingPeriodAdmin(ReadableAdmin):
    list_display = ("month", "account", "starts_at", "ends_at")
    list_select_related = ("account",)
    search_fields = ("account__name", "account__external_id")
    ordering = ("-month", "pk")
