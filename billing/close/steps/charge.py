"""Charge what each account owes now, with the card it has now."""

import uuid
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import Any, Self

from django.db.models import Exists, OuterRef, Q

from accounts.models import PaymentMethod
from billing import charge_protocol, dunning, ledger, step_kinds
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
from billing.ledger import Standing
from billing.models import CloseRun, Decision, PaymentAttempt, Step
from billing.payments import charges, guard
from billing.payments.charges import CannotCollect
from billing.step_kinds import Through
from billing.workers import doorbell

kind = step_kinds.CHARGE
title = "Charge"
follows = step_kinds.INVOICE
queue = doorbell.CHARGE
touches_the_world = True
is_per_run = False
through = Through.CARD
counts_for_time_left = True

# A gateway that is paused opens within minutes, or when a person has helped.
LOOK_AGAIN_AFTER = timedelta(minutes=1)
# How long a customer's no at the bank is the answer to the close as well; a step that is retried later asks again.
REFUSED_FOR = timedelta(days=1)

State = PaymentAttempt.State


def open_flow(*, clock: Callable[[], datetime]) -> "Charging":
    """Open a flow of charges, to which more are added while others are on their way."""
    return Charging(clock=clock)


class Charging:
    """Charge steps on their way, each until its attempt has come as far as it does."""

    def __init__(self, *, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._collector = charges.Collector(clock=clock)
        self._steps: dict[uuid.UUID, tuple[CloseRun, Step]] = {}
        self._ended: list[Outcome] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._collector.close()

    @property
    def room(self) -> int:
        """How many more it would take now."""
        return max(0, self._collector.room - len(self._ended))

    def begin(self, chunk: Chunk) -> None:
        """
        Reserve what is due of each account, and take it on.

        :raises Exception: whatever goes wrong with one of them. Then none is on its way.
        """
        answered = _answered_before(chunk)
        requests = [
            _request(chunk.run, step) for step in chunk.steps if step.account_id not in answered
        ]
        collected = self._collector.reserve(requests)
        in_flight = {
            refused.attempt.pk: refused.attempt
            for refused in collected.refused.values()
            if isinstance(refused, charges.AttemptInFlight)
            and refused.attempt.state != State.REVIEW
            # For another step of ours, of another month, it is driven already.
            and refused.attempt.pk not in self._steps
        }
        # Ours from before a crash, or the customer's own: driven on if nobody does.
        driven = {a.pk: a for a in self._collector.claim(list(in_flight.values()))}
        standings = ledger.standings(answered, as_of=chunk.as_of)
        ended, steps = [], {}
        for step in chunk.steps:
            account = chunk.account_of(step)
            refused = collected.refused.get(account.pk)
            if account.pk in answered:
                ended.append(_attempted(step, answered[account.pk], standings[account.pk]))
            elif refused is None:
                steps[collected.attempts[account.pk].pk] = (chunk.run, step)
            elif isinstance(refused, charges.AttemptInFlight) and refused.attempt.pk in driven:
                steps[refused.attempt.pk] = (chunk.run, step)
            else:
                ended.append(_refused(chunk, step, refused))
        self._ended += ended
        self._steps |= steps
        self._collector.enter(collected.attempts.values(), fresh=True)
        self._collector.enter(driven.values(), fresh=False)

    def turn(self) -> list[Outcome]:
        """Take them a little further; returns how those end that have come as far as they do."""
        at_rest = self._collector.turn()
        ended, self._ended = self._ended, []
        standings = ledger.standings([a.account_id for a in at_rest], as_of=self._clock())
        for attempt in at_rest:
            if attempt in self._collector.errors:
                continue
            run, step = self._steps.pop(attempt.pk)
            standing = standings[attempt.account_id]
            ended.append(_at_rest(run, step, attempt, standing))
        return ended

    def failed(self) -> dict[int, Exception]:
        """The steps that cannot be gone on with for a fault of ours, by id, and why. They are out of it."""
        errors = self._collector.errors
        failed = {self._steps.pop(attempt.pk)[1].pk: error for attempt, error in errors.items()}
        errors.clear()
        return failed

    def leave(self, steps: Collection[int]) -> None:
        """Send nothing more for these: they are somebody else's."""
        self._collector.leave(
            [attempt for attempt, (_, step) in self._steps.items() if step.pk in steps]
        )

    def stop(self) -> None:
        """From now on nothing is sent; what is out comes back, and all the rest ends as it stands."""
        self._collector.stop()


def _at_rest(run: CloseRun, step: Step, attempt: PaymentAttempt, standing: Standing) -> Outcome:
    if attempt.run_id == run.pk:
        return _attempted(step, attempt, standing)
    return wait_for(attempt, step, as_of=standing.as_of)


def _answered_before(chunk: Chunk) -> dict[int, PaymentAttempt]:
    """
    This run's attempts that came to their end while nobody, or the sweeper, looked after them.

    One that has blocked the step was its answer once. The step is here again since a person has mended what
    was wrong, and has it retried: so it is asked for anew.
    And what the customer has refused at the bank since the run began: they are not asked again in seconds.
    """
    ended = PaymentAttempt.objects.filter(
        run=chunk.run, account__in=chunk.accounts, state__in=[State.SUCCEEDED, State.FAILED]
    )
    refused = PaymentAttempt.objects.filter(
        account__in=chunk.accounts,
        kind=PaymentAttempt.Kind.ON_SESSION,
        state=State.FAILED,
        decline_code=dunning.REFUSED_AT_THE_BANK,
        created_at__gte=max(chunk.run.started_at, chunk.as_of - REFUSED_FOR),
    )
    blocked = Decision.objects.filter(attempt=OuterRef("pk"), act=kind, did=Decision.Did.BLOCKED)
    unheard = ended.filter(Q(state=State.SUCCEEDED) | ~Exists(blocked))
    return {each.account_id: each for each in (*refused, *unheard.order_by("created_at"))}


def _request(run: CloseRun, step: Step) -> charges.Request:
    assert step.account_id is not None, f"{step} is not about an account"
    charges_anyway = run.when_balance_changed == CloseRun.ChangedBalance.CHARGE_DUE_NOW
    return charges.Request(
        account_id=step.account_id,
        run_id=run.pk,
        only_if_due_minor=None if charges_anyway else step.expected.get("due_minor"),
    )


def _refused(chunk: Chunk, step: Step, refusal: CannotCollect) -> Outcome:
    saw = refusal.standing.facts
    expected_minor = step.expected.get("due_minor", 0)
    changed = expected_minor != refusal.standing.due_minor
    match refusal:
        case charges.AttemptInFlight(attempt=attempt):
            return _in_flight(chunk, step, attempt, saw=saw)
        case charges.NothingDue() if expected_minor > 0 and refusal.standing.due_minor <= 0:
            return skipped(step, "settled meanwhile", saw=saw, expect=saw, world_changed=True)
        case charges.GatewayClosed():
            return later(step, refusal.because, run_at=chunk.as_of + LOOK_AGAIN_AFTER, saw=saw)
        case charges.BalanceChanged() if (
            chunk.run.when_balance_changed == CloseRun.ChangedBalance.HOLD_FOR_PERSON
        ):
            return blocked(
                step, "the balance has changed: a person decides", saw=saw, world_changed=True
            )
        case charges.NoPaymentMethod() if step.expected.get("has_card") and not _has_card(
            chunk, step
        ):
            return skipped(step, "card removed meanwhile", saw=saw, expect=saw, world_changed=True)
        case _:
            return skipped(step, refusal.because, saw=saw, expect=saw, world_changed=changed)


def _has_card(chunk: Chunk, step: Step) -> bool:
    """Whether a card is there: then it is one that cannot be charged, such as an expired one."""
    return PaymentMethod.objects.default_of([chunk.account_of(step).pk]).exists()


def _in_flight(
    chunk: Chunk, step: Step, attempt: PaymentAttempt, *, saw: dict[str, Any]
) -> Outcome:
    """Somebody else is at it, or has to be: look again."""
    if attempt.state == State.REVIEW:
        because = f"a payment is in review: {attempt.because}"
        return blocked(step, because, saw=saw, attempt=attempt)
    if attempt.run_id == chunk.run.pk and charges.on_its_way(attempt, as_of=chunk.as_of):
        return _attempted(step, attempt, ledger.standing(attempt.account_id, as_of=chunk.as_of))
    if paused := guard.closed([attempt.gateway]):
        return _wait_for_gateway(chunk, step, attempt, paused[attempt.gateway], saw=saw)
    return wait_for(attempt, step, as_of=chunk.as_of)


def _wait_for_gateway(
    chunk: Chunk, step: Step, attempt: PaymentAttempt, paused: str, *, saw: dict[str, Any]
) -> Outcome:
    """Nobody can be asked. A step that has an attempt out is not cancelled, for that goes on all the same."""
    because = f"charging through {attempt.gateway} is paused: {paused}"
    run_at = chunk.as_of + LOOK_AGAIN_AFTER
    is_its_own = attempt.run_id == chunk.run.pk
    wait = unknown if is_its_own else later
    return wait(step, because, run_at=run_at, saw=saw, attempt=attempt)


def _attempted(step: Step, attempt: PaymentAttempt, standing: Standing) -> Outcome:
    saw = {**standing.facts, "charged_minor": attempt.amount_minor}
    expected_minor = charges.chargeable_minor(
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
        case State.FAILED if attempt.decline_class in charge_protocol.FAULT_OF_OURS:
            because = f"our set-up or request is wrong: {attempt.decline_code}"
            return blocked(step, because, saw=saw, attempt=attempt)
        case State.FAILED:
            return done(
                step, attempt.because, saw=saw, expect=saw, world_changed=changed, attempt=attempt
            )
        case _ if on_its_way := charges.on_its_way(attempt, as_of=standing.as_of):
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
            return later(step, attempt.because, run_at=standing.as_of)
        case State.REVIEW:
            return blocked(step, attempt.because, saw=saw, attempt=attempt)
        case _:
            return unknown(
                step,
                "the provider has not said how it ended",
                run_at=attempt.next_action_at or standing.as_of,
            )
