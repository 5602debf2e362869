"""Do something with many rows at once, and find the one that fails: all, then halves, then one."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from notifications.faults import is_the_databases_fault

logger = logging.getLogger(__name__)
Item = TypeVar("Item")


def failures(
    act: Callable[[Sequence[Item]], object],
    items: Sequence[Item],
    *,
    what: str,
    tried: Exception | None = None,
) -> Iterator[tuple[Item, Exception]]:
    """
    Do it with all items at once; after an error in halves. Yields those that fail alone, and why.

    Whoever iterates does the work, and may write each failure down before the next half is begun. `act`
    must leave nothing behind when it raises: a transaction that was rolled back leaves nothing. `what` names
    the items in the log. `tried`: what doing it with all of them has raised already.

    :raises Exception: the database's own trouble, which is the fault of no item.
    """
    if not items:
        return
    error = tried or _error_of(act, items)
    if error is None:
        return
    if is_the_databases_fault(error):
        raise error
    if len(items) == 1:
        yield items[0], error
        return
    logger.warning("%s %s in halves: %r", len(items), what, error)
    half = len(items) // 2
    yield from failures(act, items[:half], what=what)
    yield from failures(act, items[half:], what=what)


def _error_of(act: Callable[[Sequence[Item]], object], items: Sequence[Item]) -> Exception | None:
    try:
        act(items)
    except Exception as error:  # noqa: BLE001 - the caller says what becomes of it
        return error
    return None
