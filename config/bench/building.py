"""Accounts with a month of usage, made set-wise: as many as asked for, the same every time."""

from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any

from django.db import connection, transaction

from accounts.models import BillingEntity
from billing import periods
from billing.models import Price, Product, UsageBatch
from billing.usage import billing_periods, partitions, tallying

CURRENCY = "EUR"
ZONES = ("UTC", "Europe/Budapest", "America/New_York", "Asia/Tokyo")
LINES_PER_ACCOUNT = 5
# Of a hundred customers: two cards decline, one has none.
DECLINED_PERCENT, CARDLESS_PERCENT = 2, 1

FILLED = (
    "accounts_account, accounts_paymentmethod, billing_billingperiod, billing_usageevent,"
    " billing_usagesummary"
)

ACCOUNTS = """
INSERT INTO accounts_account (entity_id, external_id, name, currency, time_zone, language, email, state)
SELECT %(entity)s, %(slug)s || '-' || n, 'Customer ' || n, %(currency)s,
       (%(zones)s::text[])[1 + n %% array_length(%(zones)s, 1)], 'en',
       'customer' || n || '@' || %(slug)s || '.example', 'ACTIVE'
  FROM generate_series(1, %(accounts)s) n
"""

CARDS = """
INSERT INTO accounts_paymentmethod (account_id, gateway, token, customer_ref, brand, last_four, expiry_month,
       expiry_year, mandate_status, is_default, state, blocked_because)
SELECT id, 'sandbox', CASE WHEN n < %(declined)s THEN 'sandbox_insufficient' ELSE 'sandbox_visa' END, '',
       'Visa', '4242', 12, 2099, '', true, 'ACTIVE', ''
  FROM (SELECT id, row_number() OVER (ORDER BY id) %% 100 AS n
          FROM accounts_account WHERE entity_id = %(entity)s) a
 WHERE n < 100 - %(cardless)s
"""

# One event per account, product and day of the month that has one.
EVENTS = """
INSERT INTO billing_usageevent (batch_id, account_id, product_id, source, event_id, kind, item, unit, quantity,
       starts_at, ends_at, effective_at, description, attributes)
SELECT %(batch)s, a.id, p.id, 'bench', %(source)s || '-' || a.id || '-' || p.id || '-' || e, 'USAGE', '', 'hour',
       (1 + (a.id * 7919 + p.id * 104729 + e * 31) %% 100000) / 997.0,
       at, at + interval '1 hour', at, '', '{}'
  FROM accounts_account a
 CROSS JOIN unnest(%(products)s::bigint[]) AS p(id)
 CROSS JOIN generate_series(1, %(events)s) e
 CROSS JOIN LATERAL (SELECT %(first_at)s::timestamptz + e %% 20 * interval '1 day' AS at) t
 WHERE a.entity_id = %(entity)s
"""


def build_catalogue(*, since: datetime) -> list[Product]:
    """Make five products priced by the hour, one of them with a free quantity and a fee."""
    products = [
        Product.objects.create(code=f"bench-{n}", name=f"Server of size {n}")
        for n in range(1, LINES_PER_ACCOUNT + 1)
    ]
    Price.objects.bulk_create(
        Price(
            product=product,
            unit="hour",
            currency=CURRENCY,
            unit_price="0.0357",
            free_quantity=10 if n == 0 else 0,
            starts_at=since,
        )
        for n, product in enumerate(products)
    )
    return products


def build_entity(
    slug: str,
    *,
    accounts: int,
    month: date,
    products: list[Product],
    as_of: datetime,
    say: Callable[[str], object],
) -> BillingEntity:
    """Make an entity with so many accounts, their cards and their usage, tallied as it is in production."""
    say(f"Building {accounts:,} accounts ({slug})")
    with transaction.atomic():
        entity = BillingEntity.objects.create(
            slug=slug,
            name=f"Bench {slug}",
            invoice_prefix=slug,
            # Holds are placed in the close.
            payment_terms_days=None,
            grace_days=None,
        )
        with connection.cursor() as cursor:
            names: dict[str, Any] = {"entity": entity.pk, "slug": slug, "accounts": accounts}
            cursor.execute(ACCOUNTS, names | {"currency": CURRENCY, "zones": list(ZONES)})
            shares = {"declined": DECLINED_PERCENT, "cardless": CARDLESS_PERCENT}
            cursor.execute(CARDS, names | shares)
    billing_periods.open_periods(month=month)
    add_usage(entity, month=month, products=products, events=1, source=slug)
    say(f"Tallying {slug}")
    tallying.tally(as_of=as_of)
    with connection.cursor() as cursor:
        # As autovacuum would have done between the imports and the close; it leaves empty tables alone.
        cursor.execute(f"VACUUM ANALYZE {FILLED}")
    return entity


def add_usage(
    entity: BillingEntity, *, month: date, products: list[Product], events: int, source: str
) -> int:
    """Store so many events per account and product in one batch, not tallied. Returns how many."""
    partitions.ensure_partitions([periods.previous_month(month), month, periods.next_month(month)])
    # From the third day on, so that it is the same month in every zone.
    first_at = periods.starts_at(month, "UTC") + timedelta(days=2)
    with transaction.atomic(), connection.cursor() as cursor:
        batch = UsageBatch.objects.create(source="bench", name=source, sha256="0" * 64)
        cursor.execute(
            EVENTS,
            {
                "batch": batch.pk,
                "entity": entity.pk,
                "products": [product.pk for product in products],
                "events": events,
                "source": source,
                "first_at": first_at,
            },
        )
        stored = int(cursor.rowcount)
        batch.rows_read = batch.rows_added = stored
        batch.save()
    return stored
