"""
Whether this process shall stop: asked between batches by whatever works for long, so that it ends within seconds.

A process is told by its cluster, which was told by a signal; all of them, everywhere, by a halt in the
database, as before a deployment. Nothing is lost by either: what is on its way at a provider comes back,
the rest is given back as it stands.
"""

import ctypes
from multiprocessing.sharedctypes import RawValue
from time import monotonic
from types import SimpleNamespace
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from billing.models import Halt
from billing.workers import doorbell

# How often a process looks whether it is halted.
LOOK_EVERY_SECONDS = 1.0

# No lock about it, which a killed process would take with it. A cluster shares its own: see `share`.
_told: Any = SimpleNamespace(value=False)


class AlreadyHalted(Exception):
    """Somebody has ordered it before: who and why stand."""


class NotHalted(Exception):
    """Work goes on already."""


class Halted(Exception):
    """Nothing begins until the order is lifted: says by whom it is, and why."""

    def __init__(self, order: Halt) -> None:
        super().__init__(f"{order}. Nothing begins until `manage.py halt --lift`")


def share() -> None:
    """From now on what one is told, all hear: this process and those forked after this."""
    global _told  # noqa: PLW0603 - set once, before a cluster forks
    _told = RawValue(ctypes.c_bool, False)  # noqa: FBT003 - ctypes has no names


def tell() -> None:
    """Have this process stop, and those that share it."""
    _told.value = True


def is_told() -> bool:
    """Whether this process shall end, whatever is halted."""
    return bool(_told.value)


def is_asked() -> bool:
    """Whether to begin nothing more."""
    return is_told() or _halt_seen.is_there()


class _Seen:
    """Whether there is a halt, as of a second ago."""

    def __init__(self) -> None:
        self._until = 0.0
        self._is_there = False

    def is_there(self) -> bool:
        if monotonic() >= self._until:
            self._is_there = halt() is not None
            self._until = monotonic() + LOOK_EVERY_SECONDS
        return self._is_there


_halt_seen = _Seen()


def halt() -> Halt | None:
    """The order that stands, if there is one."""
    return Halt.objects.filter(lifted_at=None).first()


def check_halt() -> None:
    """:raises Halted: if there is such an order."""
    if order_that_stands := halt():
        raise Halted(order_that_stands)


@transaction.atomic(durable=True)
def order(*, because: str, by: str) -> Halt:
    """
    Have workers everywhere begin nothing more, until it is lifted.

    :raises AlreadyHalted: if there is such an order.
    """
    halted = Halt(because=because[:300], ordered_by=by)
    Halt.objects.bulk_create([halted], ignore_conflicts=True)
    standing = halt()
    assert standing is not None, "it was just ordered, by us or by somebody before us"
    if (standing.because, standing.ordered_by) != (halted.because, halted.ordered_by):
        raise AlreadyHalted(str(standing))
    return standing


@transaction.atomic(durable=True)
def lift(*, by: str) -> None:
    """
    Let work go on, and wake every queue.

    :raises NotHalted: if it goes on already.
    """
    if not Halt.objects.filter(lifted_at=None).update(lifted_at=Now(), lifted_by=by):
        raise NotHalted("there is no halt to be lifted")
    for queue in doorbell.queues():
        doorbell.ring(queue, times=settings.WORKERS)
