"""Close runs, their steps with Retry and Cancel, and the decisions."""

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.admin import ReadOnlyAdmin
from accounts.models import User
from billing.admin.account_page import facts
from billing.close import runs
from billing.forms import ReasonForm
from billing.models import BillingPeriod, CloseRun, Decision, Step


@admin.register(CloseRun)
class CloseRunAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "state", "page", "started_by", "started_at", "finished_at")
    list_filter = ("state", "entity")
    list_select_related = ("entity",)
    ordering = ("-month", "entity")

    @admin.display(description="page")
    def page(self, run: CloseRun) -> SafeString:
        return format_html(
            '<a href="{}">Money, steps, what is stuck</a>', reverse("run", args=[run.pk])
        )


@admin.register(Step)
class StepAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "run", "kind", "state", "because", "attempts", "run_at")
    list_filter = ("run", "kind", "state")
    list_select_related = ("run__entity", "account")
    search_fields = ("account__name", "=account__external_id", "because")
    ordering = ("-run", "pk")
    actions = ("retry", "cancel")
    exclude = ("lease_token",)

    def has_steer_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("billing.change_step")

    @admin.action(description="Retry", permissions=["steer"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Step]) -> HttpResponse | None:
        """Ask, then retry the dead, blocked and cancelled ones among them."""
        if "confirmed" not in request.POST:
            return self._ask(request, queryset, "retry", form=None)
        steps = list(queryset)
        retried = runs.retry(steps, actor=_email(request), as_of=timezone.now())
        self._say(request, "retried", retried, len(steps))
        return None

    @admin.action(description="Cancel", permissions=["steer"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Step]) -> HttpResponse | None:
        """Ask for a reason, then end the ones that have not started."""
        form = ReasonForm(request.POST if "confirmed" in request.POST else None)
        if not form.is_valid():
            return self._ask(request, queryset, "cancel", form=form)
        steps = list(queryset)
        try:
            cancelled = runs.cancel(
                steps,
                actor=_email(request),
                reason=form.cleaned_data["reason"],
                as_of=timezone.now(),
            )
        except runs.NotOpen as not_open:
            self.message_user(request, str(not_open), messages.ERROR)
        else:
            self._say(request, "cancelled", cancelled, len(steps))
        return None

    def _ask(
        self, request: HttpRequest, queryset: QuerySet[Step], act: str, *, form: ReasonForm | None
    ) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": f"{act.capitalize()} steps",
            "opts": self.opts,
            "act": act,
            "form": form,
            "count": queryset.count(),
            "steps": [str(step) for step in queryset[:20]],
            "chosen": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "checkbox": ACTION_CHECKBOX_NAME,
            "select_across": request.POST.get("select_across", "0"),
        }
        return render(request, "admin/billing/step/steer.html", context)

    def _say(self, request: HttpRequest, became: str, how_many: int, chosen: int) -> None:
        left = chosen - how_many
        self.message_user(
            request, f"{became.capitalize()}: {how_many} of {chosen}.", messages.SUCCESS
        )
        if left:
            self.message_user(request, f"Left as they were: {left}. {LEFT}", messages.WARNING)


LEFT = "Their state does not allow it, or the step before them is stuck and goes first."


@admin.register(Decision)
class DecisionAdmin(ReadOnlyAdmin):
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
    list_filter = ("world_changed", "did", "act", "run")
    list_select_related = ("account",)
    search_fields = ("account__name", "=account__external_id", "because")
    ordering = ("-pk",)

    @admin.display(description="expected")
    def expecting(self, decision: Decision) -> str:
        return facts(decision.expected)

    @admin.display(description="saw")
    def seeing(self, decision: Decision) -> str:
        return facts(decision.saw)


@admin.register(BillingPeriod)
class BillingPeriodAdmin(ReadOnlyAdmin):
    list_display = ("month", "account", "starts_at", "ends_at")
    list_select_related = ("account",)
    search_fields = ("account__name", "account__external_id")
    ordering = ("-month", "pk")


def _email(request: HttpRequest) -> str:
    assert isinstance(request.user, User), "the admin lets nobody else in"
    return request.user.email
