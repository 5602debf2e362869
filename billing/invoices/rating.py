"""
Price the usage that no invoice has taken: by what it states itself, or by the catalogue.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from billing.models import (
    BillingPeriod,
    Invoice,
    LineItem,
    Price,
    Product,
    UsageSummary,
)


class NoPrice(Exception):
    """The catalogue has no price for something that was used."""


@dataclass(slots=True)
class Period:
    """A billing period, as pricing needs it."""

    pk: int
    month: date
    starts_at: datetime
    ends_at: datetime

    def __str__(self) -> str:
        return f"{self.month:%Y-%m}"


@dataclass(slots=True)
class Tallied:
    """
    A usage summary that no invoice has taken, as pricing needs it.

    No model instance: a close reads some for every account, and what the line copies from its summary
    stays in the database.
    """

    pk: int
    account_id: int
    period: Period
    product: Product
    kind: str
    item: str
    unit: str
    unit_price: Decimal | None
    quantity: Decimal
    amount: Decimal | None

    @property
    def period_id(self) -> int:
        return self.period.pk

    @property
    def product_id(self) -> int:
        return self.product.pk


def open_summaries(account_ids: Sequence[int], *, month: date) -> dict[int, list[Tallied]]:
    """By account, in the order of their lines. A tally waits for the accounts' locks, so they stand still."""
    rows = list(
        UsageSummary.objects.filter(
            account__in=account_ids, invoice=None, period__month__lte=month
        ).values_list(
            *("pk", "account_id", "period_id", "product_id", "kind", "item", "unit"),
            *("unit_price", "quantity", "amount"),
        )
    )
    periods = {
        pk: Period(pk, month, starts_at, ends_at)
        for pk, month, starts_at, ends_at in BillingPeriod.objects.filter(
            pk__in={row[2] for row in rows}
        ).values_list("pk", "month", "starts_at", "ends_at")
    }
    products = Product.objects.in_bulk({row[3] for row in rows})
    summaries: dict[int, list[Tallied]] = defaultdict(list)
    for pk, account_id, period_id, product_id, *facts in rows:
        summaries[account_id].append(
            Tallied(pk, account_id, periods[period_id], products[product_id], *facts)
        )
    for own in summaries.values():
        own.sort(key=lambda s: (s.period.month, s.product.code, s.kind, s.item, s.unit, s.pk))
    return summaries


def needs_price(summary: Tallied) -> bool:
    return summary.unit_price is None and summary.amount is None


class PriceBook:
    """The catalogue's prices of what some summaries used, read once."""

    def __init__(self, summaries: Iterable["Priceable"]) -> None:
        self._found: dict[tuple[Any, ...], Price] = {}
        self._prices: dict[tuple[int, str, str, str], list[Price]] = defaultdict(list)
        products = {summary.product_id for summary in summaries}
        for price in Price.objects.filter(product__in=products).order_by("starts_at"):
            key = (price.product_id, price.item, price.unit, price.currency)
            self._prices[key].append(price)

    def of(self, summary: "Priceable", *, currency: str) -> Price:
        """
        The price in force when the summary's period starts, else the first to start within it.

        :raises NoPrice: if there is none, for the item or for the product as a whole.
        """
        period = summary.period
        key = (summary.product_id, summary.item, summary.unit, currency, period.starts_at)
        # Most accounts of a close have used the same, in the same few time zones.
        if (*key, period.ends_at) not in self._found:
            self._found[*key, period.ends_at] = self._find(summary, currency)
        return self._found[*key, period.ends_at]

    def _find(self, summary: "Priceable", currency: str) -> Price:
        own, general = (
            self._prices.get((summary.product_id, item, summary.unit, currency), [])
            for item in (summary.item, "")
        )
        for prices in (own, general):
            in_force = [price for price in prices if price.starts_at <= summary.period.starts_at]
            if in_force:
                return in_force[-1]
        for prices in (own, general):
            starting = [price for price in prices if price.starts_at < summary.period.ends_at]
            if starting:
                return starting[0]
        raise NoPrice(
            f"no price for {summary.product.code} {summary.item!r} per {summary.unit!r} in {currency}"
            f" in {summary.period}: add one to the catalogue, then retry this step"
        )


Priceable = Tallied | UsageSummary


class Used:
    """Which allowances and monthly fees of a period are used up: by this draft, or by earlier invoices."""

    def __init__(self, tally: Mapping[int, Sequence[Tallied]], *, month: date) -> None:
        self._free: dict[tuple[int, int], Decimal] = defaultdict(Decimal)
        self._fees: set[tuple[int, int]] = set()
        # Only late usage can meet a period that was billed before; or, where a later month was
        # closed first, the month's own.
        ahead = set(
            Invoice.objects.filter(account__in=tally, period__month__gt=month).values_list(
                "account", flat=True
            )
        )
        periods = {
            (pk, s.period.starts_at): s.period.pk
            for pk, own in tally.items()
            for s in own
            if s.period.month < month or pk in ahead
        }
        if not periods:
            return
        for line in LineItem.objects.filter(
            invoice__account__in={account_id for account_id, _ in periods}, price__isnull=False
        ).select_related("invoice"):
            period_id = periods.get((line.invoice.account_id, line.starts_at))
            if period_id is not None and line.price_id is not None:
                self._free[period_id, line.price_id] += line.free_quantity
                self._fees |= {(period_id, line.price_id)} if line.summary_id is None else set()

    def allowance(self, summary: Tallied, price: Price) -> Decimal:
        return price.free_quantity - self._free[summary.period_id, price.pk]

    def take(self, summary: Tallied, price: Price, free_quantity: Decimal) -> None:
        self._free[summary.period_id, price.pk] += free_quantity

    def fee_is_due(self, summary: Tallied, price: Price) -> bool:
        """True the first time it is asked for a price and period that no invoice charged the fee of."""
        key = (summary.period_id, price.pk)
        if key in self._fees:
            return False
        self._fees.add(key)
        return True
