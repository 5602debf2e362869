"""Place a hold on every account that is overdue, has nothing in flight, and is not in dunning."""

from collections.abc import Iterator
from datetime import timedelta

from accounts import holds, pauses
from accounts.models import PaymentMethod
from billing import dunning, ledger, step_kinds
from billing.close.step import Chunk, Outcome, done, later, skipped, wait_for
from billing.ledger import Standing
from billing.models import AccountClosure, DunningCase, Invoice, PaymentAttempt, Step
from billing.payments import charges, guard, throttle
from billing.step_kinds import Through
from billing.workers import doorbell

kind = step_kinds.HOLD
title = "Hold"
follows = step_kinds.CHARGE
queue = doorbell.DEFAULT
touches_the_world = False
is_per_run = False
through = Through.NOBODY
counts_for_time_left = True
batch = 200

# While charging is paused after a restore, or the provider does not answer.
LOOK_AGAIN_AFTER = timedelta(minutes=1)


def perform(chunk: Chunk) -> Iterator[Outcome]:
    """Look at what is overdue now, whatever the charge said; a payment on its way first comes to its end."""
    if guard.any_is_closed():
        # Who may have paid is not held.
        because = "payments may have been lost: charging is paused until they are found"
        for step in chunk.steps:
            yield later(step, because, run_at=chunk.as_of + LOOK_AGAIN_AFTER)
        return
    standings = ledger.standings(chunk.accounts, as_of=chunk.as_of)
    on_their_way = {
        attempt.account_id: attempt
        for attempt in PaymentAttempt.objects.filter(
            account__in=chunk.accounts, state__in=PaymentAttempt.IN_FLIGHT
        ).select_related("account")
    }
    gateways_of_cards = PaymentMethod.objects.default_of(chunk.accounts).gateway_by_account()
    cannot_pay = throttle.nobody_can_pay(chunk.accounts)
    cases = {
        case.account_id: case
        for case in DunningCase.objects.filter(account__in=chunk.accounts, closed_at=None)
    }
    paused = pauses.because_of(chunk.accounts)
    closed = AccountClosure.objects.accounts_among(chunk.accounts)
    for step in chunk.steps:
        pk = chunk.account_of(step).pk
        if pk in closed:
            because = "the account was closed meanwhile"
            yield skipped(step, because, saw=standings[pk].facts, world_changed=True)
        elif charges.is_too_little(standings[pk], gateways_of_cards.get(pk)):
            # Who has paid all that a card can be charged is not held for the rest.
            yield skipped(step, "less is due than can be charged", saw=standings[pk].facts)
        else:
            yield _decide(
                chunk,
                step,
                standings[pk],
                on_their_way.get(pk),
                cases.get(pk),
                paused.get(pk),
                cannot_pay.get(pk),
            )


def _decide(
    chunk: Chunk,
    step: Step,
    standing: Standing,
    on_its_way: PaymentAttempt | None,
    case: DunningCase | None,
    paused: str | None,
    cannot_pay: str | None,
) -> Outcome:
    if not standing.due_minor:
        changed = step.expected.get("due_minor", 0) > 0
        because = "settled meanwhile" if changed else "nothing is due"
        return skipped(step, because, saw=standing.facts, world_changed=changed)
    if on_its_way is not None:
        return _wait_for_payment(chunk, step, standing, on_its_way)
    if case is not None:
        # The end of its schedule holds it.
        return skipped(step, f"in dunning: {case}", saw=standing.facts)
    if paused is not None:
        # Who is not charged could not have paid by card; the first close after the pause looks again.
        return skipped(step, paused, saw=standing.facts)
    if not standing.overdue_minor:
        return _wait_until_due(chunk, step)
    if cannot_pay is not None:
        # Their provider is down: nobody is held for that.
        because = f"nobody can pay now: {cannot_pay}"
        return later(step, because, run_at=chunk.as_of + LOOK_AGAIN_AFTER)
    try:
        hold = dunning.place_hold(chunk.account_of(step), standing)
    except holds.AlreadyHeld:
        return skipped(step, "already held", saw=standing.facts)
    return done(step, "overdue and not paid", saw=standing.facts, hold=hold)


def _wait_for_payment(
    chunk: Chunk, step: Step, standing: Standing, attempt: PaymentAttempt
) -> Outcome:
    if charges.on_its_way(attempt, as_of=chunk.as_of):
        # As a debit takes days; should it fail, dunning begins then.
        return skipped(step, "covered by a payment on its way", saw=standing.facts)
    if attempt.state == PaymentAttempt.State.REQUIRES_ACTION:
        # Who does not confirm in time is in dunning then.
        return skipped(step, "their bank has asked them to confirm", saw=standing.facts)
    if attempt.state == PaymentAttempt.State.REVIEW:
        # Who may have paid is not held, however long a person takes to look.
        return skipped(step, "a payment is in review", saw=standing.facts, world_changed=True)
    return wait_for(attempt, step, as_of=chunk.as_of)


def _wait_until_due(chunk: Chunk, step: Step) -> Outcome:
    first_due = (
        Invoice.objects.filter(account=chunk.account_of(step), state="ISSUED", settled_at=None)
        .order_by("due_at")
        .values_list("due_at", flat=True)
        .first()
    )
    assert first_due is not None, f"{step}: something is due, but no invoice is open"
    return later(step, "not overdue yet", run_at=first_due)
