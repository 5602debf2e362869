"""Usage as it came in and was added up. The events themselves are too many to list."""

from django.contrib import admin

from accounts.admin import ReadOnlyAdmin
from billing.models import UsageBatch, UsageSummary


@admin.register(UsageBatch)
class UsageBatchAdmin(ReadOnlyAdmin):
    list_display = (
        "name", "source", "rows_read", "rows_added", "rows_known", "rows_rejected", "created_at",
        "tallied_at",
    )  # fmt: skip
    list_filter = ("source", ("tallied_at", admin.EmptyFieldListFilter))
    search_fields = ("name", "=sha256")
    ordering = ("-pk",)


@admin.register(UsageSummary)
class UsageSummaryAdmin(ReadOnlyAdmin):
    list_display = ("account", "period", "product", "item", "quantity", "unit", "invoice")
    list_filter = ("kind", ("invoice", admin.EmptyFieldListFilter))
    list_select_related = ("account", "period", "product", "invoice")
    search_fields = ("account__name", "account__external_id", "product__code", "item")
    ordering = ("-pk",)
