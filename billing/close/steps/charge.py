"""Charge what each account owes now, with the card it has now."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from accounts.models import PaymentMethod
from billing import ledger, payments
from billing.close.step import (
    Chunk,
    Outcome,
    blocked,
    done,
    later,
    skipped,
    unknown,
    wait_for,
)
from billing.models import CloseRun, DeclineClass, PaymentAttempt, Step
from billing.payments import CannotCollect

kind = Step.Kind.CHARGE
follows = Step.Kind.INVOICE
lane = "charge"
batch = 16
touches_the_world = True

# A gateway that is paused opens within minutes, or when a person has helped.
LOOK_AGAIN_AFTER = timedelta(minutes=1)

State = PaymentAttempt.State


def perform(chunk: Chunk) -> Iterator[Outcome]:
    """Collect from all at once; every account's answer is its own."""
    answered = _answered_before(chunk)
    requests = [
        _request(chunk.run, step) for step in chunk.steps if step.account_id not in answered
    ]
    collected = payments.collect_all(requests, as_of=chunk.as_of)
    attempts = answered | collected.attempts
    for step in chunk.steps:
        account = chunk.account_of(step)
        if account.pk in attempts:
            yield _attempted(chunk, step, attempts[account.pk])
        else:
            yield _refused(chunk, step, collected.refused[account.pk])


def _answered_before(chunk: Chunk) -> dict[int, PaymentAttempt]:
    """This run's attempts that came to their end while nobody, or the sweeper, looked after them."""
    return {
        attempt.account_id: attempt
        for attempt in PaymentAttempt.objects.filter(
            run=chunk.run, account__in=chunk.accounts, state__in=[State.SUCCEEDED, State.FAILED]
        ).order_by("created_at")
    }


def _request(run: CloseRun, step: Step) -> payments.Request:
    assert step.account_id is not None, f"{step} is not about an account"
    charges_anyway = run.when_balance_changed == CloseRun.ChangedBalance.CHARGE_DUE_NOW
    return payments.Request(
        account_id=step.account_id,
        run_id=run.pk,
        only_if_due_minor=None if charges_anyway else step.expected.get("due_minor"),
    )


def _refused(chunk: Chunk, step: Step, refusal: CannotCollect) -> Outcome:
    saw = refusal.standing.facts
    expected_minor = step.expected.get("due_minor", 0)
    changed = expected_minor != refusal.standing.due_minor
    match refusal:
        case payments.AttemptInFlight(attempt=attempt):
            return _in_flight(chunk, step, attempt, saw=saw)
        case payments.NothingDue() if expected_minor > 0 and refusal.standing.due_minor <= 0:
            return skipped(step, "settled meanwhile", saw=saw, expect=saw, world_changed=True)
        case payments.ChargingStopped():
            return later(step, refusal.because, run_at=chunk.as_of + LOOK_AGAIN_AFTER, saw=saw)
        case payments.BalanceChanged() if (
            chunk.run.when_balance_changed == CloseRun.ChangedBalance.HOLD_FOR_PERSON
        ):
            return blocked(
                step, "the balance has changed: a person decides", saw=saw, world_changed=True
            )
        case payments.NoPaymentMethod() if step.expected.get("has_card") and not _has_card(
            chunk, step
        ):
            return skipped(step, "card removed meanwhile", saw=saw, expect=saw, world_changed=True)
        case _:
            return skipped(step, refusal.because, saw=saw, expect=saw, world_changed=changed)


def _has_card(chunk: Chunk, step: Step) -> bool:
    """Whether a card is there: then it is one that cannot be charged, such as an expired one."""
    return PaymentMethod.objects.filter(
        account=chunk.account_of(step), is_default=True, state=PaymentMethod.State.ACTIVE
    ).exists()


def _in_flight(
    chunk: Chunk, step: Step, attempt: PaymentAttempt, *, saw: dict[str, Any]
) -> Outcome:
    """Ours from before a crash, or the customer's own: drive it if nobody does, then look again."""
    if attempt.state == State.REVIEW:
        because = f"a payment is in review: {attempt.because}"
        return blocked(step, because, saw=saw, attempt=attempt)
    driven = payments.drive([attempt], as_of=chunk.as_of)
    current = driven[0] if driven else attempt
    if current.run_id == chunk.run.pk and (
        driven or payments.on_its_way(current, as_of=chunk.as_of)
    ):
        return _attempted(chunk, step, current)
    return wait_for(attempt, step, as_of=chunk.as_of)


def _attempted(chunk: Chunk, step: Step, attempt: PaymentAttempt) -> Outcome:
    saw = {
        **ledger.standing(attempt.account_id, as_of=chunk.as_of).facts,
        "charged_minor": attempt.amount_minor,
    }
    expected_minor = payments.chargeable_minor(
        attempt.gateway, step.expected.get("due_minor", 0), attempt.currency
    )
    changed = attempt.amount_minor != expected_minor
    match attempt.state:
        case State.SUCCEEDED:
            return done(
                step,
                "charged" if not changed else "charged what is due now",
                saw=saw,
                expect=saw,
                world_changed=changed,
                attempt=attempt,
            )
        case State.FAILED if attempt.decline_class == DeclineClass.OURS:
            because = f"our set-up or request is wrong: {attempt.decline_code}"
            return blocked(step, because, saw=saw, attempt=attempt)
        case State.FAILED:
            return done(
                step, attempt.because, saw=saw, expect=saw, world_changed=changed, attempt=attempt
            )
        case _ if on_its_way := payments.on_its_way(attempt, as_of=chunk.as_of):
            return done(
                step, on_its_way, saw=saw, expect=saw, world_changed=changed, attempt=attempt
            )
        case State.REQUIRES_ACTION:
            # They have days for it, and the month does not wait: see the hold step.
            because = "waits for the customer, whose bank wants to be asked"
            return done(step, because, saw=saw, expect=saw, world_changed=changed, attempt=attempt)
        case State.RELEASED if attempt.provider_ref is None:
            # It never got to the provider and never will: our set-up is wrong.
            return blocked(step, attempt.because, saw=saw, attempt=attempt)
        case State.RELEASED:
            # Given up because the world changed; ask again what is due now.
            return later(step, attempt.because, run_at=chunk.as_of)
        case State.REVIEW:
            return blocked(step, attempt.because, saw=saw, attempt=attempt)
        case _:
            return unknown(
                step,
                "the provider has not said how it ended",
                run_at=attempt.next_action_at or chunk.as_of,
            )
