"""The lanes of providers and of the mail server: how they stand, how fast they may be, and pausing them."""

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.models import User
from billing import step_kinds
from billing.admin.cells import instant, tag
from billing.admin.forms import LaneReasonForm
from billing.reports.lane_work import MAIL, work_of
from billing.step_kinds import Through
from billing.workers import doorbell
from notifications import lanes
from notifications.models import Lane


@admin.register(Lane)
class LaneAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rate, burst and cap are set here; nothing is added or deleted: a lane is made by its first call."""

    list_display = (
        "provider", "credential", "stands", "speed", "allowed", "used", "in_flight", "waiting", "act",
    )  # fmt: skip
    ordering = ("provider", "-pk")
    fields = (
        "provider", "credential", "rate", "burst", "cap", "stands", "speed", "allowed", "used",
        "in_flight", "waiting", "unanswered", "opened_at", "probe_at", "throttled_until", "paused_at",
        "paused_by", "paused_because",
    )  # fmt: skip
    readonly_fields = tuple(set(fields) - {"rate", "burst", "cap"})
    change_list_template = "admin/notifications/lane/change_list.html"
    actions = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(
        self, request: HttpRequest, obj: Lane, form: "ModelForm[Lane]", change: Any
    ) -> None:
        """Only what a person set: the rest has moved on since the page was shown."""
        obj.save(update_fields=form.changed_data)

    @admin.display(description="state")
    def stands(self, lane: Lane) -> SafeString:
        sight = lanes.sight(lane)
        if lane.paused_at:
            because = f"by {lane.paused_by} since {instant(lane.paused_at)}: {lane.paused_because}"
            return format_html("{} {}", tag("Paused", "bad"), because)
        if lane.opened_at:
            because = f"{lane.provider} does not answer since {instant(lane.opened_at)};"
            return format_html(
                "{} {} asked again {}", tag("Shut", "bad"), because, instant(lane.probe_at)
            )
        if sight.slowed_because:
            return format_html("{} {}", tag("Slowed", "warn"), sight.slowed_because)
        return tag("Open", "good")

    @admin.display(description="speed")
    def speed(self, lane: Lane) -> str:
        return f"{lanes.sight(lane).speed.per_second:.1f} a second"

    @admin.display(description="allowed now")
    def allowed(self, lane: Lane) -> str:
        now = lanes.sight(lane).speed.rate_now
        return "no limit" if now is None else f"{now:.1f} a second"

    @admin.display(description="used")
    def used(self, lane: Lane) -> str:
        saturation = lanes.sight(lane).saturation
        return "–" if saturation is None else f"{saturation:.0%}"

    @admin.display(description="in flight")
    def in_flight(self, lane: Lane) -> str:
        count = work_of(lane.provider).in_flight
        return f"{count} of {lane.cap}" if lane.cap else str(count)

    @admin.display(description="waiting")
    def waiting(self, lane: Lane) -> str:
        work = work_of(lane.provider)
        return f"{work.waiting}, since {instant(work.oldest_at)}" if work.waiting else "–"

    @admin.display(description="")
    def act(self, lane: Lane) -> SafeString:
        act = "resume" if lane.paused_at else "pause"
        url = reverse(f"admin:notifications_lane_{act}", args=[lane.pk])
        return format_html('<a href="{}">{}</a>', url, act.capitalize())

    def get_urls(self) -> list[URLPattern]:
        """The two acts, beside the admin's own."""
        return [
            path(
                f"<int:lane_id>/{act}/",
                self.admin_site.admin_view(getattr(self, act)),
                name=f"notifications_lane_{act}",
            )
            for act in ("pause", "resume")
        ] + super().get_urls()

    def pause(self, request: HttpRequest, lane_id: int) -> HttpResponse:
        """Ask why, then let nothing new begin."""
        return self._steer(request, lane_id, "pause")

    def resume(self, request: HttpRequest, lane_id: int) -> HttpResponse:
        """Ask why, then let work begin again, at once."""
        return self._steer(request, lane_id, "resume")

    def _steer(self, request: HttpRequest, lane_id: int, act: str) -> HttpResponse:
        lane = get_object_or_404(Lane, pk=lane_id)
        if not self.has_change_permission(request, lane):
            raise PermissionDenied
        form = LaneReasonForm(request.POST if request.method == "POST" else None)
        if form.is_valid():
            self._do(request, lane, act, because=form.cleaned_data["reason"])
            return redirect("admin:notifications_lane_changelist")
        context = {
            **self.admin_site.each_context(request),
            "title": f"{act.capitalize()} {lane.provider}",
            "lane": lane,
            "work": work_of(lane.provider),
            "act": act,
            "form": form,
        }
        return render(request, "admin/notifications/lane/steer.html", context)

    def _do(self, request: HttpRequest, lane: Lane, act: str, *, because: str) -> None:
        assert isinstance(request.user, User), "the admin lets nobody else in"
        try:
            with transaction.atomic():
                if act == "pause":
                    lanes.pause(lane.pk, by=request.user.email, because=because)
                else:
                    lanes.resume(lane.pk)
                    for queue in _queues_of(lane):
                        doorbell.ring(queue)
                self.log_change(request, lane, f"{act}d: {because}")
        except (lanes.AlreadyPaused, lanes.NotPaused) as refused:
            self.message_user(request, f"{refused}. Nothing was changed.", messages.WARNING)
        else:
            self.message_user(request, f"{lane.provider} is {act}d.", messages.SUCCESS)


def _queues_of(lane: Lane) -> set[str]:
    """Where its work is: the outbox's or the events', and that of the steps which take it."""
    ours, whose = (
        (doorbell.EMAIL, Through.MAIL_SERVER)
        if lane.provider == MAIL
        else (doorbell.CHARGE, Through.CARD)
    )
    return {ours, *(each.queue for each in step_kinds.through(whose))}
