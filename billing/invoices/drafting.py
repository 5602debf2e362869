"""
Draft invoices from usage summaries, and issue them: numbered without gaps, booked, never changed again.

Both work on many accounts at once; the caller holds their locks. One account is a list of one.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import connection

from accounts import timeline
from accounts.models import Account, BillingEntity, TimelineEvent
from billing import ledger, locks, pricing
from billing.invoices import credits
from billing.models import (
    BillingPeriod,
    CreditGrant,
    Invoice,
    LineItem,
    Price,
    Product,
    UsageSummary,
)
from billing.money import money, round_half_up
from billing.usage import billing_periods


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
    Draft the invoices of the (locked) accounts for a month.

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
    lines: list[_Line] = []
    for account in accounts:
        if account.pk not in tally:
            continue
        invoice = Invoice(
            entity_id=account.entity_id,
            account_id=account.pk,
            period_id=periods[account.pk],
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
    _save(list(drafted.invoices.values()), lines)
    return drafted


@dataclass(slots=True)
class _Period:
    """A billing period, as pricing needs it."""

    pk: int
    month: date
    starts_at: datetime
    ends_at: datetime

    def __str__(self) -> str:
        return f"{self.month:%Y-%m}"


@dataclass(slots=True)
class _Tallied:
    """
    A usage summary that no invoice has taken, as pricing needs it.

    No model instance: a close reads some for every account, and what the line copies from its summary
    stays in the database.
    """

    pk: int
    account_id: int
    period: _Period
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


def _open_summaries(account_ids: Sequence[int], *, month: date) -> dict[int, list[_Tallied]]:
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
        pk: _Period(pk, month, starts_at, ends_at)
        for pk, month, starts_at, ends_at in BillingPeriod.objects.filter(
            pk__in={row[2] for row in rows}
        ).values_list("pk", "month", "starts_at", "ends_at")
    }
    products = Product.objects.in_bulk({row[3] for row in rows})
    summaries: dict[int, list[_Tallied]] = defaultdict(list)
    for pk, account_id, period_id, product_id, *facts in rows:
        summaries[account_id].append(
            _Tallied(pk, account_id, periods[period_id], products[product_id], *facts)
        )
    for own in summaries.values():
        own.sort(key=lambda s: (s.period.month, s.product.code, s.kind, s.item, s.unit, s.pk))
    return summaries


def _periods(account_ids: Collection[int], *, month: date) -> dict[int, int]:
    """Each account's period of the month; most were opened when their usage was tallied."""
    wanted = BillingPeriod.objects.filter(account__in=account_ids, month=month)
    periods = dict(wanted.values_list("account", "pk"))
    if missing := [pk for pk in account_ids if pk not in periods]:
        # Opens one at a time across all workers: a close has done it before (open_periods_to_close).
        billing_periods.open_periods(month=month, account_ids=missing)
        periods = dict(wanted.values_list("account", "pk"))
    return periods


def _needs_price(summary: "_Tallied") -> bool:
    return summary.unit_price is None and summary.amount is None


@dataclass(slots=True)
class _Line:
    """A line of a draft, priced; `_save` takes what it says from its summary."""

    invoice: Invoice
    summary: _Tallied
    price: Price | None
    unit_price: Decimal | None
    free_quantity: Decimal
    amount: Decimal
    amount_minor: int
    is_fee: bool = False
    position: int = 0


def _lines(
    invoice: Invoice, summaries: Sequence[_Tallied], prices: "PriceBook", used: "_Used"
) -> list[_Line]:
    lines = []
    for summary in summaries:
        price = prices.of(summary, currency=invoice.currency) if _needs_price(summary) else None
        if price is not None and price.monthly_fee and used.fee_is_due(summary, price):
            lines.append(_fee_line(invoice, summary, price))
        lines.append(_usage_line(invoice, summary, price, used))
    for position, line in enumerate(lines, start=1):
        line.position = position
    return lines


