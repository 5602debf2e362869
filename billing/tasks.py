"""What django-q2 runs: three lines each. Tasks carry a lane's name and nothing else."""

import time

from django.db import transaction
from django.utils import timezone

from billing import doorbell, inbound, log_context, reconciliation
from billing.close import runner, runs, sweeper
from billing.reports import progress
from notifications import delivery, mail_server

# Well under the cluster's timeout, so that it never has to kill one.
DRAIN_SECONDS = 45


def drain(lane: str) -> int:
    """This will work on a lane for at most 45 s, then ring again if there is more."""
    with log_context.about(lane=lane):
        return _drain(lane)


def _drain(lane: str) -> int:
    stop_at = time.monotonic() + DRAIN_SECONDS
    while lane == "charge" and time.monotonic() < stop_at:
        if not inbound.process_due(as_of=timezone.now()):
            break
    worked = runner.drain(lane, clock=timezone.now, until=lambda: time.monotonic() > stop_at)
    if lane == "default" and reconciliation.work_all(
        as_of=timezone.now(), until=lambda: time.monotonic() > stop_at
    ):
        doorbell.ring(lane)
    while lane == "email" and time.monotonic() < stop_at:
        if delivery.deliver(as_of=timezone.now()) == delivery.Delivered():
            break
    mail_server.hang_up()
    sweeper.release_reports()
    return worked


def sweep() -> dict[str, int]:
    """This will heal; see billing/close/sweeper.py."""
    with log_context.about(kind="SWEEP"):
        return sweeper.sweep(as_of=timezone.now())


def count_runs() -> int:
    """This will count the runs that go on, so that their speed is known when somebody looks."""
    return progress.refresh_running(as_of=timezone.now())


def start_due_closes() -> int:
    """This will start the closes whose month is over in every zone."""
    return len(runs.start_due(as_of=timezone.now()))


def start_due_reconciliations() -> int:
    """This will start the nightly ones; the lane "default" works on them."""
    return len(reconciliation.start_due(as_of=timezone.now()))


def ring_email() -> None:
    """This will wake the email lane, which delivers whatever waits in the outbox."""
    with transaction.atomic():
        doorbell.ring("email")
