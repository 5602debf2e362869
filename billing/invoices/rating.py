"""
Price the usage that no invoice has taken: for the invoice that will, a rehearsal of it, and the customer's page.

One function for all of them, so that what a page shows is what the invoice will say. It writes nothing.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from django.db.models import Q

from accounts.models import Account
from billing import pricing
from billing.models import BillingPeriod, Invoice, LineItem, Price, Product, UsageSummary
from billing.money import round_half_up


@dataclass(slots=True)
class Rated:
    """One account's open usage: its lines in the order of an invoice, and why the rest has none."""

    lines: list["RatedLine"] = field(default_factory=list)
    unpriced: list["NoPrice"] = field(default_factory=list)

    @property
    def total_minor(self) -> int:
        """Of what has a price."""
        return sum(line.amount_minor for line in self.lines)


@dataclass(slots=True)
class RatedLine:
    """What a summary costs, or the monthly fee that is due because of it."""

    summary: "OpenSummary"
    # The catalogue's; None where the source stated its own.
    price: Price | None
    # Major units. None where the source stated the amount as a whole.
    unit_price: Decimal | None
    free_quantity: Decimal
    # Major units, unrounded; and rounded to minor units, once.
    amount: Decimal
    amount_minor: int
    is_fee: bool = False


def rate_open_usage(accounts: Collection[Account], *, months_up_to: date) -> dict[int, Rated]:
    """
    Price the open usage of the accounts' billing periods up to and including this month, by account.

    The invoice of a month takes that month and late usage of those before; pass the month that has
    begun last for everything up to now. Accounts without such usage are left out. Free quantities and
    monthly fees count once per period and price, whichever invoice they were on.

    To act on it, hold the accounts' locks: tallies and invoices wait for them. Without, it is an estimate.
    """
    usage = _open_usage([account.pk for account in accounts], months_up_to=months_up_to)
    catalogue = _Catalogue(
        summary for own in usage.values() for summary in own if summary.needs_price
    )
    used = _Used(usage, months_up_to=months_up_to)
    return {
        account.pk: _rate(usage[account.pk], account.currency, catalogue, used)
        for account in accounts
        if account.pk in usage
    }


@dataclass(slots=True)
class Period:
    """A billing period, as rating needs it."""

    pk: int
    month: date
    starts_at: datetime
    ends_at: datetime

    def __str__(self) -> str:
        return f"{self.month:%Y-%m}"


