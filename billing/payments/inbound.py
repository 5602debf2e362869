"""
Events that providers send: stored first, worked on later.

An event is a hint to ask, never a fact. It may come twice, late, before the reply that it is about, in
any order, or not at all. None of that matters, because the provider is asked what is true now. A lost
event only costs time: the sweeper asks about every attempt that has not ended.
"""

import dataclasses
import logging
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta

from django.db import transaction

from accounts.models import Account, PaymentMethod
from billing import charge_protocol, gateways
from billing.gateways import (
    About,
    DisputeSeen,
    EventHint,
    FinishedSetup,
    Method,
    Observation,
    RefundSeen,
)
from billing.models import PaymentAttempt, ProviderEvent
from billing.payments import charges, disputes, methods, refunds, throttle
from billing.workers import doorbell

logger = logging.getLogger(__name__)
Outcome = ProviderEvent.Outcome

# What the provider says of an event's object, or the error it raised.
Answer = Observation | Method | FinishedSetup | DisputeSeen | RefundSeen | Exception | None

# The longest a process may work on an event before another takes it over.
WORK_WINDOW = timedelta(seconds=60)
# The wait after each try without an outcome; hourly after these.
TRY_AGAIN_AFTER = tuple(timedelta(seconds=s) for s in (5, 30, 120, 600))
TRY_AGAIN_LATER = timedelta(hours=1)
# How long our own row can still appear, even after a restore; then the event is about nothing of ours.
GIVE_UP_AFTER = timedelta(hours=72)
CALLS_AT_ONCE = 16
# A call may hang for half a minute, and a task has two: what was not asked by then is left for later.
ASK_WITHIN_SECONDS = 20
ACTOR = "provider"


class NotYet(Exception):
    """The row that this event is about may still appear."""


# --- receiving


@transaction.atomic(durable=True)
def receive(*, gateway: str, hints: Sequence[EventHint], body: bytes, as_of: datetime) -> None:
    """Store what was delivered, each event once, and wake a worker."""
    ProviderEvent.objects.bulk_create(
        [
            ProviderEvent(
                gateway=gateway,
                event_id=hint.event_id,
                type=hint.type,
                about=hint.about,
                object_ref=hint.object_ref,
                body=body.decode(),
                is_live=hint.is_live,
                received_at=as_of,
                next_try_at=as_of,
            )
            for hint in hints
        ],
        ignore_conflicts=True,
    )
    doorbell.ring("charge")


# --- working


def process_due(*, as_of: datetime, limit: int = 100) -> int:
    """Work on the events that are due. Returns how many have ended."""
    claimed = _claim(as_of=as_of, limit=limit)
    answers = _ask(claimed)
    _put_back([event for event in claimed if _question(event) not in answers], as_of=as_of)
    ended = 0
    for event in (each for each in claimed if _question(each) in answers):
        try:
            outcome = _work(event, answers[_question(event)], as_of=as_of)
        except Exception as error:  # noqa: BLE001 - one bad event must not stop the others
            ended += _put_off(event, error, as_of=as_of)
        else:
            _end(event, outcome, as_of=as_of)
            ended += 1
    return ended


@transaction.atomic(durable=True)
def _claim(*, as_of: datetime, limit: int) -> list[ProviderEvent]:
    """Claim due events by moving their time ahead, so that one process at a time works on each."""
    due = ProviderEvent.objects.filter(next_try_at__lte=as_of).order_by("next_try_at", "pk")
    begun = throttle.let_begin(due, limit=limit, is_read=True)
    claimed = list(
        due.select_for_update(skip_locked=True).filter(pk__in=[event.pk for event in begun])
    )
    ProviderEvent.objects.filter(pk__in=[event.pk for event in claimed]).update(
        next_try_at=as_of + WORK_WINDOW
    )
    return claimed


Question = tuple[str, str, str]


def _question(event: ProviderEvent) -> Question:
    return event.gateway, event.about, event.object_ref


