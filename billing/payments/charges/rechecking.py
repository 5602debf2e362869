"""T3, recheck: between reserving and now the world may have changed. Nothing is sent without it."""

import uuid
from collections.abc import Container, Mapping, Sequence
from datetime import datetime

from django.db import transaction

from accounts import pauses
from accounts.models import PaymentMethod
from billing import charge_protocol, decisions, ledger, locks, step_kinds
from billing.charge_protocol import DeclineClass, Move, State
from billing.ledger import Standing
from billing.models import CloseRun, Decision, PaymentAttempt
from billing.payments import guard, methods
from billing.payments.charges import debits, reserving, time_limits, writing
from billing.payments.charges.refusals import BalanceChanged

NOT_CONFIRMED = "the customer did not confirm it in time"
SETTLED = "settled meanwhile"
LESS_DUE = "less is due meanwhile"
LESS_THAN_ASKED = "less is due than the customer was asked to confirm"
LEFT_TO_A_PERSON = "the balance has changed: a person decides"
ANOTHER_CARD = "the customer has chosen another card"


@transaction.atomic(durable=True)
def recheck(attempts: Sequence[PaymentAttempt], *, as_of: datetime) -> list[PaymentAttempt]:
    """
    Between reserving and now the world may have changed: is it still due, is the card still there?

    Returns, as they are now, those that were looked at; where a gateway has closed meanwhile, they wait
    as they are.
    """
    return look_again(attempts, as_of=as_of)


def look_again(attempts: Sequence[PaymentAttempt], *, as_of: datetime) -> list[PaymentAttempt]:
    """The same in the caller's transaction."""
    ids = [attempt.account_id for attempt in attempts]
    accounts = locks.accounts_for_update(ids)
    stopped = guard.closed(attempt.gateway for attempt in attempts)
    attempts = [attempt for attempt in attempts if attempt.gateway not in stopped]
    standings = ledger.standings(ids, as_of=as_of)
    paused = pauses.because_of(ids)
    blocked = methods.blocked_tokens(attempt.payment_method for attempt in attempts)
    charged_now = dict(PaymentMethod.objects.default_of(ids).values_list("account", "pk"))
    given_up = []
    looked_at = locks.attempts_for_update([attempt.pk for attempt in attempts])
    rechecked = [a for a in looked_at if a.state in charge_protocol.RECHECKED]
    for attempt in rechecked:
        attempt.account = accounts[attempt.account_id]
        standing = standings[attempt.account_id]
        pausing = reserving.pausing(attempt.kind, paused.get(attempt.account_id))
        because = _no_longer(attempt, standing, blocked, pausing) or _is_replaced(
            attempt, charged_now.get(attempt.account_id)
        )
        if because is not None:
            if because != pausing and (
                code := _implied_decline_code(attempt, because, as_of=as_of)
            ):
                attempt.decline_code = code
                attempt.decline_class = DeclineClass.NEEDS_CUSTOMER
            attempt.state = charge_protocol.moved(attempt.state, Move.NO_LONGER_DUE)
            attempt.because = because
            given_up.append(_gave_up(attempt, standing, because))
        elif attempt.state == State.PREPARED and debits.waits_for_its_day(attempt, as_of=as_of):
            attempt.next_action_at = debits.begins_at(attempt)
        else:
            attempt.state = charge_protocol.moved(attempt.state, Move.STILL_DUE)
            attempt.submitted_at = attempt.submitted_at or as_of
    decisions.record(*given_up)
    writing.save_all(rechecked)
    return looked_at


@transaction.atomic(durable=True)
def give_up(attempt: PaymentAttempt, *, because: str, as_of: datetime) -> None:
    """
    Send nothing more of an attempt: it is cancelled at its provider next. What is further stays as it is.

    One that has no object is released at once: only for who has seen that the provider has none of it that
    could still move money.
    """
    locks.account_for_update(attempt.account_id)
    [current] = locks.attempts_for_update([attempt.pk])
    if current.state == State.RESERVED:
        current.state = charge_protocol.moved(current.state, Move.UNANSWERED)
        current.next_action_at = None
    elif current.state in charge_protocol.RECHECKED:
        current.state = charge_protocol.moved(current.state, Move.NO_LONGER_DUE)
    else:
        return
    current.because = because
    standing = ledger.standing(current.account_id, as_of=as_of)
    decisions.record(_gave_up(current, standing, because))
    writing.save_all([current])


