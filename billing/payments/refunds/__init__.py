"""
Pay money back exactly once: reserve → look → send → settle.

    reserve   transaction: lock the account, what is left of the payment, write the refund down and book it
    look      no transaction: the provider's own list of this payment's refunds; what we lack is booked
    send      transaction: is it still right to send, and may it be? then, with nothing open, the request
    settle    transaction: what the provider says becomes ledger, mail, timeline

Unlike a charge a refund has no fence at the provider: the request itself moves money. So it is sent again
only under its own key, as long as the provider surely remembers that, and after that a person looks. What
the crash of each phase leaves, and the tests for it: docs/payments.md.
"""

import hashlib
import logging
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Sum

from accounts import timeline
from accounts.models import Account
from billing import decisions, gateways, ledger, locks, messages
from billing.gateways import RefundSeen, RefundStatus
from billing.invoices import credits
from billing.models import CreditGrant, Decision, Payment, PaymentAttempt, Refund
from billing.money import money
from billing.payments import disputes, guard, reversals, throttle

logger = logging.getLogger(__name__)
State = Refund.State

# Money that came in outside a gateway goes back outside one.
OUTSIDE = frozenset(("manual", "transfer"))
# Who is said to have asked for what was made on the provider's own pages.
AT_THE_PROVIDER = "provider"
# The longest a driver may be at work on a refund before the sweeper takes it for dead.
DRIVE_WINDOW = timedelta(seconds=60)
# A refund is two calls that may hang for half a minute each, and a task has two minutes.
BEGIN_WITHIN_SECONDS = 20
# How long the same key surely means the same refund: half of what Stripe promises.
KEY_HOLDS = timedelta(hours=12)
ASK_AGAIN_AFTER = timedelta(seconds=30)
ASK_AGAIN_LATER = timedelta(hours=1)
# A bank may send it back for weeks; an event says so, and should that be lost, we ask.
LOOK_AGAIN_AFTER = timedelta(days=5)
BANK_MAY_RETURN = timedelta(days=30)

HAD_LOST_ONE = "the provider has a refund that we had lost: look at it, then ask again"

# Where what the provider says takes a refund. What is not listed is nothing new.
HEARD: Mapping[RefundStatus, Mapping[str, State]] = {
    RefundStatus.PENDING: {
        State.RESERVED: State.PENDING,
        State.SUBMITTED: State.PENDING,
        State.REVIEW: State.PENDING,
    },
    RefundStatus.SUCCEEDED: dict.fromkeys(Refund.IN_FLIGHT, State.SUCCEEDED),
    RefundStatus.REFUSED: {
        **dict.fromkeys(Refund.IN_FLIGHT, State.FAILED),
        State.SUCCEEDED: State.RETURNED,
    },
    RefundStatus.RETURNED: dict.fromkeys((*Refund.IN_FLIGHT, State.SUCCEEDED), State.RETURNED),
}


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


class NotInReview(Exception):
    """The refund has come to its end meanwhile, or goes on by itself."""


# --- the acts


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
    by_hand = is_by_hand(payment)
    stopped = {} if by_hand else guard.watch([payment.gateway])
    if not by_hand:
        _check_fineness(payment, amount_minor)
    made = _reserve(
        Refund(
            account_id=payment.account_id,
            payment=payment,
            gateway=payment.gateway,
            currency=payment.currency,
            amount_minor=amount_minor,
            token=token,
            reason=reason[:300],
            requested_by=actor,
            requested_at=as_of,
            next_action_at=None if by_hand else as_of + DRIVE_WINDOW,
            provider_ref=str(token) if by_hand else None,
        ),
        stopped,
        by_hand=by_hand,
    )
    if not by_hand:
        _drive(made, as_of=as_of)
    return Refund.objects.get(pk=made.pk)


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


