"""What people type, checked. A message names the field, the value and what to enter instead."""

import uuid
from dataclasses import asdict
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from django import forms
from django.utils.translation import gettext_lazy as _

from accounts.models import Account, BillingEntity, PaymentMethod
from billing import periods
from billing.gateways import Gateway
from billing.models import CloseRun, CreditGrant, IncomingTransfer
from billing.money import NotWhole, exponent, to_major, to_minor

# The books keep a bigint of minor units; this is far below it, and far above any invoice.
LARGEST_MINOR = 10**15
# How long from now a card may be good.
CARD_YEARS = 20


class MoneyForm(forms.Form):
    """An amount in the account's currency, why, and a token that makes sending it twice once."""

    amount = forms.DecimalField(max_digits=24, decimal_places=6)
    token = forms.UUIDField(widget=forms.HiddenInput)

    def __init__(self, *args: Any, account: Account, as_of: datetime, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.account = account
        self.as_of = as_of
        self.initial.setdefault("token", uuid.uuid4())
        self.fields["amount"].label = f"Amount in {account.currency}"
        step = Decimal(1).scaleb(-exponent(account.currency))
        self.fields["amount"].widget.attrs["step"] = format(step, "f")

    def clean_amount(self) -> Decimal:
        amount: Decimal = self.cleaned_data["amount"]
        currency = self.account.currency
        try:
            minor = to_minor(amount, currency)
        except NotWhole:
            raise forms.ValidationError(
                f"{amount:f} is finer than {currency}, which has {exponent(currency)} decimals:"
                f" enter {self._whole(amount)} instead."
            ) from None
        if minor <= 0:
            raise forms.ValidationError(f"{amount:f} is not above zero: enter an amount above 0.")
        if minor > LARGEST_MINOR:
            raise forms.ValidationError(
                f"{amount:f} is more than we book at once: check the zeros."
            )
        return amount

    def _whole(self, amount: Decimal) -> str:
        return f"{amount:.{exponent(self.account.currency)}f}"

    @property
    def amount_minor(self) -> int:
        """The checked amount in minor units."""
        return to_minor(self.cleaned_data["amount"], self.account.currency)


class GrantCreditForm(MoneyForm):
    """Credit for an account."""

    kind = forms.ChoiceField(
        choices=[
            (CreditGrant.Kind.GOODWILL.value, "Goodwill"),
            (CreditGrant.Kind.PROMOTIONAL.value, "Promotional"),
        ]
    )
    reason = forms.CharField(
        max_length=300, help_text="For colleagues: it stands on the account's timeline."
    )
    expires_on = forms.DateField(
        required=False,
        label="Last day it can be used",
        help_text="Through the end of this day where the account is. Empty: it does not expire.",
        widget=forms.DateInput(attrs={"type": "date"}),
    )
    field_order = ("amount", "kind", "reason", "expires_on", "token")

    def clean_expires_on(self) -> date | None:
        day: date | None = self.cleaned_data["expires_on"]
        if day is not None and _end_of(day, self.account.time_zone) <= self.as_of:
            raise forms.ValidationError(f"{day} is over: enter a later day, or leave it empty.")
        return day

    @property
    def expires_at(self) -> datetime | None:
        """The end of the chosen day in the account's time zone."""
        day: date | None = self.cleaned_data["expires_on"]
        return _end_of(day, self.account.time_zone) if day else None


def _end_of(day: date, time_zone: str) -> datetime:
    after = day + timedelta(days=1)
    return datetime(after.year, after.month, after.day, tzinfo=ZoneInfo(time_zone))


class RecordPaymentForm(MoneyForm):
    """Money that came in outside a gateway."""

    method = forms.ChoiceField(
        label="How it came in",
        choices=[(name, name) for name in ("Bank transfer", "Cash", "Cheque", "Other")],
    )
    reference = forms.CharField(
        max_length=150, help_text="What the bank statement says. Customers see it on the receipt."
    )
    reason = forms.CharField(
        max_length=300, help_text="For colleagues: it stands on the account's timeline."
    )
    field_order = ("amount", "method", "reference", "reason", "token")

    @property
    def method_in_words(self) -> str:
        """What the customer knows the payment by."""
        return f"{self.cleaned_data['method']} {self.cleaned_data['reference']}"


class ReasonForm(forms.Form):
    """Why a person does it."""

    reason = forms.CharField(
        max_length=200, help_text="For colleagues: it stands among the account's decisions."
    )


class SetAsideForm(ReasonForm):
    """Why rejected rows of usage will not be billed."""

    reason = forms.CharField(
        max_length=200,
        help_text="For colleagues: it stands on the import, and among the decisions.",
    )


class LaneReasonForm(ReasonForm):
    """Why a person pauses a provider's lane, or lets it go on."""

    reason = forms.CharField(
        max_length=200, help_text="For colleagues: it stands on the lane, and in its history."
    )


class RefundForm(MoneyForm):
    """How much of a payment to pay back, and why."""

    reason = forms.CharField(
        max_length=200,
        help_text="For colleagues. Paid back by hand: say how, such as the transfer's reference.",
    )
    field_order = ("amount", "reason", "token")

    def __init__(self, *args: Any, left_minor: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.left_minor = left_minor
        self.initial.setdefault("amount", to_major(left_minor, self.account.currency))

    def clean_amount(self) -> Decimal:
        amount = super().clean_amount()
        currency = self.account.currency
        if to_minor(amount, currency) > self.left_minor:
            left = to_major(self.left_minor, currency)
            raise forms.ValidationError(
                f"{amount:f} is more than is left of it: enter {left} or less."
            )
        return amount


class AssignTransferForm(ReasonForm):
    """Whose a bank transfer is, and how that is known."""

    account = forms.CharField(max_length=200, help_text="Its external id.")
    field_order = ("account", "reason")

    def __init__(self, *args: Any, transfer: IncomingTransfer, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.transfer = transfer

    def clean_account(self) -> str:
        external_id: str = self.cleaned_data["account"].strip()
        account = Account.objects.filter(external_id=external_id).first()
        if account is None:
            raise forms.ValidationError(
                f"There is no account {external_id!r}: look for it among the accounts."
            )
        if account.currency != self.transfer.currency:
            raise forms.ValidationError(
                f"{account} is billed in {account.currency}, this came in in"
                f" {self.transfer.currency}: choose another account, or send it back."
            )
        self.whose = account
        return external_id


class StartCloseForm(forms.Form):
    """Which month of which entity to close, and what to do where a balance has changed."""

    entity = forms.ModelChoiceField(
        queryset=BillingEntity.objects.order_by("name"), empty_label=None
    )
    month = forms.CharField(
        widget=forms.TextInput(
            attrs={"type": "month", "pattern": "[0-9]{4}-[0-9]{2}", "placeholder": "2026-10"}
        ),
        help_text="Year and month, such as 2026-10.",
    )
    when_balance_changed = forms.ChoiceField(
        label="When a balance has changed between invoice and charge",
        choices=CloseRun.ChangedBalance.choices,
    )

    def __init__(self, *args: Any, as_of: datetime, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial.setdefault("month", f"{periods.previous_month(as_of.date()):%Y-%m}")

    def clean_month(self) -> date:
        text: str = self.cleaned_data["month"]
        try:
            return CloseRun.month_of(text)
        except ValueError:
            raise forms.ValidationError(
                f"{text!r} is no month: enter year and month, such as 2026-10."
            ) from None


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