def _no_longer(
    attempt: PaymentAttempt,
    standing: Standing,
    blocked: Container[tuple[str, str]],
    pausing: str | None,
) -> str | None:
    """Why the reserved amount may not be charged any more; None where it may."""
    if standing.due_minor <= 0:
        return SETTLED
    if pausing is not None:
        return pausing
    method = attempt.payment_method
    if (method.gateway, method.token) in blocked:
        return "card blocked meanwhile"
    if method.state != PaymentMethod.State.ACTIVE:
        return "card removed meanwhile"
    if method.has_expired(standing.as_of):
        return f"{method} has expired meanwhile"
    if standing.due_minor < attempt.amount_minor:
        return LESS_THAN_ASKED if attempt.state == State.REQUIRES_ACTION else LESS_DUE
    if attempt.state == State.REQUIRES_ACTION and _waits_in_vain(attempt, standing.as_of):
        return NOT_CONFIRMED
    return None


def _is_replaced(attempt: PaymentAttempt, charged_now: int | None) -> str | None:
    """Why not to wait any longer for the customer's yes: they have chosen another card since."""
    waits = attempt.state == State.REQUIRES_ACTION
    replaced = charged_now not in {None, attempt.payment_method_id}
    return ANOTHER_CARD if waits and replaced else None


def _implied_decline_code(attempt: PaymentAttempt, because: str, *, as_of: datetime) -> str:
    """The decline code where dunning waits for the customer now, since no close asks again; else empty."""
    if attempt.kind == PaymentAttempt.Kind.ON_SESSION:
        return ""
    if because == NOT_CONFIRMED:
        return "authentication_required"
    # The close has gone on without it: it takes the bank days, or its customer.
    left_the_close = attempt.charge_date is not None or attempt.state == State.REQUIRES_ACTION
    if not left_the_close or because in {SETTLED, LESS_DUE, LESS_THAN_ASKED, ANOTHER_CARD}:
        return ""
    method = attempt.payment_method
    if method.is_mandate:
        return ENDED_MANDATES.get(method.mandate_status, REMOVED)
    if method.has_expired(as_of):
        return "expired_card"
    return REMOVED if method.state == PaymentMethod.State.REMOVED else "payment_method_unusable"


REMOVED = "payment_method_missing"
ENDED_MANDATES: dict[str, str] = {
    PaymentMethod.MandateStatus.CANCELLED: "mandate_cancelled",
    PaymentMethod.MandateStatus.EXPIRED: "mandate_expired",
}


def leaves_the_rest(attempt: PaymentAttempt) -> bool:
    """Whether nobody else asks for what is due now of a released one: its close has gone on without it."""
    if attempt.charge_date is not None:
        return True
    is_theirs = attempt.kind == PaymentAttempt.Kind.ON_SESSION
    return attempt.because in {LESS_THAN_ASKED, ANOTHER_CARD} and not is_theirs


def _waits_in_vain(attempt: PaymentAttempt, as_of: datetime) -> bool:
    assert attempt.submitted_at is not None, f"{attempt} waits for the customer, but was never sent"
    return as_of >= time_limits.may_confirm_until(attempt)


def _gave_up(attempt: PaymentAttempt, standing: Standing, because: str) -> Decision:
    return decisions.decision(
        act="SUBMIT",
        did=Decision.Did.SKIPPED,
        because=because,
        account_id=attempt.account_id,
        expected={"due_minor": attempt.amount_minor, "currency": attempt.currency},
        saw=standing.facts,
        world_changed=True,
        run_id=attempt.run_id,
        attempt=attempt,
    )


@transaction.atomic(durable=True)
def leave_the_rest(left: Mapping[uuid.UUID, BalanceChanged], *, as_of: datetime) -> None:
    """
    Charge no rest of these, because their close leaves a changed balance alone, or to a person.

    It has gone on without them, so that no step of it says so: the attempt does.
    """
    if not left:
        return
    about = PaymentAttempt.objects.filter(pk__in=left).values_list("account", flat=True)
    locks.accounts_for_update(set(about))
    attempts = locks.attempts_for_update(left)
    runs = CloseRun.objects.in_bulk({a.run_id for a in attempts if a.run_id is not None})
    made = []
    for attempt in attempts:
        assert attempt.run_id is not None, f"{attempt}: no close says what becomes of its rest"
        run = runs[attempt.run_id]
        is_left = run.when_balance_changed == CloseRun.ChangedBalance.HOLD_FOR_PERSON
        because = LEFT_TO_A_PERSON if is_left else "the balance has changed"
        if is_left:
            attempt.because = because
            # Since when somebody is waited for.
            attempt.unknown_since = as_of
        made.append(
            decisions.decision(
                act=step_kinds.CHARGE,
                did=Decision.Did.BLOCKED if is_left else Decision.Did.SKIPPED,
                because=because,
                account_id=attempt.account_id,
                expected={"due_minor": attempt.amount_minor, "currency": attempt.currency},
                saw=left[attempt.pk].standing.facts,
                world_changed=True,
                run_id=attempt.run_id,
                attempt=attempt,
            )
        )
    decisions.record(*made)
    writing.save_all(attempts)
