"""The act: pay so much of a payment back."""

import uuid
from collections.abc import Mapping
from datetime import datetime

from accounts.models import Account
from billing.models import Payment, Refund
from billing.payments import guard
from billing.payments.refunds import driving, reserving, time_limits


def refund(
    *,
    payment_id: int,
    token: uuid.UUID,
    amount_minor: int,
    reason: str,
    actor: str,
    as_of: datetime,
) -> Refund:
    """
    Pay back so much of a payment, in minor units of its currency; of what it left as credit first.

    Where its gateway takes no refunds, it is booked as paid back by hand.

    :raises RefundTooMuch: if less is left of it; says how much.
    :raises RefundTooFine: if the gateway counts in coarser units.
    :raises RefundInFlight: if another refund of it is unresolved.
    :raises RefundsStopped: while nothing may be sent through its gateway.
    :raises AlreadyRequested: if the token was used.
    :raises Misconfigured: if its gateway is not set up.
    """
    payment = Payment.objects.get(pk=payment_id)
    by_hand = reserving.is_by_hand(payment)
    stopped = {} if by_hand else guard.watch([payment.gateway])
    if not by_hand:
        reserving.check_fineness(payment, amount_minor)
    wanted = _wanted(payment, amount_minor, token=token, reason=reason, actor=actor, as_of=as_of)
    if by_hand:
        wanted.next_action_at, wanted.provider_ref = None, str(token)
    made = reserving.reserve(wanted, stopped, by_hand=by_hand)
    if not by_hand:
        driving.drive(made, as_of=as_of)
    return Refund.objects.get(pk=made.pk)


def reserve_for_later(
    payment: Payment,
    *,
    account: Account,
    amount_minor: int,
    token: uuid.UUID,
    reason: str,
    actor: str,
    stopped: Mapping[str, str],
    as_of: datetime,
) -> Refund:
    """
    Write a refund through a provider down, in the caller's transaction, which holds the account's lock.

    The sweep sends it. `stopped`: as `guard.watch` answered before the lock.

    :raises CannotRefund: as `refund` does.
    """
    reserving.check_fineness(payment, amount_minor)
    wanted = _wanted(payment, amount_minor, token=token, reason=reason, actor=actor, as_of=as_of)
    wanted.next_action_at = as_of
    return reserving.write_down(wanted, stopped, account=account, by_hand=False)


def _wanted(
    payment: Payment,
    amount_minor: int,
    *,
    token: uuid.UUID,
    reason: str,
    actor: str,
    as_of: datetime,
) -> Refund:
    return Refund(
        account_id=payment.account_id,
        payment=payment,
        gateway=payment.gateway,
        currency=payment.currency,
        amount_minor=amount_minor,
        token=token,
        reason=reason[:300],
        requested_by=actor,
        requested_at=as_of,
        next_action_at=as_of + time_limits.DRIVE_WINDOW,
    )
