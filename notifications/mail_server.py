"""
The mail server: connections that stay open from mail to mail, more of them the slower it answers.

Threads of the dispatcher hand mails over, a connection each, and only speak SMTP. Django's other mail backends
are asked for one mail at a time.
"""

import smtplib
import time
from contextlib import suppress
from functools import cache

from django.conf import settings
from django.core.mail import get_connection
from django.core.mail.backends.smtp import EmailBackend
from django.utils.module_loading import import_string

from notifications import dispatcher, mail, smtp
from notifications.models import Message

# Per word with the server. A mail is four of them at most, all within its message's lease.
SMTP_TIMEOUT_SECONDS = 10
# One more connection for each of these that a mail takes: a server next door needs one.
SECONDS_A_CONNECTION = 0.005
# How much of the pace that is remembered a mail makes up, so that one that hangs is not the pace.
PACE_OF_ONE = 0.2


class MailServerDown(dispatcher.Unreachable):
    """The mail server cannot be reached, or does not let us in."""


class Line:
    """One connection to the server that the settings name."""

    def __init__(self) -> None:
        self.goes_to = _address()
        self._backend = get_connection(timeout=settings.EMAIL_TIMEOUT or SMTP_TIMEOUT_SECONDS)
        self._is_open = False

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
            raise MailServerDown(repr(error)) from error
        self._is_open = True

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


def hand_over(message: Message) -> None:
    """
    Hand a message over, on a connection that nobody is using.

    :raises MailServerDown: if there is none, and none to be had.
    :raises Exception: whatever else went wrong.
    """
    line = _take()
    line.open()
    began = time.monotonic()
    try:
        line.send(message)
    finally:
        _pace.note(time.monotonic() - began)
        if not line.speaks_smtp:
            line.close()
        elif line.is_open:
            _idle.append(line)


def connections() -> int:
    """How many mails may be handed over at once: more, the slower the server answers; 0: it is no SMTP server."""
    if not _speaks_smtp(settings.EMAIL_BACKEND):
        return 0
    most: int = settings.EMAIL_CONNECTIONS
    return min(1 + int(_pace.seconds / SECONDS_A_CONNECTION), most)


@cache
def _speaks_smtp(backend: str) -> bool:
    return issubclass(import_string(backend), EmailBackend)


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


class _Pace:
    """How long a mail takes, about. Threads note it without a lock: one that is lost does not matter."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def note(self, seconds: float) -> None:
        self.seconds += PACE_OF_ONE * (seconds - self.seconds)


_pace = _Pace()
# Connections that wait for the next mail. Threads take and return: a list's pop and append are atomic.
_idle: list[Line] = []


def _take() -> Line:
    with suppress(IndexError):
        while (line := _idle.pop()).goes_to != _address():
            line.close()
        return line
    return Line()


def _address() -> tuple[str, str, int]:
    return settings.EMAIL_BACKEND, settings.EMAIL_HOST, settings.EMAIL_PORT
