"""T4, settle: what the provider says becomes payment, ledger, receipt, lifted hold. Nothing else ends an attempt."""

import logging
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import zip_longest

from django.db import transaction

from accounts import timeline
from accounts.models import Account
from billing import charge_protocol, decisions, dunning, ledger, locks, messages
from billing.charge_protocol import DeclineClass, Move, State, Status
from billing.gateways import Observation, declines
from billing.ledger import Standing
from billing.models import Decision, Payment, PaymentAttempt
from billing.money import money
from billing.payments import booking, methods, reversals
from billing.payments.charges import rechecking, time_limits, writing
from billing.workers import log_context

logger = logging.getLogger(__name__)

# The bank takes days, or their customer does: no step of a close waits for it.
LEFT_THE_CLOSE = frozenset({State.PROCESSING, State.REQUIRES_ACTION})


@transaction.atomic(durable=True)
def apply_provider_state(
    observations: Mapping[uuid.UUID, Observation], *, as_of: datetime
) -> dict[uuid.UUID, PaymentAttempt]:
    """
    Write down what the provider says of attempts, by attempt id. The only place that ends one.

    Whoever learns something (a reply, the sweeper, support) comes here with what the provider says
    now. Applying the same twice changes nothing; money that moved is booked from any state. Returns
    the attempts as they are after it.
    """
    return settle(observations, as_of=as_of)


def settle(
    observations: Mapping[uuid.UUID, Observation], *, as_of: datetime
) -> dict[uuid.UUID, PaymentAttempt]:
    """The same in the caller's transaction."""
    about = PaymentAttempt.objects.filter(pk__in=list(observations)).values_list(
        "account", flat=True
    )
    accounts = locks.accounts_for_update(set(about))
    attempts = locks.attempts_for_update(observations)
    for turn in _turns(attempts):
        heard = [(attempt, observations[attempt.pk]) for attempt in turn]
        _apply([(a, seen) for a, seen in heard if _concerns(a, seen)], accounts, as_of=as_of)
    return {attempt.pk: attempt for attempt in attempts}


@transaction.atomic(durable=True)
def card_is_gone(
    attempt_ids: Sequence[uuid.UUID], *, as_of: datetime
) -> dict[uuid.UUID, PaymentAttempt]:
    """
    Decline attempts whose card the provider has no more, as after a bank's no. What is further is left as it is.

    At the provider there is no object of them, or one that waits for its customer, and is cancelled next.
    Returns the attempts as they are after it.
    """
    return end_without_card(attempt_ids, as_of=as_of)


def end_without_card(
    attempt_ids: Sequence[uuid.UUID], *, as_of: datetime
) -> dict[uuid.UUID, PaymentAttempt]:
    """The same in the caller's transaction."""
    about = PaymentAttempt.objects.filter(pk__in=attempt_ids).values_list("account", flat=True)
    accounts = locks.accounts_for_update(set(about))
    attempts = locks.attempts_for_update(attempt_ids)
    for attempt in attempts:
        then = charge_protocol.MOVES[Move.CARD_GONE].get(State(attempt.state))
        if then is None:
            continue
        attempt.unknown_since = None
        _note_decline(attempt, declines.GONE_AT_THE_PROVIDER, as_of=as_of)
        if then is State.FAILED:
            _end_unpaid(attempt, then, account=accounts[attempt.account_id], as_of=as_of)
        else:
            attempt.state, attempt.next_action_at = then, as_of
    writing.save_all(attempts)
    return {attempt.pk: attempt for attempt in attempts}


# An attempt, locked, and what its provider says of it.
Heard = tuple[PaymentAttempt, Observation]


def _turns(attempts: Sequence[PaymentAttempt]) -> Iterator[list[PaymentAttempt]]:
    """One attempt of each account at a time: its second one meets what the first has changed."""
    by_account: dict[int, list[PaymentAttempt]] = defaultdict(list)
    for attempt in attempts:
        by_account[attempt.account_id].append(attempt)
    for turn in zip_longest(*by_account.values()):
        yield [attempt for attempt in turn if attempt is not None]


def _concerns(attempt: PaymentAttempt, seen: Observation) -> bool:
    is_own_object = seen.ref == attempt.provider_ref
    return charge_protocol.concerns(seen.status, is_own_object=is_own_object)


def _apply(heard: Sequence[Heard], accounts: Mapping[int, Account], *, as_of: datetime) -> None:
    """What succeeded is booked together; everything else is rare, and each by itself."""
    succeeded = []
    for attempt, seen in heard:
        then = _next_state(attempt, seen)
        if charge_protocol.answers(attempt.state, then):
            attempt.unknown_since = None
        if then is State.SUCCEEDED:
            succeeded.append((attempt, seen))
        elif then is not None:
            _move(attempt, then, seen, account=accounts[attempt.account_id], as_of=as_of)
    _succeed(succeeded, accounts, as_of=as_of)
    writing.save_all([attempt for attempt, _ in heard])


