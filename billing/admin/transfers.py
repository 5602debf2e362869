"""Bank transfers as they came in, and what a person can say of one that names nobody for sure."""

import csv
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from accounts import clock
from accounts.models import Account
from billing import ledger
from billing.admin import forecast
from billing.admin.asks import email_of
from billing.admin.cells import admin_url, instant, money, tag
from billing.admin.forms import AssignTransferForm, ReasonForm
from billing.admin.in_words import ReadableAdmin
from billing.models import BankStatement, IncomingTransfer, RepeatedTransfer
from billing.money import to_major
from billing.payments import transfers
from billing.reports import csv_cells

State = IncomingTransfer.State
COLUMNS = (
    "date", "amount", "currency", "reference", "payer", "bank_account", "bank_ref", "state",
    "because", "suggested", "account", "decided_by",
)  # fmt: skip
TONES = {State.WAITING: "warn", State.BOOKED: "good", State.RECORDED: "", State.NOT_OURS: ""}


@admin.register(IncomingTransfer)
class IncomingTransferAdmin(ReadableAdmin):
    list_display = (
        "received_on", "amount", "payer", "reference", "stands", "waits", "because", "perhaps",
        "account", "decide",
    )  # fmt: skip
    list_filter = ("state", "currency", "received_on")
    list_select_related = ("payment__account", "suggested_account", "resembles")
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

    @admin.display(description="waits since", ordering="imported_at")
    def waits(self, transfer: IncomingTransfer) -> str:
        return instant(transfer.imported_at) if transfer.state == State.WAITING else "–"

    @admin.display(description="perhaps of")
    def perhaps(self, transfer: IncomingTransfer) -> str | SafeString:
        account = transfer.suggested_account
        if account is None or transfer.state != State.WAITING:
            return "–"
        return format_html('<a href="{}">{}</a>', account.get_absolute_url(), account)

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
        links = [(assign, "Assign to account"), (aside, "Not ours")]
        if transfer.resembles is not None and transfer.state != State.RECORDED:
            same = reverse("admin:billing_incomingtransfer_recorded", args=[transfer.pk])
            links.insert(1, (same, "Recorded before"))
        return format_html_join(" · ", '<a href="{}">{}</a>', links)

    @admin.action(description="Download as CSV", permissions=["view"])
    def download(self, request: HttpRequest, queryset: QuerySet[IncomingTransfer]) -> HttpResponse:
        """The chosen transfers with what became of them."""
        response = HttpResponse(content_type="text/csv; charset=utf-8")
        response["Content-Disposition"] = 'attachment; filename="transfers.csv"'
        lines = csv.DictWriter(response, fieldnames=COLUMNS)
        lines.writeheader()
        for transfer in queryset.select_related("payment__account", "suggested_account"):
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
            path(
                "<int:transfer_id>/recorded-before/",
                self.admin_site.admin_view(self.take_as_recorded),
                name="billing_incomingtransfer_recorded",
            ),
            *super().get_urls(),
        ]

    def assign(self, request: HttpRequest, transfer_id: int) -> HttpResponse:
        """Ask whose it is, show what will be true after, then book it."""
        transfer = self._transfer(request, transfer_id)
        suggested = transfer.suggested_account
        form = AssignTransferForm(
            request.POST or None,
            transfer=transfer,
            initial={"account": suggested.external_id if suggested else ""},
        )
        if not form.is_valid() or "confirmed" not in request.POST:
            account = form.whose if form.is_valid() and "back" not in request.POST else None
            return self._page(request, transfer, form, "Assign to account", account=account)
        try:
            transfers.assign(
                transfer_id=transfer.pk,
                account_id=form.whose.pk,
                reason=form.cleaned_data["reason"],
                actor=email_of(request),
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
                transfer_id=transfer.pk, reason=form.cleaned_data["reason"], actor=email_of(request)
            )
        except transfers.AlreadyBooked as already:
            messages.info(request, f"{already}.")
        else:
            messages.success(request, f"{transfer} is put aside.")
        return redirect("admin:billing_incomingtransfer_changelist")

    def take_as_recorded(self, request: HttpRequest, transfer_id: int) -> HttpResponse:
        """Show the payment that it looks like, ask how that is known, then say that it is that one."""
        transfer = self._transfer(request, transfer_id)
        form = ReasonForm(request.POST or None)
        if not form.is_valid():
            return self._page(request, transfer, form, "Recorded before", account=None)
        try:
            transfers.take_as_recorded(
                transfer_id=transfer.pk,
                reason=form.cleaned_data["reason"],
                actor=email_of(request),
                as_of=clock.now(),
            )
        except (transfers.AlreadyBooked, transfers.ResemblesNothing) as refused:
            messages.info(request, f"{refused}.")
        else:
            messages.success(request, f"{transfer} is the payment that was recorded before.")
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
            "looks_like": _looks_like(transfer, account),
        }
        if account is not None:
            as_of = clock.now()
            standing = ledger.standing(account.pk, as_of=as_of)
            context["as_of"] = instant(as_of)
            context["forecast"] = forecast.of(account, standing, amount_minor=transfer.amount_minor)
        return render(request, "admin/billing/incomingtransfer/decide.html", context)


def _counted(rows: QuerySet[Any]) -> Coalesce:
    """How many of these rows are of a statement; each kind by itself, for joined they multiply."""
    of_statement = rows.filter(statement=OuterRef("pk")).order_by().values("statement")
    return Coalesce(Subquery(of_statement.annotate(count=Count("pk")).values("count")), 0)