def learn(gateway: str, seen: RefundSeen, *, as_of: datetime) -> bool:
    """
    Write down what a provider says of one of its refunds, whoever made it. Whether it is of ours.

    One that was made on the provider's own pages, or that our database has lost, is booked once.
    """
    known = _known(gateway, seen)
    if known is not None:
        apply_provider_state(known.pk, seen, as_of=as_of)
        return True
    payment = Payment.objects.filter(gateway=gateway, provider_ref=seen.payment_ref).first()
    if payment is None:
        return False
    if seen.status in {RefundStatus.PENDING, RefundStatus.SUCCEEDED}:
        _book_theirs(payment, seen, as_of=as_of)
    return True


def drive_due(*, as_of: datetime, limit: int = 50) -> int:
    """
    Take on the refunds whose time has come: crashed, unknown, on their way, or just sent.

    Those that there is no time for, or whose provider falls silent meanwhile, are left as they are.
    """
    stop_at = time.monotonic() + BEGIN_WITHIN_SECONDS
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
    driven = 0
    for each in due:
        if each.gateway in stopped:
            continue
        for claimed in _claim([each], as_of=as_of):
            _drive(claimed, as_of=as_of)
            driven += 1
        # After it, since the first may be the one by which an open breaker asks.
        stopped |= throttle.shut([each.gateway])
        if time.monotonic() > stop_at:
            break
    return driven


def resolve_review(*, refund_id: uuid.UUID, reason: str, actor: str, as_of: datetime) -> Refund:
    """
    End a refund in review: by what the provider says now, or else by what a person saw there.

    Where the provider still has none, it is undone, since a person says that it never left. Should the
    provider have it after all, that is booked as made there.

    :raises NotInReview: if it is in review no longer.
    """
    in_review = Refund.objects.select_related("payment", "account").get(pk=refund_id)
    if in_review.state != State.REVIEW:
        raise NotInReview(str(in_review))
    _drive(in_review, as_of=as_of)
    _release(refund_id, because=f"released by {actor}: {reason}", actor=actor, as_of=as_of)
    return Refund.objects.get(pk=refund_id)


# --- reserve


def _check_fineness(payment: Payment, amount_minor: int) -> None:
    gateway = gateways.get(payment.gateway)
    if gateway.chargeable_minor(amount_minor, payment.currency) != amount_minor:
        amount = money(amount_minor, payment.currency)
        raise RefundTooFine(f"{amount} is finer than {payment.gateway} counts")


@transaction.atomic(durable=True)
def _reserve(wanted: Refund, stopped: Mapping[str, str], *, by_hand: bool) -> Refund:
    account = locks.account_for_update(wanted.account_id)
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
        stopped = {**stopped, **guard.shut([payment.gateway])}
        if because := stopped.get(payment.gateway):
            raise RefundsStopped(f"paying back through {payment.gateway} is paused: {because}")
    _write(wanted, account=account, as_of=as_of)
    amount = money(wanted.amount_minor, wanted.currency)
    words = "paid back by hand" if by_hand else "to be paid back"
    _note(wanted, f"{amount} of the payment by {payment} {words}: {wanted.reason}", as_of=as_of)
    if by_hand:
        _succeed(wanted, account=account, as_of=as_of)
        wanted.save()
    return wanted


def _write(wanted: Refund, *, account: Account, as_of: datetime) -> None:
    """Of what the payment left as credit and is unused first; the rest costs us revenue."""
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


@transaction.atomic(durable=True)
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
        next_action_at=as_of + ASK_AGAIN_LATER,
    )
    _write(theirs, account=account, as_of=as_of)
    amount = money(theirs.amount_minor, theirs.currency)
    _note(theirs, f"{amount} of the payment by {payment} paid back at the provider", as_of=as_of)
    _apply(theirs, seen, account=account, as_of=as_of)


# --- driving


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
        next_action_at=as_of + DRIVE_WINDOW
    )
    return claimed


