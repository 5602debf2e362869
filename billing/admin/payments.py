"""Payments, the attempts at them and their refunds: looked at, asked about, taken out of review, paid back."""

import uuid
from contextlib import suppress
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import URLPattern, path, reverse

from accounts import clock
from billing.admin.books import AllocationRows
from billing.admin.cells import instant, money
from billing.admin.forms import ReasonForm, RefundForm
from billing.admin.in_words import ReadableAdmin, ReadableRows
from billing.gateways import Misconfigured
from billing.models import Dispute, Payment, PaymentAttempt, PaymentReversal, Refund
from billing.payments import charges, refunds


class RefundRows(ReadableRows):
    model = Refund
    fields = ("requested_at", "paid_back", "state", "because", "requested_by")
    readonly_fields = fields

    @admin.display(description="amount")
    def paid_back(self, refund: Refund) -> str:
        return money(refund.amount_minor, refund.currency)


@admin.register(Payment)
class PaymentAdmin(ReadableAdmin):
    list_display = ("received_at", "account", "amount", "method", "gateway", "recorded_by")
    list_filter = ("gateway", "currency")
    list_select_related = ("account",)
    search_fields = ("account__name", "account__external_id", "=provider_ref", "method")
    ordering = ("-pk",)
    readonly_fields = ("amount",)
    inlines = (AllocationRows, RefundRows)

    @admin.display(description="amount", ordering="amount_minor")
    def amount(self, payment: Payment) -> str:
        return money(payment.amount_minor, payment.currency)

    # --- paying it back

    def acts(self, request: HttpRequest, record: Payment) -> list[tuple[str, str]]:
        """Pay it back."""
        url = reverse("admin:billing_payment_refund", args=[record.pk])
        return [(url, "Refund…")] if _may_refund(request) else []

    def get_urls(self) -> list[URLPattern]:
        """The page behind "Refund…", beside the admin's own."""
        view = self.admin_site.admin_view(self.refund_page)
        own = path("<int:payment_id>/refund/", view, name="billing_payment_refund")
        return [own, *super().get_urls()]

    def refund_page(self, request: HttpRequest, payment_id: int) -> HttpResponse:
        """Ask how much and why, show what will be true after, then pay it back."""
        if not _may_refund(request):
            raise PermissionDenied
        payment = get_object_or_404(Payment.objects.select_related("account"), pk=payment_id)
        form = RefundForm(
            request.POST if request.method == "POST" else None,
            account=payment.account,
            as_of=clock.now(),
            left_minor=max(refunds.refundable_minor(payment), 0),
        )
        if form.is_valid() and "confirmed" in request.POST:
            self._refund(request, payment, form)
            return redirect("admin:billing_payment_change", payment.pk)
        return self._refund_page(request, payment, form)

    def _refund_page(
        self, request: HttpRequest, payment: Payment, form: RefundForm
    ) -> HttpResponse:
        context: dict[str, Any] = {
            "title": "Refund",
            "payment": payment,
            "account": payment.account,
            "paid": self.amount(payment),
            "left": money(form.left_minor, payment.currency),
            "has_left": form.left_minor > 0,
            "as_of": instant(form.as_of),
            "form": form,
            "by_hand": _is_by_hand(payment),
        }
        if form.is_valid() and "back" not in request.POST:
            context |= {
                "is_checked": True,
                "amount": money(form.amount_minor, payment.currency),
                "left_after": money(form.left_minor - form.amount_minor, payment.currency),
                "reason": form.cleaned_data["reason"],
            }
        template = "admin/billing/payment/refund.html"
        return render(request, template, self.admin_site.each_context(request) | context)

    def _refund(self, request: HttpRequest, payment: Payment, form: RefundForm) -> None:
        try:
            made = refunds.refund(
                payment_id=payment.pk,
                token=form.cleaned_data["token"],
                amount_minor=form.amount_minor,
                reason=form.cleaned_data["reason"],
                actor=request.user.email,  # type: ignore[union-attr]
                as_of=form.as_of,
            )
        except refunds.AlreadyRequested:
            self.message_user(request, "The form was sent twice: it is one refund.")
        except (refunds.CannotRefund, Misconfigured) as refused:
            self.message_user(request, f"Nothing was paid back: {refused}.", messages.WARNING)
        else:
            amount = money(made.amount_minor, made.currency)
            is_over = made.state == Refund.State.SUCCEEDED
            how = (
                "was paid back by hand"
                if is_over
                else "is being paid back: see its refund for how it ends"
            )
            self.message_user(request, f"{amount} {how}.", messages.SUCCESS)


