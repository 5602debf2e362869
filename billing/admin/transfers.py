"""Bank transfers as they came in, and the two things a person can say of one that names nobody."""

import csv
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts import clock
from accounts.admin import ReadOnlyAdmin
from accounts.models import Account, User
from billing import ledger
from billing.admin import forecast
from billing.admin.cells import instant, money, tag
from billing.forms import AssignTransferForm, ReasonForm
from billing.models import IncomingTransfer
from billing.money import to_major
from billing.payments import transfers
from billing.reports import csv_cells

State = IncomingTransfer.State
COLUMNS = (
    "date", "amount", "currency", "reference", "payer", "bank_ref", "state", "because", "account",
    "decided_by",
)  # fmt: skip
TONES = {State.WAITING: "warn", State.BOOKED: "good", State.NOT_OURS: ""}


@admin.register(IncomingTransfer)
class IncomingTransferAdmin(ReadOnlyAdmin):
    list_display = (
        "received_on", "amount", "payer", "reference", "stands", "because", "account", "decide",
    )  # fmt: skip
    list_filter = ("state", "currency", "received_on")
    list_select_related = ("payment__account",)
    search_fields = ("=bank_ref", "reference", "payer", "payment__account__name")
    ordering = ("-received_on", "-pk")
    readonly_fields = ("amount", "account", "decide")
    actions = ("download",)

    @admin.display(description="amount", ordering="amount_minor")
    def amount(self, transfer: IncomingTransfer) -> str:
        return money(transfer.amount_minor, transfer.currency)

    @admin.display(description="state", ordering="state")
    def stands(self, transfer: IncomingTransfer) -> str | SafeString:
        return tag(transfer.get_state_display(), TONES[State(transfer.state)])

    @admin.display(description="booked to")
    def account(self, transfer: IncomingTransfer) -> str | SafeString:
        if transfer.payment is None:
            return "–"
        account = transfer.payment.account
        return format_html('<a href="{}">{}</a>', account.get_absolute_url(), account)

    @admin.display(description="decide")
    def decide(self, transfer: IncomingTransfer) -> str | SafeString:
        if transfer.state == State.BOOKED:
            return "–"
        assign = reverse("admin:billing_incomingtransfer_assign", args=[transfer.pk])
        aside = reverse("admin:billing_incomingtransfer_aside", args=[transfer.pk])
        return format_html(
            '<a href="{}">Assign to account</a> · <a href="{}">Not ours</a>', assign, aside
        )

    @admin.action(description="Download as CSV", permissions=["view"])
    def download(self, request: HttpRequest, queryset: QuerySet[IncomingTransfer]) -> HttpResponse:
        """The chosen transfers with what became of them."""
        response = HttpResponse(content_type="text/csv; charset=utf-8")
        response["Content-Disposition"] = 'attachment; filename="transfers.csv"'
        lines = csv.DictWriter(response, fieldnames=COLUMNS)
        lines.writeheader()
        for transfer in queryset.select_related("payment__account"):
            lines.writerow(csv_cells.safe(_line(transfer)))
        return response

    def get_urls(self) -> list[URLPattern]:
        """The pages of the two answers, beside the admin's own."""
        return [
            path(
                "<int:transfer_id>/assign/",
                self.admin_site.admin_view(self.assign),
                name="billing_incomingtransfer_assign",
            ),
            path(
                "<int:transfer_id>/not-ours/",
                self.admin_site.admin_view(self.put_aside),
                name="billing_incomingtransfer_aside",
            ),
            *super().get_urls(),
        ]

    def assign(self, request: HttpRequest, transfer_id: int) -> HttpResponse:
        """Ask whose it is, show what will be true after, then book it."""
        transfer = self._transfer(request, transfer_id)
        form = AssignTransferForm(request.POST or None, transfer=transfer)
        if not form.is_valid() or "confirmed" not in request.POST:
            account = form.whose if form.is_valid() and "back" not in request.POST else None
            return self._page(request, transfer, form, "Assign to account", account=account)
        try:
            transfers.assign(
                transfer_id=transfer.pk,
                account_id=form.whose.pk,
                reason=form.cleaned_data["reason"],
                actor=_email(request),
                as_of=clock.now(),
            )
        except transfers.AlreadyBooked as already:
            messages.info(request, f"{already}.")
        else:
            messages.success(request, f"{transfer} is booked to {form.whose}.")
        return redirect("admin:billing_incomingtransfer_changelist")

    def put_aside(self, request: HttpRequest, transfer_id: int) -> HttpResponse:
        """Ask why it is no customer's payment, then put it aside."""
        transfer = self._transfer(request, transfer_id)
        form = ReasonForm(request.POST or None)
        if not form.is_valid():
            return self._page(request, transfer, form, "Not ours", account=None)
        try:
            transfers.put_aside(
                transfer_id=transfer.pk, reason=form.cleaned_data["reason"], actor=_email(request)
            )
        except transfers.AlreadyBooked as already:
            messages.info(request, f"{already}.")
        else:
            messages.success(request, f"{transfer} is put aside.")
        return redirect("admin:billing_incomingtransfer_changelist")

    def _transfer(self, request: HttpRequest, transfer_id: int) -> IncomingTransfer:
        if not request.user.has_perm("billing.assign_incomingtransfer"):
            raise PermissionDenied
        return get_object_or_404(IncomingTransfer, pk=transfer_id)

    def _page(
        self,
        request: HttpRequest,
        transfer: IncomingTransfer,
        form: AssignTransferForm | ReasonForm,
        title: str,
        *,
        account: Account | None,
    ) -> HttpResponse:
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            "title": title,
            "transfer": transfer,
            "amount": money(transfer.amount_minor, transfer.currency),
            "form": form,
            "account": account,
        }
        if account is not None:
            as_of = clock.now()
            standing = ledger.standing(account.pk, as_of=as_of)
            context["as_of"] = instant(as_of)
            context["forecast"] = forecast.of(account, standing, amount_minor=transfer.amount_minor)
        return render(request, "admin/billing/incomingtransfer/decide.html", context)


def _line(transfer: IncomingTransfer) -> dict[str, Any]:
    return {
        "date": transfer.received_on.isoformat(),
        "amount": to_major(transfer.amount_minor, transfer.currency),
        "currency": transfer.currency,
        "reference": transfer.reference,
        "payer": transfer.payer,
        "bank_ref": transfer.bank_ref,
        "state": transfer.state,
        "because": transfer.because,
        "account": transfer.payment.account.external_id if transfer.payment else "",
        "decided_by": transfer.decided_by,
    }


def _email(request: HttpRequest) -> str:
    assert isinstance(request.user, User), "the admin lets nobody else in"
    return request.user.email
