"""Dunning cases, to be looked at: who is tried again, when, and who is waited for."""

from django.contrib import admin

from billing.admin.in_words import ReadableAdmin, ReadableRows
from billing.models import DunningCase, PaymentAttempt


class AttemptRows(ReadableRows):
    model = PaymentAttempt
    fields = ("created_at", "kind", "payment_method", "state", "decline_code", "advice_code")
    ordering = ("created_at",)


@admin.register(DunningCase)
class DunningCaseAdmin(ReadableAdmin):
    list_display = (
        "account", "decline_class", "decline_code", "retries_made", "next_try_at", "ends_at",
        "opened_at", "closed_at", "closed_because",
    )  # fmt: skip
    list_filter = (("closed_at", admin.EmptyFieldListFilter), "decline_class", "decline_code")
    list_select_related = ("account",)
    search_fields = ("account__name", "account__external_id")
    ordering = ("next_try_at", "ends_at", "pk")
    inlines = (AttemptRows,)
