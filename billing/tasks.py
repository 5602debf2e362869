"""What django-q2 runs. A task carries at most the name of its queue: what there is to do stands in our rows."""

import time
from collections.abc import Callable

from django.db import transaction

from accounts import clock
from billing import reconciliation
from billing.close import runs
from billing.close.engine import runner
from billing.close.health import sweeper
from billing.payments import inbound
from billing.reports import progress
from billing.workers import doorbell, halting, log_context
from notifications import delivery, mail_server

# Well under the cluster's timeout, so that it never has to kill one.
DRAIN_SECONDS = 45
# How long the mail of one kind waits for the other's.
MAIL_TURN_SECONDS = 5


def drain(queue: str) -> int:
    """Work on a queue for at most 45 s, or until told to stop, then ring again; under a halt neither."""
    with log_context.about(lane=queue):
        return _drain(queue)


def _drain(queue: str) -> int:
    # Not as of a second ago: a doorbell that the lifting rang is heard. Nor is it rung again, or the queue would
    # ring for itself until then.
    if halting.halt():
        return 0
    is_over = _until(time.monotonic() + DRAIN_SECONDS)
    while queue == doorbell.CHARGE and not is_over():
        if not inbound.process_due(as_of=clock.now()):
            break
    if queue == doorbell.EMAIL:
        worked = _mail(is_over)
    else:
        worked = runner.drain(queue, clock=clock.now, until=is_over, stopping=halting.is_asked)
    if queue == doorbell.DEFAULT and reconciliation.work_all(as_of=clock.now(), until=is_over):
        doorbell.ring(queue)
    sweeper.release_reports()
    return worked


def _until(stop_at: float) -> Callable[[], bool]:
    return lambda: time.monotonic() > stop_at or halting.is_asked()


def _mail(is_over: Callable[[], bool]) -> int:
    """Send what the steps and the outbox have, turn about: neither waits for all of the other."""
    worked = 0
    while not is_over():
        turn_over = _until(time.monotonic() + MAIL_TURN_SECONDS)
        ended = runner.drain(doorbell.EMAIL, clock=clock.now, until=turn_over)
        worked += ended
        if not _deliver(until=turn_over) and not ended:
            break
    mail_server.hang_up()
    return worked


def _deliver(*, until: Callable[[], bool]) -> int:
    """How many messages came to an end, or were tried."""
    tried = 0
    while not until():
        try:
            batch = delivery.deliver(as_of=clock.now())
        except delivery.Throttled as throttled:
            if not runner.wait(doorbell.EMAIL, throttled):
                break
        else:
            if batch == delivery.Delivered():
                break
            tried += batch.sent + batch.cancelled + batch.failed
    return tried


def sweep() -> dict[str, int]:
    """Heal; see billing/close/health/sweeper.py."""
    with log_context.about(kind="SWEEP"):
        return sweeper.sweep(as_of=clock.now())


def count_runs() -> int:
    """Count the runs that go on, so that their speed is known when somebody looks."""
    return progress.refresh_running(as_of=clock.now())


def start_due_closes() -> int:
    """Start the closes whose month is over in every zone."""
    return len(runs.start_due(as_of=clock.now()))


def start_due_reconciliations() -> int:
    """Start the nightly ones; the queue "default" works on them."""
    return len(reconciliation.start_due(as_of=clock.now()))


def ring_email() -> None:
    """Wake the email queue, which delivers whatever waits in the outbox."""
    with transaction.atomic():
        doorbell.ring(doorbell.EMAIL)
