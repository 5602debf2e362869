"""
Deliver what the outbox holds: claim, recheck, send with nothing open, finish.

Any number of workers may do so at once. SMTP cannot be exactly-once: a worker killed between the
server's "accepted" and our commit sends again. So nothing is lost, and each repeat carries the same
Message-ID. docs/messages.md says it to people.
"""

import logging
import smtplib
import uuid
from collections import Counter
from collections.abc import Collection
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import format_datetime, parseaddr
from random import SystemRandom
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.mail import EmailMultiAlternatives, get_connection
from django.core.validators import validate_email
from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Now

from accounts import timeline
from notifications import catalog
from notifications.catalog import Cancel, Rerender
from notifications.models import Message

logger = logging.getLogger(__name__)

State = Message.State

# Renewed before each send, so it has to outlast one message, not the batch.
LEASE = timedelta(seconds=60)
# Per word with the server. A send is four (MAIL, RCPT, DATA, the text): all within the lease.
SMTP_TIMEOUT_SECONDS = 10
MAX_TRIES = 8
FIRST_RETRY = timedelta(seconds=30)
LONGEST_RETRY = timedelta(hours=1)
# A server that is down says nothing about the message, so it costs no try: the mail of a month end
# outlives a night without mail.
SERVER_RETRY = timedelta(minutes=2)


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """How many messages of one batch went which way. Failed ones wait for their next try, or are dead."""

    sent: int = 0
    cancelled: int = 0
    failed: int = 0


class MailServerDown(Exception):
    """The mail server cannot be reached, or does not let us in."""


class LeaseLost(Exception):
    """Another worker has taken the message over: it is no longer ours to write."""


class NotDead(Exception):
    """Only a dead message can be tried again."""


def deliver(
    *, as_of: datetime, limit: int = 50, message_ids: Collection[uuid.UUID] | None = None
) -> Delivered:
    """
    This will deliver up to `limit` due messages, or those of the given ones that are due.

    Opens transactions of its own: call it with none open. A message that fails does not stop the
    others; it is tried again later, or is dead with its last error beside it.
    """
    messages = _claim(limit=limit, message_ids=message_ids)
    with closing(_MailServer()) as server:
        ends = Counter(_deliver_one(message, server=server, as_of=as_of) for message in messages)
    return Delivered(
        sent=ends[State.SENT],
        cancelled=ends[State.CANCELLED],
        failed=ends[State.QUEUED] + ends[State.DEAD],
    )


def retry(message: Message, *, actor: str = "system") -> None:
    """
    This will queue a dead message again, with all its tries before it.

    :raises NotDead: if it is not dead (any more).
    """
    with transaction.atomic(durable=True):
        if not Message.objects.filter(pk=message.pk, state=State.DEAD).update(
            state=State.QUEUED, attempts=0, next_attempt_at=Now()
        ):
            raise NotDead(f"{message} is not dead")
        timeline.record(
            timeline.event(
                account_id=message.account_id,
                kind="message.retried",
                summary=f"Message queued again: {message.subject}",
                actor=actor,
                message=str(message.pk),
            )
        )
    message.refresh_from_db()


# --- claim


@transaction.atomic(durable=True)
def _claim(*, limit: int, message_ids: Collection[uuid.UUID] | None) -> list[Message]:
    due = Message.objects.filter(
        Q(state=State.QUEUED) | Q(state=State.SENDING, lease_until__lte=Now()),
        state__in=[State.QUEUED, State.SENDING],
        next_attempt_at__lte=Now(),
    )
    if message_ids is not None:
        due = due.filter(pk__in=message_ids)
    messages = list(
        due.select_for_update(skip_locked=True).order_by("next_attempt_at", "created_at")[:limit]
    )
    lease_token = uuid.uuid4()
    for message in messages:
        message.lease_token = lease_token
        message.attempts += 1
    Message.objects.filter(pk__in=[message.pk for message in messages]).update(
        state=State.SENDING,
        lease_token=lease_token,
        lease_until=Now() + LEASE,
        attempts=F("attempts") + 1,
    )
    return messages


# --- one message


def _deliver_one(message: Message, *, server: "_MailServer", as_of: datetime) -> str | None:
    """The state it ends in; None where another worker has taken it over."""
    try:
        return _try_one(message, server=server, as_of=as_of)
    except LeaseLost:
        logger.warning("Message %s: the lease was lost, another worker has it", message.pk)
        return None


def _try_one(message: Message, *, server: "_MailServer", as_of: datetime) -> str:
    if message.attempts > MAX_TRIES:
        return _bury(message, f"{MAX_TRIES} tries ended without a word: the worker was killed")
    try:
        server.open()
        if _recheck(message, as_of=as_of) == State.CANCELLED:
            return State.CANCELLED
        server.send(_email(message))
    except LeaseLost:
        raise
    except MailServerDown as error:
        return _put_back(message, error)
    except Exception as error:  # noqa: BLE001 - one message's defect must not stop the others
        return _note_failure(message, error)
    return _finish(message, State.SENT, sent_at=Now())


