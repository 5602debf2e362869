"""Calls to the provider: many at once, with nothing open. An answer that does not come is unknown, not failed."""

import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from datetime import datetime, timedelta
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from django.conf import settings
from django.db import transaction

from billing import charge_protocol, gateways
from billing.charge_protocol import Move, State
from billing.gateways import Observation
from billing.models import PaymentAttempt
from billing.payments.charges import time_limits
from billing.workers import log_context

logger = logging.getLogger(__name__)

Ask = Callable[[PaymentAttempt], Observation]
# What came of a call: what the provider said, or why it cannot be used.
Answer = Observation | Exception


class Window:
    """
    Calls on their way, so many at once, each in a thread that only waits; refilled as answers come.

    The database is left to the one thread that holds the window.
    """

    def __init__(self) -> None:
        self.size: int = settings.CALLS_AT_ONCE
        self._pool = ThreadPoolExecutor(self.size, thread_name_prefix="provider-call")
        self._back: SimpleQueue[Future[Answer]] = SimpleQueue()
        self._out: dict[Future[Answer], PaymentAttempt] = {}

    @property
    def room(self) -> int:
        """How many more calls may begin now."""
        return max(0, self.size - len(self._out))

    def begin(self, attempt: PaymentAttempt, ask: Ask, *, before: float) -> None:
        """
        Send a call on its way, unless `before` is over by then (time.monotonic()).

        Never with a transaction open: it may take half a minute.
        """
        assert not transaction.get_connection().in_atomic_block, (
            "a network call with a transaction open"
        )
        # The context says how long whoever asks can wait: gateways/patience.py.
        call = self._pool.submit(copy_context().run, _answer_of(ask), attempt, before)
        self._out[call] = attempt
        call.add_done_callback(self._back.put)

    def answers(self) -> dict[PaymentAttempt, Answer]:
        """
        What has come back: waits for the first answer, and a moment for others to be written down with it.

        Empty where no call is out, or none of them is answered for a second.
        """
        gathered: dict[PaymentAttempt, Answer] = {}
        until = monotonic() + time_limits.LOOK_UP_SECONDS
        while self._out:
            try:
                call = self._back.get(timeout=max(0, until - monotonic()))
            except Empty:
                break
            if not gathered:
                until = monotonic() + time_limits.GATHER_SECONDS
            gathered[self._out.pop(call)] = call.result()
        return gathered

    def close(self) -> None:
        """Wait for the calls that are out, and begin no others."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class TooLate(Exception):
    """It was not sent any more: the time for that was over."""


def _answer_of(ask: Ask) -> Callable[[PaymentAttempt, float], Answer]:
    def answer(attempt: PaymentAttempt, before: float) -> Answer:
        # Here, and not when it was queued: a process may sleep anywhere.
        if monotonic() > before:
            return TooLate()
        try:
            return ask(attempt)
        except Exception as error:  # noqa: BLE001 - whatever a provider call raises, the outcome is unknown
            return error

    return answer


def note_unknown(attempt: PaymentAttempt, error: Exception, *, as_of: datetime) -> None:
    """No answer: stay in this state and ask again later, but not for ever."""
    logger.warning(
        "attempt %s: outcome unknown: %s: %s",
        attempt.pk,
        type(error).__name__,
        error,
        extra=log_context.of(attempt),
    )
    since = attempt.unknown_since or as_of
    is_for_a_person = as_of - since >= time_limits.REVIEW_AFTER
    changes: dict[str, Any] = {
        "unknown_since": since,
        "because": f"{type(error).__name__}: {error}"[:300],
        "key_generation": attempt.key_generation + 1,
        "next_action_at": as_of + _ask_again_after(as_of - since, attempt.key_generation),
    }
    if isinstance(error, gateways.RateLimited) and not is_for_a_person:
        # Neither an attempt nor a failure; but no answer either.
        pause = timedelta(seconds=error.retry_after_seconds)
        changes = {"unknown_since": since, "next_action_at": as_of + pause}
    elif not isinstance(error, gateways.Misconfigured) and not is_for_a_person:
        if attempt.state == State.CANCELING:
            # Why it is given up matters more than why that takes a while.
            del changes["because"]
    else:
        then = charge_protocol.moved(attempt.state, Move.UNANSWERED)
        # While a person looks, so do we: it may have been a wrong key or a long outage.
        again_at = (
            as_of + time_limits.ASK_AGAIN_LATER if then in charge_protocol.IN_FLIGHT else None
        )
        changes |= {"state": then, "next_action_at": again_at}
    PaymentAttempt.objects.filter(pk=attempt.pk, state=attempt.state).update(**changes)


def _ask_again_after(unknown_for: timedelta, tries: int) -> timedelta:
    """The longer it is unknown the later; but soon after the first try, though calls were throttled for long."""
    pauses = (*time_limits.ASK_AGAIN_AFTER, time_limits.ASK_AGAIN_LATER)
    over = sum(pause <= unknown_for for pause in time_limits.ASK_AGAIN_AFTER)
    return pauses[min(over, tries)]


# --- what a call says


def spec(attempt: PaymentAttempt) -> gateways.AttemptSpec:
    return gateways.AttemptSpec(
        own_reference=str(attempt.pk),
        account_ref=attempt.account.external_id,
        token=attempt.payment_method.token,
        amount_minor=attempt.amount_minor,
        currency=attempt.currency,
        customer_ref=attempt.payment_method.customer_ref,
        charge_date=attempt.charge_date,
    )


def key(attempt: PaymentAttempt, call: str) -> str:
    """The idempotency key of one call: from our row, so that a repeat carries the same one."""
    name = f"{settings.INSTALLATION_ID}|{attempt.pk}|{call}|{attempt.key_generation}"
    return hashlib.sha256(name.encode()).hexdigest()


def ref(attempt: PaymentAttempt) -> str:
    assert attempt.provider_ref, f"{attempt} is past prepare without a provider's object"
    return attempt.provider_ref