@admin.register(Refund)
class RefundAdmin(ReadableAdmin):
    list_display = (
        "requested_at", "account", "amount", "payment", "state", "because", "reason", "requested_by",
    )  # fmt: skip
    list_filter = ("state", "gateway", "currency")
    list_select_related = ("account", "payment")
    search_fields = ("account__name", "account__external_id", "=provider_ref", "reason", "=pk")
    ordering = ("-requested_at",)
    readonly_fields = ("amount",)
    exclude = ("token",)
    actions = ("resolve_review",)

    @admin.display(description="amount", ordering="amount_minor")
    def amount(self, refund: Refund) -> str:
        return money(refund.amount_minor, refund.currency)

    def has_resolve_permission(self, request: HttpRequest) -> bool:
        return _may_refund(request)

    def acts(self, request: HttpRequest, record: Refund) -> list[tuple[str, str]]:
        """Resolve it, while it is in review."""
        is_mine = record.state == Refund.State.REVIEW and self.has_resolve_permission(request)
        url = reverse("admin:billing_refund_resolve", args=[record.pk])
        return [(url, "Resolve the review…")] if is_mine else []

    @admin.action(description="Resolve the review", permissions=["resolve"])
    def resolve_review(
        self, request: HttpRequest, queryset: QuerySet[Refund]
    ) -> HttpResponse | None:
        """One at a time, after a look at the provider's own pages."""
        chosen = list(queryset[:2])
        if len(chosen) != 1:
            self.message_user(request, "Choose one refund for this.", messages.WARNING)
            return None
        return redirect("admin:billing_refund_resolve", chosen[0].pk)

    def get_urls(self) -> list[URLPattern]:
        """The page behind "Resolve the review", beside the admin's own."""
        view = self.admin_site.admin_view(self.resolve_page)
        own = path("<uuid:refund_id>/resolve/", view, name="billing_refund_resolve")
        return [own, *super().get_urls()]

    def resolve_page(self, request: HttpRequest, refund_id: uuid.UUID) -> HttpResponse:
        """Ask for a reason, then resolve it by what the provider says, or by what a person saw there."""
        if not self.has_resolve_permission(request):
            raise PermissionDenied
        refund = get_object_or_404(Refund, pk=refund_id)
        form = ReasonForm(request.POST if request.method == "POST" else None)
        if form.is_valid():
            self._resolve(request, refund, reason=form.cleaned_data["reason"])
            return redirect("admin:billing_refund_change", refund.pk)
        context = {
            "title": "Resolve a refund in review",
            "refund": refund,
            "account": refund.account,
            "amount": self.amount(refund),
            "form": form,
        }
        template = "admin/billing/refund/resolve.html"
        return render(request, template, self.admin_site.each_context(request) | context)

    def _resolve(self, request: HttpRequest, refund: Refund, *, reason: str) -> None:
        try:
            resolved = refunds.resolve_review(
                refund_id=refund.pk,
                reason=reason,
                actor=request.user.email,  # type: ignore[union-attr]
                as_of=clock.now(),
            )
        except refunds.NotInReview:
            self.message_user(request, f"{refund} is not in review.", messages.WARNING)
        else:
            self.message_user(request, f"{resolved.get_state_display()}. {resolved.because}")


@admin.register(PaymentReversal)
class PaymentReversalAdmin(ReadableAdmin):
    list_display = ("reversed_at", "account", "amount", "owed_again", "payment", "reason")
    list_filter = ("gateway",)
    list_select_related = ("account", "payment")
    search_fields = ("account__name", "account__external_id", "=provider_ref", "reason")
    ordering = ("-pk",)
    readonly_fields = ("amount", "owed_again")
    inlines = (AllocationRows,)

    @admin.display(description="amount", ordering="amount_minor")
    def amount(self, reversal: PaymentReversal) -> str:
        return money(reversal.amount_minor, reversal.payment.currency)

    @admin.display(description="owed again", ordering="owed_minor")
    def owed_again(self, reversal: PaymentReversal) -> str:
        return money(reversal.owed_minor, reversal.payment.currency)


@admin.register(Dispute)
class DisputeAdmin(ReadableAdmin):
    list_display = (
        "opened_at", "account", "amount", "fee", "state", "evidence_due_at", "reason", "payment",
        "closed_at",
    )  # fmt: skip
    list_filter = ("state", "gateway", "reason", ("closed_at", admin.EmptyFieldListFilter))
    list_select_related = ("account", "payment")
    search_fields = ("account__name", "account__external_id", "=provider_ref")
    ordering = ("evidence_due_at", "-pk")
    readonly_fields = ("amount", "fee")

    @admin.display(description="amount", ordering="amount_minor")
    def amount(self, dispute: Dispute) -> str:
        return money(dispute.amount_minor, dispute.currency)

    @admin.display(description="fee", ordering="fee_minor")
    def fee(self, dispute: Dispute) -> str:
        return money(dispute.fee_minor, dispute.currency)


