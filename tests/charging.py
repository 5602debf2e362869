"""Charges and refunds, taken through their calls here and now, as a worker's dispatcher does it."""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db.models.functions import Now

from billing.close.health import sweeper
from billing.models import PaymentAttempt, Refund
from billing.payments import charges, guard, refunds, retries
from billing.payments.charges import Collected, Request, reserving
from billing.payments.charges.attempt_kind import ATTEMPTS
from billing.payments.refunds.refund_kind import REFUNDS
from notifications import dispatcher
from notifications.dispatcher import Kind


def collect(*, account_id: int, kind: str, as_of: datetime) -> PaymentAttempt:
    """
    Collect what one account owes, and see how that ends.

    :raises charges.CannotCollect: as `charges.begin` says.
    """
    collected = collect_all([Request(account_id, kind)], as_of=as_of)
    if account_id in collected.refused:
        raise collected.refused[account_id]
    return collected.attempts[account_id]


def collect_all(requests: Sequence[Request], *, as_of: datetime) -> Collected:
    """
    Begin what accounts owe, and take it as far as it comes; the attempts are as they are then.

    Whether a gateway has lost charges is looked at before, as the sweep does each minute.
    """
    guard.watch(reserving.gateways_of(requests))
    begun = charges.begin(requests, as_of=as_of)
    attempts = list(begun.attempts.values())
    drive(attempts, as_of=as_of)
    now = PaymentAttempt.objects.in_bulk([attempt.pk for attempt in attempts])
    begun.attempts.update({attempt.account_id: attempt for attempt in now.values()})
    return begun


def drive(attempts: Sequence[PaymentAttempt], *, as_of: datetime) -> list[PaymentAttempt]:
    """Take those of the attempts that are due and free as far as they come; returns these."""
    run_out_of_leases(ATTEMPTS, as_of=as_of)
    return dispatcher.drive(ATTEMPTS, [attempt.pk for attempt in attempts], clock=lambda: as_of)


def drive_due(*, as_of: datetime, limit: int | None = None) -> int:
    """Take the attempts on whose time has come, and collect what those leave that were given up; says how many."""
    run_out_of_leases(ATTEMPTS, as_of=as_of)
    due = ATTEMPTS.due(as_of=as_of).order_by(*ATTEMPTS.order).values_list("pk", flat=True)[:limit]
    driven = dispatcher.drive(ATTEMPTS, list(due), clock=lambda: as_of)
    try:
        charges.collect_the_rest(as_of=as_of)
    finally:
        begun = ATTEMPTS.due(as_of=as_of).filter(claims=0).values_list("pk", flat=True)
        dispatcher.drive(ATTEMPTS, list(begun), clock=lambda: as_of)
    return len(driven)


def retry_due(*, as_of: datetime, limit: int = 50) -> int:
    """Begin what dunning tries again now, take it as far as it comes, and hold at the end; says how many cases that were."""
    worked = retries.retry_due(as_of=as_of, limit=limit)
    drive_due(as_of=as_of)
    return worked + retries.retry_due(as_of=as_of, limit=limit)


def sweep(*, as_of: datetime) -> None:
    """Sweep at that time: whoever had a row in hand before is dead by then."""
    run_out_of_leases(ATTEMPTS, as_of=as_of)
    run_out_of_leases(REFUNDS, as_of=as_of)
    sweeper.sweep(as_of=as_of)


def refund(*, as_of: datetime, **asked: Any) -> Refund:
    """Pay back so much of a payment, and see how that ends; see `refunds.refund`."""
    made = refunds.refund(as_of=as_of, **asked)
    dispatcher.drive(REFUNDS, [made.pk], clock=lambda: as_of)
    return Refund.objects.get(pk=made.pk)


def drive_refunds_due(*, as_of: datetime) -> int:
    """Take the refunds on whose time has come; says how many."""
    run_out_of_leases(REFUNDS, as_of=as_of)
    due: list[uuid.UUID] = list(REFUNDS.due(as_of=as_of).values_list("pk", flat=True))
    return len(dispatcher.drive(REFUNDS, due, clock=lambda: as_of))


def run_out_of_leases(kind: Kind, *, as_of: datetime) -> None:
    """Leases go by the database's clock: of a row that is due again as of a test's, its worker is dead."""
    leased = kind.due(as_of=as_of).filter(lease_until__gt=Now())
    leased.update(lease_until=Now() - timedelta(seconds=1))