def _drive(current: Refund, *, as_of: datetime) -> None:
    """Take it on from where it stands, after a look at what the provider has."""
    assert not transaction.get_connection().in_atomic_block, (
        "a network call with a transaction open"
    )
    try:
        looked = list(_look(current))
        for seen in looked:
            learn(current.gateway, seen, as_of=as_of)
        if _may_send(current.pk, looked, as_of=as_of):
            gateway = gateways.get(current.gateway)
            seen = gateway.refund(_spec(current), key=_key(current))
            apply_provider_state(current.pk, seen, as_of=as_of)
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
    current, account = _locked(refund_id)
    if current.state not in {State.RESERVED, State.SUBMITTED} or guard.shut([current.gateway]):
        return False
    is_too_much = refundable_minor(current.payment) < 0
    if current.state == State.RESERVED:
        if is_too_much or _had_lost_one(current, looked):
            because = "less is left meanwhile" if is_too_much else HAD_LOST_ONE
            _undo(current, because=because, account=account, as_of=as_of)
            return False
        current.state, current.first_submitted_at = State.SUBMITTED, as_of
        current.save()
        return True
    assert current.first_submitted_at is not None, f"{current} says when it was sent"
    if is_too_much or as_of - current.first_submitted_at >= KEY_HOLDS:
        because = "less is left meanwhile" if is_too_much else current.because
        _leave_to_a_person(current, because=because, as_of=as_of)
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
    current, account = _locked(refund_id)
    if current.state in Refund.IN_FLIGHT:
        _undo(current, because=because, account=account, as_of=as_of)


@transaction.atomic(durable=True)
def _release(refund_id: uuid.UUID, *, because: str, actor: str, as_of: datetime) -> None:
    current, account = _locked(refund_id)
    if current.state == State.REVIEW:
        _undo(current, because=because, account=account, as_of=as_of, actor=actor)


@transaction.atomic(durable=True)
def _note_unknown(refund_id: uuid.UUID, error: Exception, *, as_of: datetime) -> None:
    """No answer: stay in this state and ask again later; of what may have been sent, for ever."""
    logger.warning(
        "refund %s: outcome unknown: %s: %s", refund_id, type(error).__name__, error, exc_info=error
    )
    current, account = _locked(refund_id)
    said = f"{type(error).__name__}: {error}"[:300]
    since = current.unknown_since = current.unknown_since or as_of
    pause = min(max(as_of - since, ASK_AGAIN_AFTER), ASK_AGAIN_LATER)
    if isinstance(error, gateways.RateLimited):
        pause = timedelta(seconds=error.retry_after_seconds)
    current.next_action_at = as_of + pause
    is_final = isinstance(error, gateways.Misconfigured)
    if current.state == State.RESERVED and (is_final or as_of - since >= KEY_HOLDS):
        _undo(current, because=f"never sent: {said}", account=account, as_of=as_of)
        return
    if current.state in {State.RESERVED, State.SUBMITTED}:
        current.because = said
    sent_at = current.first_submitted_at or as_of
    if current.state == State.SUBMITTED and (is_final or as_of - sent_at >= KEY_HOLDS):
        _leave_to_a_person(current, because=said, as_of=as_of)
        return
    current.save()


# --- settle


@transaction.atomic(durable=True)
def apply_provider_state(refund_id: uuid.UUID, seen: RefundSeen, *, as_of: datetime) -> None:
    """
    Write down what the provider says of a refund. Twice changes nothing.
    """
    current, account = _locked(refund_id)
    _apply(current, seen, account=account, as_of=as_of)


def _apply(current: Refund, seen: RefundSeen, *, account: Account, as_of: datetime) -> None:
    then = HEARD[seen.status].get(current.state)
    current.unknown_since = None
    if then is None and current.state not in Refund.UNPAID:
        current.next_action_at = _look_again_at(current, as_of=as_of)
    if then is not None:
        current.provider_ref = seen.ref
        current.because = seen.because
    match then:
        case State.PENDING:
            current.state = then
            current.next_action_at = as_of + ASK_AGAIN_LATER
        case State.SUCCEEDED:
            _succeed(current, account=account, as_of=as_of)
            current.next_action_at = _look_again_at(current, as_of=as_of)
        case State.FAILED:
            because = f"refused: {seen.because or 'the provider gave it up'}"
            _undo(current, because=because, account=account, as_of=as_of)
        case State.RETURNED:
            _return(current, account=account, as_of=as_of)
    current.save()


