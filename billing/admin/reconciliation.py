"""Reconciliations, what they found amiss, and the gateways that are paused."""

import csv
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.views.decorators.http import require_POST

from accounts import clock
from accounts.admin import ReadOnlyAdmin
from accounts.models import User
from billing import gateways, reconciliation
from billing.admin.cells import money, tag
from billing.admin.forms import ReasonForm
from billing.models import GatewayGuard, Reconciliation, ReconciliationBreak, Restore
from billing.money import to_major
from billing.payments import restores
from billing.reports import csv_cells

State = ReconciliationBreak.State
TONES = {State.OPEN: "warn", State.RESOLVED: "good", State.ACCEPTED: ""}
COLUMNS = (
    "kind", "state", "gateway", "provider_ref", "account", "amount", "currency", "words", "owner",
    "note", "found_at", "resolved_at",
)  # fmt: skip


@admin.register(GatewayGuard)
class GatewayGuardAdmin(ReadOnlyAdmin):
    list_display = ("gateway", "stands", "paused_at", "paused_because", "checked_at")
    ordering = ("gateway",)

    @admin.display(description="charging", ordering="paused_at")
    def stands(self, guard: GatewayGuard) -> SafeString:
        return tag("Paused", "bad") if guard.paused_at else tag("Open", "good")


@admin.register(Reconciliation)
class ReconciliationAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "stands", "since", "started_by", "listed", "found", "breaks_open")
    list_filter = ("gateway", "state", "started_by")
    ordering = ("-pk",)
    fields = (
        "gateway", "stands", "since", "as_of", "started_by", "started_at", "finished_at", "error",
        "listed", "found", "breaks_open", "paid_out",
    )  # fmt: skip
    readonly_fields = ("stands", "listed", "found", "breaks_open", "paid_out")
    change_list_template = "admin/billing/reconciliation/change_list.html"

    @admin.display(description="state", ordering="state")
    def stands(self, one: Reconciliation) -> SafeString:
        if one.is_finished:
            return tag(f"Finished. {one.error}", "warn") if one.error else tag("Finished", "good")
        return tag(f"Running: {one.error}" if one.error else "Running", "info")

    @admin.display(description="listed")
    def listed(self, one: Reconciliation) -> str:
        """How far it is: the finished ones say it themselves, of the others it is counted."""
        if not one.is_finished:
            return f"{one.objects_listed.count()} so far"
        return f"{one.counts.get('listed', 0)}, {one.counts.get('foreign', 0)} not ours"

    @admin.display(description="found")
    def found(self, one: Reconciliation) -> str:
        found = {
            "booked": one.counts.get("booked"),
            "found again": one.counts.get("found_again"),
            "cancelled": one.counts.get("cancelled"),
        }
        return ", ".join(f"{count} {what}" for what, count in found.items() if count) or "–"

    @admin.display(description="breaks open")
    def breaks_open(self, one: Reconciliation) -> SafeString | str:
        count = one.breaks.filter(state=State.OPEN).count()
        url = reverse("admin:billing_reconciliationbreak_changelist")
        return format_html('<a href="{}?state__exact=OPEN">{}</a>', url, count) if count else "–"

    @admin.display(description="payouts")
    def paid_out(self, one: Reconciliation) -> SafeString | str:
        """Provider total = ledger total, payout by payout."""
        rows = [_payout(row) for row in one.payouts]
        if not rows:
            return "Nothing was paid out in this time."
        heads = ("Payout", "Provider", "Ledger", "Fee", "Net", "Of others", "Rate")
        return format_html(
            "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>",
            format_html_join("", '<th scope="col">{}</th>', ([head] for head in heads)),
            format_html_join(
                "",
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                rows,
            ),
        )

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """All of them, the button, and what is going on."""
        context = {
            **(extra_context or {}),
            "may_run": request.user.has_perm("billing.run_reconciliation"),
            "is_running": Reconciliation.objects.filter(
                state=Reconciliation.State.RUNNING
            ).exists(),
            "paused": GatewayGuard.objects.filter(paused_at__isnull=False),
        }
        return super().changelist_view(request, context)

    def get_urls(self) -> list[URLPattern]:
        """The button, beside the admin's own."""
        view = self.admin_site.admin_view(require_POST(self.run_now))
        return [path("run/", view, name="billing_reconciliation_run"), *super().get_urls()]

    def run_now(self, request: HttpRequest) -> HttpResponse:
        """Start one for each gateway; the workers take it from there."""
        if not request.user.has_perm("billing.run_reconciliation"):
            raise PermissionDenied
        for name in gateways.names():
            reconciliation.start(gateway=name, started_by=_email(request), as_of=clock.now())
        self.message_user(request, "Started. This page shows how far it is.", messages.SUCCESS)
        return redirect("admin:billing_reconciliation_changelist")


@admin.register(Restore)
class RestoreAdmin(ReadOnlyAdmin):
    list_display = ("window", "because", "noticed_at", "dealt_with_at", "dealt_with_by")
    list_filter = (("dealt_with_at", admin.EmptyFieldListFilter),)
    ordering = ("-noticed_at",)
    actions = ("deal_with",)

    @admin.display(description="what may be missing or repeated")
    def window(self, restore: Restore) -> str:
        return str(restore)

    def acts(self, request: HttpRequest, record: Restore) -> list[tuple[str, str]]:
        """Say that it is dealt with: an act of the list."""
        is_open = record.dealt_with_at is None and self.has_handle_permission(request)
        url = reverse("admin:billing_restore_changelist")
        return [(url, "Usage was sent again: say so, in the list")] if is_open else []

    def has_handle_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("billing.settle_break")

    @admin.action(description="Usage was sent again: dealt with", permissions=["handle"])
    def deal_with(self, request: HttpRequest, queryset: QuerySet[Restore]) -> None:
        """Note that the person who asks has dealt with them."""
        dealt_with = sum(
            restores.deal_with(restore_id=each.pk, actor=_email(request), as_of=clock.now())
            for each in queryset
        )
        self.message_user(request, f"Dealt with: {dealt_with}.", messages.SUCCESS)


