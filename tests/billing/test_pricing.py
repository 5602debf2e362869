"""What usage costs: exact, and never rounded here."""

from decimal import Decimal
from fractions import Fraction

import pytest

from billing import pricing


@pytest.mark.parametrize(
    ("quantity", "free", "takes", "costs"),
    [
        ("100", "0", "0", "1.00"),
        ("100", "30", "30", "0.70"),
        ("100", "100", "100", "0"),
        ("100", "250", "100", "0"),
        ("0", "30", "0", "0"),
        ("-5", "30", "0", "-0.05"),  # a correction gives money back and uses no allowance
        ("100", "-1", "0", "1.00"),  # an allowance used up beyond its end is none
    ],
)
def test_what_is_free_is_taken_off_first(quantity, free, takes, costs):
    priced = pricing.by_unit(
        Decimal(quantity), unit_price=Decimal("0.01"), free_quantity=Decimal(free)
    )

    assert (priced.free_quantity, priced.amount) == (Decimal(takes), Decimal(costs))


def test_the_longest_quantity_and_price_lose_no_digit():
    quantity = Decimal("123456789012345678901.123456789012345")
    price = Decimal("12345678901234.123456789012")

    amount = pricing.by_unit(quantity, unit_price=price).amount

    assert Fraction(amount) == Fraction(quantity) * Fraction(price)
