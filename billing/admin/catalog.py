"""The catalogue: what is sold, and at which price from when on."""

from django.contrib import admin
from django.http import HttpRequest

from billing.models import Price, Product


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("name", "code", "created_at")
    search_fields = ("name", "code")
    readonly_fields = ("created_at",)


@admin.register(Price)
class PriceAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = (
        "product", "item", "unit", "currency", "unit_price", "free_quantity", "monthly_fee",
        "starts_at",
    )  # fmt: skip
    list_filter = ("currency",)
    list_select_related = ("product",)
    search_fields = ("product__name", "product__code", "item")
    autocomplete_fields = ("product",)
    ordering = ("product__name", "item", "-starts_at")

    def has_change_permission(self, request: HttpRequest, obj: Price | None = None) -> bool:
        """Once an invoice was priced with it, it stays: add one with a later start."""
        return super().has_change_permission(request, obj) and not _was_used(obj)

    def has_delete_permission(self, request: HttpRequest, obj: Price | None = None) -> bool:
        return super().has_delete_permission(request, obj) and not _was_used(obj)


def _was_used(price: Price | None) -> bool:
    return price is not None and price.lines.exists()
