"""Holds on accounts that do not pay: placed and lifted, by the close or by hand."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from django.db import transaction
from django.db.models import Q

from accounts import holds
from accounts.models import Account, Hold
from billing import decisions, ledger, locks, messages
from billing.charge_protocol import State
from billing.dunning.cases import close_case
from billing.ledger import Standing
from billing.messages import Outlook
from billing.models import Decision, DunningCase, Invoice, PaymentAttempt
from billing.workers import doorbell


def place_hold(account: Account, standing: Standing, outlook: Outlook) -> Hold:
    """
    Place a hold for overdue invoices and queue its message. The caller decides and writes why.

    :raises holds.AlreadyHeld: if the account has one.
    """
    assert outlook.may_be_held(standing.as_of), f"{account} is held too early: {outlook.waits_for}"
    hold = holds.place_hold(
        account_id=account.pk,
        reason=Hold.Reason.OVERDUE,
        as_of=standing.as_of,
        grace_days=outlook.grace_days,
        warned_at=outlook.warned_at if outlook.grace_days is not None else None,
    )
    messages.hold_placed(hold, account=account, due_minor=standing.due_minor, as_of=standing.as_of)
    return hold


def lift_settled_holds(account_ids: Iterable[int], *, because: str, as_of: datetime) -> list[Hold]:
    """
    Lift the overdue holds of (locked) accounts with nothing overdue, and close cases of those that owe nothing.

    Called in every transaction that lowers what is owed, so that no account that has paid stays on hold or
    is charged again. What waits for its customer to confirm it is looked at now, for the same reason.
    """
    ids = list(account_ids)
    look_at_waiting_payments(ids, as_of=as_of)
    open_holds = list(
        Hold.objects.filter(account__in=ids, reason=Hold.Reason.OVERDUE, lifted_at=None)
        .select_related("account__entity")
        .order_by("account")
    )
    cases = list(DunningCase.objects.filter(account__in=ids, closed_at=None))
    concerned = {hold.account_id for hold in open_holds} | {case.account_id for case in cases}
    standings = ledger.standings(concerned, as_of=as_of)
    for case in cases:
        if standings[case.account_id].due_minor <= 0:
            close_case(case, because=because, as_of=as_of)
    settled = [hold for hold in open_holds if not standings[hold.account_id].past_due_minor]
    for hold in settled:
        _lift(hold, standing=standings[hold.account_id], because=because)
    return settled


def look_at_waiting_payments(account_ids: Iterable[int], *, as_of: datetime) -> None:
    """
    Have payments looked at now that wait for their customer, or for their day: they may not be needed any more.

    What is due, or the card, has changed in the caller's transaction. Whoever drives them asks the provider,
    looks again, and cancels what is not wanted.
    """
    waiting = PaymentAttempt.objects.filter(account__in=list(account_ids)).filter(
        Q(state=State.REQUIRES_ACTION) | Q(state=State.PREPARED, charge_date__isnull=False)
    )
    if waiting.update(next_action_at=as_of):
        doorbell.ring(doorbell.CHARGE)


def _lift(hold: Hold, *, standing: Standing, because: str) -> None:
    holds.lift_hold(hold=hold, as_of=standing.as_of, because=because)
    decisions.record(
        decisions.decision(
            act="LIFT_HOLD",
            did=Decision.Did.DONE,
            because=because,
            account_id=hold.account_id,
            saw=standing.facts,
            hold=hold,
        )
    )
    messages.hold_lifted(
        hold, account=hold.account, due_minor=standing.due_minor, as_of=standing.as_of
    )


@transaction.atomic(durable=True)
def place_hold_by_hand(*, account_id: int, reason: str, actor: str, as_of: datetime) -> Hold:
    """
    Place a hold that only a person lifts again, whatever is paid meanwhile.

    :raises holds.AlreadyHeld: if the account has one that was placed by hand.
    """
    account = locks.account_for_update(account_id)
    standing = ledger.standing(account_id, as_of=as_of)
    hold = holds.place_hold(
        account_id=account_id, reason=Hold.Reason.MANUAL, as_of=as_of, actor=actor
    )
    _decide_by_hand("PLACE_HOLD", hold, standing, because=reason, actor=actor)
    messages.hold_placed(hold, account=account, due_minor=standing.due_minor, as_of=as_of)
    return hold


class NotHeld(Exception):
    """The hold was lifted already, by a payment or by a colleague."""


@transaction.atomic(durable=True)
def lift_hold_by_hand(*, hold_id: int, reason: str, actor: str, as_of: datetime) -> Hold:
    """
    Lift a hold, for whatever reason it was placed.

    The next close that finds overdue invoices unpaid places a hold again; before that nothing does, unless
    something else becomes overdue.

    :raises NotHeld: if it is lifted already.
    """
    account = locks.account_for_update(Hold.objects.get(pk=hold_id).account_id)
    hold = Hold.objects.get(pk=hold_id)
    if hold.lifted_at is not None:
        raise NotHeld(str(hold))
    standing = ledger.standing(account.pk, as_of=as_of)
    holds.lift_hold(hold=hold, as_of=as_of, because=reason, actor=actor)
    _decide_by_hand("LIFT_HOLD", hold, standing, because=reason, actor=actor)
    messages.hold_lifted(hold, account=account, due_minor=standing.due_minor, as_of=as_of)
    return hold


def _decide_by_hand(act: str, hold: Hold, standing: Standing, *, because: str, actor: str) -> None:
    decisions.record(
        decisions.decision(
            act=act,
            did=Decision.Did.DONE,
            because=because,
            account_id=hold.account_id,
            saw=standing.facts,
            hold=hold,
            actor=actor,
        )
    )


def is_forgiven(account_id: int, past_due: Sequence[Invoice]) -> bool:
    """
    Whether a person has lifted a hold for all that is past due.

    Then it is left alone until the next close, or until something else is past due.
    """
    lifted = Decision.objects.filter(
        account=account_id,
        act="LIFT_HOLD",
        hold__reason=Hold.Reason.OVERDUE,
        hold__lifted_at__gt=max(invoice.due_at for invoice in past_due if invoice.due_at),
    )
    return lifted.exclude(actor="system").exists()
