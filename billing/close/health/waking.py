"""
Wake steps that wait for one that has ended.

A step is readied by whoever ends the one before it. Who does not know its kind does not: a worker started
before CLOSE_STEPS listed it, or while it was not listed.
"""

import logging
from collections.abc import Mapping
from datetime import datetime

from django.conf import settings
from django.db import connection, transaction

from billing import step_kinds
from billing.close import runs, steering
from billing.models import CloseRun, Step
from billing.reports import progress
from billing.step_kinds import StepKind
from billing.workers import doorbell

logger = logging.getLogger(__name__)
State = Step.State

# In one transaction; the next follows at once.
CHUNK = 2000


def wake_left_waiting(*, as_of: datetime) -> int:
    """Ready what waits for a step that has ended, or end it with that one. Returns how many."""
    woken = 0
    for run in CloseRun.objects.filter(state=CloseRun.State.RUNNING):
        by_kind = progress.steps(run)
        for kind in step_kinds.of_accounts():
            if _more_wait_than_can(kind, by_kind):
                while some := _wake(run.pk, kind, as_of=as_of):
                    woken += some
    return woken


def _more_wait_than_can(kind: StepKind, by_kind: Mapping[str, Mapping[str, int]]) -> bool:
    """
    Whether there are more than open steps to wait for: only then is it worth looking for which.

    Where some of those have a follower that was cancelled, it is found when they have ended.
    """
    if kind.follows is None:
        return False
    before = by_kind.get(kind.follows, {})
    waiting = by_kind.get(kind.kind, {}).get(State.WAITING, 0)
    return waiting > sum(before.get(state, 0) for state in Step.OPEN)


@transaction.atomic(durable=True)
def _wake(run_id: int, kind: StepKind, *, as_of: datetime) -> int:
    assert kind.follows is not None, f"{kind.kind} waits for nothing"
    # Who retries what it follows comes before, or after.
    runs.reports_for_update([run_id])
    before = step_kinds.in_a_sentence(kind.follows)
    with connection.cursor() as cursor:
        cursor.execute(
            WAKE,
            {
                "run": run_id,
                "kind": kind.kind,
                "follows": kind.follows,
                "beside": [each.kind for each in step_kinds.followers(kind.follows)],
                "open": list(Step.OPEN),
                "is_blocked": f"its {before} step is blocked",
                "gave_up": f"its {before} step gave up",
                "was_cancelled": steering.cancelled_with(kind.follows),
                "as_of": as_of,
                "chunk": CHUNK,
            },
        )
        woken: int = cursor.rowcount
    if woken:
        logger.warning("%s %s steps waited for what had ended: woken", woken, kind.kind)
        doorbell.ring(kind.queue, times=settings.WORKERS)
    return woken


# It expects what another that follows the same was told, or else what was seen there last.
WAKE = """
UPDATE billing_step s
   SET state = l.state, because = l.because, expected = l.expect,
       finished_at = CASE l.state WHEN 'READY' THEN NULL ELSE %(as_of)s END
  FROM (SELECT w.id,
               CASE b.state WHEN 'CANCELLED' THEN 'CANCELLED' WHEN 'BLOCKED' THEN 'BLOCKED'
                            WHEN 'DEAD' THEN 'BLOCKED' ELSE 'READY' END AS state,
               CASE b.state WHEN 'CANCELLED' THEN %(was_cancelled)s WHEN 'BLOCKED' THEN %(is_blocked)s
                            WHEN 'DEAD' THEN %(gave_up)s ELSE '' END AS because,
               coalesce(
                   (SELECT o.expected FROM billing_step o
                     WHERE o.run_id = w.run_id AND o.account_id = w.account_id
                       AND o.kind = ANY(%(beside)s) AND o.expected <> '{}'
                     ORDER BY o.id LIMIT 1),
                   (SELECT d.saw FROM billing_decision d
                     WHERE d.account_id = w.account_id AND d.run_id = w.run_id AND d.act = %(follows)s
                     ORDER BY d.id DESC LIMIT 1),
                   '{}') AS expect
          FROM billing_step w
          JOIN billing_step b ON b.run_id = w.run_id AND b.account_id = w.account_id
                             AND b.kind = %(follows)s AND b.state <> ALL(%(open)s)
         WHERE w.run_id = %(run)s AND w.kind = %(kind)s AND w.state = 'WAITING'
         ORDER BY w.id LIMIT %(chunk)s
           FOR UPDATE OF w SKIP LOCKED) l
 WHERE s.id = l.id
"""