def _next_state(attempt: PaymentAttempt, seen: Observation) -> State | None:
    if seen.status is Status.CANCELED and attempt.state == State.PREPARED and attempt.charge_date:
        # Not by us: a debit that waits for its day is cancelled with its mandate.
        attempt.decline_code = "mandate_cancelled"
        attempt.decline_class = DeclineClass.NEEDS_CUSTOMER
    elif (
        seen.status is Status.CANCELED
        and attempt.state in LEFT_THE_CLOSE
        and attempt.kind != PaymentAttempt.Kind.ON_SESSION
    ):
        # By somebody on the provider's pages, or by the provider. The close has gone on without it, so dunning
        # follows it up; not at once, for whoever cancelled it had a reason.
        attempt.decline_code = declines.CANCELED_THERE
        attempt.decline_class = declines.decline_class(attempt.decline_code)
    was_declined = bool(attempt.decline_code)
    return charge_protocol.next_state(attempt.state, seen.status, was_declined=was_declined)


def _move(
    attempt: PaymentAttempt, then: State, seen: Observation, *, account: Account, as_of: datetime
) -> None:
    """No money has moved: it has ended, is given up, or the bank or the customer is asked."""
    match then:
        case State.FAILED | State.RELEASED as end:
            _end_unpaid(attempt, end, account=account, as_of=as_of)
        case State.CANCELING:
            _give_up(attempt, seen, as_of=as_of)
        case State.PROCESSING | State.REQUIRES_ACTION as waiting:
            if waiting is State.REQUIRES_ACTION and attempt.state != waiting:
                _ask_customer(attempt, account=account, as_of=as_of)
            attempt.state = waiting
            attempt.next_action_at = as_of + time_limits.LOOK_AGAIN_AFTER[waiting]


def _succeed(heard: Sequence[Heard], accounts: Mapping[int, Account], *, as_of: datetime) -> None:
    """Money has moved: book what is not booked yet, and what came of it since."""
    if not heard:
        return
    booked = set(
        Payment.objects.filter(
            gateway__in={attempt.gateway for attempt, _ in heard},
            provider_ref__in=[seen.ref for _, seen in heard],
        ).values_list("gateway", "provider_ref")
    )
    news = [(a, seen) for a, seen in heard if (a.gateway, seen.ref) not in booked]
    taken = [_taken(attempt, seen, as_of=as_of) for attempt, seen in news]
    booking.book_all([payment for payment in taken if payment], accounts, as_of=as_of)
    for attempt, seen in heard:
        if seen.status is Status.REVERSED:
            _reverse(attempt, seen, account=accounts[attempt.account_id], as_of=as_of)


def _taken(attempt: PaymentAttempt, seen: Observation, *, as_of: datetime) -> Payment | None:
    """The payment that it has become; none where it cannot be booked."""
    if seen.currency != attempt.currency:
        if not attempt.resolved_by:
            # Cannot be booked against this account's debts: a person must see it.
            attempt.state = charge_protocol.moved(attempt.state, Move.WRONG_CURRENCY)
            attempt.because = f"the provider took {seen.currency}, not {attempt.currency}"
            attempt.unknown_since = attempt.unknown_since or as_of
            attempt.next_action_at = None
        # Else a person has seen it, and that it was given back.
        return None
    is_first = attempt.state != State.SUCCEEDED
    if is_first:
        attempt.because = (
            ""
            if seen.amount_minor == attempt.amount_minor
            else f"the provider took {money(seen.amount_minor, seen.currency)},"
            f" not {money(attempt.amount_minor, attempt.currency)}: booked as taken"
        )
        attempt.state = State.SUCCEEDED
        attempt.provider_ref = seen.ref
        attempt.next_action_at = None
    else:
        # Not by us: somebody submitted an object that was left behind. Real money all the same.
        attempt.because = f"the provider has taken money by {seen.ref} as well: booked as taken"
    return Payment(
        account_id=attempt.account_id,
        attempt=attempt if is_first else None,
        gateway=attempt.gateway,
        provider_ref=seen.ref,
        currency=seen.currency,
        amount_minor=seen.amount_minor,
        method=str(attempt.payment_method),
        received_at=as_of,
    )


