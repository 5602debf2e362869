"""
Draft invoices from usage summaries.

Many accounts at once; the caller holds their locks. One account is a list of one.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from django.db import connection

from accounts.models import Account
from billing.invoices import rating
from billing.models import BillingPeriod, Invoice
from billing.usage import billing_periods


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
    invoiced = set(
        Invoice.objects.filter(
            account__in=[account.pk for account in accounts], period__month=month
        ).values_list("account", flat=True)
    )
    rated = rating.rate_open_usage(
        [account for account in accounts if account.pk not in invoiced], months_up_to=month
    )
    periods = _periods(rated, month=month)
    drafted = Drafted()
    for account in accounts:
        if account.pk not in rated:
            continue
        own = rated[account.pk]
        if own.unpriced:
            drafted.unpriced[account.pk] = own.unpriced[0]
            continue
        drafted.invoices[account.pk] = Invoice(
            entity_id=account.entity_id,
            account_id=account.pk,
            period_id=periods[account.pk],
            account_name=account.name,
            currency=account.currency,
            total_minor=own.total_minor,
        )
    _save(list(drafted.invoices.values()), rated)
    return drafted


def _periods(account_ids: Collection[int], *, month: date) -> dict[int, int]:
    """Each account's period of the month; most were opened when their usage was tallied."""
    wanted = BillingPeriod.objects.filter(account__in=account_ids, month=month)
    periods = dict(wanted.values_list("account", "pk"))
    if missing := [pk for pk in account_ids if pk not in periods]:
        # Opens one at a time across all workers: a close has done it before (open_periods_to_close).
        billing_periods.open_periods(month=month, account_ids=missing)
        periods = dict(wanted.values_list("account", "pk"))
    return periods


def _save(invoices: Sequence[Invoice], rated: Mapping[int, rating.Rated]) -> None:
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
        lines = [
            (invoice.pk, position, line)
            for invoice in invoices
            for position, line in enumerate(rated[invoice.account_id].lines, start=1)
        ]
        cursor.execute(
            LINES,
            {
                "invoices": [pk for pk, _, _ in lines],
                "positions": [position for _, position, _ in lines],
                "summaries": [line.summary.pk for _, _, line in lines],
                "fees": [line.is_fee for _, _, line in lines],
                "prices": [line.price.pk if line.price else None for _, _, line in lines],
                "unit_prices": [line.unit_price for _, _, line in lines],
                "free": [line.free_quantity for _, _, line in lines],
                "amounts": [line.amount for _, _, line in lines],
                "minors": [line.amount_minor for _, _, line in lines],
            },
        )
        usage = [(pk, line.summary.pk) for pk, _, line in lines if not line.is_fee]
        cursor.execute(
            TAKE_SUMMARIES,
            {
                "invoices": [pk for pk, _ in usage],
                "summaries": [summary_pk for _, summary_pk in usage],
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
