"""
Text from a file into text that PostgreSQL takes as a number, an instant or JSON, or a rejection.

Hot: called several times per row. What most rows hold passes one regular expression; the rest is
looked at closely.
"""

import json
import re
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from functools import lru_cache
from typing import Any

from billing import money, periods
from billing.usage.imports.file_errors import RowRejected

# Digits before the point. The columns hold a few more, so that thousands of largest rows still sum.
WHOLE_QUANTITY_DIGITS = 15
WHOLE_MONEY_DIGITS = 11
# Digits behind it: as many as the columns hold.
DECIMALS = 15
PRICE_DECIMALS = 12
# What a double carries: more digits than that were never in the number.
DOUBLE_DIGITS = 17

PLAIN_QUANTITY = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,15})?").fullmatch
PLAIN_PRICE = re.compile(r"-?[0-9]{1,11}(?:\.[0-9]{1,12})?").fullmatch
PLAIN_AMOUNT = re.compile(r"-?[0-9]{1,11}(?:\.[0-9]{1,15})?").fullmatch
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?").fullmatch
LONGEST_NUMBER = 200
EXACT = Context(prec=LONGEST_NUMBER)

# Usage before or after was not metered by anything that exists.
FIRST_YEAR, LAST_YEAR = 2000, 2099

ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})

# Distinct values of a month's file come to a few thousand; this bounds the memory of hostile ones.
CACHED = 1 << 16


def quantity(text: str, field: str, *, rounded: bool = False) -> str:
    """Check a quantity. Raises RowRejected."""
    if PLAIN_QUANTITY(text):
        return text
    return number(text, field, whole=WHOLE_QUANTITY_DIGITS, decimals=DECIMALS, rounded=rounded)


def unit_price(text: str, field: str) -> str:
    """Check a price per unit, in major units. Raises RowRejected."""
    if PLAIN_PRICE(text):
        return text
    return number(text, field, whole=WHOLE_MONEY_DIGITS, decimals=PRICE_DECIMALS)


def amount(text: str, field: str, *, rounded: bool = False) -> str:
    """Check an amount, in major units. Raises RowRejected."""
    if PLAIN_AMOUNT(text):
        return text
    return number(text, field, whole=WHOLE_MONEY_DIGITS, decimals=DECIMALS, rounded=rounded)


def number(text: str, field: str, *, whole: int, decimals: int, rounded: bool = False) -> str:
    """
    Check a number that is not written plainly, such as "1E-7" or "0.10000…0".

    `rounded`: a number with no more digits than a double carries is rounded half-up to the last
    decimal we keep; else every digit must fit.

    :raises RowRejected: if it is no number, or has more digits than we keep.
    """
    stripped = text.strip()
    if len(stripped) > LONGEST_NUMBER or not NUMBER(stripped):
        raise RowRejected(
            field=field,
            value=text,
            problem="is not a number",
            fix="Write digits with a decimal point and nothing else, such as 1234.5",
        )
    value = Decimal(stripped)
    if not value:
        return "0"
    if value.adjusted() >= whole:
        raise RowRejected(
            field=field,
            value=text,
            problem=f"is too large: more than {whole} digits before the decimal point",
            fix="Correct it; nothing that large was used",
        )
    value = value.normalize(EXACT)
    smallest = Decimal(1).scaleb(-decimals)
    if rounded and len(value.as_tuple().digits) <= DOUBLE_DIGITS:
        value = value.quantize(smallest, ROUND_HALF_UP, EXACT)
    if value != value.quantize(smallest, ROUND_HALF_UP, EXACT):
        raise RowRejected(
            field=field,
            value=text,
            problem=f"has more than {decimals} decimals",
            fix=f"Round it to {decimals} decimals where it is exported",
        )
    return f"{value:f}"


def is_negative(checked: str) -> bool:
    """Say whether a checked number is below zero; "-0.0" is not."""
    return checked.startswith("-") and checked.strip("-0.") != ""


def is_zero(checked: str) -> bool:
    """Say whether a checked number is zero."""
    return checked.strip("-0.") == ""


@lru_cache(maxsize=CACHED)
def instant(text: str, field: str) -> str:
    """
    Read an ISO 8601 instant and write it in UTC; where no zone is written, it is UTC.

    All results are written alike, so that they compare as text. Raises RowRejected.
    """
    try:
        parsed = datetime.fromisoformat(text.strip())
        aware = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
        in_utc = aware.astimezone(UTC)
    except (ValueError, OverflowError):
        raise RowRejected(
            field=field,
            value=text,
            problem="is not a date and time",
            fix="Write it as 2018-10-31T23:00:00Z",
        ) from None
    if not FIRST_YEAR <= in_utc.year <= LAST_YEAR:
        raise RowRejected(
            field=field,
            value=text,
            problem=f"lies outside the years {FIRST_YEAR} to {LAST_YEAR}",
            fix="Correct the year",
        )
    return in_utc.isoformat(timespec="microseconds")


@lru_cache(maxsize=CACHED)
def utc_month(text: str, field: str) -> tuple[str, str]:
    """Read a month such as "2018-10" into its first instant and that of the next month."""
    try:
        month = date.fromisoformat(f"{text.strip()}-01")
    except ValueError:
        raise RowRejected(
            field=field, value=text, problem="is not a month", fix="Write it as 2018-10"
        ) from None
    return (
        instant(periods.starts_at(month, "UTC").isoformat(), field),
        periods.ends_at(month, "UTC").isoformat(timespec="microseconds"),
    )


@lru_cache(maxsize=CACHED)
def currency(text: str, field: str) -> str:
    """Check an ISO 4217 code. Raises RowRejected."""
    try:
        return money.check_currency(text)
    except money.UnknownCurrency as problem:
        raise RowRejected(
            field=field,
            value=text,
            problem=str(problem),
            fix="Write the three capital letters of an ISO 4217 currency",
        ) from None


def json_text(value: dict[str, Any]) -> str:
    """Write an object as COPY reads it."""
    return escaped(json.dumps(value, ensure_ascii=False)) if value else "{}"


def told(**entries: Any) -> dict[str, Any]:
    """The entries that say something."""
    return {name: entry for name, entry in entries.items() if entry}


def json_object(text: str) -> dict[str, Any] | str:
    """Read a JSON object; anything PostgreSQL would not take as one stays the text it is."""
    try:
        value = json.loads(text)
        written = json.dumps(value, allow_nan=False, ensure_ascii=False)
        written.encode()
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) and "\\u0000" not in written else text


def escaped(text: str) -> str:
    """Write text as COPY reads it."""
    return text.translate(ESCAPES)