def _ask_customer(attempt: PaymentAttempt, *, account: Account, as_of: datetime) -> None:
    """Email customers who are not on the site; others see it on the page."""
    if attempt.kind == PaymentAttempt.Kind.ON_SESSION:
        return
    standing = ledger.standing(account.pk, as_of=as_of)
    messages.confirmation_needed(
        attempt,
        account=account,
        until=(attempt.submitted_at or as_of) + time_limits.CUSTOMER_MAY_TAKE,
        due_minor=standing.due_minor,
        as_of=as_of,
    )


def _reverse(
    attempt: PaymentAttempt, seen: Observation, *, account: Account, as_of: datetime
) -> None:
    """The payer's bank has paid, and then taken all of it back: booked once, and dunning follows it up."""
    payment = Payment.objects.filter(gateway=attempt.gateway, provider_ref=seen.ref).first()
    left_minor = payment.amount_minor - reversals.reversed_minor(payment) if payment else 0
    if payment is None or not left_minor:
        # Taken in another currency, which a person looks at; or booked before.
        return
    reversals.reverse_payment(
        payment,
        account=account,
        amount_minor=left_minor,
        provider_ref=seen.ref,
        reason="returned by the payer's bank",
        as_of=as_of,
    )
    attempt.because = "returned by the payer's bank after it had paid"
    attempt.decline_code = "returned_by_bank"
    attempt.decline_class = DeclineClass.NEEDS_CUSTOMER
    standing = ledger.standing(account.pk, as_of=as_of)
    attempt.case = dunning.note_failure(attempt, account=account, standing=standing)


def _give_up(attempt: PaymentAttempt, seen: Observation, *, as_of: datetime) -> None:
    """The provider has moved no money and still could: it is cancelled next."""
    attempt.state = State.CANCELING
    attempt.next_action_at = as_of + time_limits.DRIVE_WINDOW
    if seen.status is Status.DECLINED:
        code, advice_code = seen.decline_code or "declined", seen.advice_code
        _note_decline(attempt, code, advice_code=advice_code, as_of=as_of)
    else:
        attempt.because = "not submitted in time"


def _note_decline(
    attempt: PaymentAttempt, code: str, *, advice_code: str = "", as_of: datetime
) -> None:
    """
    Keep what the bank said, and what it means.

    After "never again" the card is blocked at once; one that is gone at the provider is gone here.
    """
    attempt.decline_code = code
    attempt.advice_code = advice_code
    attempt.decline_class = declines.decline_class(
        attempt.decline_code, advice_code=attempt.advice_code
    )
    if attempt.decline_class in charge_protocol.BLOCKS_THE_CARD:
        because = f"its bank said {attempt.decline_code}"
        if attempt.advice_code:
            because += f", and advised {attempt.advice_code}"
        methods.block_card(attempt.payment_method, because=because, as_of=as_of)
    elif code == declines.GONE_AT_THE_PROVIDER:
        methods.lose_card(attempt.payment_method, as_of=as_of)


def _end_unpaid(attempt: PaymentAttempt, end: State, *, account: Account, as_of: datetime) -> None:
    """The provider says it never will move money: declined, or given up by us."""
    attempt.state = end
    attempt.next_action_at = None
    if end is State.RELEASED:
        if rechecking.leaves_the_rest(attempt):
            # Kept until `collecting` has asked for it, whoever ends this one, and wherever they die.
            attempt.next_action_at = as_of
        return
    attempt.because = f"declined: {attempt.decline_code}"
    standing = ledger.standing(account.pk, as_of=as_of)
    attempt.case = dunning.note_failure(attempt, account=account, standing=standing)
    if attempt.decline_class in charge_protocol.FAULT_OF_OURS:
        _leave_to_an_operator(attempt, standing)
        return
    timeline.record(
        timeline.event(
            account_id=account.pk,
            kind="payment.failed",
            summary=f"{attempt.payment_method} declined"
            f" {money(attempt.amount_minor, attempt.currency)}: {attempt.decline_code}",
            attempt=str(attempt.pk),
        )
    )
    if dunning.is_news(attempt, as_of=as_of):
        messages.payment_failed(attempt, account=account, due_minor=standing.due_minor, as_of=as_of)


def _leave_to_an_operator(attempt: PaymentAttempt, standing: Standing) -> None:
    """What we asked for was wrong, not the card: its holder can do nothing about it and is not written to."""
    logger.error(
        "attempt %s: refused for a fault of ours: %s",
        attempt.pk,
        attempt.decline_code,
        extra=log_context.of(attempt),
    )
    decisions.record(
        decisions.decision(
            act="SUBMIT",
            did=Decision.Did.BLOCKED,
            because=f"our set-up or request is wrong: {attempt.decline_code}",
            account_id=attempt.account_id,
            expected={"due_minor": attempt.amount_minor, "currency": attempt.currency},
            saw=standing.facts,
            run_id=attempt.run_id,
            attempt=attempt,
        )
    )
