"""
Draft invoices from usage summaries.

Many accounts at once; the caller holds their locks. One account is a list of one.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal

from django.db import connection

from accounts.models import Account
from billing import pricing
from billing.invoices import rating
from billing.models import (
    BillingPeriod,
    Invoice,
    Price,
)
from billing.money import round_half_up
from billing.usage import tallying


@dataclass
class Drafted:
    """What drafting made of each account: an invoice, nothing (no usage), or why it could not."""

    invoices: dict[int, Invoice] = field(default_factory=dict)
    unpriced: dict[int, rating.NoPrice] = field(default_factory=dict)


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
    tally = rating.open_summaries([pk for pk in ids if pk not in invoiced], month=month)
    periods = _periods(tally, month=month)
    prices = rating.PriceBook(
        summary
        for summaries in tally.values()
        for summary in summaries
        if rating.needs_price(summary)
    )
    used = rating.Used(tally, month=month)

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
        except rating.NoPrice as no_price:
            drafted.unpriced[account.pk] = no_price
            continue
        invoice.total_minor = sum(line.amount_minor for line in own_lines)
        drafted.invoices[account.pk] = invoice
        lines += own_lines
    _save(list(drafted.invoices.values()), lines)
    return drafted


def _periods(account_ids: Collection[int], *, month: date) -> dict[int, int]:
    """Each account's period of the month; most were opened when their usage was tallied."""
    wanted = BillingPeriod.objects.filter(account__in=account_ids, month=month)
    periods = dict(wanted.values_list("account", "pk"))
    if missing := [pk for pk in account_ids if pk not in periods]:
        # Opens one at a time across all workers: a close has done it before (open_periods_to_close).
        tallying.open_periods(month=month, account_ids=missing)
        periods = dict(wanted.values_list("account", "pk"))
    return periods


@dataclass(slots=True)
class _Line:
    """A line of a draft, priced; `_save` takes what it says from its summary."""

    invoice: Invoice
    summary: rating.Tallied
    price: Price | None
    unit_price: Decimal | None
    free_quantity: Decimal
    amount: Decimal
    amount_minor: int
    is_fee: bool = False
    position: int = 0


def _lines(
    invoice: Invoice,
    summaries: Sequence[rating.Tallied],
    prices: rating.PriceBook,
    used: rating.Used,
) -> list[_Line]:
    lines = []
    for summary in summaries:
        price = (
            prices.of(summary, currency=invoice.currency) if rating.needs_price(summary) else None
        )
        if price is not None and price.monthly_fee and used.fee_is_due(summary, price):
            lines.append(_fee_line(invoice, summary, price))
        lines.append(_usage_line(invoice, summary, price, used))
    for position, line in enumerate(lines, start=1):
        line.position = position
    return lines


def _usage_line(
    invoice: Invoice, summary: rating.Tallied, price: Price | None, used: rating.Used
) -> _Line:
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


def _fee_line(invoice: Invoice, summary: rating.Tallied, price: Price) -> _Line:
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
