"""Five hundred customers in six currencies, their cards, and what they used: the same from the same seed."""

import csv
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from django.db import connection, transaction

from accounts.models import Account, BillingEntity, Member, User
from billing.models import LeastAmount, Price, Product
from billing.periods import ends_at, starts_at

SEED = 20261001
MONTH = date(2026, 10, 1)
ACCOUNTS = 500
# Begins the external id of every account of the demo, so that nobody else's is ever deleted.
PREFIX = "demo-"
PASSWORD = "demo"  # noqa: S105 - shown on the terminal, on purpose
STAFF_EMAIL = "support@demo.example"


@dataclass(frozen=True)
class Market:
    """Where a customer is, and what one euro is about worth there, for prices that look right."""

    currency: str
    time_zone: str
    language: str
    per_euro: Decimal
    decimals: int


MARKETS = (
    Market("EUR", "Europe/Budapest", "hu", Decimal(1), 4),
    Market("EUR", "Europe/Berlin", "en", Decimal(1), 4),
    Market("USD", "America/New_York", "en", Decimal("1.1"), 4),
    Market("USD", "America/Los_Angeles", "en", Decimal("1.1"), 4),
    Market("GBP", "Europe/London", "en", Decimal("0.85"), 4),
    Market("HUF", "Europe/Budapest", "hu", Decimal(400), 2),
    Market("JPY", "Asia/Tokyo", "en", Decimal(160), 2),
    Market("KWD", "Asia/Kuwait", "en", Decimal("0.34"), 5),
)

# Hourly price of a server in euros.
SERVERS = {
    "small, 1 vCPU, 1 GB": Decimal("0.0089"),
    "medium, 2 vCPU, 4 GB": Decimal("0.0357"),
    "large, 8 vCPU, 16 GB": Decimal("0.1428"),
}
STORAGE_PER_GB_HOUR = Decimal("0.000149")
BANDWIDTH_PER_GB = Decimal("0.01")
FREE_BANDWIDTH_GB = 500
BANDWIDTH_FEE = Decimal("2.50")

NAMES_FIRST = (
    "North",
    "Blue",
    "Quiet",
    "Bright",
    "Iron",
    "Paper",
    "River",
    "Little",
    "Second",
    "Open",
)
NAMES_THEN = (
    "Harbour",
    "Lantern",
    "Orchard",
    "Signal",
    "Foundry",
    "Meadow",
    "Atlas",
    "Kite",
    "Anchor",
    "Mill",
)
NAMES_LAST = (
    "Labs",
    "Systems",
    "Studio",
    "Works",
    "Data",
    "Games",
    "Health",
    "Foods",
    "Travel",
    "Media",
)


class NotADemoDatabase(Exception):
    """There are accounts that are not the demo's."""


def clear() -> None:
    """
    Empty the database of an earlier demo.

    :raises NotADemoDatabase: if it holds anything else; nothing is deleted then.
    """
    strangers = Account.objects.exclude(external_id__startswith=PREFIX).count()
    if strangers:
        raise NotADemoDatabase(
            f"This database holds {strangers} accounts that are not the demo's, and the demo starts by"
            " emptying it: set EMBEDDED_DB_DIR to another folder"
        )
    # What a migration has written stays: it is emptied with the entities, since some may be of one of them.
    least_amounts = [
        LeastAmount(currency=each.currency, amount_minor=each.amount_minor)
        for each in LeastAmount.objects.filter(entity=None)
    ]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(TABLES)
        tables = ", ".join(name for (name,) in cursor.fetchall())
        cursor.execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")
        LeastAmount.objects.bulk_create(least_amounts)


# Everything of ours; permissions and content types stay.
TABLES = """
SELECT quote_ident(tablename) FROM pg_tables
 WHERE schemaname = 'public'
   AND (tablename LIKE ANY (ARRAY['accounts\\_%', 'billing\\_%', 'notifications\\_%', 'django\\_q\\_%'])
        OR tablename IN ('django_session', 'django_admin_log'))
"""


@transaction.atomic
def build() -> list[Account]:
    """Make the catalogue, the customers, and the people who sign in. Returns the customers."""
    rng = random.Random(SEED)  # noqa: S311 - the same every time is the point
    # A month of its year is over in a minute: who has no card is held in the close, at once.
    entity = BillingEntity.objects.create(
        slug="default",
        name="Example Cloud",
        invoice_prefix="EC",
        payment_terms_days=None,
        grace_days=None,
    )
    _build_catalogue()
    accounts = Account.objects.bulk_create(
        _account(entity, number, rng) for number in range(ACCOUNTS)
    )
    User.objects.create_superuser(STAFF_EMAIL, PASSWORD, first_name="Sam", last_name="Support")
    for account in accounts[:2]:
        user = User.objects.create_user(account.email, PASSWORD)
        Member.objects.create(account=account, user=user)
    return accounts


