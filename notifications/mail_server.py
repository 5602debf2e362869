"""
The mail server: connections that stay open from batch to batch, more of them the slower it answers.

The threads here only speak SMTP. Whoever sends does all work on the database, in its own thread,
with what has come to its end so far. Django's other mail backends are asked for one mail at a time.
"""

import smtplib
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from typing import TypeAlias

from django.conf import settings
from django.core.mail import get_connection
from django.core.mail.backends.smtp import EmailBackend

from notifications import mail, smtp
from notifications.models import Message

# Per word with the server. A mail is four of them at most, all within its message's lease.
SMTP_TIMEOUT_SECONDS = 10
# One more connection for each of these that a mail takes: a server next door needs one.
SECONDS_A_CONNECTION = 0.005
# How long what has ended waits to be written down. A kill repeats as much.
ENDED_WAITS_SECONDS = 0.1
# How much of the pace that is remembered a mail makes up, so that one that hangs is not the pace.
PACE_OF_ONE = 0.2

# A message that was tried, and what went wrong with it, if anything did.
Tried: TypeAlias = tuple[Message, Exception | None]


class MailServerDown(Exception):
    """The mail server cannot be reached, or does not let us in."""


class NotBegun(Exception):
    """The time was up before it was this message's turn."""


class Line:
    """One connection to the server that the settings name."""

    def __init__(self) -> None:
        self.goes_to = _address()
        # How long a mail takes on it, about.
        self.pace_seconds = 0.0
        self._backend = get_connection(timeout=settings.EMAIL_TIMEOUT or SMTP_TIMEOUT_SECONDS)
        self._is_open = False
        # Why it could not be opened, if that was tried last.
        self.down: MailServerDown | None = None

    @property
    def speaks_smtp(self) -> bool:
        """Whether it is a server, and no other backend of Django's."""
        return isinstance(self._backend, EmailBackend)

    @property
    def is_open(self) -> bool:
        """Whether it was, when we last looked."""
        return self._is_open

    def open(self) -> None:
        """
        Connect, unless connected.

        :raises MailServerDown: if it cannot.
        """
        if self._is_open:
            return
        try:
            self._backend.open()
            if self.speaks_smtp:
                smtp.prepare(self._smtp)
        except OSError as error:
            self.close()
            self.down = MailServerDown(repr(error))
            raise self.down from error
        self._is_open = True

    def try_to_send(self, message: Message) -> Exception | None:
        """Hand over a message; what went wrong is returned, for it must not stop the others."""
        began = time.monotonic()
        try:
            self.send(message)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is written beside the message
            return error
        finally:
            self.pace_seconds += PACE_OF_ONE * (time.monotonic() - began - self.pace_seconds)
        return None

    def send(self, message: Message) -> None:
        """
        Hand over a message.

        :raises MailServerDown: if there is no connection, and none to be had.
        :raises Exception: whatever else went wrong; the connection is closed unless it is sound.
        """
        was_open = self._is_open
        self.open()
        try:
            self._send(message)
        except smtp.NotHandedOver:
            self._break_off()
            if not was_open:
                raise
            # It had been idle for too long: that says nothing about the message.
            self.send(message)
        except mail.NotDeliverable:
            raise  # not a word was said
        except BaseException as error:
            if not (self.speaks_smtp and isinstance(error, smtp.SOUND_AFTER)):
                self._break_off()
            raise

    def _send(self, message: Message) -> None:
        if self.speaks_smtp:
            smtp.send(self._smtp, mail.as_bytes(message))
        else:
            self._backend.send_messages([mail.composed(message)])

    @property
    def _smtp(self) -> smtplib.SMTP:
        assert isinstance(self._backend, EmailBackend), "it does not speak SMTP"
        assert self._backend.connection is not None, "it is not open"
        return self._backend.connection

    def _break_off(self) -> None:
        """Close it without a word, for no answer may come to one any more."""
        if self.speaks_smtp:
            self._smtp.close()
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._is_open = False
        with suppress(OSError):
            self._backend.close()


