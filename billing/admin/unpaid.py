"""The least amounts that are asked for, and which accounts are followed up when, and why."""

from contextlib import suppress
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.http import HttpRequest

from accounts import clock
from accounts.admin import ReadOnlyAdmin
from billing import gateways
from billing.admin.cells import money
from billing.models import FollowUp, LeastAmount
from billing.money import UnknownCurrency, check_currency
from billing.payments import unpaid


class LeastAmountForm(forms.ModelForm):  # type: ignore[type-arg]
    """An amount of a currency that there is, which every provider here can charge."""

    def clean_currency(self) -> str:
        """Refuse a code that is no currency."""
        try:
            return check_currency(self.cleaned_data["currency"].upper())
        except UnknownCurrency as unknown:
            raise ValidationError(str(unknown)) from None

    def clean(self) -> dict[str, Any]:
        """Refuse less than a provider charges: what is asked for can be paid by card."""
        cleaned = super().clean() or {}
        if "currency" in cleaned and "amount_minor" in cleaned:
            self._check_providers(cleaned["currency"], cleaned["amount_minor"])
        return cleaned

    def _check_providers(self, currency: str, minor: int) -> None:
        for name in gateways.names():
            with suppress(gateways.Misconfigured):
                least = gateways.get(name).capabilities.minimum_minor.get(currency, 1)
                if minor < least:
                    self.add_error(
                        "amount_minor",
                        f"{name} charges no less than {money(least, currency)}: enter {least} or more.",
                    )


@admin.register(LeastAmount)
class LeastAmountAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    form = LeastAmountForm
    list_display = ("currency", "entity_or_all", "amount", "changed_at")
    list_filter = ("entity",)
    list_select_related = ("entity",)
    search_fields = ("=currency",)
    ordering = ("currency", "entity__name")

    @admin.display(description="entity", ordering="entity__name")
    def entity_or_all(self, least: LeastAmount) -> str:
        return str(least.entity or "every other entity")

    @admin.display(description="least amount", ordering="amount_minor")
    def amount(self, least: LeastAmount) -> str:
        return money(least.amount_minor, least.currency)

    def save_model(
        self,
        request: HttpRequest,
        obj: LeastAmount,
        form: Any,
        change: bool,  # noqa: FBT001 - Django's
    ) -> None:
        """Save it; holds for less are lifted by the next sweep."""
        super().save_model(request, obj, form, change)
        unpaid.look_at_once(entity_id=obj.entity_id, currency=obj.currency, as_of=clock.now())


@admin.register(FollowUp)
class FollowUpAdmin(ReadOnlyAdmin):
    list_display = ("account", "because", "look_at", "created_at")
    list_select_related = ("account",)
    search_fields = ("account__name", "account__external_id", "because")
    ordering = ("look_at",)
