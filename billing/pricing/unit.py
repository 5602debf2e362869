"""What usage costs. Pure: no database, no clock; amounts in major units, never rounded here."""

from dataclasses import dataclass
from decimal import Decimal, localcontext

from billing.money import EXACT_DIGITS


@dataclass(frozen=True)
class Priced:
    """A quantity, how much of it was free, and what the rest costs in major units, unrounded."""

    free_quantity: Decimal
    amount: Decimal


def by_unit(
    quantity: Decimal, *, unit_price: Decimal, free_quantity: Decimal = Decimal(0)
) -> Priced:
    """
    Price a quantity by the unit, after what is free of it.

    A quantity of zero or less (a correction) uses no allowance.
    """
    with localcontext(prec=EXACT_DIGITS):
        free = max(Decimal(0), min(quantity, free_quantity))
        return Priced(free_quantity=free, amount=(quantity - free) * unit_price)
