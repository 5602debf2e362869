"""What an account used and no invoice has billed yet, and what it costs as an invoice would say it."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from django.db.models import Min

from accounts.models import Account
from billing import unbillable
from billing.invoices import rating
from billing.models import BillingPeriod, UsageSummary
from billing.views import numbers
from billing.views.access import Seat


@dataclass
class _Used:
    """One product by one unit, the monthly fees that are due for it included."""

    quantity: Decimal = Decimal(0)
    # Of what has a price.
    cost_minor: int = 0
    is_priced: bool = True


def since_last_invoice(seat: Seat, *, as_of: datetime) -> dict[str, Any] | None:
    """
    Show the open usage up to now by product and unit, largest cost first, with the sum.

    None where there is none, or the account cannot be billed as it stands. Each line is rounded as on the invoice, so that the sum is its total.
    """
    month = _latest_month(seat.account, as_of=as_of)
    if month is None or unbillable.why(seat.account):
        return None
    rated = rating.rate_open_usage([seat.account], months_up_to=month).get(seat.account.pk)
    if rated is None:
        return None
    by_product = _by_product(rated)
    return {
        "from": seat.reader.date(_first_at(rated)),
        "rows": [_row(seat, key, used) for key, used in sorted(by_product.items(), key=_dearest)],
        "total": _money(
            seat, sum(used.cost_minor for used in by_product.values() if used.is_priced)
        ),
        "is_whole": not rated.unpriced,
    }


def _latest_month(account: Account, *, as_of: datetime) -> date | None:
    """The month of the last billing period that has begun."""
    begun = BillingPeriod.objects.filter(account=account, starts_at__lte=as_of)
    return begun.order_by("-month").values_list("month", flat=True).first()


def _by_product(rated: rating.Rated) -> dict[tuple[str, str], _Used]:
    by_product: dict[tuple[str, str], _Used] = defaultdict(_Used)
    for line in rated.lines:
        used = by_product[line.summary.product.name, line.summary.unit]
        used.cost_minor += line.amount_minor
        if not line.is_fee:
            used.quantity += line.summary.quantity
    for no_price in rated.unpriced:
        used = by_product[no_price.summary.product.name, no_price.summary.unit]
        used.quantity += no_price.summary.quantity
        used.is_priced = False
    return by_product


def _first_at(rated: rating.Rated) -> datetime:
    summaries = {line.summary.pk for line in rated.lines}
    summaries |= {no_price.summary.pk for no_price in rated.unpriced}
    first_at: datetime = UsageSummary.objects.filter(pk__in=summaries).aggregate(
        first_at=Min("first_at")
    )["first_at"]
    return first_at


def _dearest(item: tuple[tuple[str, str], _Used]) -> tuple[int, tuple[str, str]]:
    key, used = item
    return (-used.cost_minor if used.is_priced else 0, key)


def _row(seat: Seat, key: tuple[str, str], used: _Used) -> dict[str, str]:
    product, unit = key
    return {
        "product": product,
        "quantity": numbers.quantity(used.quantity, locale=seat.reader.locale),
        "unit": unit,
        "cost": _money(seat, used.cost_minor) if used.is_priced else "",
    }


def _money(seat: Seat, amount_minor: int) -> str:
    return seat.reader.money(amount_minor, seat.account.currency)