def _usage_line(invoice: Invoice, summary: _Tallied, price: Price | None, used: "_Used") -> _Line:
    unit_price = price.unit_price if price else summary.unit_price
    free_quantity, amount = Decimal(0), summary.amount
    if unit_price is not None:
        allowance = used.allowance(summary, price) if price else Decimal(0)
        priced = pricing.by_unit(summary.quantity, unit_price=unit_price, free_quantity=allowance)
        free_quantity, amount = priced.free_quantity, priced.amount
        if price:
            used.take(summary, price, free_quantity)
    assert amount is not None, f"{summary} has no price, no stated price and no stated amount"
    return _Line(
        invoice=invoice,
        summary=summary,
        price=price,
        unit_price=unit_price,
        free_quantity=free_quantity,
        amount=amount,
        amount_minor=round_half_up(amount, invoice.currency),
    )


def _fee_line(invoice: Invoice, summary: _Tallied, price: Price) -> _Line:
    return _Line(
        invoice=invoice,
        summary=summary,
        price=price,
        unit_price=price.monthly_fee,
        free_quantity=Decimal(0),
        amount=price.monthly_fee,
        amount_minor=round_half_up(price.monthly_fee, invoice.currency),
        is_fee=True,
    )


def _save(invoices: Sequence[Invoice], lines: Sequence[_Line]) -> None:
    if not invoices:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            DRAFTS,
            {
                "entities": [invoice.entity_id for invoice in invoices],
                "accounts": [invoice.account_id for invoice in invoices],
                "periods": [invoice.period_id for invoice in invoices],
                "names": [invoice.account_name for invoice in invoices],
                "currencies": [invoice.currency for invoice in invoices],
                "totals": [invoice.total_minor for invoice in invoices],
            },
        )
        pks = dict(cursor.fetchall())
        for invoice in invoices:
            invoice.pk = pks[invoice.account_id]
        cursor.execute(
            LINES,
            {
                "invoices": [line.invoice.pk for line in lines],
                "positions": [line.position for line in lines],
                "summaries": [line.summary.pk for line in lines],
                "fees": [line.is_fee for line in lines],
                "prices": [line.price.pk if line.price else None for line in lines],
                "unit_prices": [line.unit_price for line in lines],
                "free": [line.free_quantity for line in lines],
                "amounts": [line.amount for line in lines],
                "minors": [line.amount_minor for line in lines],
            },
        )
        usage = [line for line in lines if not line.is_fee]
        cursor.execute(
            TAKE_SUMMARIES,
            {
                "invoices": [line.invoice.pk for line in usage],
                "summaries": [line.summary.pk for line in usage],
            },
        )
        assert cursor.rowcount == len(usage), (
            "an invoice took a summary while its account was locked"
        )


# One statement each, however many accounts: a close drafts them by the hundred.
DRAFTS = """
INSERT INTO billing_invoice (entity_id, account_id, period_id, account_name, currency, total_minor, state)
SELECT *, 'DRAFT'
  FROM unnest(%(entities)s::bigint[], %(accounts)s::bigint[], %(periods)s::bigint[], %(names)s::text[],
              %(currencies)s::text[], %(totals)s::bigint[])
RETURNING account_id, id
"""

LINES = """
INSERT INTO billing_lineitem (invoice_id, position, kind, product_id, summary_id, price_id, description, quantity,
       free_quantity, unit, unit_price, amount_unrounded, amount_minor, starts_at, ends_at)
SELECT line.invoice_id, line.position, CASE WHEN line.is_fee THEN 'FEE' ELSE summary.kind END, summary.product_id,
       CASE WHEN line.is_fee THEN NULL ELSE summary.id END, line.price_id,
       left(CASE WHEN line.is_fee THEN product.name || ' · monthly fee'
                 ELSE concat_ws(' · ', nullif(product.name, ''), nullif(summary.item, '')) END, 500),
       CASE WHEN line.is_fee THEN 1 ELSE summary.quantity END, line.free_quantity,
       CASE WHEN line.is_fee THEN 'month' ELSE summary.unit END, line.unit_price, line.amount, line.amount_minor,
       period.starts_at, period.ends_at
  FROM unnest(%(invoices)s::bigint[], %(positions)s::int[], %(summaries)s::bigint[], %(fees)s::boolean[],
              %(prices)s::bigint[], %(unit_prices)s::numeric[], %(free)s::numeric[], %(amounts)s::numeric[],
              %(minors)s::bigint[])
       AS line(invoice_id, position, summary_id, is_fee, price_id, unit_price, free_quantity, amount, amount_minor)
  JOIN billing_usagesummary summary ON summary.id = line.summary_id
  JOIN billing_product product ON product.id = summary.product_id
  JOIN billing_billingperiod period ON period.id = summary.period_id
"""

