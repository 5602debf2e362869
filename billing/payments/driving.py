"""The phases of a charge, one after the other, each on all attempts in hand."""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime

from django.db import transaction

from billing import charge_protocol, gateways
from billing.charge_protocol import Move, State
from billing.gateways import Observation, Status
from billing.models import PaymentAttempt
from billing.payments import calls, rechecking, settling
from billing.payments.calls import Answers, Failures

logger = logging.getLogger(__name__)


def drive_on(attempts: Sequence[PaymentAttempt], *, as_of: datetime, fresh: bool) -> None:
    """
    Take each attempt through the phases it has before it.

    `fresh`: nobody has driven it before, so there is nothing to ask the provider first.
    """
    answered = _ask([a for a in attempts if a.state in charge_protocol.ASKED_FIRST], as_of=as_of)
    to_prepare = [a for a in attempts if a.state in charge_protocol.TO_PREPARE]
    _prepare(to_prepare, as_of=as_of, fresh=fresh)
    _reread_each(attempts)
    # However often it is sent: never without looking whether it is still due.
    sendable = [a for a in attempts if a.state == State.PREPARED or a in answered]
    sendable = rechecking.recheck(sendable, as_of=as_of)
    _reread_each(attempts)
    _submit([a for a in sendable if a.state in charge_protocol.TO_SUBMIT], as_of=as_of)
    _reread_each(attempts)
    _cancel([a for a in attempts if a.state in charge_protocol.TO_CANCEL], as_of=as_of)


def _ask(attempts: Sequence[PaymentAttempt], *, as_of: datetime) -> list[PaymentAttempt]:
    def read(attempt: PaymentAttempt) -> Observation:
        return gateways.get(attempt.gateway).read(calls.ref(attempt))

    return calls.call(attempts, read, _settle(as_of), as_of=as_of)


def _prepare(attempts: Sequence[PaymentAttempt], *, as_of: datetime, fresh: bool) -> None:
    def prepare(attempt: PaymentAttempt) -> Observation:
        gateway, spec = gateways.get(attempt.gateway), calls.spec(attempt)
        if not fresh:
            # The reply of an earlier try may have been lost: take its object over instead of
            # leaving it behind. One that has moved money first, should our row be an older copy.
            made = gateway.find(spec, since=attempt.created_at)
            found = [o for o in made if o.status is not Status.CANCELED]
            if found:
                return min(found, key=lambda o: o.status is Status.UNSUBMITTED)
        return gateway.prepare(spec, key=calls.key(attempt, "prepare"))

    calls.call(attempts, prepare, _store, as_of=as_of)


@transaction.atomic(durable=True)
def _store(answers: Answers) -> Failures:
    # In the order of every other transaction, so that no two wait for each other.
    for attempt in sorted(answers, key=lambda a: a.account_id):
        PaymentAttempt.objects.filter(pk=attempt.pk, state=State.RESERVED).update(
            state=charge_protocol.moved(State.RESERVED, Move.STORED),
            provider_ref=answers[attempt].ref,
            unknown_since=None,
        )
    return {}


def _submit(attempts: Sequence[PaymentAttempt], *, as_of: datetime) -> None:
    def submit(attempt: PaymentAttempt) -> Observation:
        return gateways.get(attempt.gateway).submit(
            calls.ref(attempt), key=calls.key(attempt, "submit")
        )

    calls.call(attempts, submit, _settle(as_of), as_of=as_of)


def _cancel(attempts: Sequence[PaymentAttempt], *, as_of: datetime) -> None:
    def cancel(attempt: PaymentAttempt) -> Observation:
        return gateways.get(attempt.gateway).cancel(
            calls.ref(attempt), key=calls.key(attempt, "cancel")
        )

    calls.call(attempts, cancel, _settle(as_of), as_of=as_of)


def _settle(as_of: datetime) -> Callable[[Answers], Failures]:
    def settle(answers: Answers) -> Failures:
        """All in one transaction; or each in its own, so that one that fails stops no other's money."""
        try:
            settling.apply_provider_state({a.pk: seen for a, seen in answers.items()}, as_of=as_of)
        except Exception as error:
            if len(answers) == 1:
                logger.exception("what the provider says cannot be written down")
                return dict.fromkeys(answers, error)
            logger.warning("settling %s attempts one by one: %r", len(answers), error)
            alone = [settle({attempt: seen}) for attempt, seen in answers.items()]
            return {attempt: error for failed in alone for attempt, error in failed.items()}
        return {}

    return settle


def reread(attempts: dict[int, PaymentAttempt]) -> None:
    for account_id, attempt in attempts.items():
        attempts[account_id] = PaymentAttempt.objects.get(pk=attempt.pk)


def _reread_each(attempts: Sequence[PaymentAttempt]) -> None:
    """Bring the rows in hand up to what the database says now."""
    current = PaymentAttempt.objects.in_bulk([attempt.pk for attempt in attempts])
    for attempt in attempts:
        for name in ("state", "provider_ref", "unknown_since", "key_generation", "because"):
            setattr(attempt, name, getattr(current[attempt.pk], name))
