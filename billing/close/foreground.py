"""Work on a run in the foreground, beside whatever clusters run, until it ends."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import Error, connection

from billing.close import pipeline
from billing.close.engine import runner
from billing.close.health import sweeper
from billing.models import CloseRun
from billing.reports import progress
from billing.workers import halting
from notifications.faults import is_the_databases_fault

logger = logging.getLogger(__name__)

# How often to look around when nothing is ready.
LOOK_EVERY_SECONDS = 0.2
# A run whose next step is further away than this waits for a due date, not for us.
WORTH_WAITING_FOR = timedelta(minutes=30)
# A database that restarts is back within seconds; one that stays away is its operator's to mend.
RECONNECT_AFTER_SECONDS = 0.5
RECONNECTS_MAX = 60


@dataclass(frozen=True)
class Sight:
    """How far the run is, for a progress bar."""

    ended: int
    everything: int
    waits_until: datetime | None

    @property
    def is_open(self) -> bool:
        return self.ended < self.everything


def work_on(
    run: CloseRun,
    *,
    clock: Callable[[], datetime],
    on_sight: Callable[[Sight], None],
    stopped: Callable[[], bool],
    work: bool = True,
) -> CloseRun:
    """
    Stay with a run until it is finished, told to stop, waits for a far due date, or until
    nothing of it is open: then its report is dead, and a person has to act.

    With `work` it takes part as any worker does; without, it only watches.

    :raises Halted: with `work`, once a halt is ordered: nothing more may begin.
    """
    failures = 0
    while not stopped():
        try:
            worked = _work_a_little(as_of=clock()) if work else 0
            run.refresh_from_db()
            sight = _look(run)
            on_sight(sight)
            failures = 0
        except Error as error:
            # Whatever was open is rolled back; the next query connects anew.
            failures += 1
            if not is_the_databases_fault(error) or failures > RECONNECTS_MAX:
                raise
            logger.warning("the database went away: connecting again", exc_info=True)
            connection.close()
            time.sleep(RECONNECT_AFTER_SECONDS)
            continue
        if run.is_finished or not sight.is_open or _waits_too_long(sight, clock()):
            break
        if not worked:
            time.sleep(LOOK_EVERY_SECONDS)
    return run


def _work_a_little(*, as_of: datetime) -> int:
    halting.check_halt()
    worked = sum(
        runner.work_once(module, as_of=as_of, stopping=halting.is_asked)
        for module in pipeline.STEPS
    )
    if not worked:
        worked += sweeper.free_expired_leases(as_of=as_of)
        worked += sweeper.take_rows(as_of=as_of)
        worked += sweeper.release_reports()
    return worked


def _look(run: CloseRun) -> Sight:
    seen = progress.counts(run)
    return Sight(seen.ended, seen.everything, progress.next_at(run))


def _waits_too_long(sight: Sight, now: datetime) -> bool:
    return sight.waits_until is not None and sight.waits_until > now + WORTH_WAITING_FOR
