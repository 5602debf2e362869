"""
Refunds, a kind of the dispatcher: look what the provider has, and send what it lacks.

Whoever claims one looks first, always: what was made on the provider's own pages is learned before anything
is sent. Then it is sent if it is still right and may be, under the account's lock.
"""

import hashlib
import logging
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, cast

from django.conf import settings
from django.db import transaction
from django.db.models import F, QuerySet, prefetch_related_objects

from accounts.models import Account
from billing import gateways, locks
from billing.gateways import RefundSeen
from billing.models import Refund
from billing.payments import guard, throttle
from billing.payments.refunds import learning, reserving, settling, time_limits
from notifications.dispatcher import Heard, Kind, Unreachable

logger = logging.getLogger(__name__)

State = Refund.State
REFUNDS = cast("Kind", sys.modules[__name__])

name = "refund"
model = Refund
order = ("next_action_at", "pk")
batch = 20
begin_within = timedelta(seconds=10)
# It outlasts `begin_within` and the longest call.
lease = timedelta(seconds=60)
# Money that has moved has moved, whoever heard of it.
always_applies = True
# Its time was moved ahead with the claim: see `claimed`.
freed: Mapping[str, Any] = {"next_action_at": F("next_action_at") - time_limits.DRIVE_WINDOW}
unsent: Mapping[str, Any] = {}

HAD_LOST_ONE = "the provider has a refund that we had lost: look at it, then ask again"


class Call(Enum):
    """What a provider is called for."""

    LOOK = "look"
    SEND = "send"


class Closed(Unreachable):
    """Nothing is sent through this gateway now: our database may have lost refunds. See guard.py."""


@dataclass(frozen=True)
class Looked:
    """What the provider has: the refund that it knows, or all of the payment."""

    seen: Sequence[RefundSeen]


def due(*, as_of: datetime) -> QuerySet[Refund]:
    """Those whose time has come: not sent, unknown, on their way, or just sent; but for gateways that are closed."""
    return Refund.objects.filter(next_action_at__lte=as_of).exclude(
        gateway__in=[paused.gateway for paused in guard.paused()]
    )


def lanes(rows: QuerySet[Refund]) -> list[str]:
    """The gateways for which any are due."""
    return list(rows.order_by("gateway").values_list("gateway", flat=True).distinct())


def of_lane(rows: QuerySet[Refund], provider: str) -> QuerySet[Refund]:
    """Those that go back through this gateway."""
    return rows.filter(gateway=provider)


def claimed(*, as_of: datetime) -> Mapping[str, Any]:
    """Who comes back without news is not claimed again at once."""
    return {"next_action_at": as_of + time_limits.DRIVE_WINDOW}


def in_flight_besides(_provider: str) -> int:
    """None: each is claimed."""
    return 0


def lane_of(current: Refund) -> str:
    """The gateway that it goes back through."""
    return current.gateway


def threads() -> int:
    """As many as calls may be on their way at once."""
    return int(settings.CALLS_AT_ONCE)


def reach(provider: str) -> None:
    """:raises Closed: if the gateway is closed, or closes now since charges are found to be lost."""
    if because := guard.watch([provider]).get(provider):
        raise Closed(because)


def together(refunds: Sequence[Refund]) -> list[Sequence[Refund]]:
    """All at once: their accounts are locked in one order."""
    return [refunds] if refunds else []


def recheck(refunds: Sequence[Refund], *, as_of: datetime) -> list[Call | None]:
    """Look first; then say of each whether it is still right to send it, and whether it may be."""
    prefetch_related_objects(refunds, "account", "payment")
    locks.accounts_for_update(current.account_id for current in refunds)
    return [_next_call(current, as_of=as_of) for current in refunds]


def _next_call(current: Refund, *, as_of: datetime) -> Call | None:
    if current.looked is None:
        return Call.LOOK
    return Call.SEND if _may_send(current, current.looked, as_of=as_of) else None


def _may_send(refund: Refund, looked: Iterable[RefundSeen], *, as_of: datetime) -> bool:
    """The provider has none: may it be sent, for the first time or once more under its key?"""
    current, account = settling.locked(refund.pk)
    if current.state not in {State.RESERVED, State.SUBMITTED} or guard.closed([current.gateway]):
        return False
    is_too_much = reserving.refundable_minor(current.payment) < 0
    if current.state == State.RESERVED:
        if is_too_much or _had_lost_one(current, looked):
            because = "less is left meanwhile" if is_too_much else HAD_LOST_ONE
            settling.undo(current, because=because, account=account, as_of=as_of)
            return False
        current.state, current.first_submitted_at = State.SUBMITTED, as_of
        current.save()
        return True
    assert current.first_submitted_at is not None, f"{current} says when it was sent"
    if is_too_much or as_of - current.first_submitted_at >= time_limits.KEY_HOLDS:
        because = "less is left meanwhile" if is_too_much else current.because
        settling.leave_to_a_person(current, because=because, as_of=as_of)
        return False
    return True


def _had_lost_one(current: Refund, looked: Iterable[RefundSeen]) -> bool:
    """
    Whether the provider has one that we had sent, and that whoever asked for this one could not see.

    A copy of the disk was put back: this one may be the same, asked for again. Written down it is of another
    id than it bears; one that was given up keeps its own row, and whoever gave it up knew of it.
    """
    ours = {seen.ref: own for seen in looked if (own := guard.own_reference(seen.own_reference))}
    have = set(Refund.objects.filter(pk__in=ours.values()).values_list("pk", flat=True))
    lost = current.payment.refunds.filter(
        provider_ref__in=[ref for ref, own in ours.items() if own not in have],
        requested_at__gte=current.requested_at,
    )
    return lost.exclude(state__in=Refund.UNPAID).exists()


