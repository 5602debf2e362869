"""
Messages, a kind of the dispatcher: rechecked, handed to the mail server, and what it said written down.

SMTP cannot be exactly-once: a worker killed between the server's "accepted" and our commit sends again. So
nothing is lost, and each repeat carries the same Message-ID. docs/messages.md says it to people.
"""

import logging
import smtplib
import sys
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from random import SystemRandom
from typing import Any, cast

from django.db import connection, transaction
from django.db.models import F, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Now

from accounts import timeline
from accounts.models import Account
from notifications import catalog, dispatcher, mail_server, smtp
from notifications.catalog import Cancel, Rerender
from notifications.dispatcher import Heard, Kind
from notifications.mail import NotDeliverable
from notifications.mail_server import MailServerDown
from notifications.models import Message

logger = logging.getLogger(__name__)

State = Message.State

# The mail server's lane.
PROVIDER = "smtp"
MAX_TRIES = 8
FIRST_RETRY = timedelta(seconds=30)
LONGEST_RETRY = timedelta(hours=1)
# A server that is down says nothing about the message, so it costs no try: the mail of a month end
# outlives a night without mail.
SERVER_RETRY = timedelta(minutes=2)
# SMTP has no Retry-After to say it.
SLOW_DOWN_SECONDS = 30.0
# What a person has ordered goes before what comes by itself.
ORDERED = 10


class NotDead(Exception):
    """Only a message that is dead or parked can be tried again."""


def deliver(*, as_of: datetime, message_ids: Collection[uuid.UUID]) -> list[Message]:
    """
    Deliver those of these messages that are due, whose step has asked the lane about them.

    Opens transactions of its own: call it with none open. A message that fails does not stop the
    others; it is tried again later, or is dead with its last error beside it. Returns those that
    came to rest.
    """
    return dispatcher.drive(MESSAGES, message_ids, clock=lambda: as_of)


