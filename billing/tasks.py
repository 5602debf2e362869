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
from notifications import dispatcher

# Well under the cluster's timeout, so that it never has to kill one.
DRAIN_SECONDS = 45
# How long steps keep what else leaves the database waiting: a receipt waits for no close.
TURN_SECONDS = 5


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
    worked = _take_turns(queue, is_over)
    if queue == doorbell.DEFAULT and reconciliation.work_all(as_of=clock.now(), until=is_over):
        doorbell.ring(queue)
    sweeper.release_reports()
    return worked


def _until(stop_at: float) -> Callable[[], bool]:
    return lambda: time.monotonic() > stop_at or halting.is_asked()


def _take_turns(queue: str, is_over: Callable[[], bool]) -> int:
    """Work on the steps of a queue, and take its rows through their calls, turn about; until neither is left."""
    worked = 0
    while not is_over():
        gives_way = _gives_way(queue, is_over=is_over)
        ended = runner.drain(queue, clock=clock.now, until=gives_way, stopping=halting.is_asked)
        worked += ended
        if not _dispatch(queue, is_over) and not ended:
            break
    else:
        # Over before nothing was left: whoever hears this bell goes on.
        doorbell.ring(queue)
    dispatcher.hang_up()
    return worked


def _gives_way(queue: str, *, is_over: Callable[[], bool]) -> Callable[[], bool]:
    """
    Whether steps have had their turn. Where nothing else waits, they have another one.

    Asked again and again while charges are on their way, so the database is asked once a turn.
    """
    turn_ends_at = time.monotonic() + TURN_SECONDS
    gives = False

    def gives_way() -> bool:
        nonlocal turn_ends_at, gives
        if not gives and time.monotonic() > turn_ends_at:
            turn_ends_at = time.monotonic() + TURN_SECONDS
            gives = dispatcher.is_due(queue)
        return gives or is_over()

    return gives_way


def _dispatch(queue: str, is_over: Callable[[], bool]) -> int:
    """One turn; how many rows were taken. Nothing else keeps them waiting while a lane lets none begin."""
    while not is_over():
        try:
            return dispatcher.run(queue, clock=clock.now, until=is_over, stopping=halting.is_asked)
        except dispatcher.Throttled as throttled:
            if not runner.wait(queue, throttled):
                break
    return 0


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
