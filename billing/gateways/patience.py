"""
How long whoever calls a provider can wait.

A worker waits for as long as a provider may take. A page waits a few seconds, and only so many of a process's
pages wait at once: the others are told at once that no answer came, so that a provider that hangs takes neither
the site's threads nor its time.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from threading import BoundedSemaphore

from django.conf import settings

# By time.monotonic(); None: whoever calls is in no hurry.
_until: ContextVar[float | None] = ContextVar("until", default=None)
# A connection that is open is asked at least for as long.
LEAST_SECONDS = 0.2


class NobodyWaits(OSError):
    """The page's time is over, or too many pages wait already: nothing was sent."""


@cache
def _free(at_once: int, _process_id: int) -> BoundedSemaphore:
    """What the pages of a process that wait hold; never a parent process's."""
    return BoundedSemaphore(at_once)


@contextmanager
def turn() -> Iterator[None]:
    """
    Be one of the pages that wait for a provider, unless whoever calls is none.

    :raises NobodyWaits: if half of the process's threads wait already, or the page's time is over.
    """
    moment = _until.get()
    if moment is None:
        yield
        return
    if time.monotonic() >= moment:
        raise NobodyWaits("the page's time is over")
    free = _free(max(1, settings.WEB_THREADS // 2), os.getpid())
    if not free.acquire(blocking=False):
        raise NobodyWaits("too many pages wait for a provider already")
    try:
        yield
    finally:
        free.release()


@contextmanager
def until(moment: float) -> Iterator[None]:
    """Whatever is called within, also from threads that are handed this context, is waited for until then."""
    token = _until.set(moment)
    try:
        yield
    finally:
        _until.reset(token)


def left(seconds: float) -> float:
    """How long to wait for a call that may take so many seconds."""
    moment = _until.get()
    if moment is None:
        return seconds
    return max(LEAST_SECONDS, min(seconds, moment - time.monotonic()))