@admin.register(BankStatement)
class BankStatementAdmin(ReadableAdmin):
    list_display = ("name", "imported_at", "added", "repeated")
    search_fields = ("name", "=sha256")
    ordering = ("-pk",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[BankStatement]:
        """Each with how many transfers it added, and how many it listed again."""
        statements: QuerySet[BankStatement] = super().get_queryset(request)
        return statements.annotate(
            adds=_counted(IncomingTransfer.objects.all()),
            repeats=_counted(RepeatedTransfer.objects.all()),
        )

    @admin.display(description="added")
    def added(self, statement: Any) -> int:
        return int(statement.adds)

    @admin.display(description="taken for repeats")
    def repeated(self, statement: Any) -> SafeString:
        listed = reverse("admin:billing_repeatedtransfer_changelist")
        return format_html(
            '<a href="{}?statement__id__exact={}">{}</a>', listed, statement.pk, statement.repeats
        )


@admin.register(RepeatedTransfer)
class RepeatedTransferAdmin(ReadableAdmin):
    list_display = (
        "statement", "line", "received_on", "amount", "payer", "reference", "of", "decide",
    )  # fmt: skip
    list_filter = (("statement", admin.RelatedOnlyFieldListFilter),)
    list_select_related = ("statement", "transfer", "counted_apart_as")
    search_fields = ("=transfer__bank_ref", "transfer__reference", "transfer__payer")
    ordering = ("-pk",)

    @admin.display(description="received on", ordering="transfer__received_on")
    def received_on(self, repeat: RepeatedTransfer) -> Any:
        return repeat.transfer.received_on

    @admin.display(description="amount", ordering="transfer__amount_minor")
    def amount(self, repeat: RepeatedTransfer) -> str:
        return money(repeat.transfer.amount_minor, repeat.transfer.currency)

    @admin.display(description="payer")
    def payer(self, repeat: RepeatedTransfer) -> str:
        return repeat.transfer.payer

    @admin.display(description="reference")
    def reference(self, repeat: RepeatedTransfer) -> str:
        return repeat.transfer.reference

    @admin.display(description="taken for")
    def of(self, repeat: RepeatedTransfer) -> SafeString:
        known = repeat.transfer
        return format_html('<a href="{}">{}</a>', admin_url(known), known)

    @admin.display(description="decide")
    def decide(self, repeat: RepeatedTransfer) -> SafeString:
        if repeat.counted_apart_as is not None:
            return format_html(
                'counted apart: <a href="{}">{}</a>',
                admin_url(repeat.counted_apart_as),
                repeat.counted_apart_as,
            )
        apart = reverse("admin:billing_repeatedtransfer_apart", args=[repeat.pk])
        return format_html('<a href="{}">Another payment</a>', apart)

    def get_urls(self) -> list[URLPattern]:
        """The page of the one answer, beside the admin's own."""
        return [
            path(
                "<int:repeat_id>/another-payment/",
                self.admin_site.admin_view(self.count_apart),
                name="billing_repeatedtransfer_apart",
            ),
            *super().get_urls(),
        ]

    def count_apart(self, request: HttpRequest, repeat_id: int) -> HttpResponse:
        """Ask how it is known to be another payment, then list it as one that waits."""
        if not request.user.has_perm("billing.assign_incomingtransfer"):
            raise PermissionDenied
        repeat = get_object_or_404(RepeatedTransfer, pk=repeat_id)
        form = ReasonForm(request.POST or None)
        if not form.is_valid():
            context = {
                **self.admin_site.each_context(request),
                "title": "Another payment",
                "transfer": repeat.transfer,
                "amount": money(repeat.transfer.amount_minor, repeat.transfer.currency),
                "form": form,
            }
            return render(request, "admin/billing/incomingtransfer/decide.html", context)
        transfer = transfers.count_apart(
            repeat_id=repeat.pk, reason=form.cleaned_data["reason"], actor=email_of(request)
        )
        messages.success(request, f"{transfer} is counted apart, and waits: say whose it is.")
        return redirect("admin:billing_incomingtransfer_assign", transfer.pk)


def _looks_like(transfer: IncomingTransfer, account: Account | None) -> dict[str, Any] | None:
    """The payment that is in the books already and may be this money, as the page shows it."""
    payment = transfer.resembles
    if account is not None and (payment is None or payment.account_id != account.pk):
        payment = transfers.like_recorded_by_hand(transfer, account)
    if payment is None:
        return None
    return {
        "payment": payment,
        "url": admin_url(payment),
        "amount": money(payment.amount_minor, payment.currency),
        "received_at": instant(payment.received_at),
    }


def _line(transfer: IncomingTransfer) -> dict[str, Any]:
    return {
        "date": transfer.received_on.isoformat(),
        "amount": to_major(transfer.amount_minor, transfer.currency),
        "currency": transfer.currency,
        "reference": transfer.reference,
        "payer": transfer.payer,
        "bank_account": transfer.bank_account,
        "bank_ref": transfer.bank_ref,
        "state": transfer.state,
        "because": transfer.because,
        "suggested": transfer.suggested_account.external_id if transfer.suggested_account else "",
        "account": transfer.payment.account.external_id if transfer.payment else "",
        "decided_by": transfer.decided_by,
    }
