"""What staff type on the pages of runs, checked. A message names the field, the value and what to enter instead."""

from datetime import date, datetime
from typing import Any

from django import forms

from accounts.models import BillingEntity
from billing import periods
from billing.models import CloseRun


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
