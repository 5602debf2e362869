"""The messages that were sent, or will be."""

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.admin import CodeFilter, ReadOnlyAdmin
from accounts.codes import spelled_out
from accounts.models import User
from notifications import catalog, delivery, formats
from notifications.models import Message

# It holds a link by which its reader signs in.
NOT_OURS_TO_READ = "For its recipient only."


@admin.register(Message)
class MessageAdmin(ReadOnlyAdmin):
    list_display = ("subject", "account", "about", "recipient", "state", "created_at", "sent_at")
    list_filter = (
        "state",
        ("parked_at", admin.EmptyFieldListFilter),
        ("kind", CodeFilter),
        "locale",
    )
    list_select_related = ("account",)
    search_fields = ("recipient", "subject", "account__name", "account__external_id", "fact")
    ordering = ("-created_at",)
    actions = ("retry",)
    fieldsets = (
        (None, {"fields": ("account", "about", "recipient", "subject", "preview")}),
        ("What it says, and when that was true", {"fields": ("said", "as_of", "locale", "time_zone")}),
        (
            "Delivery",
            {
                "fields": (
                    "state", "because", "attempts", "next_attempt_at", "last_error", "created_at",
                    "sent_at", "deaths", "parked_at",
                )
            },
        ),
        ("Plain text", {"fields": ("plain",), "classes": ("collapse",)}),
    )  # fmt: skip
    readonly_fields = ("preview", "said", "about", "plain")

    @admin.display(description="kind", ordering="kind")
    def about(self, message: Message) -> str:
        """ "Payment failed"."""
        return spelled_out(message.kind)

    @admin.display(description="Amounts")
    def said(self, message: Message) -> str:
        """ "due €12.34"."""
        currency = message.amounts.get("currency", "")
        return ", ".join(
            f"{name.removesuffix('_minor').replace('_', ' ')} {formats.money(amount, currency, 'en')}"
            for name, amount in message.amounts.items()
            if name.endswith("_minor")
        )

    @admin.display(description="As mailed")
    def preview(self, message: Message) -> SafeString | str:
        if catalog.is_personal(message.kind):
            return NOT_OURS_TO_READ
        # The empty sandbox forbids it scripts, forms, and our cookies.
        return format_html(
            '<iframe class="mail" sandbox="" srcdoc="{}" title="{}"></iframe>',
            message.body_html,
            message.subject,
        )

    @admin.display(description="Text")
    def plain(self, message: Message) -> str:
        return NOT_OURS_TO_READ if catalog.is_personal(message.kind) else message.body_text

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("notifications.change_message")

    @admin.action(description="Try dead or parked messages again", permissions=["retry"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Message]) -> None:
        """Queue the chosen messages that are dead or parked; say which were neither."""
        assert isinstance(request.user, User), "the admin lets nobody else in"
        for message in queryset:
            try:
                delivery.retry(message, actor=request.user.email)
            except delivery.NotDead as not_dead:
                self.message_user(request, f"{not_dead}: left as it is.", messages.WARNING)
            else:
                self.message_user(request, f"Queued again: {message.subject}", messages.SUCCESS)
