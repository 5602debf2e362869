"""Settle: what the provider says becomes ledger, mail, timeline. Where it says nothing for too long, a person looks."""

import uuid
from collections.abc import Mapping
from datetime import datetime

from django.db import transaction
from django.db.models import Sum

from accounts.models import Account
from billing import ledger, locks, messages
from billing.gateways import RefundSeen, RefundStatus
from billing.invoices import credits
from billing.models import CreditGrant, Decision, Payment, Refund
from billing.money import money
from billing.payments.refunds import noting, time_limits

State = Refund.State

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


@transaction.atomic(durable=True)
def apply_provider_state(refund_id: uuid.UUID, seen: RefundSeen, *, as_of: datetime) -> None:
    """Write down what the provider says of a refund. Twice changes nothing."""
    settle(refund_id, seen, as_of=as_of)


def settle(refund_id: uuid.UUID, seen: RefundSeen, *, as_of: datetime) -> None:
    """The same in the caller's transaction."""
    current, account = locked(refund_id)
    apply(current, seen, account=account, as_of=as_of)


def locked(refund_id: uuid.UUID) -> tuple[Refund, Account]:
    """The refund and its account, both locked."""
    account = locks.account_for_update(Refund.objects.get(pk=refund_id).account_id)
    return locks.refund_for_update(refund_id), account


def apply(current: Refund, seen: RefundSeen, *, account: Account, as_of: datetime) -> None:
    """The same of a locked refund, in the caller's transaction."""
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
            current.next_action_at = as_of + time_limits.ASK_AGAIN_LATER
        case State.SUCCEEDED:
            succeed(current, account=account, as_of=as_of)
            current.next_action_at = _look_again_at(current, as_of=as_of)
        case State.FAILED:
            because = f"refused: {seen.because or 'the provider gave it up'}"
            undo(current, because=because, account=account, as_of=as_of)
        case State.RETURNED:
            _return(current, account=account, as_of=as_of)
    current.save()


def _look_again_at(current: Refund, *, as_of: datetime) -> datetime | None:
    if current.state in Refund.IN_FLIGHT:
        return as_of + time_limits.ASK_AGAIN_LATER
    may_return = as_of - current.requested_at < time_limits.BANK_MAY_RETURN
    return as_of + time_limits.LOOK_AGAIN_AFTER if may_return else None


def succeed(current: Refund, *, account: Account, as_of: datetime) -> None:
    """It has left us: booked, and its customer is told. The caller saves it."""
    current.state = State.SUCCEEDED
    ledger.post([ledger.refund_sent(current, entity_id=account.entity_id, as_of=as_of)])
    due_minor = ledger.standing(account.pk, as_of=as_of).due_minor
    messages.refund_sent(current, account=account, due_minor=due_minor, as_of=as_of)


def undo(
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
    noting.note(
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
    noting.note(current, f"The bank sent {amount} back ({because}): {theirs}", as_of=as_of)
    if credit_minor:
        due_minor = ledger.standing(account.pk, as_of=as_of).due_minor
        messages.refund_returned(current, account=account, due_minor=due_minor, as_of=as_of)


def leave_to_a_person(current: Refund, *, because: str, as_of: datetime) -> None:
    """It may have been sent, and may not be sent again: it is only asked about from now on."""
    current.state = State.REVIEW
    current.because = because[:300]
    current.next_action_at = as_of + time_limits.ASK_AGAIN_LATER
    current.save()
    amount = money(current.amount_minor, current.currency)
    noting.note(
        current,
        f"Nobody knows whether {amount} was paid back: {current.because}",
        did=Decision.Did.BLOCKED,
        as_of=as_of,
    )
