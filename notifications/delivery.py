"""
Deliver what the outbox holds: claim, recheck, send with nothing open, finish; each for many at once.

Any number of workers may do so at once. SMTP cannot be exactly-once: a worker killed between the
server's "accepted" and our commit sends again. So nothing is lost, and each repeat carries the same
Message-ID. docs/messages.md says it to people.
"""

import logging
import smtplib
import uuid
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from random import SystemRandom
from typing import Any

from django.db import connection, transaction
from django.db.models import F, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Now

from accounts import timeline
from accounts.models import Account
from notifications import catalog, lanes, mail_server, smtp
from notifications.catalog import Cancel, Rerender
from notifications.lanes import Grant
from notifications.mail import NotDeliverable
from notifications.mail_server import MailServerDown, NotBegun
from notifications.models import Message

logger = logging.getLogger(__name__)

State = Message.State

# The mail server's lane.
PROVIDER = "smtp"
# How many are asked about, and written down, together.
BATCH = 100
# Renewed by the recheck. It has to outlast what follows: the time in which sending may begin, and one
# mail of four words with a server that takes its whole timeout for each.
LEASE = timedelta(seconds=60)
# Its worker was killed, and not at its first try: this may be why. It is tried when nothing else is due, and
# alone, so that it takes no other with it, and one that was only beside it is sent.
SUSPECT = Q(state=State.SENDING, attempts__gte=2)
# What was found true is not sent later than this: it is asked about again.
BEGIN_WITHIN = timedelta(seconds=10)
MAX_TRIES = 8
FIRST_RETRY = timedelta(seconds=30)
LONGEST_RETRY = timedelta(hours=1)
# A server that is down says nothing about the message, so it costs no try: the mail of a month end
# outlives a night without mail.
SERVER_RETRY = timedelta(minutes=2)
# SMTP has no Retry-After to say it.
SLOW_DOWN_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """How many messages of one batch went which way. Failed ones wait for their next try, or are dead."""

    sent: int = 0
    cancelled: int = 0
    failed: int = 0


class Throttled(Exception):
    """Messages are due, and the mail server's lane lets none begin. Says when to look again; None: not by itself."""

    def __init__(self, refused: Grant) -> None:
        super().__init__(refused.because)
        self.again_at = refused.again_at
        self.wait_seconds = refused.wait_seconds


class LeaseLost(Exception):
    """Another worker has taken a message over: it is no longer ours to write."""


class NotDead(Exception):
    """Only a dead message can be tried again."""


def deliver(
    *, as_of: datetime, limit: int = BATCH, message_ids: Collection[uuid.UUID] | None = None
) -> Delivered:
    """
    Deliver up to `limit` due messages, as many as the lane lets begin; or those of the given
    ones that are due, which their steps have asked the lane about.

    Opens transactions of its own: call it with none open. A message that fails does not stop the
    others; it is tried again later, or is dead with its last error beside it.

    :raises Throttled: if messages are due, and none may begin.
    """
    if message_ids is not None:
        return _deliver_claimed(_claim(_due().filter(pk__in=message_ids), limit=limit), as_of=as_of)
    granted, messages = _claim_granted(limit)
    try:
        delivered = _deliver_claimed(messages, as_of=as_of)
    finally:
        lanes.end_probe(granted)
    lanes.note_done(PROVIDER, delivered.sent)
    return delivered


def _deliver_claimed(messages: Sequence[Message], *, as_of: datetime) -> Delivered:
    worn_out = [message for message in messages if message.attempts > MAX_TRIES]
    ends = _finish([_End(m, State.DEAD, last_error=KILLS_ITS_WORKER) for m in worn_out])
    ends += _deliver([m for m in messages if m.attempts <= MAX_TRIES], as_of=as_of)
    return Delivered(
        sent=ends[State.SENT],
        cancelled=ends[State.CANCELLED],
        failed=ends[State.QUEUED] + ends[State.DEAD],
    )


KILLS_ITS_WORKER = f"{MAX_TRIES} tries ended without a word: the worker was killed"


