"""
What happens to accounts that do not pay: cases of declined cards, and holds.

A declined automatic charge opens a case; `retries` works on it, and holds the account at its end. Who has
no card to be tried again is held by the close. Both end the moment that what is owed is paid.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db import transaction

from accounts import holds
from accounts.models import RETRIES_MAX, Account, Hold, PaymentMethod
from billing import charge_protocol, decisions, ledger, locks, messages
from billing.ledger import Standing
from billing.models import Decision, DunningCase, PaymentAttempt

# Who was asked to confirm a payment with it cannot any more.
CARD_IS_GONE = ("payment_method_missing", "payment_method_unusable", "expired_card")


# --- cases


def note_failure(
    attempt: PaymentAttempt, *, account: Account, standing: Standing
) -> DunningCase | None:
    """
    Open a case for a declined automatic charge of a (locked) account, or note it in the open one.

    None where there is nothing to follow: its customer was at it, nothing is due any more, the entity
    tries nothing again and the close itself holds, or the fault is ours.
    """
    if attempt.kind == PaymentAttempt.Kind.ON_SESSION or standing.due_minor <= 0:
        return None
    case = open_case(account.pk)
    days = account.entity.retry_days
    if case is not None:
        case.retries_made = min(case.retries_made + 1, RETRIES_MAX)
    elif (
        days or attempt.charge_date
    ) and attempt.decline_class not in charge_protocol.FAULT_OF_OURS:
        # Of a debit, the close that would hold is over: without a schedule it is held a day later.
        ends_at = standing.as_of + timedelta(days=days[-1] if days else 1)
        case = DunningCase(account=account, opened_at=standing.as_of, ends_at=ends_at)
    else:
        return None
    case.decline_class = attempt.decline_class
    case.decline_code = attempt.decline_code
    case.next_try_at = _next_try(case, attempt, days, as_of=standing.as_of)
    case.save()
    return case


def open_case(account_id: int) -> DunningCase | None:
    """The account's open case, if it has one. To act on it, hold the account's lock."""
    return DunningCase.objects.filter(account=account_id, closed_at=None).first()


def is_news(attempt: PaymentAttempt, *, as_of: datetime) -> bool:
    """
    Whether a decline tells the customer something that no earlier one of its case has told.

    The last one does not: the hold that follows has a message of its own.
    """
    case = attempt.case
    if case is None:
        return True
    if attempt.decline_code not in CARD_IS_GONE and messages.was_asked_to_confirm(attempt):
        return False
    told = case.attempts.filter(decline_code=attempt.decline_code).exclude(pk=attempt.pk)
    is_last = case.next_try_at is None and case.ends_at <= as_of
    return not is_last and not told.exists()


def try_again_soon(account_id: int, *, as_of: datetime) -> None:
    """Have the account's case tried at once: it has another card to be charged, or a renewed one."""
    DunningCase.objects.filter(
        account=account_id, closed_at=None, retries_made__lt=RETRIES_MAX
    ).update(next_try_at=as_of)


def close_case(case: DunningCase, *, because: str, as_of: datetime) -> None:
    """Close an open case of a (locked) account."""
    case.closed_at = as_of
    case.closed_because = because
    case.next_try_at = None
    case.save(update_fields=["closed_at", "closed_because", "next_try_at"])


def _next_try(
    case: DunningCase, attempt: PaymentAttempt, days: list[int], *, as_of: datetime
) -> datetime | None:
    if case.retries_made >= RETRIES_MAX:
        return None
    if _has_another_card(attempt):
        return as_of
    if case.decline_class not in charge_protocol.TRIED_AGAIN:
        return None
    to_come = (case.opened_at + timedelta(days=day) for day in days)
    return next((at for at in to_come if at > as_of), None)


def _has_another_card(attempt: PaymentAttempt) -> bool:
    """Whether the customer chose another card while this one was being declined."""
    now = PaymentMethod.objects.default_of([attempt.account_id])
    return now.exclude(pk=attempt.payment_method_id).exists()


# --- holds


def place_hold(account: Account, standing: Standing) -> Hold:
    """
    Place a hold for overdue invoices and queue its message. The caller decides and writes why.

    :raises holds.AlreadyHeld: if the account has one.
    """
    hold = holds.place_hold(account_id=account.pk, reason=Hold.Reason.OVERDUE, as_of=standing.as_of)
    messages.hold_placed(hold, account=account, due_minor=standing.due_minor, as_of=standing.as_of)
    return hold


def lift_settled_holds(account_ids: Iterable[int], *, because: str, as_of: datetime) -> list[Hold]:
    """
    Lift the overdue holds of the (locked) accounts that have nothing overdue any more.

    And close the cases of those that owe nothing. Called in every transaction that lowers what is owed,
    so that nobody who has paid stays held, or is tried again.
    """
    ids = list(account_ids)
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
    settled = [hold for hold in open_holds if not standings[hold.account_id].overdue_minor]
    for hold in settled:
        _lift(hold, standing=standings[hold.account_id], because=because)
    return settled


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

    One for overdue invoices is placed anew by the next close that finds them unpaid.

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