def _look_again_at(current: Refund, *, as_of: datetime) -> datetime | None:
    if current.state in Refund.IN_FLIGHT:
        return as_of + ASK_AGAIN_LATER
    may_return = as_of - current.requested_at < BANK_MAY_RETURN
    return as_of + LOOK_AGAIN_AFTER if may_return else None


def _succeed(current: Refund, *, account: Account, as_of: datetime) -> None:
    current.state = State.SUCCEEDED
    ledger.post([ledger.refund_sent(current, entity_id=account.entity_id, as_of=as_of)])
    due_minor = ledger.standing(account.pk, as_of=as_of).due_minor
    messages.refund_sent(current, account=account, due_minor=due_minor, as_of=as_of)


def _undo(
    current: Refund, *, because: str, account: Account, as_of: datetime, actor: str = "system"
) -> None:
    """It never left us: the credit is there again, as far as it is still theirs, and pays what is open."""
    current.state = State.FAILED
    current.because = because[:300]
    current.next_action_at = current.unknown_since = None
    taken = _taken_by_theirs(current)
    there_again_minor = current.credit_minor - sum(minor for _, minor in taken)
    current.lost_minor = min(_lost_minor(current.payment), there_again_minor)
    current.save()
    _give_back(current, there_again_minor)
    entity_id = account.entity_id
    ledger.post(
        [
            ledger.refund_undone(current, entity_id=entity_id, as_of=as_of),
            *(
                ledger.refund_taken_of_credit(
                    theirs, amount_minor=minor, entity_id=entity_id, as_of=as_of
                )
                for theirs, minor in taken
            ),
        ]
    )
    credits.apply_credits([account], as_of=as_of)
    amount = money(current.amount_minor, current.currency)
    _note(
        current,
        f"{amount} was not paid back: {current.because}",
        did=Decision.Did.SKIPPED,
        actor=actor,
        as_of=as_of,
    )


def _taken_by_theirs(undone: Refund) -> list[tuple[Refund, int]]:
    """
    What was paid back at the provider meanwhile found its credit taken, by one that came to nothing.

    So it takes that now, as it would have done: else they would have the money and the credit.
    """
    since = undone.payment.refunds.filter(
        token=None, cost_minor__gt=0, requested_at__gte=undone.requested_at
    )
    left_minor, taken = undone.credit_minor, []
    for theirs in since.exclude(state__in=Refund.UNPAID).order_by("requested_at", "pk"):
        if minor := min(theirs.cost_minor, left_minor):
            theirs.credit_minor += minor
            theirs.cost_minor -= minor
            # When it is asked about next is another's to say.
            theirs.save(update_fields=["credit_minor", "cost_minor"])
            taken.append((theirs, minor))
            left_minor -= minor
    return taken


def _lost_minor(payment: Payment) -> int:
    """What its reversals could take from nobody, because it was being paid back; less what is found again."""
    lost = payment.reversals.aggregate(total=Sum("lost_minor", default=0))["total"]
    found = payment.refunds.aggregate(total=Sum("lost_minor", default=0))["total"]
    return int(lost - found)


def _give_back(undone: Refund, credit_minor: int) -> None:
    """So much of its payment's credit is not paid back; what is lost of it has gone back."""
    grants = list(
        CreditGrant.objects.filter(payment=undone.payment, refunded_minor__gt=0).order_by("-pk")
    )
    left_minor, lost_minor = credit_minor, undone.lost_minor
    for grant in grants:
        minor = min(grant.refunded_minor, left_minor)
        gone_minor = min(minor, lost_minor)
        grant.refunded_minor -= minor
        grant.reversed_minor += gone_minor
        grant.remaining_minor += minor - gone_minor
        left_minor -= minor
        lost_minor -= gone_minor
    CreditGrant.objects.bulk_update(grants, ["remaining_minor", "refunded_minor", "reversed_minor"])