def _build_catalogue() -> None:
    server = Product.objects.create(code="server", name="Server")
    storage = Product.objects.create(code="storage", name="Block storage")
    bandwidth = Product.objects.create(code="bandwidth", name="Bandwidth")
    since = datetime(2026, 1, 1, tzinfo=UTC)
    prices = []
    for currency, market in {market.currency: market for market in MARKETS}.items():

        def local(euros: Decimal, market: Market = market) -> Decimal:
            # Prices per hour are small: four more decimals than the currency shows.
            return round(euros * market.per_euro, market.decimals + 2)

        key = {"currency": currency, "starts_at": since}
        prices += [
            Price(product=server, item=item, unit="hour", unit_price=local(price), **key)
            for item, price in SERVERS.items()
        ]
        prices.append(
            Price(product=storage, unit="GB-hour", unit_price=local(STORAGE_PER_GB_HOUR), **key)
        )
        prices.append(
            Price(
                product=bandwidth,
                unit="GB",
                unit_price=local(BANDWIDTH_PER_GB),
                free_quantity=FREE_BANDWIDTH_GB,
                monthly_fee=local(BANDWIDTH_FEE),
                **key,
            )
        )
    Price.objects.bulk_create(prices)


def _account(entity: BillingEntity, number: int, rng: random.Random) -> Account:
    # The first two are the customers one can sign in as.
    market = MARKETS[number] if number < 2 else rng.choice(MARKETS)
    name = " ".join(map(rng.choice, (NAMES_FIRST, NAMES_THEN, NAMES_LAST)))
    return Account(
        entity=entity,
        external_id=f"{PREFIX}{number + 1:04d}",
        name=name,
        currency=market.currency,
        time_zone=market.time_zone,
        language=market.language,
        email=f"customer{number + 1}@demo.example",
    )


# --- what they used


def write_usage(path: Path) -> int:
    """Write the month's usage of every account as a csv usage file. Returns its rows."""
    rng = random.Random(SEED + 1)  # noqa: S311 - as above
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["event_id", "account", "product", "item", "unit", "quantity", "starts_at", "ends_at"]
        )
        rows = 0
        for account in Account.objects.order_by("pk"):
            for row in _usage_of(account, rng):
                rows += 1
                writer.writerow([f"e{rows}", account.external_id, *row])
    return rows


Row = tuple[str, str, str, str, str, str]


def _usage_of(account: Account, rng: random.Random) -> Iterator[Row]:
    # One customer in twenty used nothing, and will get no invoice; never one who signs in.
    if rng.random() < 0.05 and account.members.count() == 0:
        return
    begins, ends = starts_at(MONTH, account.time_zone), ends_at(MONTH, account.time_zone)
    for item in rng.choices(list(SERVERS), weights=(6, 3, 1), k=rng.randint(1, 2)):
        yield from _server(item, begins, ends, rng)
    storage_gb = rng.choice((0, 50, 100, 250))
    for day in _steps(begins, ends, timedelta(days=1)):
        if storage_gb:
            yield _row("storage", "", "GB-hour", storage_gb * 24, day, timedelta(days=1))
        yield _row("bandwidth", "", "GB", round(rng.expovariate(1 / 15), 3), day, timedelta(days=1))


def _server(item: str, begins: datetime, ends: datetime, rng: random.Random) -> Iterator[Row]:
    """A server that ran from some hour to some other, measured hour by hour."""
    first, last = sorted(begins + (ends - begins) * rng.random() for _ in range(2))
    started = begins + timedelta(hours=(first - begins) // timedelta(hours=1))
    for hour in _steps(started, last, timedelta(hours=1)):
        yield _row("server", item, "hour", 1, hour, timedelta(hours=1))


def _steps(begins: datetime, ends: datetime, step: timedelta) -> Iterator[datetime]:
    while begins < ends:
        yield begins
        begins += step


def _row(
    product: str, item: str, unit: str, quantity: float, at: datetime, length: timedelta
) -> Row:
    return product, item, unit, str(quantity), at.isoformat(), (at + length).isoformat()
