"""
Attempts, a kind of the dispatcher: those that no step of a close has in hand.

Begun by a customer, by support or by dunning, or left behind by a step whose worker died. The phases are
those of every charge; what is called for next is read from the attempt's state, under the locks, each time.
"""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from django.conf import settings
from django.db.models import (
    BooleanField,
    ExpressionWrapper,
    F,
    Q,
    QuerySet,
    prefetch_related_objects,
)
from django.db.models.functions import Now

from billing import charge_protocol, gateways, locks
from billing.charge_protocol import State
from billing.gateways import Observation
from billing.models import PaymentAttempt, Step
from billing.payments import guard, throttle
from billing.payments.charges import (
    calls,
    preparing,
    rechecking,
    settling,
    time_limits,
    writing,
)
from billing.payments.charges.calls import Call
from notifications.dispatcher import Heard, Kind, Unreachable

ATTEMPTS = cast("Kind", sys.modules[__name__])

name = "attempt"
model = PaymentAttempt
order = (
    # Many may wait for their customer, who may take days: they keep nobody else from their turn.
    ExpressionWrapper(Q(state=State.REQUIRES_ACTION), output_field=BooleanField()),
    "next_action_at",
    "pk",
)
batch = 50
begin_within = timedelta(seconds=10)
# It outlasts `begin_within` and the longest call: to look for an object, and to make one, half a minute each.
lease = timedelta(seconds=90)
# Money that has moved has moved, whoever heard of it.
always_applies = True
# Its time was moved ahead with the claim: see `claimed`.
freed: Mapping[str, Any] = {"next_action_at": F("next_action_at") - time_limits.DRIVE_WINDOW}
unsent: Mapping[str, Any] = {}


class Closed(Unreachable):
    """Nothing is sent through this gateway now: our database may have lost charges. See guard.py."""


@dataclass(frozen=True)
class Said:
    """What a provider said, and what it was called for."""

    call: Call
    seen: Observation


def due(*, as_of: datetime) -> QuerySet[PaymentAttempt]:
    """Those in flight whose time has come, but for those whose gateway waits to be listed."""
    return PaymentAttempt.objects.filter(
        state__in=PaymentAttempt.IN_FLIGHT, next_action_at__lte=as_of
    ).exclude(gateway__in=[paused.gateway for paused in guard.paused()])


def lanes(rows: QuerySet[PaymentAttempt]) -> list[str]:
    """The gateways for which any are due."""
    return list(rows.order_by("gateway").values_list("gateway", flat=True).distinct())


def of_lane(rows: QuerySet[PaymentAttempt], provider: str) -> QuerySet[PaymentAttempt]:
    """Those that are charged through this gateway."""
    return rows.filter(gateway=provider)


def claimed(*, as_of: datetime) -> Mapping[str, Any]:
    """Who comes back without news is not claimed again at once; nor is it driven by a step meanwhile."""
    return {"next_action_at": as_of + time_limits.DRIVE_WINDOW}


def in_flight_besides(provider: str) -> int:
    """How many steps of closes have leases of this lane: what they call for is claimed by nobody else."""
    return Step.objects.filter(
        provider=provider, state=Step.State.RUNNING, lease_until__gt=Now()
    ).count()


def lane_of(attempt: PaymentAttempt) -> str:
    """The gateway that it is charged through."""
    return attempt.gateway


def threads() -> int:
    """As many as calls may be on their way at once."""
    return int(settings.CALLS_AT_ONCE)


def reach(provider: str) -> None:
    """:raises Closed: if the gateway is closed, or closes now since charges are found to be lost."""
    if because := guard.watch([provider]).get(provider):
        raise Closed(because)


def together(attempts: Sequence[PaymentAttempt]) -> list[Sequence[PaymentAttempt]]:
    """All at once: their accounts are locked in one order."""
    return [attempts] if attempts else []


def recheck(attempts: Sequence[PaymentAttempt], *, as_of: datetime) -> list[Call | None]:
    """Look under the locks how far each is, and whether what it is sent for next is still due."""
    prefetch_related_objects(attempts, "account", "payment_method")
    locks.accounts_for_update(attempt.account_id for attempt in attempts)
    _refresh(attempts, locks.attempts_for_update([attempt.pk for attempt in attempts]))
    closed = guard.closed(attempt.gateway for attempt in attempts)
    open_ones = [attempt for attempt in attempts if attempt.gateway not in closed]
    to_send = [attempt for attempt in open_ones if _is_to_send(attempt)]
    if to_send:
        _refresh(to_send, rechecking.look_again(to_send, as_of=as_of))
    return [
        _next_call(attempt, is_rechecked=attempt in to_send) if attempt in open_ones else None
        for attempt in attempts
    ]