@admin.register(PaymentAttempt)
class PaymentAttemptAdmin(ReadableAdmin):
    list_display = (
        "created_at", "account", "amount", "payment_method", "state", "decline_code", "because",
        "review_owner", "next_action_at",
    )  # fmt: skip
    list_filter = ("state", "review_owner", "kind", "gateway", "decline_class", "decline_code")
    list_select_related = ("account", "payment_method")
    search_fields = ("account__name", "account__external_id", "=provider_ref", "=pk")
    ordering = ("-created_at",)
    readonly_fields = ("amount",)
    actions = ("ask_the_provider", "take_review", "resolve_review")

    @admin.display(description="amount", ordering="amount_minor")
    def amount(self, attempt: PaymentAttempt) -> str:
        return money(attempt.amount_minor, attempt.currency)

    def has_ask_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("billing.change_paymentattempt")

    @admin.action(description="Ask the provider now", permissions=["ask"])
    def ask_the_provider(self, request: HttpRequest, queryset: QuerySet[PaymentAttempt]) -> None:
        """Move each to the front, so that a worker asks about it next; one that was parked is tried once more."""
        chosen = list(queryset)
        as_of = clock.now()
        for attempt in chosen:
            charges.free_parked(attempt, as_of=as_of)
        if asked := charges.hurry(chosen, as_of=as_of):
            words = "One payment is" if asked == 1 else f"{asked} payments are"
            self.message_user(request, f"{words} being asked about. Look again in a moment.")
        if left := len(chosen) - asked:
            self.message_user(request, f"{left} have come to their end: there is nothing to ask.")

    # --- review

    def has_resolve_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("billing.resolve_paymentattempt")

    @admin.action(description="Look after it: it is in review", permissions=["resolve"])
    def take_review(self, request: HttpRequest, queryset: QuerySet[PaymentAttempt]) -> None:
        """Put your name on each that is in review."""
        for attempt in queryset:
            try:
                charges.take_review(attempt_id=attempt.pk, owner=request.user.email)  # type: ignore[union-attr]
            except charges.NotInReview:
                self.message_user(request, f"{attempt} is not in review.", messages.WARNING)
            else:
                self.message_user(request, f"{attempt} is yours to look after.")

    def acts(self, request: HttpRequest, record: PaymentAttempt) -> list[tuple[str, str]]:
        """Resolve it, while it is in review."""
        is_mine = record.state == PaymentAttempt.State.REVIEW and self.has_resolve_permission(
            request
        )
        url = reverse("admin:billing_paymentattempt_resolve", args=[record.pk])
        return [(url, "Resolve the review…")] if is_mine else []

    @admin.action(description="Resolve the review", permissions=["resolve"])
    def resolve_review(
        self, request: HttpRequest, queryset: QuerySet[PaymentAttempt]
    ) -> HttpResponse | None:
        """One at a time, after a look at the provider's own pages."""
        chosen = list(queryset[:2])
        if len(chosen) != 1:
            self.message_user(request, "Choose one payment for this.", messages.WARNING)
            return None
        return redirect("admin:billing_paymentattempt_resolve", chosen[0].pk)

    def get_urls(self) -> list[URLPattern]:
        """The page behind "Resolve the review", beside the admin's own."""
        view = self.admin_site.admin_view(self.resolve_page)
        own = path("<uuid:attempt_id>/resolve/", view, name="billing_paymentattempt_resolve")
        return [own, *super().get_urls()]

    def resolve_page(self, request: HttpRequest, attempt_id: uuid.UUID) -> HttpResponse:
        """Ask for a reason, then resolve it by what the provider says, or by what a person saw there."""
        if not self.has_resolve_permission(request):
            raise PermissionDenied
        attempt = get_object_or_404(PaymentAttempt, pk=attempt_id)
        form = ReasonForm(request.POST if request.method == "POST" else None)
        if form.is_valid():
            self._resolve(request, attempt, reason=form.cleaned_data["reason"])
            return redirect("admin:billing_paymentattempt_change", attempt.pk)
        context = {
            "title": "Resolve a payment in review",
            "attempt": attempt,
            "account": attempt.account,
            "amount": self.amount(attempt),
            "form": form,
        }
        template = "admin/billing/paymentattempt/resolve.html"
        return render(request, template, self.admin_site.each_context(request) | context)

    def _resolve(self, request: HttpRequest, attempt: PaymentAttempt, *, reason: str) -> None:
        try:
            resolved = charges.resolve_review(
                attempt_id=attempt.pk,
                reason=reason,
                actor=request.user.email,  # type: ignore[union-attr]
                as_of=clock.now(),
            )
        except charges.NotInReview:
            self.message_user(request, f"{attempt} is not in review.", messages.WARNING)
        else:
            said = f"{resolved.get_state_display()}. {resolved.because}"
            self.message_user(request, said)


def _may_refund(request: HttpRequest) -> bool:
    return request.user.has_perm("accounts.refund_payment")


def _is_by_hand(payment: Payment) -> bool:
    with suppress(Misconfigured):
        return refunds.is_by_hand(payment)
    return False
