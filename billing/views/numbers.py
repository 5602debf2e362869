"""Quantities and unit prices with all their decimals, as the reader writes numbers."""

from decimal import Decimal

from babel.numbers import format_decimal

from notifications import formats


def quantity(value: Decimal, *, locale: str) -> str:
    """ "1,234.5": exact, without zeros that say nothing."""
    written: str = format_decimal(
        value.normalize(), locale=formats.babel_locale(locale), decimal_quantization=False
    )
    return written


def rate(value: Decimal, currency: str, *, locale: str) -> str:
    """ "0.0116 USD": a unit price in major units, exact."""
    return f"{quantity(value, locale=locale)} {currency}"
