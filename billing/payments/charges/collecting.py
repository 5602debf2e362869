"""The acts: collect what is due, drive what is unfinished, ask for a person who waits."""

import logging
from collections.abc import Sequence
from datetime import datetime

from billing import gateways
from billing.charge_protocol import State
from billing.models import PaymentAttempt
from billing.payments import guard, throttle
from billing.payments.charges import calls, drivers, reserving
from billing.payments.charges.driving import Phases
from billing.payments.charges.refusals import GatewayClosed
from billing.payments.charges.reserving import Collected, Request
from billing.workers import log_context
from notifications import bisect

logger = logging.getLogger(__name__)


def collect(*, account_id: int, kind: str, as_of: datetime) -> PaymentAttempt:
    """
    Collect what one account owes now with its default payment method.

    :raises NothingDue: if the balance was settled meanwhile.
    :raises NoPaymentMethod: if the card was removed meanwhile.
    :raises GatewayClosed: while nothing may be charged through the card's gateway.
    :raises AccountPaused: while the account is not charged by itself, and this would.
    :raises AttemptInFlight: if another attempt of this account is unresolved.
    """
    collected = collect_all([Request(account_id, kind)], as_of=as_of)
    if account_id in collected.refused:
        raise collected.refused[account_id]
    return collected.attempts[account_id]


def collect_all(requests: Sequence[Request], *, as_of: datetime) -> Collected:
    """Collect what several accounts owe now. One account's trouble does not touch another's."""
    with Collector(clock=lambda: as_of) as collector:
        collected = collector.reserve(requests)
        collector.enter(collected.attempts.values(), fresh=True)
        _all_the_way(collector, collected.attempts)
    return collected


class Collector(Phases):
    """Collects what accounts owe, any number at once; more are begun while others are on their way."""

    def reserve(self, requests: Sequence[Request]) -> Collected:
        """
        Reserve what is due of each account, or say why not. `enter` takes the attempts on.

        :raises Exception: whatever goes wrong with one of them. Then nothing is reserved.
        """
        shut = throttle.not_admitted(reserving.gateways_of([r for r in requests if r.is_a_persons]))
        stopped = shut | guard.watch(set(reserving.gateways_of(requests)) - set(shut))
        return reserving.reserve(requests, stopped, as_of=self.clock())

    def claim(self, attempts: Sequence[PaymentAttempt]) -> list[PaymentAttempt]:
        """Claim unfinished attempts that nobody drives now, to be entered; returns these."""
        if not attempts:
            return []
        stopped = guard.watch(attempt.gateway for attempt in attempts)
        free = [attempt for attempt in attempts if attempt.gateway not in stopped]
        return drivers.claim(free, as_of=self.clock())


def _all_the_way(flow: Phases, attempts: dict[int, PaymentAttempt]) -> None:
    """
    Turn until all have come as far as they do; then read `attempts`, by account, anew.

    :raises Exception: what could not be done with one of them, after all others are through.
    """
    while flow:
        flow.turn()
    if flow.errors:
        raise next(iter(flow.errors.values()))
    now = PaymentAttempt.objects.in_bulk([attempt.pk for attempt in attempts.values()])
    attempts.update({attempt.account_id: attempt for attempt in now.values()})


def drive(attempts: Sequence[PaymentAttempt], *, as_of: datetime) -> list[PaymentAttempt]:
    """Take unfinished attempts on from where they stand, asking the provider first."""
    with Collector(clock=lambda: as_of) as collector:
        claimed = collector.claim(attempts)
        collector.enter(claimed, fresh=False)
        driven = {attempt.account_id: attempt for attempt in claimed}
        _all_the_way(collector, driven)
    return list(driven.values())


def ask(attempts: Sequence[PaymentAttempt], *, as_of: datetime) -> list[PaymentAttempt]:
    """
    Take unfinished attempts on at once, asking the provider first, for a person who waits.

    `drive` waits for their time, this does not; another driver may be at work on the same, which does
    no harm (the object moves money once). Of one that got no answer, `unknown_since` and `because` say so.
    """
    taken = drivers.claim_at_once(attempts, as_of=as_of)
    with Phases(clock=lambda: as_of) as flow:
        flow.enter(taken, fresh=False)
        _all_the_way(flow, {})
    return list(PaymentAttempt.objects.filter(pk__in=[attempt.pk for attempt in taken]))


def begin_authentication(attempt: PaymentAttempt, *, return_url: str, as_of: datetime) -> str:
    """
    Where the customer confirms an attempt with their bank; `return_url` where there is nothing to confirm.

    It is the same object that they complete, so that it moves money once whoever else is at it; and what
    is due is looked at before, as before every send.
    """
    asked = ask([attempt], as_of=as_of)
    if [a.state for a in asked] != [State.REQUIRES_ACTION] or guard.closed([attempt.gateway]):
        return return_url
    try:
        gateway = gateways.get(attempt.gateway)
        return gateway.begin_authentication(calls.ref(asked[0]), return_url=return_url)
    except Exception as error:  # noqa: BLE001 - whatever the call raises: their page says how it stands
        logger.warning(
            "attempt %s: nobody could be sent to the bank: %r",
            attempt.pk,
            error,
            extra=log_context.of(attempt),
        )
        return return_url


def drive_due(*, as_of: datetime, limit: int = 50) -> int:
    """
    Drive the attempts whose time has come: crashed, unknown, or waiting for a bank.

    Of those that are given up though their close has gone on, it collects what is due now.
    """
    # What waits for its gateway to open must not keep the others from their turn.
    waiting = [paused.gateway for paused in guard.paused()]
    due = (
        PaymentAttempt.objects.filter(next_action_at__lte=as_of)
        .exclude(gateway__in=waiting)
        .order_by("next_action_at", "pk")
    )
    in_flight = due.filter(state__in=PaymentAttempt.IN_FLIGHT)
    try:
        driven = drive(throttle.let_begin(in_flight, limit=limit), as_of=as_of)
    finally:
        # Also where one of those raises, each time: these have nobody else.
        given_up = due.filter(state=State.RELEASED)
        _collect_the_rest(throttle.let_begin(given_up, limit=limit), as_of=as_of)
    return len(driven)


def _collect_the_rest(given_up: Sequence[PaymentAttempt], *, as_of: datetime) -> None:
    """
    Nobody else would ask for it. Asked for twice it is collected once: one is in flight then, or nothing is due.

    :raises Exception: what could not be done with one of them, after all others are through.
    """
    if not given_up:
        return

    def collect_the_rest(attempts: Sequence[PaymentAttempt]) -> None:
        collected = collect_all(
            [Request(a.account_id, a.kind, a.run_id) for a in attempts], as_of=as_of
        )
        asked_for = [
            attempt.pk
            for attempt in attempts
            if not isinstance(collected.refused.get(attempt.account_id), GatewayClosed)
        ]
        PaymentAttempt.objects.filter(pk__in=asked_for, state=State.RELEASED).update(
            next_action_at=None
        )

    claimed = drivers.claim(given_up, as_of=as_of)
    failed = list(bisect.failures(collect_the_rest, claimed, what="attempts"))
    if failed:
        raise failed[0][1]
