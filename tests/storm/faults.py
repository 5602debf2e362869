"""
What is wrong with the world of a storm: a provider and a mail server that fail, and short pauses.

Also what is counted of the recoveries. The domain code is wrapped from outside, in every process.
"""

import logging
import os
import random
import smtplib
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F

from tests.storm.notes import Mark, note

# Of a hundred calls to the provider, or mails.
DROPPED, REPLY_LOST, SLOW, BUSY = 4, 5, 3, 2

# What a log line tells of a recovery.
TOLD = {
    "outcomes came after their lease": "fenced outcomes dropped",
    "claim was lost": "lost claims noticed",
    "has lost its database": "clusters that lost their database",
    "in halves": "batches taken in halves",
}


def install() -> None:
    """Shorten the pauses, break the provider and the mail, and count. Once per process."""
    rng = random.Random(f"{settings.STORM_SEED} {os.getpid()}")
    _shorten_pauses()
    _break_provider(rng)
    _break_mail(rng)
    _count_recoveries()
    _mark_work()


def _shorten_pauses() -> None:
    from billing.close.engine import claiming, runner
    from billing.payments import inbound
    from billing.payments.charges import attempt_kind, time_limits
    from billing.payments.refunds import refund_kind
    from billing.payments.refunds import time_limits as refund_limits
    from notifications import delivery, dispatcher
    from notifications.lanes import breaker

    inbound.WORK_WINDOW = timedelta(seconds=6)
    inbound.TRY_AGAIN_AFTER = (timedelta(seconds=1), timedelta(seconds=2), timedelta(seconds=4))
    inbound.TRY_AGAIN_LATER = timedelta(seconds=8)
    time_limits.DRIVE_WINDOW, time_limits.SEND_WITHIN = timedelta(seconds=8), timedelta(seconds=4)
    time_limits.ASK_AGAIN_AFTER = (timedelta(seconds=1), timedelta(seconds=2), timedelta(seconds=4))
    time_limits.ASK_AGAIN_LATER = timedelta(seconds=8)
    refund_limits.DRIVE_WINDOW = timedelta(seconds=8)
    # A provider may keep an error under a refund's key for a day; longer than this a person looks.
    refund_limits.KEY_HOLDS = timedelta(seconds=40)
    refund_limits.ASK_AGAIN_AFTER = timedelta(seconds=1)
    refund_limits.ASK_AGAIN_LATER = timedelta(seconds=8)
    for kind, limits in ((attempt_kind, time_limits), (refund_kind, refund_limits)):
        # A call takes two seconds where it is slow, and there may be two in a row.
        kind.lease, kind.begin_within = timedelta(seconds=8), timedelta(seconds=2)
        kind.freed = {"next_action_at": F("next_action_at") - limits.DRIVE_WINDOW}
    # Here whoever dies is nobody's poison.
    claiming.DEATHS_MAX = dispatcher.claims.DEATHS_MAX = 1000
    runner.RETRY_BASE, runner.RETRY_CAP = timedelta(seconds=1), timedelta(seconds=5)
    delivery.lease, delivery.begin_within = timedelta(seconds=6), timedelta(seconds=2)
    delivery.FIRST_RETRY, delivery.LONGEST_RETRY = timedelta(seconds=1), timedelta(seconds=5)
    delivery.SERVER_RETRY = timedelta(seconds=2)
    breaker.FIRST_PAUSE_SECONDS, breaker.LONGEST_PAUSE_SECONDS = 1, 4


def _break_provider(rng: random.Random) -> None:
    from billing.gateways import OutcomeUnknown, RateLimited
    from billing.gateways.standins.sandbox import SandboxGateway

    def broken(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            chance = rng.randrange(100)
            if chance < DROPPED:
                note("provider: request dropped")
                raise OutcomeUnknown("the request was dropped on its way")
            if (chance := chance - DROPPED) < BUSY:
                note("provider: too many requests")
                raise RateLimited(1)
            if (chance := chance - BUSY) < SLOW:
                note("provider: slow")
                time.sleep(rng.uniform(1, 3))
            answer = real(*args, **kwargs)
            if 0 <= chance - SLOW < REPLY_LOST:
                note("provider: reply lost")
                raise OutcomeUnknown("the reply was lost on its way")
            return answer

        return call

    refunding = ("refund", "read_refund", "find_refunds")
    for name in ("prepare", "submit", "read", "find", "cancel", *refunding):
        setattr(SandboxGateway, name, broken(getattr(SandboxGateway, name)))


def _break_mail(rng: random.Random) -> None:
    from tests.crashes.sweep.mail_sink import SinkBackend

    real = SinkBackend.send_messages

    def broken(self: Any, emails: Any) -> int:
        chance = rng.randrange(100)
        if chance < DROPPED:
            note("mail: dropped")
            raise smtplib.SMTPServerDisconnected("Connection unexpectedly closed")
        sent = real(self, emails)
        if chance < DROPPED + REPLY_LOST:
            note("mail: reply lost")
            raise smtplib.SMTPServerDisconnected("Connection unexpectedly closed")
        return sent

    SinkBackend.send_messages = broken


# --- what is counted


def _count_recoveries() -> None:
    from billing.close.health import sweeper
    from billing.payments import inbound
    from billing.payments.charges import settling
    from config.embedded_postgres.server import Server

    _count(sweeper, "free_expired_leases", "step leases expired")
    _count(sweeper, "ring_for_ready_steps", "queues rung by the sweeper")
    _count(sweeper, "take_rows", "attempts and refunds taken on by the sweeper")
    _count(inbound, "process_due", "webhooks worked on")
    real_apply = settling._apply

    def apply(heard: Any, *args: Any, **kwargs: Any) -> None:
        unknown = sum(attempt.unknown_since is not None for attempt, _ in heard)
        real_apply(heard, *args, **kwargs)
        note("unknown outcomes resolved", unknown)

    settling._apply = apply
    real_start = Server._start

    def start(self: Any, account: Any) -> None:
        real_start(self, account)
        note("database started")

    Server._start = start
    real_connect = BaseDatabaseWrapper.connect

    def connect(self: Any) -> None:
        real_connect(self)
        note("database reconnects", int(getattr(self, "storm_connected", False)))
        self.storm_connected = True

    BaseDatabaseWrapper.connect = connect


def _count(module: Any, name: str, what: str) -> None:
    real = getattr(module, name)

    def counted(*args: Any, **kwargs: Any) -> int:
        times: int = real(*args, **kwargs)
        note(what, times)
        return times

    setattr(module, name, counted)


def _mark_work() -> None:
    """So that the monkey finds somebody who is busy, has charges in hand, or is in the middle of a payment."""
    from billing import tasks
    from billing.close.engine.stint import Stint
    from billing.views.customer import pay

    def marking(real: Callable[..., Any], what: str) -> Callable[..., Any]:
        def marked(*args: Any, **kwargs: Any) -> Any:
            with Mark(what):
                return real(*args, **kwargs)

        return marked

    tasks.drain = marking(tasks.drain, "busy")
    Stint._turn = marking(Stint._turn, "charging")
    pay._collect = marking(pay._collect, "paying")


class Listener(logging.Handler):
    """In every process's logging: see settings.py."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        for told, what in TOLD.items():
            if told in message:
                note(what)
