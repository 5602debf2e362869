"""Usage as it came in and was added up. The events themselves are too many to list."""

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts import clock
from accounts.admin import ReadOnlyAdmin
from accounts.models import User
from billing.admin.cells import instant, tag
from billing.admin.forms import SetAsideForm
from billing.models import RejectedRow, UntalliedUsage, UsageBatch, UsageSummary
from billing.reports import rejected_rows
from billing.usage.imports import following_up


def _waits() -> Exists:
    """Whether rejected rows of an import wait for somebody."""
    waiting = RejectedRow.objects.filter(again_in=None, batch__set_aside_at=None)
    return Exists(waiting.filter(batch=OuterRef("pk")))


class RejectsFilter(admin.SimpleListFilter):
    """The imports whose rejected rows wait for somebody."""

    title = "rejected rows"
    parameter_name = "rejects"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("waiting", "Waiting for repair")]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[UsageBatch]
    ) -> QuerySet[UsageBatch]:
        return queryset.filter(_waits()) if self.value() == "waiting" else queryset


@admin.register(UsageBatch)
class UsageBatchAdmin(ReadOnlyAdmin):
    list_display = (
        "name", "source", "rows_read", "rows_added", "rows_known", "rows_rejected", "rejects",
        "created_at", "tallied_at",
    )  # fmt: skip
    list_filter = ("source", RejectsFilter, ("tallied_at", admin.EmptyFieldListFilter))
    search_fields = ("name", "=sha256")
    ordering = ("-pk",)
    readonly_fields = ("rejects", "named")

    def get_queryset(self, request: HttpRequest) -> QuerySet[UsageBatch]:
        """Each with whether rejected rows of it wait."""
        batches: QuerySet[UsageBatch] = super().get_queryset(request)
        return batches.annotate(waits=_waits())

    @admin.display(description="rejected rows")
    def rejects(self, batch: Any) -> str | SafeString:
        if batch.waits:
            url = reverse("admin:billing_usagebatch_aside", args=[batch.pk])
            waits = tag("Waiting for repair", "warn")
            return format_html('{} since {} · <a href="{}">Set aside</a>', waits,
                               instant(batch.created_at), url)  # fmt: skip
        if batch.set_aside_at is not None:
            return f"set aside by {batch.set_aside_by}: {batch.set_aside_because}"
        return "repaired" if batch.rejected_rows.exists() else "–"

    @admin.display(description="they name")
    def named(self, batch: UsageBatch) -> str:
        waiting = rejected_rows.of_import(batch)
        return rejected_rows.in_words(waiting) if waiting else "–"

    def get_urls(self) -> list[URLPattern]:
        """The page that sets rejected rows aside, beside the admin's own."""
        return [
            path(
                "<int:batch_id>/set-aside/",
                self.admin_site.admin_view(self.set_aside),
                name="billing_usagebatch_aside",
            ),
            *super().get_urls(),
        ]

    def set_aside(self, request: HttpRequest, batch_id: int) -> HttpResponse:
        """Show what the rejected rows name, ask why it will not be billed, then set them aside."""
        if not request.user.has_perm("billing.set_aside_rejects"):
            raise PermissionDenied
        batch = get_object_or_404(UsageBatch, pk=batch_id)
        form = SetAsideForm(request.POST or None)
        if not form.is_valid():
            context = {
                **self.admin_site.each_context(request),
                "title": "Set rejected rows aside",
                "batch": batch,
                "named": self.named(batch),
                "form": form,
            }
            return render(request, "admin/billing/usagebatch/set_aside.html", context)
        assert isinstance(request.user, User), "the admin lets nobody else in"
        try:
            following_up.set_aside(
                batch_id=batch.pk,
                reason=form.cleaned_data["reason"],
                actor=request.user.email,
                as_of=clock.now(),
            )
        except following_up.NothingToSetAside as nothing:
            messages.info(request, f"{nothing}.")
        else:
            messages.success(request, f"The rejected rows of {batch} are set aside.")
        return redirect("admin:billing_usagebatch_changelist")


@admin.register(UntalliedUsage)
class UntalliedUsageAdmin(ReadOnlyAdmin):
    list_display = ("account", "batch", "because", "noted_at", "again_at")
    list_select_related = ("account", "batch")
    search_fields = ("account__name", "account__external_id", "batch__name")
    ordering = ("noted_at", "pk")


@admin.register(UsageSummary)
class UsageSummaryAdmin(ReadOnlyAdmin):
    list_display = ("account", "period", "product", "item", "quantity", "unit", "invoice")
    list_filter = ("kind", ("invoice", admin.EmptyFieldListFilter))
    list_select_related = ("account", "period", "product", "invoice")
    search_fields = ("account__name", "account__external_id", "product__code", "item")
    ordering = ("-pk",)