TAKE_SUMMARIES = """
UPDATE billing_usagesummary summary
   SET invoice_id = line.invoice_id
  FROM unnest(%(invoices)s::bigint[], %(summaries)s::bigint[]) AS line(invoice_id, summary_id)
 WHERE summary.id = line.summary_id AND summary.invoice_id IS NULL
"""


class PriceBook:
    """The catalogue's prices of what some summaries used, read once."""

    def __init__(self, summaries: "Iterable[Priceable]") -> None:
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


Priceable = _Tallied | UsageSummary


class _Used:
    """Which allowances and monthly fees of a period are used up: by this draft, or by earlier invoices."""

    def __init__(self, tally: Mapping[int, Sequence[_Tallied]], *, month: date) -> None:
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

    def allowance(self, summary: _Tallied, price: Price) -> Decimal:
        return price.free_quantity - self._free[summary.period_id, price.pk]

    def take(self, summary: _Tallied, price: Price, free_quantity: Decimal) -> None:
        self._free[summary.period_id, price.pk] += free_quantity

    def fee_is_due(self, summary: _Tallied, price: Price) -> bool:
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
    Issue drafts of (locked) accounts: number, book, apply credit, in one transaction.

    An invoice of zero or less is settled at once; one below zero becomes credit.
    """
    entities = BillingEntity.objects.in_bulk({invoice.entity_id for invoice in invoices})
    for entity in entities.values():
        _number([i for i in invoices if i.entity_id == entity.pk], entity=entity, as_of=as_of)
    _save_issued(invoices)
    ledger.post([ledger.invoice_issued(invoice) for invoice in invoices if invoice.total_minor])
    CreditGrant.objects.bulk_create(_credit(i) for i in invoices if i.total_minor < 0)
    timeline.record(*(_issued(invoice) for invoice in invoices))
    credits.apply_credits([accounts[invoice.account_id] for invoice in invoices], as_of=as_of)


def _number(invoices: Sequence[Invoice], *, entity: BillingEntity, as_of: datetime) -> None:
    # Every issuing transaction of the entity waits here, so a number is never given twice or skipped,
    # and a later number never has an earlier time.
    series = locks.number_series_for_update(entity)
    issued_at = max(as_of, series.last_issued_at or as_of)
    for sequence, invoice in enumerate(invoices, start=series.next_number):
        invoice.state = Invoice.State.ISSUED
        invoice.sequence = sequence
        invoice.number = f"{entity.invoice_prefix}-{sequence:06d}"
        invoice.issued_at = issued_at
        invoice.due_at = issued_at + timedelta(days=entity.payment_terms_days)
        invoice.settled_at = issued_at if invoice.total_minor <= 0 else None
    series.next_number += len(invoices)
    series.last_issued_at = issued_at
    series.save(update_fields=["next_number", "last_issued_at"])


def _save_issued(invoices: Sequence[Invoice]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            ISSUE,
            {
                "invoices": [invoice.pk for invoice in invoices],
                "sequences": [invoice.sequence for invoice in invoices],
                "numbers": [invoice.number for invoice in invoices],
                "issued": [invoice.issued_at for invoice in invoices],
                "due": [invoice.due_at for invoice in invoices],
                "settled": [invoice.settled_at for invoice in invoices],
            },
        )


ISSUE = """
UPDATE billing_invoice invoice
   SET state = 'ISSUED', sequence = issued.sequence, number = issued.number, issued_at = issued.issued_at,
       due_at = issued.due_at, settled_at = issued.settled_at
  FROM unnest(%(invoices)s::bigint[], %(sequences)s::bigint[], %(numbers)s::text[], %(issued)s::timestamptz[],
              %(due)s::timestamptz[], %(settled)s::timestamptz[])
       AS issued(id, sequence, number, issued_at, due_at, settled_at)
 WHERE invoice.id = issued.id
"""


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
