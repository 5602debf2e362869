"""
Heal what died: once a minute, from anywhere, any number at once.

Nothing here waits for a lock that a dead process could hold, and each part stands alone: one that
fails is logged and does not stop the next. Under a halt none begins.
"""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime

from django.conf import settings
from django.db import transaction
from django.db.models import F, Value
from django.db.models.functions import Least, Now

from billing import closure, reconciliation
from billing.close import pipeline, runs
from billing.close.engine import claiming, markers, runner
from billing.close.health import waking
from billing.close.step import Outcome
from billing.invoices import credits
from billing.models import CloseRun, Step
from billing.payments import charges, guard, inbound, refunds, restores, retries, unpaid
from billing.usage import tallying
from billing.workers import doorbell, halting, heartbeats
from notifications import lanes

logger = logging.getLogger(__name__)
State = Step.State

# Well under the cluster's timeout, with time for the other parts.
REOPENING_SECONDS = 30
# Parts that call providers take a minute where these hang, and a task has two: no such part begins later.
CALL_WITHIN_SECONDS = 45


def sweep(*, as_of: datetime) -> dict[str, int]:
    """
    Heal, and say how much of each part it healed: of those that a halt holds, nothing.

    Providers are called last, and only while there is time: what that is too short for is the next sweep's.
    Raises the first error after all parts ran.
    """
    ours: dict[str, Callable[[], int]] = {
        "restores": restores.look,
        "leases": lambda: free_expired_leases(as_of=as_of),
        "claims": lambda: markers.count_deaths(lambda dead: _mark_dead(dead, as_of=as_of)),
        "tallied": lambda: tallying.tally(as_of=as_of),
        "credits": lambda: credits.expire_due_credits(as_of=as_of),
        "woken": lambda: waking.wake_left_waiting(as_of=as_of),
        "reports": release_reports,
        "moved": claiming.leave_shut_lanes,
        "doorbells": ring_for_ready_steps,
        "reconciliations": ring_for_reconciliations,
        "lane_tallies": lanes.forget_old_tallies,
        "follow_ups": lambda: unpaid.follow_up(as_of=as_of),
    }
    calling: dict[str, Callable[[], int]] = {
        # Before the attempts and the holds, which wait for it.
        "gateways_opened": lambda: _reopen_gateways(as_of=as_of),
        "events": lambda: inbound.process_due(as_of=as_of),
        "attempts": lambda: charges.drive_due(as_of=as_of),
        "refunds": lambda: refunds.drive_due(as_of=as_of),
        "retries": lambda: retries.retry_due(as_of=as_of),
        "closures": lambda: closure.charge_due(as_of=as_of),
    }
    call_before = time.monotonic() + CALL_WITHIN_SECONDS
    healed, errors = {}, {}
    for name, part in {**ours, **calling}.items():
        if halting.halt():
            break
        if name in calling and time.monotonic() > call_before:
            logger.warning("%s and what follows are left to the next sweep: no time", name)
            break
        try:
            healed[name] = part()
        except Exception as error:
            logger.exception("sweeping %s failed", name)
            errors[name] = error
    heartbeats.note_sweep(failed=errors)
    if errors:
        raise next(iter(errors.values()))
    return healed


@transaction.atomic(durable=True)
def free_expired_leases(*, as_of: datetime) -> int:
    """Make steps whose worker died UNKNOWN: the next one asks the world before acting."""
    expired = list(
        Step.objects.select_for_update(skip_locked=True, of=("self",))
        .filter(state=State.RUNNING, lease_until__lt=Now())
        .select_related("run")
        .order_by("pk")
    )
    for step in expired:
        step.deaths = min(step.deaths + 1, claiming.DEATHS_MAX)
    # Whether a step is at fault is only known when it was alone: until then its death is no attempt of it.
    Step.objects.filter(pk__in=[step.pk for step in expired]).update(
        state=State.UNKNOWN,
        lease_token=None,
        lease_until=None,
        run_at=Now(),
        deaths=Least(F("deaths") + 1, Value(claiming.DEATHS_MAX)),
        attempts=F("attempts") - 1,
    )
    _mark_dead([step for step in expired if step.deaths >= claiming.DEATHS_MAX], as_of=as_of)
    return len(expired)


def _mark_dead(killers: Sequence[Step], *, as_of: datetime) -> None:
    for step in killers:
        module = pipeline.BY_KIND.get(step.kind)
        if module is None:
            # Whoever has its kind ends it, when its next worker dies: here nobody knows what follows it.
            continue
        outcome = Outcome(step, State.DEAD, f"its worker died {step.deaths} times")
        runner.write_down(module, [outcome], as_of=as_of)


def _reopen_gateways(*, as_of: datetime) -> int:
    """
    Notice a restore although nobody charges, and open what has been listed.

    Listing a provider may take long: what is left when the time is up is the next sweep's.
    """
    guard.watch_all()
    stop_at = time.monotonic() + REOPENING_SECONDS

    def is_over() -> bool:
        return time.monotonic() > stop_at or halting.is_asked()

    return reconciliation.reopen_paused(as_of=as_of, until=is_over)


def release_reports() -> int:
    """Release the report of every run that has no other step open."""
    running = CloseRun.objects.filter(state=CloseRun.State.RUNNING).values_list("pk", flat=True)
    return sum(runs.release_report(run_id) for run_id in running)


def ring_for_ready_steps() -> int:
    """Ring every queue that has something ready, in case its doorbell was lost."""
    bells = {module.queue for module in pipeline.STEPS if claiming.turns(module.kind)}
    for bell in bells:
        doorbell.ring(bell, times=settings.WORKERS)
    return len(bells)


def ring_for_reconciliations() -> int:
    """Ring the queue that works on reconciliations, if one waits."""
    waiting = reconciliation.waiting()
    if waiting:
        doorbell.ring(doorbell.DEFAULT)
    return len(waiting)
