"""
Place a hold on every account that is overdue, has nothing in flight, is not in dunning, and was warned.

The run does not wait for terms or warnings: who is not to be held yet is left to the sweep
(billing/payments/unpaid.py).
"""

from collections.abc import Iterator
from datetime import timedelta

from accounts import holds, pauses
from billing import dunning, ledger, messages, step_kinds
from billing.close.step import Chunk, Outcome, done, later, skipped, wait_for
from billing.ledger import Standing
from billing.messages import Outlook
from billing.models import AccountClosure, DunningCase, Invoice, PaymentAttempt, Step
from billing.payments import charges, guard, methods, throttle
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
    closed = AccountClosure.objects.accounts_among(chunk.accounts)
    # Most have paid by now: of them nothing else is asked.
    owing = {pk: a for pk, a in chunk.accounts.items() if standings[pk].due_minor > 0}
    on_their_way = {
        attempt.account_id: attempt
        for attempt in PaymentAttempt.objects.filter(
            account__in=owing, state__in=PaymentAttempt.IN_FLIGHT
        ).select_related("account")
    }
    cannot_pay = throttle.nobody_can_pay(owing)
    cases = {
        case.account_id: case
        for case in DunningCase.objects.filter(account__in=owing, closed_at=None)
    }
    paused = pauses.because_of(owing)
    outlooks = messages.outlooks(owing, as_of=chunk.as_of)
    lost = methods.lost_untold(owing)
    for step in chunk.steps:
        pk = chunk.account_of(step).pk
        if pk in closed:
            because = "the account was closed meanwhile"
            yield skipped(step, because, saw=standings[pk].facts, world_changed=True)
            continue
        if pk not in owing:
            yield _nothing_due(step, standings[pk])
            continue
        is_to_pay = not standings[pk].is_too_little
        if pk in lost and pk not in cases and pk not in paused and is_to_pay:
            # Their card is gone without their doing: they are waited for before they are held.
            case = dunning.wait_for_a_card(chunk.account_of(step), as_of=chunk.as_of)
            yield skipped(step, f"{lost[pk]} is gone: {case}", saw=standings[pk].facts)
            continue
        yield _decide(
            chunk,
            step,
            standings[pk],
            on_their_way.get(pk),
            cases.get(pk),
            paused.get(pk),
            outlooks[pk],
            cannot_pay.get(pk),
        )


def _nothing_due(step: Step, standing: Standing) -> Outcome:
    changed = step.expected.get("due_minor", 0) > 0
    because = "settled meanwhile" if changed else "nothing is due"
    return skipped(step, because, saw=standing.facts, world_changed=changed)


def _decide(
    chunk: Chunk,
    step: Step,
    standing: Standing,
    on_its_way: PaymentAttempt | None,
    case: DunningCase | None,
    paused: str | None,
    outlook: Outlook,
    cannot_pay: str | None,
) -> Outcome:
    if standing.is_too_little:
        because = "less is due than is asked for: carried to the next invoice"
        return skipped(step, because, saw=standing.facts)
    if on_its_way is not None:
        return _wait_for_payment(chunk, step, standing, on_its_way)
    if case is not None:
        # The end of its schedule holds it.
        return skipped(step, f"in dunning: {case}", saw=standing.facts)
    if paused is not None:
        # Who is not charged could not have paid by card; the first close after the pause looks again.
        return skipped(step, paused, saw=standing.facts)
    if not standing.overdue_minor:
        return skipped(step, _not_due(chunk, step, outlook), saw=standing.facts)
    if not outlook.may_be_held(chunk.as_of):
        return skipped(step, f"overdue: {outlook.waits_for}", saw=standing.facts)
    if cannot_pay is not None:
        # Their provider is down: nobody is held for that.
        because = f"nobody can pay now: {cannot_pay}"
        return later(step, because, run_at=chunk.as_of + LOOK_AGAIN_AFTER)
    try:
        hold = dunning.place_hold(chunk.account_of(step), standing, outlook)
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


def _not_due(chunk: Chunk, step: Step, outlook: Outlook) -> str:
    """Until when nothing is overdue; the sweep looks again then."""
    account = chunk.account_of(step)
    to_come = (
        Invoice.objects.filter(account=account, state="ISSUED", settled_at=None)
        .exclude(pk__in=[invoice.pk for invoice in outlook.past_due])
        .order_by("due_at")
        .first()
    )
    if to_come is None or to_come.due_at is None or to_come.due_at <= chunk.as_of:
        # Too little of it, or it is still to be charged by its own month's close.
        return "nothing is overdue yet"
    return f"not due until {to_come.due_date or to_come.due_at.date()}"