@admin.register(ReconciliationBreak)
class ReconciliationBreakAdmin(ReadOnlyAdmin):
    list_display = (
        "found_at", "kind", "stands", "amount", "account", "provider_ref", "words", "owner", "note",
    )  # fmt: skip
    list_filter = ("state", "kind", "gateway", ("owner", admin.EmptyFieldListFilter))
    list_select_related = ("account",)
    search_fields = ("=provider_ref", "account__name", "=account__external_id", "words", "owner")
    ordering = ("-found_at", "-pk")
    exclude = ("state",)
    readonly_fields = ("amount", "stands")
    actions = ("take_over", "accept", "download")

    @admin.display(description="state", ordering="state")
    def stands(self, found: ReconciliationBreak) -> SafeString:
        return tag(found.get_state_display(), TONES[State(found.state)])

    @admin.display(description="amount", ordering="amount_minor")
    def amount(self, found: ReconciliationBreak) -> str:
        return money(found.amount_minor, found.currency)

    def acts(self, request: HttpRequest, record: ReconciliationBreak) -> list[tuple[str, str]]:
        """Take it over or accept it: acts of the list, which is narrowed to it."""
        is_mine = record.state == State.OPEN and self.has_handle_permission(request)
        url = reverse("admin:billing_reconciliationbreak_changelist")
        narrowed = f"{url}?{urlencode({'q': record.provider_ref})}"
        return [(narrowed, "Take over or accept, in the list")] if is_mine else []

    def has_handle_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("billing.settle_break")

    @admin.action(description="Take over", permissions=["handle"])
    def take_over(self, request: HttpRequest, queryset: QuerySet[ReconciliationBreak]) -> None:
        """Note that the person who asks looks after them."""
        taken = 0
        for found in queryset:
            try:
                reconciliation.take_over(break_id=found.pk, owner=_email(request))
                taken += 1
            except reconciliation.AlreadyEnded as ended:
                self.message_user(request, f"{ended}.", messages.WARNING)
        self.message_user(request, f"Yours now: {taken}.", messages.SUCCESS)

    @admin.action(description="Accept with a reason", permissions=["handle"])
    def accept(
        self, request: HttpRequest, queryset: QuerySet[ReconciliationBreak]
    ) -> HttpResponse | None:
        """Ask for the reason, then let them be as they are."""
        form = ReasonForm(request.POST if "confirmed" in request.POST else None)
        if not form.is_valid():
            return self._ask(request, queryset, form)
        accepted = 0
        for found in queryset:
            try:
                reconciliation.accept(
                    break_id=found.pk,
                    owner=_email(request),
                    reason=form.cleaned_data["reason"],
                    as_of=clock.now(),
                )
                accepted += 1
            except reconciliation.AlreadyEnded as ended:
                self.message_user(request, f"{ended}.", messages.WARNING)
        self.message_user(request, f"Accepted: {accepted}.", messages.SUCCESS)
        return None

    def _ask(
        self, request: HttpRequest, queryset: QuerySet[ReconciliationBreak], form: ReasonForm
    ) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": "Accept breaks",
            "opts": self.opts,
            "form": form,
            "count": queryset.count(),
            "breaks": [
                (found, money(found.amount_minor, found.currency)) for found in queryset[:20]
            ],
            "chosen": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "checkbox": ACTION_CHECKBOX_NAME,
            "select_across": request.POST.get("select_across", "0"),
        }
        return render(request, "admin/billing/reconciliationbreak/accept.html", context)

    @admin.action(description="Download as CSV", permissions=["view"])
    def download(
        self, request: HttpRequest, queryset: QuerySet[ReconciliationBreak]
    ) -> HttpResponse:
        """One line for each, amounts in major units."""
        response = HttpResponse(content_type="text/csv; charset=utf-8")
        response["Content-Disposition"] = 'attachment; filename="breaks.csv"'
        lines = csv.DictWriter(response, fieldnames=COLUMNS)
        lines.writeheader()
        for found in queryset.select_related("account"):
            lines.writerow(csv_cells.safe(_line(found)))
        return response


def _line(found: ReconciliationBreak) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "state": found.state,
        "gateway": found.gateway,
        "provider_ref": found.provider_ref,
        "account": found.account.external_id if found.account else "",
        "amount": str(to_major(found.amount_minor, found.currency)),
        "currency": found.currency,
        "words": found.words,
        "owner": found.owner,
        "note": found.note,
        "found_at": found.found_at.isoformat(),
        "resolved_at": found.resolved_at.isoformat() if found.resolved_at else "",
    }


def _payout(row: dict[str, Any]) -> list[str]:
    settled = row["settled_currency"]
    return [
        row["payout"],
        money(row["provider_minor"], row["currency"]),
        money(row["ledger_minor"], row["currency"]),
        money(row["fee_minor"], settled),
        money(row["net_minor"], settled),
        money(row["other_net_minor"], settled),
        row["exchange_rate"] or "–",
    ]


def _email(request: HttpRequest) -> str:
    assert isinstance(request.user, User), "the admin lets nobody else in"
    return request.user.email
