"""What staff type in the admin, checked. A message names the field, the value and what to enter instead."""

import uuid
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from django import forms

from accounts import zones
from accounts.models import Account
from billing.models import CreditGrant, IncomingTransfer
from billing.money import NotWhole, exponent, to_major, to_minor

# The books keep a bigint of minor units; this is far below it, and far above any invoice.
LARGEST_MINOR = 10**15


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
    return datetime(after.year, after.month, after.day, tzinfo=ZoneInfo(zones.or_utc(time_zone)))


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
