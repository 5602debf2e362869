"""Quantities, their units, and unit prices with all their decimals, as the reader writes them."""

import re
from decimal import Decimal

from babel.numbers import format_decimal
from babel.units import format_unit

from notifications import formats


def quantity(value: Decimal, *, locale: str) -> str:
    """ "1,234.5": exact, without zeros that say nothing."""
    written: str = format_decimal(
        value.normalize(), locale=formats.babel_locale(locale), decimal_quantization=False
    )
    return written


def rate(value: Decimal, currency: str, *, locale: str) -> str:
    """ "US$0.0116": a unit price in major units, exact."""
    return formats.unit_price(value, currency, locale)


def unit(name: str, value: Decimal, *, locale: str) -> str:
    """
    "hours" for two of "hour", "óra" in Hungarian: the word beside a quantity.

    Of spans of time there are words in every language. What else is measured only its source knows: in
    English it gets its plural, and abbreviations, such as GB or GB-Mo, stay as they are.
    """
    if (span := SPANS.get(name.lower().removesuffix("s"))) is not None:
        written = format_unit(value, span, format=EXACT, locale=formats.babel_locale(locale))
        number = format_decimal(value, format=EXACT, locale=formats.babel_locale(locale))
        return str(written).replace(number, "").strip()
    if locale != "en" or abs(value) == 1 or not IS_A_WORD.search(name):
        return name
    return f"{name.removesuffix('y')}ies" if ENDS_IN_Y.search(name) else f"{name}s"


# With all decimals that a quantity has.
EXACT = "#,##0.###############"
# By what sources call them, without a plural's s: "Hrs" of AWS.
SPANS = {
    name: f"duration-{span}"
    for span, names in {
        "second": ("second", "sec"),
        "minute": ("minute", "min"),
        "hour": ("hour", "hr"),
        "day": ("day",),
        "week": ("week",),
        "month": ("month",),
        "year": ("year",),
    }.items()
    for name in names
}
# Its last word is written out, and in the singular.
IS_A_WORD = re.compile(r"(^|[^A-Za-z])[A-Za-z]?[a-z]{2,}(?<!s)$")
ENDS_IN_Y = re.compile(r"[^aeiou]y$")