def _return(current: Refund, *, account: Account, as_of: datetime) -> None:
    """It had left us and is here again: the customer's credit, as far as it is theirs; it pays what is open."""
    entity_id = account.entity_id
    was_sent = current.state == State.SUCCEEDED
    current.state = State.RETURNED
    current.next_action_at = None
    current.lost_minor = min(_lost_minor(current.payment), current.credit_minor)
    if not was_sent:
        ledger.post([ledger.refund_sent(current, entity_id=entity_id, as_of=as_of)])
    ledger.post([ledger.refund_returned(current, entity_id=entity_id, as_of=as_of)])
    amount = money(current.amount_minor, current.currency)
    because = current.because or "no reason given"
    theirs = "it is their credit"
    if current.lost_minor:
        lost = money(current.lost_minor, current.currency)
        theirs = f"{lost} of it had gone back with its payment, the rest is their credit"
    credit_minor = current.amount_minor - current.lost_minor
    if credit_minor:
        CreditGrant.objects.create(
            account=account,
            token=current.pk,
            kind=CreditGrant.Kind.RETURNED,
            payment=current.payment,
            currency=current.currency,
            amount_minor=credit_minor,
            remaining_minor=credit_minor,
            reason=f"Refund to {current.payment.method}, sent back by its bank"[:300],
        )
        credits.apply_credits([account], as_of=as_of)
    _note(current, f"The bank sent {amount} back ({because}): {theirs}", as_of=as_of)
    if credit_minor:
        due_minor = ledger.standing(account.pk, as_of=as_of).due_minor
        messages.refund_returned(current, account=account, due_minor=due_minor, as_of=as_of)


def _leave_to_a_person(current: Refund, *, because: str, as_of: datetime) -> None:
    """It may have been sent, and may not be sent again: it is only asked about from now on."""
    current.state = State.REVIEW
    current.because = because[:300]
    current.next_action_at = as_of + ASK_AGAIN_LATER
    current.save()
    amount = money(current.amount_minor, current.currency)
    _note(
        current,
        f"Nobody knows whether {amount} was paid back: {current.because}",
        did=Decision.Did.BLOCKED,
        as_of=as_of,
    )


# --- small truths


def _locked(refund_id: uuid.UUID) -> tuple[Refund, Account]:
    account = locks.account_for_update(Refund.objects.get(pk=refund_id).account_id)
    return locks.refund_for_update(refund_id), account


def _known(gateway: str, seen: RefundSeen) -> Refund | None:
    """The row of a provider's refund; one that was given up for lost is not it any more."""
    refunds = Refund.objects.filter(gateway=gateway)
    if (known := refunds.filter(provider_ref=seen.ref).first()) is not None:
        return known
    own = guard.own_reference(seen.own_reference)
    in_flight = refunds.filter(provider_ref=None, state__in=Refund.IN_FLIGHT)
    return in_flight.filter(pk=own).first() if own else None


def payment_is_coming(gateway: str, seen: RefundSeen) -> bool:
    """Whether the charge of a refund is ours, and not booked yet."""
    return PaymentAttempt.objects.filter(gateway=gateway, provider_ref=seen.payment_ref).exists()


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


def _note(
    current: Refund,
    summary: str,
    *,
    as_of: datetime,
    did: str = Decision.Did.DONE,
    actor: str = "",
) -> None:
    who = actor or current.requested_by
    decisions.record(
        decisions.decision(
            act="REFUND",
            did=did,
            because=summary,
            account_id=current.account_id,
            expected={"amount_minor": current.amount_minor, "currency": current.currency},
            saw=ledger.standing(current.account_id, as_of=as_of).facts,
            attempt=current.payment.attempt,
            actor=who,
        )
    )
    timeline.record(
        timeline.event(
            account_id=current.account_id,
            kind="payment.refund",
            summary=summary,
            actor=who,
            payment=current.payment_id,
            refund=str(current.pk),
        )
    )
