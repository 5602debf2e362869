"""What an account used and no invoice has billed yet, and about what it will cost."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from billing import pricing
from billing.invoices import rating
from billing.models import UsageSummary
from billing.money import round_half_up
from billing.views import numbers
from billing.views.access import Seat


@dataclass
class _Used:
    """One product by one unit."""

    quantity: Decimal = Decimal(0)
    # Major units; None once a part of it has no price yet.
    cost: Decimal | None = Decimal(0)


def since_last_invoice(seat: Seat) -> dict[str, Any] | None:
    """The open usage by product and unit, largest cost first, with the sum; None where there is none."""
    summaries = list(
        UsageSummary.objects.filter(account=seat.account, invoice=None)
        .select_related("product", "period")
        .order_by("period__month", "pk")
    )
    if not summaries:
        return None
    currency = seat.account.currency
    by_product = _by_product(summaries, currency=currency)
    costs = [used.cost for used in by_product.values()]
    return {
        "from": seat.reader.date(min(summary.first_at for summary in summaries)),
        "rows": [_row(seat, key, used) for key, used in sorted(by_product.items(), key=_dearest)],
        "total": _money(seat, sum((cost for cost in costs if cost is not None), Decimal(0))),
        "is_whole": all(cost is not None for cost in costs),
    }


def _by_product(
    summaries: Iterable[UsageSummary], *, currency: str
) -> dict[tuple[str, str], _Used]:
    estimate = _Estimate(summaries, currency=currency)
    by_product: dict[tuple[str, str], _Used] = defaultdict(_Used)
    for summary in summaries:
        used = by_product[summary.product.name, summary.unit]
        cost = estimate.of(summary)
        used.quantity += summary.quantity
        used.cost = None if used.cost is None or cost is None else used.cost + cost
    return by_product


class _Estimate:
    """As the invoice would price it now. Allowances and fees count once per period and price."""

    def __init__(self, summaries: Iterable[UsageSummary], *, currency: str) -> None:
        self._prices = rating.PriceBook(summaries)
        self._currency = currency
        self._free: dict[tuple[int, int], Decimal] = {}

    def of(self, summary: UsageSummary) -> Decimal | None:
        """In major units, unrounded; None where there is no price yet."""
        if summary.amount is not None:
            return summary.amount
        if summary.unit_price is not None:
            return pricing.by_unit(summary.quantity, unit_price=summary.unit_price).amount
        try:
            price = self._prices.of(summary, currency=self._currency)
        except rating.NoPrice:
            return None
        key = (summary.period_id, price.pk)
        fee = Decimal(0) if key in self._free else price.monthly_fee
        left = self._free.get(key, price.free_quantity)
        priced = pricing.by_unit(summary.quantity, unit_price=price.unit_price, free_quantity=left)
        self._free[key] = left - priced.free_quantity
        return fee + priced.amount


def _dearest(item: tuple[tuple[str, str], _Used]) -> tuple[Decimal, tuple[str, str]]:
    key, used = item
    return (-(used.cost or Decimal(0)), key)


def _row(seat: Seat, key: tuple[str, str], used: _Used) -> dict[str, str]:
    product, unit = key
    return {
        "product": product,
        "quantity": numbers.quantity(used.quantity, locale=seat.reader.locale),
        "unit": unit,
        "cost": "" if used.cost is None else _money(seat, used.cost),
    }


def _money(seat: Seat, amount: Decimal) -> str:
    currency = seat.account.currency
    return seat.reader.money(round_half_up(amount, currency), currency)
