"""
What leaves the database: rows with states of their own, taken through their calls.

Whoever decides writes a row, in the transaction of what it decided. The dispatcher claims such rows through
their provider's lane, asks just before each call whether it is still to be made, calls with nothing open, and
writes the answers down. It knows neither money nor mail: a *kind* does (kind.py), a module that the setting
`DISPATCHED_KINDS` names. docs/dispatcher.md takes one apart.

    kind.py    what a kind says of itself
    claims.py  whose a row is, and what becomes of it when its worker dies
    window.py  the calls that are out
    loop.py    all of it, turn about
"""

from collections.abc import Callable, Collection
from datetime import datetime
from time import monotonic
from typing import Any

from notifications.dispatcher import claims
from notifications.dispatcher.claims import FREE, URGENT, Claimed, Throttled, in_flight, order
from notifications.dispatcher.kind import (
    Answer,
    Heard,
    Kind,
    NotBegun,
    Row,
    Unreachable,
    registered,
)
from notifications.dispatcher.loop import Work

__all__ = [
    "FREE",
    "URGENT",
    "Answer",
    "Heard",
    "Kind",
    "NotBegun",
    "Row",
    "Throttled",
    "Unreachable",
    "drive",
    "hang_up",
    "in_flight",
    "is_due",
    "order",
    "registered",
    "run",
]

# How long one kind's rows keep the others' of a queue waiting.
TURN_SECONDS = 5


def run(
    queue: str,
    *,
    clock: Callable[[], datetime],
    until: Callable[[], bool],
    stopping: Callable[[], bool] = lambda: False,
    at_least: int | None = None,
) -> int:
    """
    Take the rows of a queue through their calls, each kind for a turn. Returns how many were taken.

    `at_least`: only those of this priority.

    Call it with no transaction open. Once `until` says so no more are claimed, and what is in hand comes to
    rest; once `stopping` does, what is not sent is given back.

    :raises Throttled: if rows are due, none was taken, and none may begin now.
    """
    taken, throttled = 0, None
    for kind in registered():
        try:
            taken += _turn(
                kind, queue, clock=clock, until=until, stopping=stopping, at_least=at_least
            )
        except Throttled as refused:
            throttled = throttled or refused
    if throttled and not taken:
        raise throttled
    return taken


def _turn(
    kind: Kind,
    queue: str,
    *,
    clock: Callable[[], datetime],
    until: Callable[[], bool],
    stopping: Callable[[], bool],
    at_least: int | None,
) -> int:
    turn_over = monotonic() + TURN_SECONDS
    work = Work(
        kind,
        claim=lambda limit, suspects: claims.claim(
            kind, queue, limit=limit, suspects=suspects, as_of=clock(), at_least=at_least
        ),
        clock=clock,
    )
    return work.work(until=lambda: until() or monotonic() > turn_over, stopping=stopping)


def drive(kind: Kind, ids: Collection[Any], *, clock: Callable[[], datetime]) -> list[Row]:
    """
    Take these rows as far as they come now, those of them that are due, each claimed once. Their lane is not asked.

    Returns those that came to rest, as they are; not those that another worker has.
    """
    left, rested = set(ids), list[Row]()

    def claim(limit: int, suspects: bool) -> Claimed:  # noqa: FBT001 - as Work calls it
        claimed = claims.claim_these(kind, left, limit=limit, suspects=suspects, as_of=clock())
        left.difference_update(row.pk for row in claimed.rows)
        return claimed

    Work(kind, claim=claim, clock=clock, on_rest=rested.append).work(
        until=lambda: not left, stopping=lambda: False
    )
    return rested


def is_due(queue: str, *, as_of: datetime, at_least: int | None = None) -> bool:
    """Whether a row of a queue waits for its turn. `at_least`: one of this priority."""
    return any(
        claims.claimable(kind, queue, as_of=as_of, at_least=at_least).exists()
        for kind in registered()
    )


def hang_up() -> None:
    """Close what calls have kept open."""
    for kind in registered():
        kind.hang_up()
