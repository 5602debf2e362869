"""Calls to the provider: many at once, with nothing open. An answer that does not come is unknown, not failed."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction

from billing import charge_protocol, gateways, log_context
from billing.charge_protocol import Move, State
from billing.gateways import Observation
from billing.models import PaymentAttempt
from billing.payments import windows

logger = logging.getLogger(__name__)


# What the provider said of each attempt it was asked about; and of which it cannot be used, and why.
Answers = Mapping[PaymentAttempt, Observation]
Failures = dict[PaymentAttempt, Exception]
# Calls in flight at once per driver; each is a thread that only waits.
CALLS_AT_ONCE = 16


def call(
    attempts: Sequence[PaymentAttempt],
    ask: Callable[[PaymentAttempt], Observation],
    use: Callable[[Answers], Failures],
    *,
    as_of: datetime,
) -> list[PaymentAttempt]:
    """
    Ask the provider about each attempt, at once and with nothing open, then use the answers together.

    Returns the attempts that got through.
    """
    if not attempts:
        return []
    assert not transaction.get_connection().in_atomic_block, (
        "a network call with a transaction open"
    )
    with ThreadPoolExecutor(max_workers=min(CALLS_AT_ONCE, len(attempts))) as pool:
        said = dict(zip(attempts, pool.map(_answer_of(ask), attempts), strict=True))
    failed = {attempt: answer for attempt, answer in said.items() if isinstance(answer, Exception)}
    failed |= use({a: answer for a, answer in said.items() if isinstance(answer, Observation)})
    for attempt, error in failed.items():
        _note_unknown(attempt, error, as_of=as_of)
    return [attempt for attempt in attempts if attempt not in failed]


def _answer_of(
    ask: Callable[[PaymentAttempt], Observation],
) -> Callable[[PaymentAttempt], Observation | Exception]:
    def answer(attempt: PaymentAttempt) -> Observation | Exception:
        try:
            return ask(attempt)
        except Exception as error:  # noqa: BLE001 - whatever a provider call raises, the outcome is unknown
            return error

    return answer


def _note_unknown(attempt: PaymentAttempt, error: Exception, *, as_of: datetime) -> None:
    """No answer: stay in this state and ask again later, but not for ever."""
    logger.warning(
        "attempt %s: outcome unknown: %s: %s",
        attempt.pk,
        type(error).__name__,
        error,
        extra=log_context.of(attempt),
    )
    since = attempt.unknown_since or as_of
    changes: dict[str, Any] = {
        "unknown_since": since,
        "because": f"{type(error).__name__}: {error}"[:300],
        "key_generation": attempt.key_generation + 1,
        "next_action_at": as_of + _ask_again_after(as_of - since),
    }
    if isinstance(error, gateways.RateLimited):
        # Neither an attempt nor a failure.
        changes = {"next_action_at": as_of + timedelta(seconds=error.retry_after_seconds)}
    elif not isinstance(error, gateways.Misconfigured) and as_of - since < windows.REVIEW_AFTER:
        if attempt.state == State.CANCELING:
            # Why it is given up matters more than why that takes a while.
            del changes["because"]
    else:
        then = charge_protocol.moved(attempt.state, Move.UNANSWERED)
        # While a person looks, so do we: it may have been a wrong key or a long outage.
        again_at = as_of + windows.ASK_AGAIN_LATER if then in charge_protocol.IN_FLIGHT else None
        changes |= {"state": then, "next_action_at": again_at}
    PaymentAttempt.objects.filter(pk=attempt.pk, state=attempt.state).update(**changes)


def _ask_again_after(unknown_for: timedelta) -> timedelta:
    return next(
        (pause for pause in windows.ASK_AGAIN_AFTER if unknown_for < pause), windows.ASK_AGAIN_LATER
    )


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