def retry(message: Message, *, actor: str = "system") -> None:
    """
    Queue a dead message again, with all its tries before it, to the address its account has now.

    :raises NotDead: if it is not dead (any more).
    """
    address = Account.objects.filter(pk=OuterRef("account")).values("email")
    with transaction.atomic(durable=True):
        if not Message.objects.filter(pk=message.pk, state=State.DEAD).update(
            state=State.QUEUED, attempts=0, next_attempt_at=Now(), recipient=Subquery(address)
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
def _claim_granted(limit: int) -> tuple[Grant, list[Message]]:
    granted = lanes.grant(PROVIDER, wanted=limit, in_flight=_in_flight)
    if not granted.count and _due().exists():
        raise Throttled(granted)
    messages = _lease(_due(), limit=granted.count)
    lanes.give_back(granted, unused=granted.count - len(messages))
    return granted, messages


def _in_flight() -> int:
    """How many messages somebody is sending now."""
    return Message.objects.filter(state=State.SENDING, lease_until__gt=Now()).count()


@transaction.atomic(durable=True)
def _claim(due: QuerySet[Message], *, limit: int) -> list[Message]:
    return _lease(due, limit=limit)


def _due() -> QuerySet[Message]:
    return Message.objects.filter(
        Q(state=State.QUEUED) | Q(state=State.SENDING, lease_until__lte=Now()),
        state__in=[State.QUEUED, State.SENDING],
        next_attempt_at__lte=Now(),
    )


def _lease(due: QuerySet[Message], *, limit: int) -> list[Message]:
    messages = _first(due.exclude(SUSPECT), limit) or _first(due.filter(SUSPECT), min(limit, 1))
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


def _first(due: QuerySet[Message], limit: int) -> list[Message]:
    in_line = due.order_by("next_attempt_at", "created_at")
    return list(in_line.select_for_update(skip_locked=True)[:limit])


# --- one batch


def _deliver(messages: Sequence[Message], *, as_of: datetime) -> Counter[str]:
    """How many came to which end."""
    ends: Counter[str] = Counter()
    if not messages:
        return ends
    try:
        mail_server.reach()
    except MailServerDown as error:
        lanes.note_answers(PROVIDER, unanswered=1)
        return _finish([_end(message, error) for message in messages])
    true = _still_true(messages, as_of=as_of, ends=ends)
    sending = mail_server.send(true, begin_within=BEGIN_WITHIN.total_seconds())
    errors: list[Exception | None] = []
    with closing(sending):
        for tried in sending:
            ends += _finish([_end(message, error) for message, error in tried])
            errors += [error for _message, error in tried]
    _note_answers(errors)
    return ends


def _note_answers(errors: Sequence[Exception | None]) -> None:
    """Tell the lane how the server was, as far as we spoke to it."""
    asked = [error for error in errors if not isinstance(error, NotDeliverable | NotBegun)]
    answers = [e for e in asked if e is None or isinstance(e, smtp.SOUND_AFTER)]
    lanes.note_answers(
        PROVIDER,
        answered=len(answers),
        unanswered=len(asked) - len(answers),
        throttled_for=SLOW_DOWN_SECONDS
        if any(isinstance(e, smtp.SlowDown) for e in asked)
        else None,
    )


def _still_true(
    messages: Sequence[Message], *, as_of: datetime, ends: Counter[str]
) -> list[Message]:
    """Those that are to be sent, each kind asked about at once; the others come to their end."""
    by_kind = groupby(sorted(messages, key=lambda m: m.kind), key=lambda m: m.kind)
    return [
        message
        for _kind, of_a_kind in by_kind
        for message in _ask(list(of_a_kind), as_of=as_of, ends=ends)
    ]


def _ask(messages: Sequence[Message], *, as_of: datetime, ends: Counter[str]) -> list[Message]:
    try:
        verdicts = _recheck(messages, as_of=as_of)
    except Exception as error:  # noqa: BLE001 - one message's defect must not stop the others
        if len(messages) == 1:
            _could_not_ask(messages[0], error, ends=ends)
            return []
        # One by one, so that only whose fault it is comes to harm.
        return [m for message in messages for m in _ask([message], as_of=as_of, ends=ends)]
    ends[State.CANCELLED] += sum(isinstance(verdict, Cancel) for verdict in verdicts)
    for message, verdict in zip(messages, verdicts, strict=True):
        if isinstance(verdict, Rerender):
            message.__dict__.update(vars(verdict.content))
    return [m for m, said in zip(messages, verdicts, strict=True) if not isinstance(said, Cancel)]


def _could_not_ask(message: Message, error: Exception, *, ends: Counter[str]) -> None:
    if isinstance(error, LeaseLost):
        logger.warning("%s: the lease was lost, another worker has it", error)
    else:
        ends += _finish([_end(message, error)])


@transaction.atomic(durable=True)
def _recheck(messages: Sequence[Message], *, as_of: datetime) -> Sequence[catalog.Verdict]:
    """
    Ask whether messages of a kind are still true, and write the answers down.

    :raises LeaseLost: if one is another worker's by now; what the recheck wrote is taken back.
    """
    verdicts = catalog.recheck(messages, as_of=as_of)
    answers = list(zip(messages, verdicts, strict=True))
    ours = 0
    for message, verdict in answers:
        if isinstance(verdict, Rerender):
            said = vars(verdict.content)
            _held([message]).update(because=verdict.because[:300], **said)
    ours += _held([m for m, verdict in answers if not isinstance(verdict, Cancel)]).update(
        lease_until=Now() + LEASE
    )
    ours += _write_ends(
        [
            _End(message, State.CANCELLED, because=verdict.because[:300])
            for message, verdict in answers
            if isinstance(verdict, Cancel)
        ]
    ).total()
    if ours < len(messages):
        raise LeaseLost(f"Message {messages[0].pk}" if len(messages) == 1 else "Some message")
    return verdicts


def _held(messages: Sequence[Message]) -> QuerySet[Message]:
    """Those that we hold the lease of."""
    ids = [message.pk for message in messages]
    return Message.objects.filter(pk__in=ids, lease_token__in={m.lease_token for m in messages})


# --- what became of each


@dataclass(frozen=True)
class _End:
    """What is written beside a message when its batch is through with it."""

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
        case NotBegun():
            return _End(message, State.QUEUED, is_a_try=False)
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


def _finish(ends: Sequence[_End]) -> Counter[str]:
    """Write down what became of messages we hold the lease of. Returns how many came to which."""
    written = _write_ends(ends)
    if lost := len(ends) - written.total():
        logger.warning("%d messages: the lease was lost, another worker has them", lost)
    return written


def _write_ends(ends: Sequence[_End]) -> Counter[str]:
    if not ends:
        return Counter()
    with connection.cursor() as cursor:
        cursor.execute(
            FINISH,
            {
                "ids": [str(end.message.pk) for end in ends],
                "tokens": [str(end.message.lease_token) for end in ends],
                "states": [end.state for end in ends],
                "because": [end.because for end in ends],
                "errors": [end.last_error for end in ends],
                "waits": [end.wait for end in ends],
                "tries": [int(end.is_a_try) for end in ends],
            },
        )
        return Counter(state for (state,) in cursor.fetchall())


FINISH = """
UPDATE notifications_message m
   SET state = e.state, lease_token = NULL, lease_until = NULL,
       sent_at = CASE e.state WHEN 'SENT' THEN statement_timestamp() END,
       next_attempt_at = CASE e.state WHEN 'QUEUED' THEN statement_timestamp() + e.wait ELSE m.next_attempt_at END,
       attempts = m.attempts - 1 + e.tries,
       because = coalesce(nullif(e.because, ''), m.because),
       last_error = coalesce(nullif(e.error, ''), m.last_error)
  FROM unnest(%(ids)s::uuid[], %(tokens)s::uuid[], %(states)s::text[], %(because)s::text[],
              %(errors)s::text[], %(waits)s::interval[], %(tries)s::smallint[])
       AS e(id, token, state, because, error, wait, tries)
 WHERE m.id = e.id AND m.lease_token = e.token
RETURNING m.state
"""
