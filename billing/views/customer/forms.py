"""What customers type, checked. A message names the field, the value and what to enter instead."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from accounts.models import Account, PaymentMethod
from billing.gateways import Gateway

# How long from now a card may be good.
CARD_YEARS = 20


class AddCardForm(forms.Form):
    """One of a stand-in's cards, and until when it is good."""

    card = forms.ChoiceField(label=_("Sandbox card"), widget=forms.RadioSelect)
    expiry_month = forms.TypedChoiceField(
        label=_("Expiry month"),
        coerce=int,
        choices=[(month, f"{month:02d}") for month in range(1, 13)],
        initial=12,
    )
    expiry_year = forms.TypedChoiceField(label=_("Expiry year"), coerce=int)
    make_default = forms.BooleanField(
        label=_("Charge this card from now on"), required=False, initial=True
    )

    def __init__(
        self, *args: Any, account: Account, gateway: Gateway, as_of: datetime, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.gateway = gateway
        self.as_of = as_of
        cards = gateway.test_methods(account.external_id)
        self.fields["card"].choices = list(cards.items())  # type: ignore[attr-defined]
        years = range(as_of.year, as_of.year + CARD_YEARS + 1)
        self.fields["expiry_year"].choices = [(year, str(year)) for year in years]  # type: ignore[attr-defined]
        self.initial.setdefault("expiry_year", as_of.year + 3)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        month, year = cleaned.get("expiry_month"), cleaned.get("expiry_year")
        if (
            month
            and year
            and PaymentMethod(expiry_month=month, expiry_year=year).has_expired(self.as_of)
        ):
            self.add_error(
                "expiry_month",
                _("%(month)02d/%(year)d is over: choose a later month.")
                % {"month": month, "year": year},
            )
        return cleaned

    def card_details(self) -> dict[str, Any]:
        """The chosen card as payment_methods.add_card takes it."""
        card = self.gateway.read_method(self.cleaned_data["card"])
        return {
            "gateway": self.gateway.name,
            "token": card.token,
            "brand": card.brand,
            "last_four": card.last_four,
            "expiry_month": self.cleaned_data["expiry_month"],
            "expiry_year": self.cleaned_data["expiry_year"],
            "make_default": self.cleaned_data["make_default"],
        }


class AddMandateForm(forms.Form):
    """One of a stand-in's mandates for direct debits."""

    mandate = forms.ChoiceField(label=_("Sandbox mandate"), widget=forms.RadioSelect)
    make_default = forms.BooleanField(
        label=_("Collect by this direct debit from now on"), required=False, initial=True
    )

    def __init__(self, *args: Any, account: Account, gateway: Gateway, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gateway = gateway
        mandates = gateway.test_methods(account.external_id)
        self.fields["mandate"].choices = list(mandates.items())  # type: ignore[attr-defined]

    def mandate_details(self) -> dict[str, Any]:
        """The chosen mandate as payment_methods.add_card takes it."""
        return {
            "gateway": self.gateway.name,
            "make_default": self.cleaned_data["make_default"],
            **asdict(self.gateway.read_method(self.cleaned_data["mandate"])),
        }
