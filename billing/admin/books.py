"""Invoices, credit and the ledger, to be looked at."""

from django.contrib import admin

from accounts.admin import CodeFilter
from billing.admin.cells import money
from billing.admin.in_words import ReadableAdmin, ReadableRows
from billing.models import (
    Allocation,
    CreditGrant,
    Invoice,
    LedgerAccount,
    LedgerEntry,
    LineItem,
    Posting,
)


class LineRows(ReadableRows):
    model = LineItem
    fields = (
        "position",
        "description",
        "quantity",
        "free_quantity",
        "unit",
        "unit_price",
        "amount",
    )
    readonly_fields = ("amount",)
    ordering = ("position",)

    @admin.display(description="amount")
    def amount(self, line: LineItem) -> str:
        return money(line.amount_minor, line.invoice.currency)


class AllocationRows(ReadableRows):
    model = Allocation
    fields = ("allocated_at", "invoice", "payment", "grant", "amount")
    readonly_fields = ("amount",)
    ordering = ("pk",)

    @admin.display(description="amount")
    def amount(self, allocation: Allocation) -> str:
        return money(allocation.amount_minor, allocation.invoice.currency)


@admin.register(Invoice)
class InvoiceAdmin(ReadableAdmin):
    list_display = ("__str__", "account", "period", "total", "state", "due_at", "settled_at")
    list_filter = (
        "state",
        ("settled_at", admin.EmptyFieldListFilter),
        "currency",
        "entity",
    )
    list_select_related = ("account", "period")
    search_fields = ("=number", "account__name", "account__external_id")
    ordering = ("-pk",)
    readonly_fields = ("total",)
    inlines = (LineRows, AllocationRows)

    @admin.display(description="total", ordering="total_minor")
    def total(self, invoice: Invoice) -> str:
        return money(invoice.total_minor, invoice.currency)


@admin.register(LineItem)
class LineItemAdmin(ReadableAdmin):
    list_display = ("description", "invoice", "product", "quantity", "unit", "amount")
    list_filter = (("kind", CodeFilter),)
    list_select_related = ("invoice", "product")
    search_fields = ("=invoice__number", "description")
    readonly_fields = ("amount",)

    @admin.display(description="amount", ordering="amount_minor")
    def amount(self, line: LineItem) -> str:
        return money(line.amount_minor, line.invoice.currency)


@admin.register(Allocation)
class AllocationAdmin(ReadableAdmin):
    list_display = ("allocated_at", "invoice", "payment", "grant", "amount")
    list_select_related = ("invoice", "payment", "grant")
    search_fields = ("=invoice__number",)
    readonly_fields = ("amount",)
    ordering = ("-pk",)

    @admin.display(description="amount", ordering="amount_minor")
    def amount(self, allocation: Allocation) -> str:
        return money(allocation.amount_minor, allocation.invoice.currency)


@admin.register(CreditGrant)
class CreditGrantAdmin(ReadableAdmin):
    list_display = (
        "reason", "account", "kind", "amount", "unused", "expires_at", "granted_by", "granted_at",
    )  # fmt: skip
    list_filter = ("kind", "currency")
    list_select_related = ("account",)
    search_fields = ("account__name", "account__external_id", "reason")
    ordering = ("-pk",)
    readonly_fields = ("amount", "unused")
    exclude = ("remaining_minor", "token")
    inlines = (AllocationRows,)

    @admin.display(description="amount", ordering="amount_minor")
    def amount(self, grant: CreditGrant) -> str:
        return money(grant.amount_minor, grant.currency)

    @admin.display(description="unused", ordering="remaining_minor")
    def unused(self, grant: CreditGrant) -> str:
        return money(grant.remaining_minor, grant.currency)


class PostingRows(ReadableRows):
    model = Posting
    fields = ("ledger_account", "amount", "balance_after")
    readonly_fields = ("amount", "balance_after")
    ordering = ("pk",)

    @admin.display(description="amount")
    def amount(self, posting: Posting) -> str:
        return money(posting.amount_minor, posting.ledger_account.currency)

    @admin.display(description="balance after")
    def balance_after(self, posting: Posting) -> str:
        return money(posting.balance_minor, posting.ledger_account.currency)


@admin.register(LedgerEntry)
class LedgerEntryAdmin(ReadableAdmin):
    list_display = ("posted_at", "account", "kind", "description", "currency")
    list_filter = ("kind", "currency")
    list_select_related = ("account",)
    search_fields = ("account__name", "account__external_id", "=source")
    ordering = ("-pk",)
    inlines = (PostingRows,)


@admin.register(LedgerAccount)
class LedgerAccountAdmin(ReadableAdmin):
    list_display = ("kind", "currency", "account", "entity", "gateway")
    list_filter = ("kind", "currency")
    list_select_related = ("account", "entity")
    search_fields = ("account__name", "account__external_id")


@admin.register(Posting)
class PostingAdmin(ReadableAdmin):
    list_display = ("posted_at", "entry", "ledger_account", "amount", "balance_after")
    list_filter = ("ledger_account__kind", "ledger_account__currency")
    list_select_related = ("entry", "ledger_account")
    search_fields = ("entry__account__external_id", "=entry__source")
    ordering = ("-pk",)
    readonly_fields = ("amount", "balance_after")
    exclude = ("balance_minor",)

    @admin.display(description="amount", ordering="amount_minor")
    def amount(self, posting: Posting) -> str:
        return money(posting.amount_minor, posting.ledger_account.currency)

    @admin.display(description="balance after")
    def balance_after(self, posting: Posting) -> str:
        return money(posting.balance_minor, posting.ledger_account.currency)
