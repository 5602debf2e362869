"""Look and send: take a refund on from where it stands, after a look at what the provider has."""

import hashlib
import logging
import time
import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction

from billing import gateways
from billing.gateways import RefundSeen
from billing.models import Refund
from billing.payments import guard, throttle
from billing.payments.refunds import learning, reserving, settling, time_limits
from notifications.faults import is_the_databases_fault

logger = logging.getLogger(__name__)
State = Refund.State

HAD_LOST_ONE = "the provider has a refund that we had lost: look at it, then ask again"


def drive_due(*, as_of: datetime, limit: int = 50) -> int:
    """
    Take on the refunds whose time has come: crashed, unknown, on their way, or just sent.

    Those that there is no time for, or whose provider falls silent meanwhile, are left as they are.

    :raises Exception: what could not be done with one of them, after the others.
    """
    stop_at = time.monotonic() + time_limits.BEGIN_WITHIN_SECONDS
    waiting = [paused.gateway for paused in guard.paused()]
    due = throttle.let_begin(
        Refund.objects.filter(next_action_at__lte=as_of)
        .exclude(gateway__in=waiting)
        .order_by("next_action_at", "pk"),
        limit=limit,
    )
    if not due:
        return 0
    stopped = guard.watch(each.gateway for each in due)
    driven, errors = 0, []
    for each in due:
        if each.gateway in stopped:
            continue
        for claimed in _claim([each], as_of=as_of):
            try:
                drive(claimed, as_of=as_of)
            except Exception as error:
                if is_the_databases_fault(error):
                    raise
                errors.append(error)
            driven += 1
        # After it, since the first may be the one by which an open breaker asks.
        stopped |= throttle.shut([each.gateway])
        if time.monotonic() > stop_at:
            break
    if errors:
        raise errors[0]
    return driven


@transaction.atomic(durable=True)
def _claim(refunds: Sequence[Refund], *, as_of: datetime) -> list[Refund]:
    """Move their time ahead, so that one driver at a time works on a refund."""
    claimed = list(
        Refund.objects.select_for_update(skip_locked=True, of=("self",))
        .filter(pk__in=[each.pk for each in refunds], next_action_at__lte=as_of)
        .select_related("account", "payment")
        .order_by("pk")
    )
    Refund.objects.filter(pk__in=[each.pk for each in claimed]).update(
        next_action_at=as_of + time_limits.DRIVE_WINDOW
    )
    return claimed


def drive(current: Refund, *, as_of: datetime) -> None:
    """Take it on from where it stands, after a look at what the provider has."""
    assert not transaction.get_connection().in_atomic_block, (
        "a network call with a transaction open"
    )
    try:
        looked = list(_look(current))
        for seen in looked:
            learning.learn(current.gateway, seen, as_of=as_of)
        if _may_send(current.pk, looked, as_of=as_of):
            gateway = gateways.get(current.gateway)
            seen = gateway.refund(_spec(current), key=_key(current))
            settling.apply_provider_state(current.pk, seen, as_of=as_of)
    except gateways.RefundRefused as refused:
        throttle.note([(current.gateway, refused)])
        _refuse(current.pk, because=f"refused: {refused}", as_of=as_of)
    except Exception as error:  # noqa: BLE001 - whatever a provider call raises, the outcome is unknown
        throttle.note([(current.gateway, error)])
        _note_unknown(current.pk, error, as_of=as_of)
    else:
        throttle.note([(current.gateway, "it was read")])


def _look(current: Refund) -> Iterable[RefundSeen]:
    gateway = gateways.get(current.gateway)
    if current.provider_ref is not None:
        return [gateway.read_refund(current.provider_ref)]
    return gateway.find_refunds(current.payment.provider_ref)


@transaction.atomic(durable=True)
def _may_send(refund_id: uuid.UUID, looked: Iterable[RefundSeen], *, as_of: datetime) -> bool:
    """The provider has none: may it be sent, for the first time or once more under its key?"""
    current, account = settling.locked(refund_id)
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


@transaction.atomic(durable=True)
def _refuse(refund_id: uuid.UUID, *, because: str, as_of: datetime) -> None:
    current, account = settling.locked(refund_id)
    if current.state in Refund.IN_FLIGHT:
        settling.undo(current, because=because, account=account, as_of=as_of)


@transaction.atomic(durable=True)
def _note_unknown(refund_id: uuid.UUID, error: Exception, *, as_of: datetime) -> None:
    """No answer: stay in this state and ask again later; of what may have been sent, for ever."""
    logger.warning(
        "refund %s: outcome unknown: %s: %s", refund_id, type(error).__name__, error, exc_info=error
    )
    current, account = settling.locked(refund_id)
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
