"""What usage costs: one module a pricing model. Pure: no database, no clock."""

from billing.pricing.unit import Priced, by_unit

__all__ = ["Priced", "by_unit"]