def _ask(events: Sequence[ProviderEvent]) -> dict[Question, Answer]:
    """Ask the provider once about each object, in parallel, with no transaction open, while there is time."""
    questions = list({_question(event) for event in events})
    if not questions:
        return {}
    assert not transaction.get_connection().in_atomic_block, (
        "a network call with a transaction open"
    )
    stop_at = time.monotonic() + ASK_WITHIN_SECONDS

    def ask(question: Question) -> dict[Question, Answer]:
        return {} if time.monotonic() > stop_at else {question: _answer(question)}

    answers: dict[Question, Answer] = {}
    with ThreadPoolExecutor(max_workers=min(CALLS_AT_ONCE, len(questions))) as pool:
        for answered in pool.map(ask, questions):
            answers |= answered
    throttle.note((question[0], answer) for question, answer in answers.items())
    return answers


def _put_back(events: Sequence[ProviderEvent], *, as_of: datetime) -> None:
    """Put back events about which no provider was asked: they are due as before."""
    ProviderEvent.objects.filter(pk__in=[event.pk for event in events]).update(next_try_at=as_of)


def _answer(question: Question) -> Answer:
    name, about, ref = question
    try:
        match about:
            case About.CHARGE:
                return gateways.get(name).read(ref)
            case About.METHOD:
                return gateways.get(name).read_method(ref)
            case About.SETUP:
                return gateways.get(name).read_setup(ref)
            case About.DISPUTE:
                return gateways.get(name).read_dispute(ref)
            case About.REFUND:
                return gateways.get(name).read_refund(ref)
            case _:
                return None
    except Exception as error:  # noqa: BLE001 - whatever a provider call raises, there is no answer
        return error


def _work(event: ProviderEvent, answer: Answer, *, as_of: datetime) -> Outcome:
    match answer:
        case Exception():
            raise answer
        case Observation():
            return _apply(event, answer, as_of=as_of)
        case Method():
            return _update_cards(event, answer, as_of=as_of)
        case FinishedSetup():
            return _add_card(event, answer, as_of=as_of)
        case DisputeSeen():
            return _apply_dispute(event, answer, as_of=as_of)
        case RefundSeen():
            return _apply_refund(event, answer, as_of=as_of)
        case _:
            return Outcome.IGNORED


def _apply(event: ProviderEvent, seen: Observation, *, as_of: datetime) -> Outcome:
    attempt = _attempt_of(event, seen)
    if attempt is None:
        return Outcome.FOREIGN
    is_own_object = attempt.provider_ref == seen.ref
    if not charge_protocol.concerns(seen.status, is_own_object=is_own_object):
        # An object of an earlier try that took no money: its end does not end the attempt.
        return Outcome.IGNORED
    charges.apply_provider_state({attempt.pk: seen}, as_of=as_of)
    return Outcome.APPLIED


def _apply_refund(event: ProviderEvent, seen: RefundSeen, *, as_of: datetime) -> Outcome:
    """Apply a refund: one of ours, or one made on the provider's own pages of a payment of ours."""
    if refunds.learn(event.gateway, seen, as_of=as_of):
        return Outcome.APPLIED
    if refunds.payment_is_coming(event.gateway, seen):
        raise NotYet(f"the payment of refund {seen.ref} is not booked yet")
    return Outcome.FOREIGN


def _attempt_of(event: ProviderEvent, seen: Observation) -> PaymentAttempt | None:
    """
    Find the attempt that an object belongs to; None if it is not ours.

    :raises NotYet: if it says it is ours, but the row is not there, or does not know the object yet.
    """
    attempts = PaymentAttempt.objects.filter(gateway=event.gateway)
    known = attempts.filter(provider_ref=seen.ref).first()
    if known or not seen.own_reference:
        return known
    own = _uuid(seen.own_reference)
    ours = attempts.filter(pk=own).first() if own else None
    if ours is None:
        raise NotYet(f"no attempt {seen.own_reference}")
    if ours.provider_ref is None and seen.status not in charge_protocol.TOOK_MONEY:
        raise NotYet(f"attempt {ours.pk} has not stored the provider's answer yet")
    return ours


