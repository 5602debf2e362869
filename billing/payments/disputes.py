"""
Disputes: a customer asks the bank for the money back, the bank takes it from us, and decides weeks later.

The disputed money leaves cash at once; the customer does not owe it again unless we lose. Until the
decision, and after a lost dispute until a person has looked, the account is not charged automatically:
a customer who disputes a charge must not be charged again by a machine.
"""

from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Sum

from accounts import pauses, timeline
from accounts.models import Account, ChargingPause
from billing import decisions, ledger, locks
from billing.gateways import DisputeSeen, DisputeStatus
from billing.ledger import Kind
from billing.models import Decision, Dispute, Payment
from billing.money import money
from billing.payments import reversals

State = Dispute.State

# A dispute moves only in this order, in whatever order its events reach us.
RANK = {State.INQUIRY: 0, State.NEEDS_RESPONSE: 1, State.WON: 2, State.LOST: 2}
LOST_REASON = "lost in a dispute"


class DecidedOtherwise(ValueError):
    """The provider says that a dispute was won that we booked as lost, or the reverse: a person looks."""


class StillDisputed(Exception):
    """The account has an open dispute: it is not charged before that is decided."""


class NotPaused(Exception):
    """Charging was resumed already, by a colleague or by a dispute that was won."""


# --- what the provider says


@transaction.atomic(durable=True)
def apply_provider_state(gateway: str, seen: DisputeSeen, *, as_of: datetime) -> Dispute | None:
    """
    Write down what the provider says of a dispute. The only place that opens or decides one.

    The same answer twice changes nothing, nor does an old one after a newer one. Returns None, and books
    nothing, if it is about no payment of ours, or in another currency than the payment.

    :raises MoreThanThePayment: if more is disputed than is left of the payment.
    :raises DecidedOtherwise: if it was decided the other way before.
    """
    payment = Payment.objects.filter(gateway=gateway, provider_ref=seen.charge_ref).first()
    if payment is None or payment.currency != seen.currency:
        return None
    account = locks.account_for_update(payment.account_id)
    dispute = Dispute.objects.filter(gateway=gateway, provider_ref=seen.ref).first()
    if dispute is None:
        dispute = Dispute(
            account=account,
            payment=payment,
            gateway=gateway,
            provider_ref=seen.ref,
            currency=seen.currency,
            amount_minor=seen.amount_minor,
            opened_at=seen.made_at,
        )
    _note(dispute, seen, as_of=as_of)
    dispute.save()
    then = _state(seen)
    if RANK[then] == RANK[State(dispute.state)] and then != dispute.state:
        raise DecidedOtherwise(f"{dispute} ({dispute.provider_ref}): the provider says {then}")
    if RANK[then] > RANK[State(dispute.state)]:
        if dispute.state == State.INQUIRY:
            _open(dispute, seen, account=account, as_of=as_of)
        if then is State.WON:
            _win(dispute, account=account, as_of=as_of)
        elif then is State.LOST:
            _lose(dispute, account=account, as_of=as_of)
    return dispute


def disputed_minor(payment: Payment) -> int:
    """How much of a payment is disputed and undecided, in minor units. Lost disputes are reversals instead."""
    disputed = Dispute.objects.filter(payment=payment, state=State.NEEDS_RESPONSE)
    return int(disputed.aggregate(total=Sum("amount_minor", default=0))["total"])


def _state(seen: DisputeSeen) -> State:
    """Its state for us: only an inquiry as long as no money was withdrawn."""
    if not seen.is_withdrawn or seen.status is DisputeStatus.INQUIRY:
        return State.INQUIRY
    return State.NEEDS_RESPONSE if seen.status is DisputeStatus.OPEN else State(seen.status)


def _note(dispute: Dispute, seen: DisputeSeen, *, as_of: datetime) -> None:
    """Note what moves no money. A decided dispute no longer changes."""
    if dispute.state in {State.WON, State.LOST}:
        return
    dispute.reason = seen.reason[:60]
    dispute.evidence_due_at = seen.evidence_due_at
    if dispute.state == State.INQUIRY:
        dispute.closed_at = (dispute.closed_at or as_of) if seen.is_over else None


def _open(dispute: Dispute, seen: DisputeSeen, *, account: Account, as_of: datetime) -> None:
    """Open a dispute: the money is gone, and a fee with it."""
    payment = dispute.payment
    left_minor = payment.amount_minor - reversals.reversed_minor(payment) - disputed_minor(payment)
    if seen.amount_minor > left_minor:
        raise reversals.MoreThanThePayment(
            f"{seen.ref} disputes {money(seen.amount_minor, seen.currency)} of {payment},"
            f" of which {money(left_minor, seen.currency)} is left"
        )
    dispute.state, dispute.closed_at = State.NEEDS_RESPONSE, None
    dispute.amount_minor, dispute.fee_minor = seen.amount_minor, seen.fee_minor
    dispute.save()
    ledger.post([ledger.dispute_opened(dispute, entity_id=account.entity_id, as_of=as_of)])
    amount = money(dispute.amount_minor, dispute.currency)
    because = f"{amount} of the payment by {payment} is disputed"
    if pauses.open_pause(account.pk, ChargingPause.Reason.DISPUTE) is None:
        pauses.pause(
            account_id=account.pk,
            reason=ChargingPause.Reason.DISPUTE,
            because=because,
            as_of=as_of,
        )
    _tell("OPEN_DISPUTE", "dispute.opened", dispute, f"{because}: {dispute.reason}", as_of=as_of)