def call(current: Refund, what: Call) -> Looked | RefundSeen:
    """Call the provider."""
    gateway = gateways.get(current.gateway)
    if what is Call.LOOK:
        return look(current)
    return gateway.refund(_spec(current), key=_key(current))


def look(current: Refund) -> Looked:
    """
    Ask the provider what it has: with nothing open.

    :raises Exception: whatever the gateway raises.
    """
    gateway = gateways.get(current.gateway)
    if current.provider_ref is not None:
        return Looked([gateway.read_refund(current.provider_ref)])
    return Looked(list(gateway.find_refunds(current.payment.provider_ref)))


def heard(answer: object) -> Heard:
    """Errors of our own making say nothing of the provider."""
    return throttle.heard(answer)


def write_down(
    answers: Sequence[tuple[Refund, Looked | RefundSeen | Exception]], *, as_of: datetime
) -> Collection[Refund]:
    """Learn what the provider has, settle what was sent; those that it has nothing of go on."""
    locks.accounts_for_update(current.account_id for current, _ in answers)
    for current, answer in answers:
        match answer:
            case Looked(seen=looked):
                for seen in looked:
                    learning.learn_in(current.gateway, seen, as_of=as_of)
                current.looked = looked
            case RefundSeen():
                settling.settle(current.pk, answer, as_of=as_of)
            case Closed():
                # It waits as it is.
                continue
            case error:
                fail(current, error, as_of=as_of)
    now = Refund.objects.in_bulk([current.pk for current, _ in answers])
    for current, _ in answers:
        current.state = now[current.pk].state
        current.provider_ref = now[current.pk].provider_ref
    return [
        current
        for current, answer in answers
        if isinstance(answer, Looked) and current.state in {State.RESERVED, State.SUBMITTED}
    ]


def fail(current: Refund, error: Exception, *, as_of: datetime) -> None:
    """Undo what was refused; of all else nobody knows: ask again later, of what may have been sent for ever."""
    locked, account = settling.locked(current.pk)
    if isinstance(error, gateways.RefundRefused):
        if locked.state in Refund.IN_FLIGHT:
            settling.undo(locked, because=f"refused: {error}", account=account, as_of=as_of)
        return
    _note_unknown(locked, error, account=account, as_of=as_of)


def _note_unknown(current: Refund, error: Exception, *, account: Account, as_of: datetime) -> None:
    """No answer: stay in this state and ask again later; of what may have been sent, for ever."""
    logger.warning(
        "refund %s: outcome unknown: %s: %s",
        current.pk,
        type(error).__name__,
        error,
        exc_info=error,
    )
    said = f"{type(error).__name__}: {error}"[:300]
    since = current.unknown_since = current.unknown_since or as_of
    pause = min(max(as_of - since, time_limits.ASK_AGAIN_AFTER), time_limits.ASK_AGAIN_LATER)
    if isinstance(error, gateways.RateLimited):
        pause = timedelta(seconds=error.retry_after_seconds)
    current.next_action_at = as_of + pause
    is_final = isinstance(error, gateways.Misconfigured)
    if current.state == State.RESERVED and (is_final or as_of - since >= time_limits.KEY_HOLDS):
        settling.undo(current, because=f"never sent: {said}", account=account, as_of=as_of)
        return
    if current.state in {State.RESERVED, State.SUBMITTED}:
        current.because = said
    sent_at = current.first_submitted_at or as_of
    if current.state == State.SUBMITTED and (is_final or as_of - sent_at >= time_limits.KEY_HOLDS):
        settling.leave_to_a_person(current, because=said, as_of=as_of)
        return
    current.save()


def is_done(current: Refund) -> bool:
    """Whether it has left us."""
    return current.state == State.SUCCEEDED


def hang_up() -> None:
    """The gateways keep nothing open of ours."""


# --- here and now


def ask(current: Refund, *, as_of: datetime) -> None:
    """
    Ask what the provider has, here and now, although its gateway is closed; nothing is sent.

    For a review that is resolved, which may not go on without. No answer is written down as such.
    """
    try:
        looked = look(current)
    except Exception as error:  # noqa: BLE001 - whatever a provider call raises, the outcome is unknown
        throttle.note([(current.gateway, error)])
        with transaction.atomic(durable=True):
            fail(current, error, as_of=as_of)
        return
    throttle.note([(current.gateway, looked)])
    for seen in looked.seen:
        learning.learn(current.gateway, seen, as_of=as_of)


# --- what a call says


def _spec(current: Refund) -> gateways.RefundSpec:
    return gateways.RefundSpec(
        own_reference=str(current.pk),
        account_ref=current.account.external_id,
        payment_ref=current.payment.provider_ref,
        amount_minor=current.amount_minor,
        currency=current.currency,
    )


def _key(current: Refund) -> str:
    """The idempotency key: from our row, so that a repeat carries the same one, always."""
    name = f"{settings.INSTALLATION_ID}|{current.pk}|refund"
    return hashlib.sha256(name.encode()).hexdigest()
