"""Payments and the attempts at them, to be looked at; and to ask the provider about."""

from collections.abc import Sequence

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from accounts.admin import ReadOnlyAdmin
from billing import gateways, payments
from billing.admin.books import AllocationRows
from billing.admin.cells import money
from billing.models import Payment, PaymentAttempt


@admin.register(Payment)
class PaymentAdmin(ReadOnlyAdmin):
    list_display = ("received_at", "account", "amount", "method", "gateway", "recorded_by")
    list_filter = ("gateway", "currency")
    list_select_related = ("account",)
    search_fields = ("account__name", "account__external_id", "=provider_ref", "method")
    ordering = ("-pk",)
    readonly_fields = ("amount",)
    inlines = (AllocationRows,)

    @admin.display(description="amount", ordering="amount_minor")
    def amount(self, payment: Payment) -> str:
        return money(payment.amount_minor, payment.currency)


@admin.register(PaymentAttempt)
class PaymentAttemptAdmin(ReadOnlyAdmin):
    list_display = (
        "created_at", "account", "amount", "payment_method", "state", "decline_code", "because",
        "next_action_at",
    )  # fmt: skip
    list_filter = ("state", "kind", "gateway", "decline_class", "decline_code")
    list_select_related = ("account", "payment_method")
    search_fields = ("account__name", "account__external_id", "=provider_ref", "=pk")
    ordering = ("-created_at",)
    readonly_fields = ("amount",)
    actions = ("ask_the_provider",)

    @admin.display(description="amount", ordering="amount_minor")
    def amount(self, attempt: PaymentAttempt) -> str:
        return money(attempt.amount_minor, attempt.currency)

    def has_ask_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("billing.change_paymentattempt")

    @admin.action(description="Ask the provider now", permissions=["ask"])
    def ask_the_provider(self, request: HttpRequest, queryset: QuerySet[PaymentAttempt]) -> None:
        """Read what the provider says of each, write it down, and say where each stands."""
        attempts = list(queryset.filter(state__in=PaymentAttempt.IN_FLIGHT))
        self._apply(request, attempts)
        payments.drive(attempts, as_of=timezone.now())
        for attempt in PaymentAttempt.objects.filter(pk__in=[a.pk for a in attempts]):
            self.message_user(
                request, f"{attempt.account}: {attempt.get_state_display()}. {attempt.because}"
            )
        if left := queryset.count() - len(attempts):
            self.message_user(request, f"{left} have come to their end: there is nothing to ask.")

    def _apply(self, request: HttpRequest, attempts: Sequence[PaymentAttempt]) -> None:
        """`drive` leaves alone what is in review, or not due to be asked: a person need not wait."""
        for attempt in attempts:
            if not attempt.provider_ref:
                continue
            try:
                seen = gateways.get(attempt.gateway).read(attempt.provider_ref)
            except Exception as error:  # noqa: BLE001 - whatever a provider call raises, we know no more
                self.message_user(
                    request, f"{attempt.account}: no answer: {error}", messages.WARNING
                )
            else:
                payments.apply_provider_state({attempt.pk: seen}, as_of=timezone.now())
