"""
How many passwords are looked at at once on this machine: one processor is always left for everything else.

Over its processes by locks on files, which a process that dies leaves free. Where no file can be locked each
process counts its own.
"""

import fcntl
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import BoundedSemaphore

from django.conf import settings
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

logger = logging.getLogger(__name__)

AT_ONCE = max(1, (os.cpu_count() or 1) - 1)
# Of a process's threads: the others answer pages meanwhile.
WAITING = max(1, settings.WEB_THREADS // 2)
WAIT_SECONDS = 10
LOOK_SECONDS = 0.02

BUSY: Promise = _("Many people are signing in just now. Please try again in a moment.")

_waiting = BoundedSemaphore(WAITING)
_own = BoundedSemaphore(AT_ONCE)


class TooBusy(Exception):
    """As many wait already as may, or it took too long."""


@contextmanager
def turn() -> Iterator[None]:
    """
    Wait to be one of those whose password is looked at.

    :raises TooBusy: if that cannot be soon.
    """
    if not _waiting.acquire(blocking=False):
        raise TooBusy
    try:
        until = time.monotonic() + WAIT_SECONDS
        if not _own.acquire(timeout=WAIT_SECONDS):
            raise TooBusy
        try:
            with _over_processes(until):
                yield
        finally:
            _own.release()
    finally:
        _waiting.release()


@contextmanager
def _over_processes(until: float) -> Iterator[None]:
    lock = _lock(until)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _lock(until: float) -> int | None:
    """The file that was locked, open; None where none can be."""
    while True:
        for number in range(AT_ONCE):
            try:
                lock = os.open(_path(number), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                logger.warning("passwords are counted by process: %s", error)
                return None
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
            else:
                return lock
        if time.monotonic() > until:
            raise TooBusy
        time.sleep(LOOK_SECONDS)


def _path(number: int) -> Path:
    installation = hashlib.sha256(f"{os.geteuid()} {settings.BASE_DIR}".encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"month-close-password-{installation}-{number}"