def send(messages: Sequence[Message], *, begin_within: float) -> Generator[list[Tried], None, None]:
    """
    Hand messages over, and yield what has come to its end, each message once.

    None is begun later than `begin_within` seconds from now. What cannot be sent comes back with
    MailServerDown; what there was no time for with NotBegun.
    """
    stop_at = time.monotonic() + begin_within
    line = _take()
    if line.speaks_smtp:
        yield from _Window(messages, line, stop_at=stop_at).tried()
    else:
        yield from _one_by_one(messages, line, stop_at=stop_at)


def reach() -> None:
    """
    Connect, so that the next messages find a connection.

    :raises MailServerDown: if it cannot.
    """
    line = _take()
    line.open()
    _idle.append(line)


def hang_up() -> None:
    """Close the connections that nobody is using."""
    with suppress(IndexError):
        while True:
            _idle.pop().close()


# Connections that wait for the next batch. Threads take and return: a list's pop and append are atomic.
_idle: list[Line] = []


def _take() -> Line:
    with suppress(IndexError):
        while (line := _idle.pop()).goes_to != _address():
            line.close()
        return line
    return Line()


def _address() -> tuple[str, str, int]:
    return settings.EMAIL_BACKEND, settings.EMAIL_HOST, settings.EMAIL_PORT


def _one_by_one(
    messages: Sequence[Message], line: Line, *, stop_at: float
) -> Iterator[list[Tried]]:
    waiting = deque(messages)
    for tried in _tried(waiting, line, stop_at=stop_at):
        yield [tried]
    yield _left(waiting, line)


def _tried(waiting: deque[Message], line: Line, *, stop_at: float) -> Iterator[Tried]:
    """Each message that was tried, until none is left, the time is up or the server is down."""
    while time.monotonic() < stop_at:
        try:
            line.open()
            message = waiting.popleft()
        except (IndexError, MailServerDown):
            return
        yield message, line.try_to_send(message)


class _Window:
    """Some messages, and threads that hand them over, a connection each."""

    def __init__(self, messages: Sequence[Message], line: Line, *, stop_at: float) -> None:
        self._waiting = deque(messages)
        self._ended: deque[Tried] = deque()
        self._stop_at = stop_at
        self._first = line
        self._threads: list[threading.Thread] = []

    def tried(self) -> Iterator[list[Tried]]:
        """What has come to its end, a tenth of a second's at a time."""
        try:
            self._start(self._first)
            while any(thread.is_alive() for thread in self._threads):
                self._widen()
                self._wait()
                yield self._what_ended()
            yield self._what_ended() + _left(self._waiting, self._first)
        finally:
            # Whoever writes down what ended may have failed.
            self._waiting.clear()
            for thread in self._threads:
                thread.join()

    def _start(self, line: Line) -> None:
        thread = threading.Thread(target=self._work, args=[line], name="smtp")
        self._threads.append(thread)
        thread.start()

    def _work(self, line: Line) -> None:
        for tried in _tried(self._waiting, line, stop_at=self._stop_at):
            self._ended.append(tried)
        if line.is_open:
            _idle.append(line)

    def _widen(self) -> None:
        wanted = 1 + int(self._first.pace_seconds / SECONDS_A_CONNECTION)
        for _ in range(len(self._threads), min(wanted, settings.EMAIL_CONNECTIONS)):
            self._start(_take())

    def _wait(self) -> None:
        until = time.monotonic() + ENDED_WAITS_SECONDS
        for thread in self._threads:
            thread.join(max(0, until - time.monotonic()))

    def _what_ended(self) -> list[Tried]:
        return [self._ended.popleft() for _ in range(len(self._ended))]


def _left(waiting: deque[Message], line: Line) -> list[Tried]:
    """What was not begun."""
    why = line.down or NotBegun()
    return [(message, why) for message in waiting]