@transaction.atomic(durable=True)
def _recheck(message: Message, *, as_of: datetime) -> str:
    """
    This will ask whether the message is still true, and write the answer down.

    A lost lease rolls back what the recheck wrote.
    """
    verdict = catalog.recheck(message, as_of=as_of)
    if isinstance(verdict, Cancel):
        return _finish(message, State.CANCELLED, because=verdict.because[:300])
    if isinstance(verdict, Rerender):
        said = vars(verdict.content)
        _write(message, because=verdict.because[:300], **said)
        message.__dict__.update(said)
    _write(message, lease_until=Now() + LEASE)
    return State.SENDING


# --- send


class NotDeliverable(Exception):
    """This message can never be delivered as it is; trying again would change nothing."""


class _MailServer:
    """One connection for the batch, opened anew after an error: what it left open is unknown."""

    def __init__(self) -> None:
        timeout = settings.EMAIL_TIMEOUT or SMTP_TIMEOUT_SECONDS
        self._connection = get_connection(timeout=timeout)
        self._down: MailServerDown | None = None

    def open(self) -> None:
        """
        This will connect, unless connected; after one refusal it does not ask again.

        :raises MailServerDown: if it cannot.
        """
        if self._down:
            raise self._down
        try:
            self._connection.open()
        except OSError as error:
            self._down = MailServerDown(repr(error))
            raise self._down from error

    def send(self, email: EmailMultiAlternatives) -> None:
        try:
            self._connection.send_messages([email])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        with suppress(OSError):
            self._connection.close()


def _email(message: Message) -> EmailMultiAlternatives:
    try:
        validate_email(message.recipient)
    except ValidationError as error:
        raise NotDeliverable(f"{message.recipient!r} is no email address") from error
    email = EmailMultiAlternatives(
        subject=message.subject,
        body=message.body_text,
        from_email=settings.DEFAULT_FROM_EMAIL,
        to=[message.recipient],
        headers={
            "Message-ID": message_id(message),
            "Date": format_datetime(message.created_at),
            "Auto-Submitted": "auto-generated",
            "Content-Language": message.locale,
        },
    )
    email.attach_alternative(message.body_html, "text/html")
    try:
        email.message()
    except ValueError as error:  # BadHeaderError: a line break in a header
        raise NotDeliverable(str(error)) from error
    return email


def message_id(message: Message) -> str:
    """The Message-ID of every try of this message."""
    domain = parseaddr(settings.DEFAULT_FROM_EMAIL)[1].rpartition("@")[2]
    return f"<{message.pk}@{domain}>"


# --- what became of it


def _note_failure(message: Message, error: Exception) -> str:
    logger.warning("Message %s: try %d failed: %r", message.pk, message.attempts, error)
    if _is_permanent(error) or message.attempts >= MAX_TRIES:
        return _bury(message, repr(error))
    return _finish(
        message,
        State.QUEUED,
        next_attempt_at=Now() + _delay(message.attempts),
        last_error=repr(error),
    )


def _is_permanent(error: Exception) -> bool:
    match error:
        case NotDeliverable() | smtplib.SMTPNotSupportedError():
            return True
        case smtplib.SMTPRecipientsRefused(recipients=recipients):
            return all(code >= 500 for code, _ in recipients.values())
        case smtplib.SMTPSenderRefused():
            return False  # it refuses us, whoever we write to: a person will mend that
        case smtplib.SMTPResponseException(smtp_code=code):
            return code >= 500
    return False


def _delay(attempts: int) -> timedelta:
    """Exponential with full jitter, so that a thousand failed together do not come back together."""
    return min(LONGEST_RETRY, FIRST_RETRY * (1 << (attempts - 1))) * SystemRandom().random()


def _put_back(message: Message, error: MailServerDown) -> str:
    logger.warning("Message %s: the mail server is down: %s", message.pk, error)
    return _finish(
        message,
        State.QUEUED,
        attempts=F("attempts") - 1,
        next_attempt_at=Now() + SERVER_RETRY,
        last_error=str(error),
    )


def _bury(message: Message, last_error: str) -> str:
    return _finish(message, State.DEAD, last_error=last_error)


def _finish(message: Message, state: str, **changes: Any) -> str:
    _write(message, state=state, lease_token=None, lease_until=None, **changes)
    return state


def _write(message: Message, **changes: Any) -> None:
    """
    This will write to a message that we hold the lease of.

    :raises LeaseLost: if it is another worker's by now; nothing is written.
    """
    ours = Message.objects.filter(pk=message.pk, lease_token=message.lease_token)
    if not ours.update(**changes):
        raise LeaseLost(message.pk)