def _refresh(attempts: Sequence[PaymentAttempt], locked: Sequence[PaymentAttempt]) -> None:
    now = {attempt.pk: attempt for attempt in locked}
    for attempt in attempts:
        if attempt.pk in now:
            writing.refresh(attempt, now[attempt.pk])


def _is_to_send(attempt: PaymentAttempt) -> bool:
    """Whether it would be sent next. Of what may have been sent before, the provider is asked first."""
    was_heard = attempt.was_asked or attempt.state not in charge_protocol.ASKED_FIRST
    return attempt.state in charge_protocol.RECHECKED and was_heard


def _next_call(attempt: PaymentAttempt, *, is_rechecked: bool) -> Call | None:
    match State(attempt.state):
        case State.RESERVED:
            return Call.PREPARE
        case State.CANCELING:
            return Call.CANCEL
        case State.SUBMITTED if is_rechecked:
            return Call.SUBMIT
        case state if state in charge_protocol.ASKED_FIRST and not attempt.was_asked:
            return None if is_rechecked else Call.ASK
        case _:
            # It has ended; or waits for its day, its bank, its customer, or a person.
            return None


def call(attempt: PaymentAttempt, what: Call) -> Said:
    """Call the provider."""
    is_fresh = attempt.claims <= 1 and not attempt.key_generation
    return Said(what, calls.make(what, attempt, is_fresh=is_fresh))


def heard(answer: object) -> Heard:
    """Errors of our own making say nothing of the provider."""
    return throttle.heard(answer)


def write_down(
    answers: Sequence[tuple[PaymentAttempt, Said | Exception]], *, as_of: datetime
) -> Collection[PaymentAttempt]:
    """Store, settle, or note that nobody knows; those with a next call go on."""
    locks.accounts_for_update(attempt.account_id for attempt, _ in answers)
    said = {attempt: answer for attempt, answer in answers if isinstance(answer, Said)}
    gone = []
    for attempt, answer in answers:
        match answer:
            case Said() | Closed():
                # Where a gateway is closed it waits as it is.
                continue
            case gateways.MethodGone() if attempt.state in charge_protocol.TO_PREPARE:
                gone.append(attempt)
            case error:
                fail(attempt, error, as_of=as_of)
    if gone:
        ended = settling.end_without_card([attempt.pk for attempt in gone], as_of=as_of)
        _refresh(gone, list(ended.values()))
    made = {a: each.seen for a, each in said.items() if each.call is Call.PREPARE}
    told = {a: each.seen for a, each in said.items() if each.call is not Call.PREPARE}
    preparing.store_in(made)
    if told:
        now = settling.settle({a.pk: seen for a, seen in told.items()}, as_of=as_of)
        _refresh(list(told), list(now.values()))
    for attempt, each in said.items():
        if nothing := calls.nothing_changed(each.call, attempt, each.seen):
            fail(attempt, nothing, as_of=as_of)
    for attempt, each in said.items():
        attempt.was_asked = attempt.was_asked or each.call is Call.ASK
    return [attempt for attempt, each in said.items() if _goes_on(attempt, after=each.call)]


def _goes_on(attempt: PaymentAttempt, *, after: Call) -> bool:
    match after:
        case Call.PREPARE:
            return True
        case Call.ASK:
            return attempt.state in charge_protocol.RECHECKED | charge_protocol.TO_CANCEL
        case Call.SUBMIT:
            return attempt.state in charge_protocol.TO_CANCEL
        case Call.CANCEL:
            return False


def fail(attempt: PaymentAttempt, error: Exception, *, as_of: datetime) -> None:
    """Note that nobody knows how it stands: it is asked about again."""
    calls.note_unknown(attempt, error, as_of=as_of)
    writing.refresh(attempt, PaymentAttempt.objects.get(pk=attempt.pk))


def is_done(attempt: PaymentAttempt) -> bool:
    """Whether its money has come."""
    return attempt.state == State.SUCCEEDED


def hang_up() -> None:
    """The gateways keep nothing open of ours."""
