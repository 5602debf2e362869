"""What a run's numbers say: how far it is, how much of the money is in, how long it has left. Pure."""

from datetime import datetime
from decimal import ROUND_DOWN, Decimal
from typing import Any


def share_collected(currency: dict[str, Any]) -> str | None:
    """
    How much of what was to be paid is paid, in percent with one decimal; None where nothing was.

    Of a row of the finance answer. Rounded down: 100 means all of it.
    """
    collected, outstanding = Decimal(currency["collected"]), Decimal(currency["outstanding"])
    if not collected + outstanding:
        return None
    share = 100 * collected / (collected + outstanding)
    return str(share.quantize(Decimal("0.1"), rounding=ROUND_DOWN))


def seconds_left(
    *, ended: int, everything: int, started_at: datetime, next_at: datetime | None, as_of: datetime
) -> int | None:
    """
    How long the rest takes at the rate so far; None where that cannot be known.

    It cannot before anything has ended, or while all that is left waits for a later time.
    """
    took = (as_of - started_at).total_seconds()
    if not ended or ended == everything or took <= 0 or (next_at is not None and next_at > as_of):
        return None
    return round((everything - ended) * took / ended)
