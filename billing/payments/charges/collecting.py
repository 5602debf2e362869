"""The acts: begin what is due, move an attempt to the front, ask for a person who waits."""

import logging
from collections.abc import Sequence
from datetime import datetime

from django.db import transaction
from django.db.models import F, Value
from django.db.models.functions import Greatest

from billing import gateways
from billing.charge_protocol import State
from billing.models import CloseRun, PaymentAttempt
from billing.payments import guard, throttle
from billing.payments.charges import calls, drivers, rechecking, reserving, settling
from billing.payments.charges.attempt_kind import ATTEMPTS
from billing.payments.charges.driving import Phases
from billing.payments.charges.refusals import BalanceChanged, GatewayClosed
from billing.payments.charges.reserving import Collected, Request
from billing.workers import doorbell, log_context
from notifications import bisect, dispatcher

logger = logging.getLogger(__name__)


def begin(requests: Sequence[Request], *, as_of: datetime) -> Collected:
    """
    Reserve what is due of each account, for the dispatcher to take on at once; or say why not.

    Nobody is called here: whoever asked looks at the attempt to see what becomes of it.

    :raises Exception: what could not be done with one of them, after all others are reserved.
    """
    begun = begin_each(requests, as_of=as_of)
    if begun.failed:
        raise next(iter(begun.failed.values()))
    return begun


def begin_each(requests: Sequence[Request], *, as_of: datetime) -> Collected:
    """The same, and raise nothing that is about one of them: `failed` says what could not be done."""
    shut = throttle.shut(reserving.gateways_of([r for r in requests if r.is_a_persons]))
    begun = Collected()

    def reserve(some: Sequence[Request]) -> None:
        reserved = reserving.reserve(some, shut, as_of=as_of, is_dispatched=True)
        begun.attempts.update(reserved.attempts)
        begun.standings.update(reserved.standings)
        begun.refused.update(reserved.refused)

    for request, error in bisect.failures(reserve, requests, what="requests"):
        begun.failed[request.account_id] = error
    return begun


@transaction.atomic(durable=True)
def hurry(
    attempts: Sequence[PaymentAttempt], *, as_of: datetime, priority: int = dispatcher.URGENT
) -> int:
    """
    Move attempts that are in flight to the front: the dispatcher asks about them now. Says how many are.

    Of no harm to one that somebody has in hand: its object moves money once.
    """
    ids = [attempt.pk for attempt in attempts]
    hurried = PaymentAttempt.objects.filter(pk__in=ids, state__in=PaymentAttempt.IN_FLIGHT).update(
        next_action_at=as_of, priority=Greatest(F("priority"), Value(priority))
    )
    if hurried:
        doorbell.ring(doorbell.CHARGE)
    return hurried


@transaction.atomic(durable=True)
def free_parked(attempt: PaymentAttempt, *, as_of: datetime) -> bool:
    """Have one that has killed its workers tried once more, alone, as a person orders. Says whether it was parked."""
    was_parked = dispatcher.order(ATTEMPTS, attempt.pk, next_action_at=as_of)
    if was_parked:
        doorbell.ring(doorbell.CHARGE)
    return was_parked


class Collector(Phases):
    """Collects what accounts owe, any number at once; more are begun while others are on their way."""

    def reserve(self, requests: Sequence[Request]) -> Collected:
        """
        Reserve what is due of each account, or say why not. `enter` takes the attempts on.

        :raises Exception: whatever goes wrong with one of them. Then nothing is reserved.
        """
        stopped = guard.watch(reserving.gateways_of(requests))
        return reserving.reserve(requests, stopped, as_of=self.clock(), is_dispatched=False)

    def claim(self, attempts: Sequence[PaymentAttempt]) -> list[PaymentAttempt]:
        """Claim unfinished attempts that nobody drives now, to be entered; returns these."""
        if not attempts:
            return []
        stopped = guard.watch(attempt.gateway for attempt in attempts)
        free = [attempt for attempt in attempts if attempt.gateway not in stopped]
        return drivers.claim(free, as_of=self.clock())


def ask(attempts: Sequence[PaymentAttempt], *, as_of: datetime) -> list[PaymentAttempt]:
    """
    Take unfinished attempts on here and now, asking the provider first, although its gateway is closed.

    For who may not go on without the answer: somebody on the way to their bank, a review that is resolved,
    the listing after a restore. Another driver may be at work on the same, which does no harm (the object
    moves money once). Of one that got no answer, `unknown_since` and `because` say so.

    :raises Exception: what could not be done with one of them, after all others are through.
    """
    taken = drivers.claim_at_once(attempts, as_of=as_of)
    with Phases(clock=lambda: as_of) as flow:
        flow.enter(taken, fresh=False)
        while flow:
            flow.turn()
        if flow.errors:
            raise next(iter(flow.errors.values()))
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
    except gateways.MethodGone:
        settling.card_is_gone([attempt.pk], as_of=as_of)
        return return_url
    except Exception as error:  # noqa: BLE001 - whatever the call raises: their page says how it stands
        logger.warning(
            "attempt %s: nobody could be sent to the bank: %r",
            attempt.pk,
            error,
            extra=log_context.of(attempt),
        )
        return return_url


def collect_the_rest(*, as_of: datetime, limit: int = 50) -> int:
    """
    Begin what is due now of attempts that were given up though their close has gone on; says of how many.

    Nobody else would ask for it. Asked for twice it is collected once: one is in flight then, or nothing is due.

    :raises Exception: what could not be done with one of them, after all others are through.
    """
    given_up = list(
        PaymentAttempt.objects.filter(state=State.RELEASED, next_action_at__lte=as_of)
        .exclude(gateway__in=[paused.gateway for paused in guard.paused()])
        .select_related("run")
        .order_by("next_action_at", "pk")[:limit]
    )
    begun = begin_each([_for_the_rest(attempt) for attempt in given_up], as_of=as_of)
    left = {
        attempt.pk: refused
        for attempt in given_up
        if isinstance(refused := begun.refused.get(attempt.account_id), BalanceChanged)
    }
    rechecking.leave_the_rest(left, as_of=as_of)
    asked_for = [
        attempt.pk
        for attempt in given_up
        if not isinstance(begun.refused.get(attempt.account_id), GatewayClosed)
        and attempt.account_id not in begun.failed
    ]
    PaymentAttempt.objects.filter(pk__in=asked_for, state=State.RELEASED).update(
        next_action_at=None
    )
    if begun.failed:
        raise next(iter(begun.failed.values()))
    return len(given_up)


def _for_the_rest(attempt: PaymentAttempt) -> Request:
    """As its close would ask for it: where that leaves a changed balance, this does."""
    only_if_due_minor = None
    if (
        attempt.run is not None
        and attempt.run.when_balance_changed != CloseRun.ChangedBalance.CHARGE_DUE_NOW
    ):
        only_if_due_minor = attempt.amount_minor
    return Request(attempt.account_id, attempt.kind, attempt.run_id, only_if_due_minor)
