"""What a provider tells of refunds, whoever made them: each is booked once."""

from datetime import datetime

from django.db import transaction

from billing import locks
from billing.gateways import RefundSeen, RefundStatus
from billing.models import Payment, PaymentAttempt, Refund
from billing.money import money
from billing.payments import guard
from billing.payments.refunds import noting, reserving, settling, time_limits

State = Refund.State

# Who is said to have asked for what was made on the provider's own pages.
AT_THE_PROVIDER = "provider"


@transaction.atomic(durable=True)
def learn(gateway: str, seen: RefundSeen, *, as_of: datetime) -> bool:
    """
    Write down what a provider says of one of its refunds, whoever made it. Whether it is of ours.

    One that was made on the provider's own pages, or that our database has lost, is booked once.
    """
    return learn_in(gateway, seen, as_of=as_of)


def learn_in(gateway: str, seen: RefundSeen, *, as_of: datetime) -> bool:
    """The same in the caller's transaction."""
    known = _known(gateway, seen)
    if known is not None:
        settling.settle(known.pk, seen, as_of=as_of)
        return True
    payment = Payment.objects.filter(gateway=gateway, provider_ref=seen.payment_ref).first()
    if payment is None:
        return False
    if seen.status in {RefundStatus.PENDING, RefundStatus.SUCCEEDED}:
        _book_theirs(payment, seen, as_of=as_of)
    return True


def payment_is_coming(gateway: str, seen: RefundSeen) -> bool:
    """Whether the charge of a refund is ours, and not booked yet."""
    return PaymentAttempt.objects.filter(gateway=gateway, provider_ref=seen.payment_ref).exists()


def _known(gateway: str, seen: RefundSeen) -> Refund | None:
    """The row of a provider's refund; one that was given up for lost is not it any more."""
    refunds = Refund.objects.filter(gateway=gateway)
    if (known := refunds.filter(provider_ref=seen.ref).first()) is not None:
        return known
    own = guard.own_reference(seen.own_reference)
    in_flight = refunds.filter(provider_ref=None, state__in=Refund.IN_FLIGHT)
    return in_flight.filter(pk=own).first() if own else None


def _book_theirs(payment: Payment, seen: RefundSeen, *, as_of: datetime) -> None:
    """Money has left that we did not send: it counts, whatever we thought was left."""
    account = locks.account_for_update(payment.account_id)
    if _known(payment.gateway, seen) is not None:
        return
    theirs = Refund(
        account=account,
        payment=payment,
        gateway=payment.gateway,
        currency=payment.currency,
        amount_minor=seen.amount_minor,
        state=State.PENDING,
        provider_ref=seen.ref,
        reason="made on the provider's own pages, or lost by our database",
        requested_by=AT_THE_PROVIDER,
        requested_at=as_of,
        next_action_at=as_of + time_limits.ASK_AGAIN_LATER,
    )
    reserving.write(theirs, account=account, as_of=as_of)
    amount = money(theirs.amount_minor, theirs.currency)
    noting.note(
        theirs, f"{amount} of the payment by {payment} paid back at the provider", as_of=as_of
    )
    settling.apply(theirs, seen, account=account, as_of=as_of)
