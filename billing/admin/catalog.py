"""The catalogue: what is sold, and at which price from when on."""

from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import DecimalField
from django.http import HttpRequest

from billing.admin.in_words import InWords
from billing.models import Price, Product


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("name", "code", "created_at")
    search_fields = ("name", "code")
    readonly_fields = ("created_at",)


class PlainNumber(forms.NumberInput):
    """A number as people write it: "0.01" for what is stored with twelve decimals."""

    def format_value(self, value: Any) -> str | None:
        return (
            f"{value.normalize():f}" if isinstance(value, Decimal) else super().format_value(value)
        )


@admin.register(Price)
class PriceAdmin(InWords, admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = (
        "product", "item", "unit", "currency", "unit_price", "free_quantity", "monthly_fee",
        "starts_at",
    )  # fmt: skip
    list_filter = ("currency",)
    list_select_related = ("product",)
    search_fields = ("product__name", "product__code", "item")
    autocomplete_fields = ("product",)
    ordering = ("product__name", "item", "-starts_at")
    formfield_overrides = {DecimalField: {"widget": PlainNumber}}

    def has_change_permission(self, request: HttpRequest, obj: Price | None = None) -> bool:
        """Once an invoice was priced with it, it stays: add one with a later start."""
        return super().has_change_permission(request, obj) and not _was_used(obj)

    def has_delete_permission(self, request: HttpRequest, obj: Price | None = None) -> bool:
        return super().has_delete_permission(request, obj) and not _was_used(obj)


def _was_used(price: Price | None) -> bool:
    return price is not None and price.lines.exists()
