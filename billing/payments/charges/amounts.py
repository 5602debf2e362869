"""What of a debt a gateway can charge."""

from contextlib import suppress

from billing import gateways


def chargeable_minor(gateway: str, due_minor: int, currency: str) -> int:
    """
    What a gateway can charge of what is due, in minor units: no finer than it counts, and 0 below
    the least it takes. The rest stays due.
    """
    # A card of a gateway that is not set up must not stop the others' batch: `calls._prepare` will say so.
    with suppress(gateways.Misconfigured):
        provider = gateways.get(gateway)
        amount_minor = provider.chargeable_minor(due_minor, currency)
        return (
            amount_minor
            if amount_minor >= provider.capabilities.minimum_minor.get(currency, 1)
            else 0
        )
    return due_minor