def retry(message: Message, *, actor: str = "system") -> None:
    """
    Queue a message again that is dead, or parked, with all its tries before it, to the address its account has now.

    One that was parked is tried once, alone.

    :raises NotDead: if it is neither (any more).
    """
    address = Account.objects.filter(pk=OuterRef("account")).values("email")
    again = {
        "state": State.QUEUED,
        "attempts": 0,
        "next_attempt_at": Now(),
        "priority": ORDERED,
        "recipient": Subquery(address),
    }
    with transaction.atomic(durable=True):
        if not (
            Message.objects.filter(pk=message.pk, state=State.DEAD).update(**again)
            or dispatcher.order(MESSAGES, message.pk, **again)
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


# --- the kind

MESSAGES = cast("Kind", sys.modules[__name__])

name = "message"
model = Message
# By fact where a transaction has written several: so that a run goes the same way each time.
order = ("next_attempt_at", "created_at", "fact")
batch = 100
# It has to outlast the time in which sending may begin, and one mail of four words with a server that takes
# its whole timeout for each.
lease = timedelta(seconds=60)
# What was found true is not sent later than this: it is asked about again.
begin_within = timedelta(seconds=10)
# A repeat does no harm, and bears the same id.
always_applies = False
claimed: Mapping[str, Any] = {"state": State.SENDING, "attempts": F("attempts") + 1}
freed: Mapping[str, Any] = {"state": State.QUEUED}
unsent: Mapping[str, Any] = {"attempts": F("attempts") - 1}


def due() -> QuerySet[Message]:
    """Those that wait, or whose worker is gone."""
    return Message.objects.filter(
        Q(state__in=[State.QUEUED, State.SENDING]), next_attempt_at__lte=Now()
    )


def lanes(rows: QuerySet[Message]) -> list[str]:
    """The mail server's, if anything is due."""
    return [PROVIDER] if rows.exists() else []


def of_lane(rows: QuerySet[Message], provider: str) -> QuerySet[Message]:
    """All, or none: there is one mail server."""
    return rows if provider == PROVIDER else rows.none()


def lane_of(_message: Message) -> str:
    """The mail server's."""
    return PROVIDER


def threads() -> int:
    """As many connections as the server's pace is worth; 0 for Django's other backends."""
    return mail_server.connections()


def reach(_provider: str) -> None:
    """:raises MailServerDown: if there is no connection, and none to be had."""
    mail_server.reach()


def together(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Each kind of message is asked about at once, and by itself: each locks accounts in one order."""
    by_kind = groupby(sorted(messages, key=lambda m: m.kind), key=lambda m: m.kind)
    yield from (list(of_a_kind) for _kind, of_a_kind in by_kind)


def recheck(messages: Sequence[Message], *, as_of: datetime) -> list[Message | None]:
    """Ask whether messages of a kind are still true; those that are go out as they read now."""
    verdicts = catalog.recheck(messages, as_of=as_of)
    calls: list[Message | None] = []
    ends: list[_End] = []
    for message, verdict in zip(messages, verdicts, strict=True):
        if isinstance(verdict, Cancel):
            ends.append(_End(message, State.CANCELLED, because=verdict.because[:300]))
            calls.append(None)
            continue
        if isinstance(verdict, Rerender):
            said = vars(verdict.content)
            Message.objects.filter(pk=message.pk).update(because=verdict.because[:300], **said)
            message.__dict__.update(said)
        calls.append(message)
    _finish(ends)
    return calls


def call(_message: Message, what: Message) -> None:
    """Hand it to the mail server."""
    mail_server.hand_over(what)


def heard(answer: object) -> Heard:
    """Whether the server had anything to say; an address that is none never came before it."""
    if isinstance(answer, NotDeliverable):
        return Heard(answered=None)
    return Heard(
        answered=answer is None or isinstance(answer, smtp.SOUND_AFTER),
        slow_down_seconds=SLOW_DOWN_SECONDS if isinstance(answer, smtp.SlowDown) else None,
    )


def write_down(
    answers: Sequence[tuple[Message, Exception | None]], *, as_of: datetime
) -> tuple[()]:
    """Sent, to be tried again, or dead: whatever it is, it rests."""
    _finish([_end(message, answer) for message, answer in answers])
    return ()


def fail(message: Message, error: Exception, *, as_of: datetime) -> None:
    """As if sending had failed."""
    _finish([_end(message, error)])


def is_done(message: Message) -> bool:
    """Whether it was sent."""
    return message.state == State.SENT


def hang_up() -> None:
    """Close the connections to the mail server."""
    mail_server.hang_up()


# --- what became of each


@dataclass(frozen=True)
class _End:
    """What is written beside a message when it comes to rest."""

    message: Message
    state: str
    because: str = ""
    last_error: str = ""
    wait: timedelta = timedelta(0)
    is_a_try: bool = True


def _end(message: Message, error: Exception | None) -> _End:
    match error:
        case None:
            return _End(message, State.SENT)
        case MailServerDown():
            logger.warning(
                "Message %s: the mail server is down: %s", message.pk, error, extra=_about(message)
            )
            return _End(
                message, State.QUEUED, last_error=str(error), wait=SERVER_RETRY, is_a_try=False
            )
    logger.warning(
        "Message %s: try %d failed: %r", message.pk, message.attempts, error, extra=_about(message)
    )
    if _is_permanent(error) or message.attempts >= MAX_TRIES:
        return _End(message, State.DEAD, last_error=repr(error))
    return _End(message, State.QUEUED, last_error=repr(error), wait=_delay(message.attempts))


def _about(message: Message) -> dict[str, Any]:
    """The fields of its lines in the log."""
    return {"message_id": str(message.pk), "account": message.account_id}


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


def _finish(ends: Sequence[_End]) -> None:
    """Write down what became of messages that are ours, in the caller's transaction."""
    if not ends:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            FINISH,
            {
                "ids": [str(end.message.pk) for end in ends],
                "states": [end.state for end in ends],
                "because": [end.because for end in ends],
                "errors": [end.last_error for end in ends],
                "waits": [end.wait for end in ends],
                "tries": [int(end.is_a_try) for end in ends],
            },
        )
    for end in ends:
        end.message.state = end.state


FINISH = """
UPDATE notifications_message m
   SET state = e.state,
       sent_at = CASE e.state WHEN 'SENT' THEN statement_timestamp() END,
       next_attempt_at = CASE e.state WHEN 'QUEUED' THEN statement_timestamp() + e.wait ELSE m.next_attempt_at END,
       attempts = m.attempts - 1 + e.tries,
       because = coalesce(nullif(e.because, ''), m.because),
       last_error = coalesce(nullif(e.error, ''), m.last_error)
  FROM unnest(%(ids)s::uuid[], %(states)s::text[], %(because)s::text[], %(errors)s::text[],
              %(waits)s::interval[], %(tries)s::smallint[])
       AS e(id, state, because, error, wait, tries)
 WHERE m.id = e.id
"""
