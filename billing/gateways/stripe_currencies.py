"""
Amounts between our books and Stripe's API: ISO 4217 minor units here, Stripe's own idea there.

Taken from docs.stripe.com/currencies. Where its pages contradict one another the currency is refused:
better no charge than one of a hundred times the amount.
"""

from fractions import Fraction

from billing.money import exponent, money

# Stripe's decimals where they are not two.
DECIMALS = {
    **dict.fromkeys(
        ("BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF",
         "XOF", "XPF"),
        0,
    ),
    **dict.fromkeys(("BHD", "JOD", "KWD", "OMR", "TND"), 3),
}  # fmt: skip
# In Stripe's units: it has three decimals for these, but the last must be 0. ISK has none, yet two are
# sent; that they are 00 follows from ours having none.
STEPS = dict.fromkeys(("BHD", "JOD", "KWD", "OMR", "TND"), 10)
# UGX: without decimals on one page, with two on another. The rest: not charged by Stripe, and their
# decimals are not two, so a slip would be a thousandfold.
REFUSED = frozenset(("UGX", "IQD", "LYD", "CLF", "UYI", "UYW"))

# The least that is charged, in our minor units. Stripe's limit is on the settlement currency, so that
# an installation which settles in another may meet `amount_too_small` above these.
MINIMUM_MINOR = {
    "AED": 200, "AUD": 50, "BGN": 100, "BRL": 50, "CAD": 50, "CHF": 50, "CZK": 1500, "DKK": 250,
    "EUR": 50, "GBP": 30, "HKD": 400, "HUF": 17500, "INR": 50, "JPY": 50, "MXN": 1000, "MYR": 200,
    "NOK": 300, "NZD": 50, "PLN": 200, "RON": 200, "SEK": 300, "SGD": 50, "THB": 1000, "USD": 50,
    "BHD": 10, "JOD": 10, "KWD": 10, "OMR": 10, "TND": 10, "MGA": 100,
}  # fmt: skip


class NotChargeable(ValueError):
    """Stripe cannot be asked for this amount, or not in this currency."""


def chargeable_minor(amount_minor: int, currency: str) -> int:
    """The most of an amount that Stripe can charge; in a refused currency the whole, to be refused."""
    return amount_minor - amount_minor % _step_minor(currency)


def to_provider(amount_minor: int, currency: str) -> int:
    """
    Convert an amount of ours to Stripe's.

    :raises NotChargeable: if the currency is refused, or the amount finer than Stripe's.
    """
    if currency in REFUSED:
        raise NotChargeable(f"{currency} is not charged through Stripe")
    if amount_minor % _step_minor(currency):
        raise NotChargeable(f"{money(amount_minor, currency)} is finer than Stripe charges")
    return int(amount_minor * _units_of_a_minor(currency))


def from_provider(amount: int, currency: str) -> int:
    """
    Convert an amount of Stripe's, whose currencies are in small letters, to ours.

    :raises NotChargeable: if the currency is refused, or the amount finer than ours.
    """
    code = currency.upper()
    if code in REFUSED:
        raise NotChargeable(f"{code} is not charged through Stripe")
    amount_minor = Fraction(amount) / _units_of_a_minor(code)
    if amount_minor.denominator != 1:
        raise NotChargeable(f"Stripe's {amount} {currency} is finer than {code}")
    return int(amount_minor)


def nearest_from_provider(amount: int, currency: str) -> int:
    """What a payout's amount is nearest to in our minor units: fees are finer than charges, in krona."""
    return round(Fraction(amount) / _units_of_a_minor(currency.upper()))


def _units_of_a_minor(currency: str) -> Fraction:
    """How many of Stripe's units one of our minor units is."""
    return Fraction(10) ** (DECIMALS.get(currency, 2) - exponent(currency))


def _step_minor(currency: str) -> int:
    """What a chargeable amount is a multiple of, in our minor units."""
    if currency in REFUSED:
        return 1
    return max(1, int(STEPS.get(currency, 1) / _units_of_a_minor(currency)))
