"""What happened to accounts, in words."""

from django.contrib import admin

from accounts.models import TimelineEvent
from billing.admin.in_words import ReadableAdmin


@admin.register(TimelineEvent)
class TimelineEventAdmin(ReadableAdmin):
    list_display = ("happened_at", "account", "summary", "actor", "kind")
    list_select_related = ("account",)
    search_fields = ("account__name", "account__external_id", "kind")
    ordering = ("-pk",)