def _uuid(text: str) -> uuid.UUID | None:
    with suppress(ValueError):
        return uuid.UUID(text)
    return None


def _apply_dispute(event: ProviderEvent, seen: DisputeSeen, *, as_of: datetime) -> Outcome:
    """
    Apply a dispute.

    :raises NotYet: if its charge is ours, and our books do not have its payment yet.
    """
    if disputes.apply_provider_state(event.gateway, seen, as_of=as_of) is not None:
        return Outcome.APPLIED
    ours = PaymentAttempt.objects.filter(gateway=event.gateway, provider_ref=seen.charge_ref)
    if ours.filter(state__in=PaymentAttempt.IN_FLIGHT).exists():
        raise NotYet(f"the payment {seen.charge_ref} is not booked yet")
    return Outcome.FOREIGN


def _update_cards(event: ProviderEvent, method: Method, *, as_of: datetime) -> Outcome:
    """Update a card on every account that has it: remove it if it was detached, else note how it looks now."""
    cards = PaymentMethod.objects.filter(
        gateway=event.gateway, token=method.token, state=PaymentMethod.State.ACTIVE
    )
    outcome = Outcome.IGNORED
    for card in cards:
        with suppress(methods.NoSuchCard):
            if method.customer_ref:
                methods.update_card(
                    account_id=card.account_id,
                    method_id=card.pk,
                    seen=method,
                    actor=ACTOR,
                    as_of=as_of,
                )
            else:
                methods.note_gone(account_id=card.account_id, method_id=card.pk, as_of=as_of)
            outcome = Outcome.APPLIED
    return outcome


def _add_card(event: ProviderEvent, setup: FinishedSetup, *, as_of: datetime) -> Outcome:
    """Add a card that was entered. Its page may have added it already, or may never have been opened again."""
    account = Account.objects.filter(external_id=setup.account_ref).first()
    if account is None:
        return Outcome.FOREIGN
    card = setup.method
    if card is None or not card.customer_ref:
        return Outcome.IGNORED
    if account.payment_methods.filter(gateway=event.gateway, token=card.token).exists():
        # Its holder may have removed it since: it must not come back.
        return Outcome.IGNORED
    try:
        methods.add_card(
            account_id=account.pk,
            gateway=event.gateway,
            actor=ACTOR,
            as_of=as_of,
            **dataclasses.asdict(card),
        )
    except (
        methods.AlreadyAdded,
        methods.CardExpired,
        methods.CardBlocked,
    ):
        return Outcome.IGNORED
    return Outcome.APPLIED


# --- how it ended


def _end(event: ProviderEvent, outcome: Outcome, *, as_of: datetime, error: str = "") -> None:
    if outcome == Outcome.FOREIGN:
        logger.warning(
            "%s event %s is about %s, which is not ours",
            event.gateway,
            event.event_id,
            event.object_ref,
        )
    ProviderEvent.objects.filter(pk=event.pk).update(
        outcome=outcome,
        error=error,
        tries=event.tries + 1,
        next_try_at=None,
        processed_at=as_of,
    )


def _put_off(event: ProviderEvent, error: Exception, *, as_of: datetime) -> bool:
    """Put off an event without an outcome, but not for ever. Returns whether it has ended."""
    said = f"{type(error).__name__}: {error}"[:300]
    if as_of - event.received_at >= GIVE_UP_AFTER:
        logger.error("%s event %s is given up: %s", event.gateway, event.event_id, said)
        outcome = Outcome.FOREIGN if isinstance(error, NotYet) else Outcome.FAILED
        _end(event, outcome, as_of=as_of, error=said)
        return True
    logger.warning("%s event %s is put off: %s", event.gateway, event.event_id, said)
    pause = dict(enumerate(TRY_AGAIN_AFTER)).get(event.tries, TRY_AGAIN_LATER)
    if isinstance(error, gateways.RateLimited):
        pause = timedelta(seconds=error.retry_after_seconds)
    ProviderEvent.objects.filter(pk=event.pk).update(
        error=said, tries=event.tries + 1, next_try_at=as_of + pause
    )
    return False
