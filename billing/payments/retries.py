"""
Work on open dunning cases: charge the card again on its day, hold the account at the end.

A case is claimed by moving its time ahead under the account's lock. `charges` makes the charge, and the
transaction that ends the attempt notes the outcome in the case. So a kill anywhere costs a few minutes:
the case is due again, and finds what became of the charge.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from accounts import holds, pauses
from billing import charge_protocol, decisions, dunning, ledger, locks, messages
from billing.ledger import Standing
from billing.messages import Outlook
from billing.models import Decision, DunningCase, Invoice, PaymentAttempt
from billing.payments import charges, guard, throttle

# Longer than a charge takes: after that, the process that claimed the case is dead.
TRY_WINDOW = timedelta(minutes=10)
# When to look again at an account that can neither be charged nor held now.
LOOK_AGAIN_AFTER = timedelta(hours=1)
# When to look again where a payment is being cancelled.
AFTER_A_CANCEL = timedelta(minutes=1)
# When to look again if the provider could not even be asked: an operator has to mend that first.
AFTER_A_FAULT_OF_OURS = timedelta(days=1)


def retry_due(*, as_of: datetime, limit: int = 50) -> int:
    """
    Charge again the accounts whose day has come, and hold those whose schedule has ended.

    Returns how many cases it worked on.
    """
    retried, ended = 0, 0
    due = _to_try(as_of).annotate(gateway=throttle.gateway_of("account"))
    begun = throttle.let_begin(due.order_by("next_try_at", "pk"), limit=limit)
    if ids := [case.account_id for case in begun]:
        claimed = _claim(ids, as_of=as_of)
        requests = [charges.Request(pk, PaymentAttempt.Kind.RETRY) for pk in claimed]
        _note(charges.collect_all(requests, as_of=as_of), as_of=as_of)
        retried = len(claimed)
    if ids := _accounts(_to_end(as_of).order_by("ends_at", "pk"), limit):
        ended = _end_all(ids, as_of=as_of)
    return retried + ended


def _to_try(as_of: datetime) -> QuerySet[DunningCase]:
    return DunningCase.objects.filter(closed_at=None, next_try_at__lte=as_of)


def _to_end(as_of: datetime) -> QuerySet[DunningCase]:
    return DunningCase.objects.filter(closed_at=None, next_try_at=None, ends_at__lte=as_of)


def _accounts(due: QuerySet[DunningCase], limit: int) -> list[int]:
    return list(due.values_list("account", flat=True)[:limit])


# --- trying again


@transaction.atomic(durable=True)
def _claim(account_ids: list[int], *, as_of: datetime) -> list[int]:
    """Claim the cases still to charge by moving their next time ahead: one process at a time has them."""
    locks.accounts_for_update(account_ids)
    due = _to_try(as_of).filter(account__in=account_ids)
    claimed = list(due.values_list("account", flat=True))
    due.update(next_try_at=as_of + TRY_WINDOW)
    return claimed


@transaction.atomic(durable=True)
def _note(collected: charges.Collected, *, as_of: datetime) -> None:
    """Write down what was charged, and what happens to the cases that were not."""
    ids = {*collected.attempts, *collected.refused}
    locks.accounts_for_update(ids)
    standings = ledger.standings(ids, as_of=as_of)
    claimed = _still_claimed(ids, as_of=as_of)
    for pk, attempt in collected.attempts.items():
        decisions.record(_tried(attempt, standings[pk]))
        never_sent = attempt.state == PaymentAttempt.State.RELEASED and attempt.provider_ref is None
        if never_sent and pk in claimed:
            _try_again_at(claimed[pk], as_of + AFTER_A_FAULT_OF_OURS)
    for pk, refused in collected.refused.items():
        if pk in claimed:
            _refused(claimed[pk], refused, standings[pk])


def _still_claimed(account_ids: Iterable[int], *, as_of: datetime) -> dict[int, DunningCase]:
    """
    The open cases, by account, whose time is still what our claim set.

    In the others something newer has set the time: another card was added, or the charge that was on its
    way has ended.
    """
    ours = DunningCase.objects.filter(
        account__in=account_ids, closed_at=None, next_try_at=as_of + TRY_WINDOW
    )
    return {case.account_id: case for case in ours}


def _tried(attempt: PaymentAttempt, standing: Standing) -> Decision:
    return decisions.decision(
        act="RETRY",
        did=Decision.Did.DONE,
        because=f"its day had come: {attempt.get_state_display().lower()}",
        account_id=attempt.account_id,
        saw={**standing.facts, "charged_minor": attempt.amount_minor},
        attempt=attempt,
    )


def _refused(case: DunningCase, refused: charges.CannotCollect, standing: Standing) -> None:
    match refused:
        case charges.NoPaymentMethod():
            # Another card, or a renewed one, starts the next try.
            _try_again_at(case, None)
        case charges.NothingDue() | charges.AccountClosed():
            dunning.close_case(case, because=refused.because[:300], as_of=standing.as_of)
        case charges.AttemptInFlight(attempt=attempt) if (
            attempt.state == PaymentAttempt.State.CANCELING
        ):
            # As after another card was chosen: it is free in a moment.
            _try_again_at(case, standing.as_of + AFTER_A_CANCEL)
            return
        case _:
            # A payment is on its way, or charging is paused: nothing to decide yet.
            _try_again_at(case, standing.as_of + LOOK_AGAIN_AFTER)
            return
    decisions.record(_decision("RETRY", Decision.Did.SKIPPED, refused.because, standing))


def _try_again_at(case: DunningCase, at: datetime | None) -> None:
    case.next_try_at = at
    case.save(update_fields=["next_try_at"])


# --- the end of the schedule


@transaction.atomic(durable=True)
def _end_all(account_ids: list[int], *, as_of: datetime) -> int:
    accounts = locks.accounts_for_update(account_ids)
    cases = list(_to_end(as_of).filter(account__in=account_ids).select_related("account__entity"))
    standings = ledger.standings(account_ids, as_of=as_of)
    outlooks = messages.outlooks(accounts, as_of=as_of)
    for case in cases:
        _end(case, standings[case.account_id], outlooks[case.account_id])
    return len(cases)


def _end(case: DunningCase, standing: Standing, outlook: Outlook) -> None:
    """End a case: hold the account if it is overdue and warned, has nothing on its way, and could have been charged."""
    if (
        standing.in_flight_minor
        or guard.any_is_closed()
        or pauses.because_of([case.account_id])
        or throttle.nobody_can_pay([case.account_id])
    ):
        # It may have paid, or even has, and our database has lost it; it is not charged at all; or nobody
        # could pay now, which is not its fault.
        _put_off(case, standing.as_of + LOOK_AGAIN_AFTER)
    elif case.decline_class in charge_protocol.FAULT_OF_OURS:
        because = f"our set-up or request is wrong: {case.decline_code}"
        _close(case, standing, Decision.Did.BLOCKED, because)
    elif standing.is_too_little:
        _close(case, standing, Decision.Did.SKIPPED, "less is due than is asked for")
    elif not standing.overdue_minor:
        _put_off(case, _first_due_at(case, as_of=standing.as_of))
    elif not outlook.may_be_held(standing.as_of):
        # Warned, or to be, by the sweep: unpaid.py.
        _put_off(case, outlook.held_from or standing.as_of + LOOK_AGAIN_AFTER)
    else:
        _hold(case, standing, outlook)


def _put_off(case: DunningCase, until: datetime) -> None:
    case.ends_at = until
    case.save(update_fields=["ends_at"])


def _close(case: DunningCase, standing: Standing, did: str, because: str) -> None:
    dunning.close_case(case, because=because, as_of=standing.as_of)
    decisions.record(_decision("HOLD", did, because, standing))


def _hold(case: DunningCase, standing: Standing, outlook: Outlook) -> None:
    because = "overdue and not paid at the end of the schedule"
    try:
        hold = dunning.place_hold(case.account, standing, outlook)
    except holds.AlreadyHeld:
        _close(case, standing, Decision.Did.SKIPPED, "already held")
        return
    dunning.close_case(case, because=because, as_of=standing.as_of)
    decisions.record(_decision("HOLD", Decision.Did.DONE, because, standing, hold=hold))


def _first_due_at(case: DunningCase, *, as_of: datetime) -> datetime:
    """When something is due next; later where what is past due already is too little, or still to be charged."""
    due_at = (
        Invoice.objects.filter(account=case.account_id, state="ISSUED", settled_at=None)
        .order_by("due_at")
        .values_list("due_at", flat=True)
        .first()
    )
    assert due_at is not None, f"{case}: something is due, but no invoice is open"
    return max(due_at, as_of + LOOK_AGAIN_AFTER)


def _decision(act: str, did: str, because: str, standing: Standing, **links: Any) -> Decision:
    return decisions.decision(
        act=act,
        did=did,
        because=because,
        account_id=standing.account_id,
        saw=standing.facts,
        **links,
    )