@dataclass(slots=True)
class OpenSummary:
    """
    A usage summary that no invoice has taken, as rating needs it.

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
    def needs_price(self) -> bool:
        """Whether the source stated none, so that the catalogue is asked."""
        return self.unit_price is None and self.amount is None


def _open_usage(
    account_ids: Collection[int], *, months_up_to: date
) -> dict[int, list[OpenSummary]]:
    """By account, in the order of their lines."""
    rows = list(
        UsageSummary.objects.filter(
            account__in=account_ids, invoice=None, period__month__lte=months_up_to
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
    usage: dict[int, list[OpenSummary]] = defaultdict(list)
    for pk, account_id, period_id, product_id, *facts in rows:
        usage[account_id].append(
            OpenSummary(pk, account_id, periods[period_id], products[product_id], *facts)
        )
    for own in usage.values():
        own.sort(key=lambda s: (s.period.month, s.product.code, s.kind, s.item, s.unit, s.pk))
    return usage


def _rate(
    summaries: Iterable[OpenSummary], currency: str, catalogue: "_Catalogue", used: "_Used"
) -> Rated:
    rated = Rated()
    for summary in summaries:
        try:
            price = catalogue.price_of(summary, currency=currency) if summary.needs_price else None
        except NoPrice as no_price:
            rated.unpriced.append(no_price)
            continue
        if price is not None and price.monthly_fee and used.fee_is_due(summary, price):
            rated.lines.append(_fee_line(summary, price, currency))
        rated.lines.append(_usage_line(summary, price, currency, used))
    return rated


def _usage_line(
    summary: OpenSummary, price: Price | None, currency: str, used: "_Used"
) -> RatedLine:
    unit_price = price.unit_price if price else summary.unit_price
    free_quantity, amount = Decimal(0), summary.amount
    if unit_price is not None:
        allowance = used.allowance(summary, price) if price else Decimal(0)
        priced = pricing.by_unit(summary.quantity, unit_price=unit_price, free_quantity=allowance)
        free_quantity, amount = priced.free_quantity, priced.amount
        if price:
            used.take(summary, price, free_quantity)
    assert amount is not None, f"{summary} has no price, no stated price and no stated amount"
    return RatedLine(
        summary=summary,
        price=price,
        unit_price=unit_price,
        free_quantity=free_quantity,
        amount=amount,
        amount_minor=round_half_up(amount, currency),
    )


def _fee_line(summary: OpenSummary, price: Price, currency: str) -> RatedLine:
    return RatedLine(
        summary=summary,
        price=price,
        unit_price=price.monthly_fee,
        free_quantity=Decimal(0),
        amount=price.monthly_fee,
        amount_minor=round_half_up(price.monthly_fee, currency),
        is_fee=True,
    )


class NoPrice(Exception):
    """The catalogue has no price for something that was used."""

    def __init__(self, summary: OpenSummary, *, currency: str) -> None:
        super().__init__(
            f"no price for {summary.product.code} {summary.item!r} per {summary.unit!r} in {currency}"
            f" in {summary.period}: add one to the catalogue, then retry this step"
        )
        self.summary = summary


class _Catalogue:
    """The catalogue's prices of what some summaries used, read once."""

    def __init__(self, summaries: Iterable[OpenSummary]) -> None:
        self._found: dict[tuple[Any, ...], Price] = {}
        self._prices: dict[tuple[int, str, str, str], list[Price]] = defaultdict(list)
        products = {summary.product.pk for summary in summaries}
        for price in Price.objects.filter(product__in=products).order_by("starts_at"):
            key = (price.product_id, price.item, price.unit, price.currency)
            self._prices[key].append(price)

    def price_of(self, summary: OpenSummary, *, currency: str) -> Price:
        """
        The price in force when the summary's period starts, else the first to start within it.

        :raises NoPrice: if there is none, for the item or for the product as a whole.
        """
        period = summary.period
        key = (summary.product.pk, summary.item, summary.unit, currency, period.starts_at)
        # Most accounts of a close have used the same, in the same few time zones.
        if (*key, period.ends_at) not in self._found:
            self._found[*key, period.ends_at] = self._find(summary, currency)
        return self._found[*key, period.ends_at]

    def _find(self, summary: OpenSummary, currency: str) -> Price:
        own, general = (
            self._prices.get((summary.product.pk, item, summary.unit, currency), [])
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
        raise NoPrice(summary, currency=currency)


class _Used:
    """Which allowances and monthly fees of a period are used up: by this rating, or by earlier invoices."""

    def __init__(self, usage: Mapping[int, Collection[OpenSummary]], *, months_up_to: date) -> None:
        self._free: dict[tuple[int, int], Decimal] = defaultdict(Decimal)
        self._fees: set[tuple[int, int]] = set()
        # A period was billed before where its usage is late; the last month's own only where that month
        # has its invoice, or a later one was closed first.
        ahead = set(
            Invoice.objects.filter(account__in=usage, period__month__gte=months_up_to).values_list(
                "account", flat=True
            )
        )
        periods = {
            (pk, s.period.starts_at): s.period.pk
            for pk, own in usage.items()
            for s in own
            if s.period.month < months_up_to or pk in ahead
        }
        if not periods:
            return
        billed = (
            LineItem.objects.filter(
                invoice__account__in={account_id for account_id, _ in periods},
                starts_at__in={starts_at for _, starts_at in periods},
                price__isnull=False,
            )
            .annotate(is_fee=Q(summary=None))
            .values_list("invoice__account", "starts_at", "price", "free_quantity", "is_fee")
        )
        for account_id, starts_at, price_id, free_quantity, is_fee in billed:
            period_id = periods.get((account_id, starts_at))
            if period_id is None:
                continue
            self._free[period_id, price_id] += free_quantity
            if is_fee:
                self._fees.add((period_id, price_id))

    def allowance(self, summary: OpenSummary, price: Price) -> Decimal:
        return price.free_quantity - self._free[summary.period.pk, price.pk]

    def take(self, summary: OpenSummary, price: Price, free_quantity: Decimal) -> None:
        self._free[summary.period.pk, price.pk] += free_quantity

    def fee_is_due(self, summary: OpenSummary, price: Price) -> bool:
        """True the first time it is asked for a price and period that no invoice charged the fee of."""
        key = (summary.period.pk, price.pk)
        if key in self._fees:
            return False
        self._fees.add(key)
        return True
