"""
Money: minor units in the books, `Money` at the edges, one rounding rule, by name.

Stored amounts are whole minor units of their ISO 4217 currency (JPY 0 decimals, USD 2, KWD 3).
Nothing here is a float.
"""

from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal, localcontext

from moneyed import CURRENCIES, Money

# ISO 4217 exponents where moneyed's differ or could drift: the three- and zero-decimal currencies
# that payment providers name. Everything else has two.
EXPONENTS = {
    **dict.fromkeys(
        ("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND",
         "VUV", "XAF", "XOF", "XPF"),
        0,
    ),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    **dict.fromkeys(("CLF", "UYW"), 4),
}  # fmt: skip


# More digits than any amount has: the default context rounds to 28 first, and rounding happens once.
EXACT_DIGITS = 80


class UnknownCurrency(ValueError):
    """The code is not an ISO 4217 currency."""


def is_currency(code: str) -> bool:
    """Whether the code is an ISO 4217 currency."""
    return code in CURRENCIES


def check_currency(code: str) -> str:
    """
    Return the code if it is an ISO 4217 currency.

    :raises UnknownCurrency: if it is not.
    """
    if not is_currency(code):
        raise UnknownCurrency(f"currency {code!r} is not an ISO 4217 code such as 'EUR'")
    return code


def exponent(currency: str) -> int:
    """The number of decimals of a currency's minor unit, by ISO 4217."""
    return EXPONENTS.get(check_currency(currency), 2)


def round_half_up(amount: Decimal, currency: str) -> int:
    """Round an amount in major units, half away from zero, to whole minor units."""
    with localcontext(prec=EXACT_DIGITS):
        return int(amount.scaleb(exponent(currency)).quantize(Decimal(1), rounding=ROUND_HALF_UP))


class NotWhole(ValueError):
    """The amount has more decimals than its currency."""


def to_minor(amount: Decimal, currency: str) -> int:
    """
    Convert an exact amount in major units to minor units.

    :raises NotWhole: if it is finer than the currency's minor unit; nothing is rounded here.
    """
    with localcontext(prec=EXACT_DIGITS):
        minor = amount.scaleb(exponent(currency))
    if minor != minor.to_integral_value():
        raise NotWhole(
            f"{amount} has more decimals than {currency}, which has {exponent(currency)}"
        )
    return int(minor)


def to_major(amount_minor: int, currency: str) -> Decimal:
    """Convert minor units to major ones, with the currency's decimals: 1200 → 12.00."""
    return Decimal(amount_minor).scaleb(-exponent(currency))


# notifications/formats.py, which writes amounts on pages and in mails; this module knows no other app, so that
# billing/apps.py hands it in.
_writers: list[Callable[[int, str, str], str]] = []


def use_writer(write: Callable[[int, str, str], str]) -> None:
    """Have amounts be written by this function of minor units, currency and language."""
    _writers[:] = [write]


class Amount(Money):  # type: ignore[misc]  # moneyed has no types
    """Money that is written as staff read it everywhere: "€1,234.50"."""

    def __str__(self) -> str:
        code = self.currency.code
        return _writers[0](to_minor(self.amount, code), code, "en")


def money(amount_minor: int, currency: str) -> Amount:
    """Make the Money of an amount in minor units, for faces and messages."""
    return Amount(to_major(amount_minor, currency), currency)
