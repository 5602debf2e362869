"""Calls to the provider: many at once, with nothing open. An answer that does not come is unknown, not failed."""

import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from datetime import datetime, timedelta
from enum import Enum
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from django.conf import settings
from django.db import transaction

from billing import charge_protocol, dunning, gateways
from billing.charge_protocol import Move, State
from billing.gateways import Observation, Status
from billing.models import PaymentAttempt
from billing.payments.charges import time_limits
from billing.workers import log_context

logger = logging.getLogger(__name__)

# When dunning looks again where the provider could not even be asked: an operator has to mend that first.
AFTER_A_FAULT_OF_OURS = timedelta(days=1)

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
        if then == State.RELEASED:
            # It never got to the provider, and an operator has to mend that first.
            at = as_of + AFTER_A_FAULT_OF_OURS
            dunning.try_later(attempt.account_id, at=at, as_of=as_of)
    PaymentAttempt.objects.filter(pk=attempt.pk, state=attempt.state).update(**changes)


def _ask_again_after(unknown_for: timedelta, tries: int) -> timedelta:
    """The longer it is unknown the later; but soon after the first try, though calls were throttled for long."""
    pauses = (*time_limits.ASK_AGAIN_AFTER, time_limits.ASK_AGAIN_LATER)
    over = sum(pause <= unknown_for for pause in time_limits.ASK_AGAIN_AFTER)
    return pauses[min(over, tries)]


# --- what a call says


class Call(Enum):
    """What a provider is called for, in the order in which free places are filled."""

    CANCEL = "cancel"
    SUBMIT = "submit"
    ASK = "ask"
    PREPARE = "prepare"


# A call that was answered, and yet has changed nothing: as good as no answer.
UNANSWERED_IN = {
    Call.SUBMIT: charge_protocol.TO_SUBMIT,
    Call.CANCEL: charge_protocol.TO_CANCEL,
}


def nothing_changed(call: Call, attempt: PaymentAttempt, seen: Observation) -> Exception | None:
    """Why an answer is as good as none; None where it is not. The attempt is as it is after it."""
    if attempt.state not in UNANSWERED_IN.get(call, ()):
        return None
    return gateways.OutcomeUnknown(f"after {call.value} it is {seen.status.value} as before")


def make(call: Call, attempt: PaymentAttempt, *, is_fresh: bool) -> Observation:
    """
    Call the provider. `is_fresh`: nobody has prepared the attempt before, so there is nothing to look for.

    :raises Exception: whatever the gateway raises; unless it says otherwise, the outcome is unknown then.
    """
    match call:
        case Call.ASK:
            return _ask(attempt)
        case Call.PREPARE:
            return _prepare(attempt) if is_fresh else _find_or_prepare(attempt)
        case Call.SUBMIT:
            return _submit(attempt)
        case Call.CANCEL:
            return _cancel(attempt)


def _ask(attempt: PaymentAttempt) -> Observation:
    return gateways.get(attempt.gateway).read(ref(attempt))


def _prepare(attempt: PaymentAttempt) -> Observation:
    return gateways.get(attempt.gateway).prepare(spec(attempt), key=key(attempt, "prepare"))


def _find_or_prepare(attempt: PaymentAttempt) -> Observation:
    """
    The reply of an earlier try may have been lost: take its object over instead of leaving it behind.

    One that has moved money first, should our row be an older copy.
    """
    made = gateways.get(attempt.gateway).find(spec(attempt), since=attempt.created_at)
    found = [seen for seen in made if seen.status is not Status.CANCELED]
    if found:
        return min(found, key=lambda seen: seen.status is Status.UNSUBMITTED)
    return _prepare(attempt)


def _submit(attempt: PaymentAttempt) -> Observation:
    gateway = gateways.get(attempt.gateway)
    return gateway.submit(ref(attempt), key=key(attempt, "submit"))


def _cancel(attempt: PaymentAttempt) -> Observation:
    gateway = gateways.get(attempt.gateway)
    return gateway.cancel(ref(attempt), key=key(attempt, "cancel"))


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
