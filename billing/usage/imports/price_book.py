"""
Price books: what AWS usage costs where its rows don't say, one row per usage type and rate.

A book lists the rates that were seen, so some of it is left out here, and said: reserved usage and
recurring fees are no on-demand price, and rows without a rate say nothing.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from django.db import connection

from billing.usage.imports import fields
from billing.usage.imports.aws_cur import item
from billing.usage.imports.file_errors import FileRefused, RowRejected
from billing.usage.imports.files import open_table
from billing.usage.imports.rows import LONGEST, NUL, Columns, check_shape, holds_nul

REQUIRED = ("product_code", "usage_type", "pricing_unit", "unit_rate", "first_seen")
OPTIONAL = ("operation", "region", "line_type", "pricing_term", "currency")
ON_DEMAND_TERMS = ("", "OnDemand")

ADD_PRODUCTS = """
INSERT INTO billing_product (code, name)
SELECT DISTINCT code, code FROM unnest(%(products)s::text[]) AS book (code) ORDER BY code
ON CONFLICT (code) DO NOTHING
"""

BOOK = """
  FROM unnest(%(products)s::text[], %(items)s::text[], %(units)s::text[], %(currencies)s::text[],
              %(unit_prices)s::numeric[], %(starts)s::timestamptz[])
       AS book (product, item, unit, currency, unit_price, starts_at)
  JOIN billing_product product ON product.code = book.product
"""

COUNT_OTHER_PRICES = f"""
SELECT count(*) {BOOK}
  JOIN billing_price price
    ON (price.product_id, price.item, price.unit, price.currency, price.starts_at)
     = (product.id, book.item, book.unit, book.currency, book.starts_at)
 WHERE price.unit_price <> book.unit_price
"""

ADD_PRICES = f"""
INSERT INTO billing_price
       (product_id, item, unit, currency, unit_price, free_quantity, monthly_fee, starts_at)
SELECT product.id, book.item, book.unit, book.currency, book.unit_price, 0, 0, book.starts_at {BOOK}
 ORDER BY product.id, book.item, book.unit, book.currency, book.starts_at
ON CONFLICT DO NOTHING
"""


class Priced(NamedTuple):
    """What a price is for."""

    product: str
    item: str
    unit: str
    currency: str


@dataclass(frozen=True)
class BookPrice:
    """A price and the first instant of the month it was first seen in."""

    priced: Priced
    unit_price: str
    starts_at: str


@dataclass(frozen=True)
class PriceBook:
    """The on-demand prices of a book, and what of it they leave out."""

    prices: Sequence[BookPrice]
    # Items with a free and a paid rate: the book does not say how much is free.
    free_tiers: int
    # Reason → rows.
    skipped: dict[str, int]


@dataclass
class Seen:
    """The rates seen for one thing: month → when first, and the rate. The later of a month wins."""

    paid: dict[str, tuple[str, str]] = field(default_factory=dict)
    free: dict[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredPrices:
    """What came of a price book."""

    added: int
    known: int
    # Stored before with another price, which stays.
    different: int


def read(*, path: Path, currency: str) -> PriceBook:
    """
    Read a price book; `currency` is for rows that name none.

    :raises FileRefused: if any of it cannot be read: half a price book prices wrongly.
    """
    seen: dict[Priced, Seen] = {}
    skipped: Counter[str] = Counter()
    with open_table(path) as table:
        columns = Columns(table.header)
        missing = columns.missing(REQUIRED)
        if missing:
            raise FileRefused(
                f"{path} is no price book: it lacks the column {', '.join(map(repr, missing))}."
                f" A price book has the columns {', '.join(REQUIRED)}."
            )
        pick = columns.picker(*REQUIRED, *OPTIONAL)
        for number, row in table.rows():
            try:
                check_shape(row, columns)
                if NUL in "".join(row):
                    raise holds_nul(row, columns)
                reason = _note(pick([*row, ""]), seen=seen, currency=currency)
            except RowRejected as rejection:
                raise FileRefused(
                    f"{path}, row {number}: {rejection}. Nothing was imported."
                ) from rejection
            if reason:
                skipped[reason] += 1
    return _book(seen, skipped)


def store(book: PriceBook) -> StoredPrices:
    """Store the prices that are not stored yet; a stored price is never changed."""
    parameters = {
        "products": [price.priced.product for price in book.prices],
        "items": [price.priced.item for price in book.prices],
        "units": [price.priced.unit for price in book.prices],
        "currencies": [price.priced.currency for price in book.prices],
        "unit_prices": [price.unit_price for price in book.prices],
        "starts": [price.starts_at for price in book.prices],
    }
    with connection.cursor() as cursor:
        cursor.execute(ADD_PRODUCTS, parameters)
        cursor.execute(COUNT_OTHER_PRICES, parameters)
        (different,) = cursor.fetchone()
        cursor.execute(ADD_PRICES, parameters)
        added = cursor.rowcount
    return StoredPrices(
        added=added, known=len(book.prices) - added - different, different=different
    )


def _note(row: Sequence[str], *, seen: dict[Priced, Seen], currency: str) -> str:
    """Take note of the rate of one row, or return why the row says nothing of prices."""
    (
        product,
        usage_type,
        unit,
        rate,
        first_seen,
        operation,
        region,
        line_type,
        term,
        own_currency,
    ) = row
    if line_type not in ("", "Usage"):
        return f"{line_type} rows: no on-demand price"
    if term not in ON_DEMAND_TERMS:
        return f"{term} terms: no on-demand price"
    if not rate:
        return "rows without a rate"
    unit_price = fields.unit_price(rate, "unit_rate")
    if fields.is_negative(unit_price):
        raise RowRejected(
            field="unit_rate", value=rate, problem="is negative", fix="Prices are zero or more"
        )
    first_at = fields.instant(first_seen, "first_seen")
    priced = Priced(
        product=_fitting(product, "product_code", LONGEST["product"]),
        item=_fitting(item(usage_type, operation, region), "usage_type", LONGEST["item"]),
        unit=_fitting(unit, "pricing_unit", LONGEST["unit"]),
        currency=fields.currency(own_currency or currency, "currency"),
    )
    rates = seen.setdefault(priced, Seen())
    months = rates.free if fields.is_zero(unit_price) else rates.paid
    month = first_at[: len("2018-10")]
    months[month] = max(months.get(month, ("", "")), (first_at, unit_price))
    return ""


def _fitting(text: str, field: str, longest: int) -> str:
    if len(text) > longest:
        raise RowRejected(
            field=field,
            value=text,
            problem=f"is longer than {longest} characters",
            fix="Shorten it where it is exported",
        )
    return text


def _book(seen: dict[Priced, Seen], skipped: dict[str, int]) -> PriceBook:
    prices = []
    for priced, rates in sorted(seen.items()):
        for month, (_, unit_price) in sorted((rates.paid or rates.free).items()):
            starts_at, _ = fields.utc_month(month, "first_seen")
            prices.append(BookPrice(priced=priced, unit_price=unit_price, starts_at=starts_at))
    free_tiers = sum(1 for rates in seen.values() if rates.paid and rates.free)
    return PriceBook(prices=prices, free_tiers=free_tiers, skipped=dict(skipped))