def _win(dispute: Dispute, *, account: Account, as_of: datetime) -> None:
    """Win a dispute: the money is back, and charging resumes unless another dispute stops it."""
    _close(dispute, State.WON, as_of=as_of)
    ledger.post([ledger.dispute_won(dispute, entity_id=account.entity_id, as_of=as_of)])
    amount = money(dispute.amount_minor, dispute.currency)
    because = f"the dispute over {amount} of the payment by {dispute.payment} is won"
    _tell("WIN_DISPUTE", "dispute.won", dispute, because, as_of=as_of)
    paused = pauses.open_pause(account.pk, ChargingPause.Reason.DISPUTE)
    if paused is None or _needs_a_person(paused):
        return
    pauses.resume(paused=paused, because=because, as_of=as_of)
    _decide("RESUME_CHARGING", account, because=because, as_of=as_of)


def _lose(dispute: Dispute, *, account: Account, as_of: datetime) -> None:
    """Lose a dispute: its amount is reversed, and invoices are owed again. Charging stays paused."""
    _close(dispute, State.LOST, as_of=as_of)
    reversals.reverse_payment(
        dispute.payment,
        account=account,
        amount_minor=dispute.amount_minor,
        provider_ref=dispute.provider_ref,
        reason=LOST_REASON,
        out_of=Kind.DISPUTED,
        as_of=as_of,
    )
    amount = money(dispute.amount_minor, dispute.currency)
    because = f"the dispute over {amount} of the payment by {dispute.payment} is lost"
    _tell("LOSE_DISPUTE", "dispute.lost", dispute, because, as_of=as_of)


def _close(dispute: Dispute, state: State, *, as_of: datetime) -> None:
    dispute.state, dispute.closed_at, dispute.evidence_due_at = state, as_of, None
    dispute.save()


def _needs_a_person(paused: ChargingPause) -> bool:
    """Whether another dispute is open, or was lost since the pause began."""
    others = Dispute.objects.filter(account=paused.account_id)
    return (
        others.filter(state=State.NEEDS_RESPONSE).exists()
        or others.filter(state=State.LOST, closed_at__gte=paused.paused_at).exists()
    )


def _tell(act: str, kind: str, dispute: Dispute, words: str, *, as_of: datetime) -> None:
    _decide(act, dispute.account, because=words, as_of=as_of, attempt=dispute.payment.attempt)
    timeline.record(
        timeline.event(
            account_id=dispute.account_id,
            kind=kind,
            summary=words[:1].upper() + words[1:],
            dispute=dispute.pk,
            payment=dispute.payment_id,
        )
    )


# --- acts of a person


@transaction.atomic(durable=True)
def pause_by_hand(*, account_id: int, reason: str, actor: str, as_of: datetime) -> ChargingPause:
    """
    Stop automatic charges to an account until a person resumes them.

    :raises pauses.AlreadyPaused: if somebody has done so.
    """
    account = locks.account_for_update(account_id)
    paused = pauses.pause(
        account_id=account_id,
        reason=ChargingPause.Reason.MANUAL,
        because=reason,
        as_of=as_of,
        actor=actor,
    )
    _decide("PAUSE_CHARGING", account, because=reason, as_of=as_of, actor=actor)
    return paused


@transaction.atomic(durable=True)
def resume_by_hand(*, pause_id: int, reason: str, actor: str, as_of: datetime) -> ChargingPause:
    """
    End a pause. What is due is charged by the next close or retry, not by this.

    :raises NotPaused: if it is over already.
    :raises StillDisputed: if it is for a dispute, and one is open.
    """
    account = locks.account_for_update(ChargingPause.objects.get(pk=pause_id).account_id)
    paused = ChargingPause.objects.get(pk=pause_id)
    if paused.resumed_at is not None:
        raise NotPaused(str(paused))
    is_open = Dispute.objects.filter(account=account, state=State.NEEDS_RESPONSE).exists()
    if paused.reason == ChargingPause.Reason.DISPUTE and is_open:
        raise StillDisputed(str(account))
    pauses.resume(paused=paused, because=reason, as_of=as_of, actor=actor)
    _decide("RESUME_CHARGING", account, because=reason, as_of=as_of, actor=actor)
    return paused


def _decide(
    act: str,
    account: Account,
    *,
    because: str,
    as_of: datetime,
    **links: Any,
) -> None:
    decisions.record(
        decisions.decision(
            act=act,
            did=Decision.Did.DONE,
            because=because,
            account_id=account.pk,
            saw=ledger.standing(account.pk, as_of=as_of).facts,
            **links,
        )
    )
