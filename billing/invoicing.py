"""
Draft invoices from usage summaries, and issue them: numbered without gaps, booked, never changed again.

Both work on many accounts at once; the caller holds their locks. One account is a list of one.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal

from accounts import timeline
from accounts.models import Account, BillingEntity, TimelineEvent
from billing import credits, ledger, locks, metering, pricing
from billing.models import (
    BillingPeriod,
    CreditGrant,
    Invoice,
    LineItem,
    Price,
    UsageSummary,
)
from billing.models.usage import Kind
from billing.money import money, round_half_up


class NoPrice(Exception):
    """The catalogue has no price for something that was used."""


@dataclass
class Drafted:
    """What drafting made of each account: an invoice, nothing (no usage), or why it could not."""

    invoices: dict[int, Invoice] = field(default_factory=dict)
    unpriced: dict[int, NoPrice] = field(default_factory=dict)


# --- drafting


def draft_invoices(accounts: Sequence[Account], *, month: date) -> Drafted:
    """
    This will draft the invoices of the (locked) accounts for a month.

    Takes every summary not yet billed, of this month or an earlier one (late usage). An account
    without any gets no invoice. One that has an invoice for the month keeps it.
    """
    ids = [account.pk for account in accounts]
    invoiced = set(
        Invoice.objects.filter(account__in=ids, period__month=month).values_list(
            "account", flat=True
        )
    )
    tally = _open_summaries([pk for pk in ids if pk not in invoiced], month=month)
    periods = _periods(tally, month=month)
    prices = PriceBook(
        summary for summaries in tally.values() for summary in summaries if _needs_price(summary)
    )
    used = _Used(tally, month=month)

    drafted = Drafted()
    lines: list[LineItem] = []
    for account in accounts:
        if account.pk not in tally:
            continue
        invoice = Invoice(
            entity_id=account.entity_id,
            account=account,
            period=periods[account.pk],
            account_name=account.name,
            currency=account.currency,
        )
        try:
            own_lines = _lines(invoice, tally[account.pk], prices, used)
        except NoPrice as no_price:
            drafted.unpriced[account.pk] = no_price
            continue
        invoice.total_minor = sum(line.amount_minor for line in own_lines)
        drafted.invoices[account.pk] = invoice
        lines += own_lines
    _save(drafted.invoices.values(), lines)
    return drafted


def _open_summaries(account_ids: Sequence[int], *, month: date) -> dict[int, list[UsageSummary]]:
    summaries: dict[int, list[UsageSummary]] = defaultdict(list)
    # Locked: a tally that comes meanwhile waits, then starts a new summary for the next invoice.
    for summary in (
        UsageSummary.objects.select_for_update(of=("self",))
        .filter(account__in=account_ids, invoice=None, period__month__lte=month)
        .select_related("period", "product")
        .order_by("pk")
    ):
        summaries[summary.account_id].append(summary)
    for own in summaries.values():
        own.sort(key=lambda s: (s.period.month, s.product.code, s.kind, s.item, s.unit, s.pk))
    return summaries


def _periods(account_ids: Iterable[int], *, month: date) -> dict[int, BillingPeriod]:
    """Each account's period of the month; most were opened when their usage was tallied."""
    wanted = BillingPeriod.objects.filter(account__in=account_ids, month=month)
    periods = {period.account_id: period for period in wanted}
    if missing := [pk for pk in account_ids if pk not in periods]:
        # Opens one at a time across all workers: only where it must.
        metering.open_periods(month=month, account_ids=missing)
        periods = {period.account_id: period for period in wanted.all()}
    return periods


def _needs_price(summary: UsageSummary) -> bool:
    return summary.unit_price is None and summary.amount is None


def _lines(
    invoice: Invoice, summaries: Sequence[UsageSummary], prices: "PriceBook", used: "_Used"
) -> list[LineItem]:
    lines = []
    for summary in summaries:
        price = prices.of(summary, currency=invoice.currency) if _needs_price(summary) else None
        if price is not None and price.monthly_fee and used.fee_is_due(summary, price):
            lines.append(_fee_line(invoice, summary, price))
        lines.append(_usage_line(invoice, summary, price, used))
    for position, line in enumerate(lines, start=1):
        line.position = position
    return lines


def _usage_line(
    invoice: Invoice, summary: UsageSummary, price: Price | None, used: "_Used"
) -> LineItem:
    unit_price = price.unit_price if price else summary.unit_price
    free_quantity, amount = Decimal(0), summary.amount
    if unit_price is not None:
        allowance = used.allowance(summary, price) if price else Decimal(0)
        priced = pricing.by_unit(summary.quantity, unit_price=unit_price, free_quantity=allowance)
        free_quantity, amount = priced.free_quantity, priced.amount
        if price:
            used.take(summary, price, free_quantity)
    assert amount is not None, f"{summary} has no price, no stated price and no stated amount"
    return LineItem(
        invoice=invoice,
        kind=summary.kind,
        product=summary.product,
        summary=summary,
        price=price,
        description=" · ".join(filter(None, [summary.product.name, summary.item]))[:500],
        quantity=summary.quantity,
        free_quantity=free_quantity,
        unit=summary.unit,
        unit_price=unit_price,
        amount_unrounded=amount,
        amount_minor=round_half_up(amount, invoice.currency),
        starts_at=summary.period.starts_at,
        ends_at=summary.period.ends_at,
    )


