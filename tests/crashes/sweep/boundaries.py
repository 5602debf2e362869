"""
Where a process can be stopped: wrappers round the database, the provider, the mail server, the doorbell.

The domain code is not touched and does not know. `recorder` counts the boundaries it comes by, and at
one of them does what it was told.
"""

import contextlib
import os
import smtplib
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any

from django.conf import settings
from django.db import OperationalError, connection
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper
from django.utils.module_loading import import_string

from billing.gateways import OutcomeUnknown
from billing.gateways.base import Gateway
from billing.gateways.standins.sandbox import SandboxGateway
from billing.workers import doorbell

KILLED = 137
OURS = ("billing", "notifications", "accounts", "config")
WRITES = ("INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "ALTER", "TRUNCATE", "WITH", "COPY")
# The first is the check's own, the others do not go over the wire.
NOT_SWEPT = {"book", "chargeable_minor", "parse_webhook"}
# Of a charge, or of the charge that a refund pays back.
WHOSE = """
SELECT account_ref FROM charge WHERE ref = ? OR ref = (SELECT payment_ref FROM refund WHERE ref = ?)
"""


class Mode(StrEnum):
    BEFORE = "before"
    AFTER = "after"
    REPLY_LOST = "reply-lost"


class Recorder:
    """Counts boundaries; stops the process at the `strike_at`th, the first being 1."""

    def __init__(
        self,
        *,
        strike_at: int = 0,
        mode: Mode = Mode.BEFORE,
        log: Path | None = None,
        met_before: Sequence[str] = (),
    ) -> None:
        # Those that were met before the snapshot from which this run goes on count too.
        self.names = list(met_before)
        self.strike_at = strike_at
        self.mode = mode
        self._seen = Counter(name.rpartition("#")[0] for name in met_before)
        self._paused = 0
        self._log = log
        if log is not None:
            log.write_text("".join(f"{name}\n" for name in met_before))

    @property
    def has_struck(self) -> bool:
        """Or has nothing to strike at."""
        return len(self.names) >= self.strike_at

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is the harness's own."""
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1

    def meet(self, place: str, do: Callable[[], Any], lose_reply: Callable[[], Exception]) -> Any:
        if self._paused:
            return do()
        struck = self._count(place) == self.strike_at
        if struck and self.mode is Mode.BEFORE:
            os._exit(KILLED)
        try:
            result = do()
        finally:
            if struck and self.mode is Mode.AFTER:
                os._exit(KILLED)
        if struck:
            raise lose_reply()
        return result

    def _count(self, place: str) -> int:
        self._seen[place] += 1
        self.names.append(f"{place}#{self._seen[place]}")
        if self._log is not None:
            # By the kernel at once: a killed process writes no buffers.
            with self._log.open("a") as log:
                log.write(self.names[-1] + "\n")
        return len(self.names)


recorder = Recorder()


def record_with(new: Recorder) -> None:
    """From now on, in this process, boundaries are met by this one."""
    global recorder  # noqa: PLW0603 - the wrappers live as long as the process
    recorder = new


def install() -> None:
    """Wrap everything that makes something true for others. Once per process, for good."""
    _wrap_transactions()
    _wrap_writes_outside_transactions()
    for name in _calls_of_the_protocol():
        _wrap_gateway(name)
    _wrap_mail()
    _wrap_doorbell()


# --- the database


def _wrap_transactions() -> None:
    for name, real in (
        ("commit", BaseDatabaseWrapper._commit),
        ("rollback", BaseDatabaseWrapper._rollback),
    ):

        def wrapped(
            self: BaseDatabaseWrapper,
            name: str = name,
            real: Callable[[BaseDatabaseWrapper], Any] = real,
        ) -> Any:
            if recorder._paused or self.connection is None:
                return real(self)
            place = f"{name}:{_whose(sys._getframe(1))}"
            return recorder.meet(place, lambda: real(self), lambda: _lost_connection(self))

        setattr(BaseDatabaseWrapper, f"_{name}", wrapped)


def _wrap_writes_outside_transactions() -> None:
    real = CursorWrapper._execute

    def wrapped(self: CursorWrapper, sql: Any, params: Any, *ignored: Any) -> Any:
        if (
            recorder._paused
            or self.db.in_atomic_block
            or not str(sql).lstrip().upper().startswith(WRITES)
            # How calls went is told by the way, and promised to nobody.
            or "notifications_lane" in str(sql)
        ):
            return real(self, sql, params, *ignored)
        place = f"write:{_whose(sys._getframe(1))}"
        return recorder.meet(
            place, lambda: real(self, sql, params, *ignored), lambda: _lost_connection(self.db)
        )

    CursorWrapper._execute = wrapped


def _lost_connection(db: BaseDatabaseWrapper) -> Exception:
    """What Django says when the server went away after it did what it was told."""
    if db.connection is not None:
        db.connection.close()
    db.errors_occurred = True
    return OperationalError("server closed the connection unexpectedly")


def _whose(frame: FrameType | None) -> str:
    """The function of ours whose transaction or statement this is, and the kind of step it was given."""
    while frame is not None:
        code = frame.f_code
        if code.co_name == "inner" and code.co_filename == contextlib.__file__:
            function = frame.f_locals["func"]
            if _is_ours(function.__module__):
                return _named(
                    function.__module__, function.__qualname__, frame.f_locals.get("args")
                )
        module = frame.f_globals.get("__name__", "")
        if _is_ours(module):
            return _named(module, code.co_qualname, ())
        frame = frame.f_back
    return "?"


def _is_ours(module: str) -> bool:
    return module.split(".", maxsplit=1)[0] in OURS


def _named(module: str, function: str, arguments: Any) -> str:
    kind = getattr(arguments[0], "kind", None) if arguments else None
    where = f"{module.removeprefix('billing.')}.{function.replace('<locals>.', '')}"
    return f"{where}:{kind}" if isinstance(kind, str) else where


# --- the provider


def _calls_of_the_protocol() -> list[str]:
    """All of them, so that a call that is new in the protocol is swept without being named here."""
    return [
        name
        for name, value in vars(Gateway).items()
        if callable(value) and not name.startswith("_") and name not in NOT_SWEPT
    ]


def _wrap_gateway(name: str) -> None:
    real = getattr(SandboxGateway, name)

    def wrapped(self: SandboxGateway, *args: Any, **kwargs: Any) -> Any:
        account = _account_of(*args, **kwargs)
        for hook in hooks:
            hook(name, account)
        return recorder.meet(
            f"gateway:{name}:{account}",
            lambda: real(self, *args, **kwargs),
            lambda: OutcomeUnknown("the reply was lost on its way"),
        )

    setattr(SandboxGateway, name, wrapped)


# What somebody else does at the moment a call goes out: told its name and whom it is about.
hooks: list[Callable[[str, str], None]] = []


def _account_of(about: Any = None, *_args: Any, account_ref: str = "", **_kwargs: Any) -> str:
    """Whom a call is about, whatever of ours or the provider's it names: for stable names."""
    if about is None and not account_ref:
        return "all"
    return account_ref or getattr(about, "account_ref", "") or _account_in_the_book(str(about))


def _account_in_the_book(ref: str) -> str:
    with contextlib.closing(sqlite3.connect(settings.SANDBOX_BOOK, timeout=30)) as book:
        row = book.execute(WHOSE, [ref, ref]).fetchone()
    return row[0] if row else "?"


# --- the mail server and the doorbell


def _wrap_mail() -> None:
    backend = import_string(settings.EMAIL_BACKEND)
    real = backend.send_messages

    def wrapped(self: Any, emails: Any) -> Any:
        return recorder.meet(
            f"mail:{emails[0].to[0].split('@')[0]}",
            lambda: real(self, emails),
            lambda: smtplib.SMTPServerDisconnected("Connection unexpectedly closed"),
        )

    backend.send_messages = wrapped


def _wrap_doorbell() -> None:
    real = doorbell.async_task

    def wrapped(function: str, queue: str, **options: Any) -> Any:
        return recorder.meet(
            f"doorbell:{queue}",
            lambda: real(function, queue, **options),
            lambda: _lost_connection(connection),
        )

    doorbell.async_task = wrapped
