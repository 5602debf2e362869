"""Reserve: lock the account, look what is left of the payment, write the refund down and book it."""

from collections.abc import Mapping
from datetime import datetime

from django.db import transaction
from django.db.models import Sum

from accounts.models import Account
from billing import gateways, ledger, locks
from billing.models import CreditGrant, Payment, Refund
from billing.money import money
from billing.payments import disputes, guard, reversals
from billing.payments.refunds import noting, settling

# Money that came in outside a gateway goes back outside one.
OUTSIDE = frozenset(("manual", "transfer"))


class CannotRefund(Exception):
    """Nothing was paid back, and why."""


class RefundTooMuch(CannotRefund):
    """More than is left of the payment."""


class RefundTooFine(CannotRefund):
    """Finer than the gateway counts."""


class RefundInFlight(CannotRefund):
    """Another refund of this payment has not come to its end."""


class RefundsStopped(CannotRefund):
    """Nothing is sent through this gateway now: our database may have lost refunds. See guard.py."""


class AlreadyRequested(CannotRefund):
    """A refund with this token stands: the form was sent twice."""


def is_by_hand(payment: Payment) -> bool:
    """
    Whether a person pays it back, outside any gateway.

    :raises Misconfigured: if its gateway is not set up.
    """
    if payment.gateway in OUTSIDE:
        return True
    return not gateways.get(payment.gateway).capabilities.takes_refunds


def refundable_minor(payment: Payment) -> int:
    """What is left of a payment to pay back, in minor units; hold its account's lock to act on it."""
    asked = payment.refunds.exclude(state__in=Refund.UNPAID)
    asked_minor: int = asked.aggregate(total=Sum("amount_minor", default=0))["total"]
    gone_minor = reversals.reversed_minor(payment) + disputes.disputed_minor(payment)
    return payment.amount_minor - gone_minor - asked_minor


def check_fineness(payment: Payment, amount_minor: int) -> None:
    """
    Refuse an amount that the payment's gateway cannot pay back to the last digit.

    :raises RefundTooFine: if it counts in coarser units.
    """
    gateway = gateways.get(payment.gateway)
    if gateway.chargeable_minor(amount_minor, payment.currency) != amount_minor:
        amount = money(amount_minor, payment.currency)
        raise RefundTooFine(f"{amount} is finer than {payment.gateway} counts")


@transaction.atomic(durable=True)
def reserve(wanted: Refund, stopped: Mapping[str, str], *, by_hand: bool) -> Refund:
    """
    Write a refund down and book it; one that is paid back by hand is at its end with that.

    `stopped`: why nothing may be sent, by gateway, as far as known before the lock.
    """
    account = locks.account_for_update(wanted.account_id)
    return write_down(wanted, stopped, account=account, by_hand=by_hand)


def write_down(
    wanted: Refund, stopped: Mapping[str, str], *, account: Account, by_hand: bool
) -> Refund:
    """As `reserve`, in the caller's transaction, which holds the account's lock."""
    payment, as_of = wanted.payment, wanted.requested_at
    if Refund.objects.filter(token=wanted.token).exists():
        raise AlreadyRequested("this refund was requested already")
    if payment.refunds.filter(state__in=Refund.IN_FLIGHT).exists():
        raise RefundInFlight(f"another refund of the payment by {payment} is on its way")
    left_minor = refundable_minor(payment)
    if not 0 < wanted.amount_minor <= left_minor:
        raise RefundTooMuch(
            f"{money(wanted.amount_minor, payment.currency)} of the payment by {payment},"
            f" of which {money(max(left_minor, 0), payment.currency)} is left to pay back"
        )
    if not by_hand:
        stopped = {**stopped, **guard.closed([payment.gateway])}
        if because := stopped.get(payment.gateway):
            raise RefundsStopped(f"paying back through {payment.gateway} is paused: {because}")
    write(wanted, account=account, as_of=as_of)
    amount = money(wanted.amount_minor, wanted.currency)
    words = "paid back by hand" if by_hand else "to be paid back"
    noting.note(
        wanted, f"{amount} of the payment by {payment} {words}: {wanted.reason}", as_of=as_of
    )
    if by_hand:
        settling.succeed(wanted, account=account, as_of=as_of)
        wanted.save()
    return wanted


def write(wanted: Refund, *, account: Account, as_of: datetime) -> None:
    """Take it of what the payment left as credit and is unused first; the rest costs us revenue."""
    grants = list(
        CreditGrant.objects.filter(payment=wanted.payment, remaining_minor__gt=0).order_by("-pk")
    )
    left_minor = wanted.amount_minor
    for grant in grants:
        minor = min(grant.remaining_minor, left_minor)
        grant.remaining_minor -= minor
        grant.refunded_minor += minor
        left_minor -= minor
    CreditGrant.objects.bulk_update(grants, ["remaining_minor", "refunded_minor"])
    wanted.credit_minor, wanted.cost_minor = wanted.amount_minor - left_minor, left_minor
    wanted.save(force_insert=True)
    ledger.post([ledger.refund_reserved(wanted, entity_id=account.entity_id, as_of=as_of)])