def _fee_line(invoice: Invoice, summary: UsageSummary, price: Price) -> LineItem:
    return LineItem(
        invoice=invoice,
        kind=Kind.FEE,
        product=summary.product,
        price=price,
        description=f"{summary.product.name} · monthly fee"[:500],
        quantity=Decimal(1),
        unit="month",
        unit_price=price.monthly_fee,
        amount_unrounded=price.monthly_fee,
        amount_minor=round_half_up(price.monthly_fee, invoice.currency),
        starts_at=summary.period.starts_at,
        ends_at=summary.period.ends_at,
    )


def _save(invoices: Iterable[Invoice], lines: Sequence[LineItem]) -> None:
    Invoice.objects.bulk_create(invoices)
    LineItem.objects.bulk_create(lines)
    summaries = []
    for line in lines:
        if line.summary is not None:
            line.summary.invoice = line.invoice
            summaries.append(line.summary)
    UsageSummary.objects.bulk_update(summaries, ["invoice"])


class PriceBook:
    """The catalogue's prices of what some summaries used, read once."""

    def __init__(self, summaries: Iterable[UsageSummary]) -> None:
        self._prices: dict[tuple[int, str, str, str], list[Price]] = defaultdict(list)
        products = {summary.product_id for summary in summaries}
        for price in Price.objects.filter(product__in=products).order_by("starts_at"):
            key = (price.product_id, price.item, price.unit, price.currency)
            self._prices[key].append(price)

    def of(self, summary: UsageSummary, *, currency: str) -> Price:
        """
        The price in force when the summary's period starts, else the first to start within it.

        :raises NoPrice: if there is none, for the item or for the product as a whole.
        """
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


class _Used:
    """Which allowances and monthly fees of a period are used up: by this draft, or by earlier invoices."""

    def __init__(self, tally: Mapping[int, Sequence[UsageSummary]], *, month: date) -> None:
        self._free: dict[tuple[int, int], Decimal] = defaultdict(Decimal)
        self._fees: set[tuple[int, int]] = set()
        # Only late usage can meet a period that was billed before; or, where a later month was
        # closed first, the month's own.
        ahead = set(
            Invoice.objects.filter(account__in=tally, period__month__gt=month).values_list(
                "account", flat=True
            )
        )
        late = {
            s.period
            for pk, own in tally.items()
            for s in own
            if s.period.month < month or pk in ahead
        }
        periods = {(period.account_id, period.starts_at): period.pk for period in late}
        for line in LineItem.objects.filter(
            invoice__account__in={period.account_id for period in late}, price__isnull=False
        ).select_related("invoice"):
            period_id = periods.get((line.invoice.account_id, line.starts_at))
            if period_id is not None and line.price_id is not None:
                self._free[period_id, line.price_id] += line.free_quantity
                self._fees |= {(period_id, line.price_id)} if line.summary_id is None else set()

    def allowance(self, summary: UsageSummary, price: Price) -> Decimal:
        return price.free_quantity - self._free[summary.period_id, price.pk]

    def take(self, summary: UsageSummary, price: Price, free_quantity: Decimal) -> None:
        self._free[summary.period_id, price.pk] += free_quantity

    def fee_is_due(self, summary: UsageSummary, price: Price) -> bool:
        """True the first time it is asked for a price and period that no invoice charged the fee of."""
        key = (summary.period_id, price.pk)
        if key in self._fees:
            return False
        self._fees.add(key)
        return True


# --- issuing


def issue_invoices(
    invoices: Sequence[Invoice], *, accounts: Mapping[int, Account], as_of: datetime
) -> None:
    """
    This will issue drafts of (locked) accounts: number, book, apply credit, in one transaction.

    An invoice of zero or less is settled at once; one below zero becomes credit.
    """
    entities = BillingEntity.objects.in_bulk({invoice.entity_id for invoice in invoices})
    for entity in entities.values():
        _number([i for i in invoices if i.entity_id == entity.pk], entity=entity, as_of=as_of)
    Invoice.objects.bulk_update(
        invoices, ["state", "sequence", "number", "issued_at", "due_at", "settled_at"]
    )
    ledger.post([ledger.invoice_issued(invoice) for invoice in invoices if invoice.total_minor])
    CreditGrant.objects.bulk_create(_credit(i) for i in invoices if i.total_minor < 0)
    timeline.record(*(_issued(invoice) for invoice in invoices))
    credits.apply_credits([accounts[invoice.account_id] for invoice in invoices], as_of=as_of)


def _number(invoices: Sequence[Invoice], *, entity: BillingEntity, as_of: datetime) -> None:
    # Every issuing transaction of the entity waits here, so a number is never given twice or skipped.
    series = locks.number_series_for_update(entity)
    for sequence, invoice in enumerate(invoices, start=series.next_number):
        invoice.state = Invoice.State.ISSUED
        invoice.sequence = sequence
        invoice.number = f"{entity.invoice_prefix}-{sequence:06d}"
        invoice.issued_at = as_of
        invoice.due_at = as_of + timedelta(days=entity.payment_terms_days)
        invoice.settled_at = as_of if invoice.total_minor <= 0 else None
    series.next_number += len(invoices)
    series.save(update_fields=["next_number"])


def _credit(invoice: Invoice) -> CreditGrant:
    return CreditGrant(
        account_id=invoice.account_id,
        kind=CreditGrant.Kind.INVOICE,
        currency=invoice.currency,
        amount_minor=-invoice.total_minor,
        remaining_minor=-invoice.total_minor,
        reason=f"Invoice {invoice.number} is a credit",
    )


def _issued(invoice: Invoice) -> TimelineEvent:
    return timeline.event(
        account_id=invoice.account_id,
        kind="invoice.issued",
        summary=f"Invoice {invoice.number} issued: {money(invoice.total_minor, invoice.currency)}",
        invoice=invoice.pk,
    )
