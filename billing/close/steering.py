"""
What a person does with the steps of a run: retry what is stuck, cancel what has not started.

Of one step, of a selection, or of a whole run: set by set, some thousands in a transaction, so that a
hundred thousand take seconds and no worker waits for them. A step that a worker has in hand is left to
it, and counted as left.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import groupby
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q, QuerySet

from billing import decisions, step_kinds
from billing.close import runs
from billing.models import CloseRun, Decision, Step
from billing.reports import progress
from billing.step_kinds import StepKind
from billing.workers import doorbell

State = Step.State
STUCK = (State.DEAD, State.BLOCKED)
# What each act can do something with.
RETRIED: Q = Q(state__in=[*STUCK, State.CANCELLED])
CANCELLED: Q = Q(state__in=[State.WAITING, State.READY, *STUCK]) & ~Q(account=None)
# In one transaction: long enough to be quick, short enough to be no long lock.
CHUNK = 2000


class NotOpen(Exception):
    """The run is finished: nothing of it can be cancelled."""


@dataclass(frozen=True)
class Steered:
    """How many steps were chosen, how many of them were changed, and how many were not come to."""

    chosen: int
    changed: int
    not_reached: int = 0

    @property
    def left(self) -> int:
        """Those that were looked at, and left as they were."""
        return self.chosen - self.changed - self.not_reached


def never() -> bool:
    """For who has all the time that it takes."""
    return False


def retry_all(
    steps: QuerySet[Step],
    *,
    actor: str,
    reason: str,
    as_of: datetime,
    until: Callable[[], bool] = never,
) -> Steered:
    """Retry those of the steps that can be, in chunks, until `until` says stop. See `retry`."""
    act = partial(retry, actor=actor, reason=reason, as_of=as_of)
    return _in_chunks(steps, RETRIED, act, until)


def cancel_all(
    steps: QuerySet[Step],
    *,
    actor: str,
    reason: str,
    as_of: datetime,
    until: Callable[[], bool] = never,
) -> Steered:
    """Cancel those of the steps that can be, in chunks, until `until` says stop. See `cancel`."""
    act = partial(cancel, actor=actor, reason=reason, as_of=as_of)
    return _in_chunks(steps, CANCELLED, act, until)


def stuck_of(run: CloseRun) -> QuerySet[Step]:
    """What a retry of the whole run is about: all that is dead or blocked."""
    return run.steps.filter(state__in=STUCK)


def not_started_of(run: CloseRun) -> QuerySet[Step]:
    """What a cancel of the whole run is about: all that waits or is ready, but the report."""
    return run.steps.filter(CANCELLED, state__in=[State.WAITING, State.READY])


def retry_run(
    run: CloseRun,
    *,
    actor: str,
    reason: str,
    as_of: datetime,
    until: Callable[[], bool] = never,
) -> Steered:
    """Retry all that is stuck in a run; a Decision of the run's own says how many."""
    steered = retry_all(stuck_of(run), actor=actor, reason=reason, as_of=as_of, until=until)
    _note(run, "RETRY_RUN", steered, actor=actor, reason=reason)
    return steered


def cancel_run(
    run: CloseRun,
    *,
    actor: str,
    reason: str,
    as_of: datetime,
    until: Callable[[], bool] = never,
) -> Steered:
    """
    Cancel all of a run that has not started; a Decision of the run's own says how many.

    What a worker has in hand, or the world has not answered yet, comes to its end; then the run has
    its report as ever.
    """
    steered = cancel_all(not_started_of(run), actor=actor, reason=reason, as_of=as_of, until=until)
    _note(run, "CANCEL_RUN", steered, actor=actor, reason=reason)
    return steered


def _note(run: CloseRun, act: str, steered: Steered, *, actor: str, reason: str) -> None:
    decisions.record(
        decisions.decision(
            act=act,
            did=Decision.Did.DONE if steered.changed else Decision.Did.SKIPPED,
            because=reason,
            account_id=None,
            saw={"steps": steered.chosen, "changed": steered.changed},
            run_id=run.pk,
            actor=actor,
        )
    )


def _in_chunks(
    steps: QuerySet[Step],
    eligible: Q,
    act: Callable[[Sequence[int]], int],
    until: Callable[[], bool],
) -> Steered:
    chosen = steps.count()
    found = steps.filter(eligible).order_by("run", "account", "pk")
    rows = list(found.values_list("run", "account", "pk"))
    changed, reached = 0, 0
    for chunk in _chunks(rows):
        if until():
            break
        changed += act(chunk)
        reached += len(chunk)
    progress.expire({run for run, _, _ in rows})
    return Steered(chosen, changed, not_reached=len(rows) - reached)


def _chunks(rows: Iterable[tuple[int, int | None, int]]) -> Iterator[list[int]]:
    """The steps of one account stay together: what becomes of one depends on the one before it."""
    chunk: list[int] = []
    for _, of_one in groupby(rows, key=lambda row: row[:2]):
        chunk += [pk for _, _, pk in of_one]
        if len(chunk) >= CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


# --- retry


@transaction.atomic(durable=True)
def retry(step_ids: Sequence[int], *, actor: str, reason: str, as_of: datetime) -> int:
    """
    Make dead, blocked or cancelled steps ready again, and what follows them wait for them again.

    A step expects from now on what it last saw: whoever retries it was shown that. One that is stuck
    or cancelled because the step before it is, is left to that one, and not counted; so is one that
    somebody else has in hand. A finished run runs again, and makes its report anew; a Decision keeps
    the one it had.
    """
    _lock_runs(step_ids)
    # One whose kind is not installed here has nobody to do it: it stays as it is.
    stuck = [step for step in _locked(step_ids, RETRIED) if step_kinds.find(step.kind)]
    reopened = {step.run_id for step in stuck if not _is_report(step)}
    _reopen(reopened, actor=actor)
    retried = 0
    for kind in step_kinds.installed():
        ids = [
            step.pk
            for step in stuck
            if step.kind == kind.kind and not (_is_report(step) and step.run_id in reopened)
        ]
        if ids:
            retried += _retry_kind(kind, ids, actor=actor, reason=reason, as_of=as_of)
    return retried


def _is_report(step: Step) -> bool:
    return step.account_id is None


def _retry_kind(
    described: StepKind, ids: list[int], *, actor: str, reason: str, as_of: datetime
) -> int:
    kind = described.kind
    facts = {
        "ids": ids,
        "follows": described.follows,
        "followers": step_kinds.all_followers(kind),
        "cancelled_with": cancelled_with(kind),
        "because": f"retried by {actor}: {reason}"[:300],
        "decided": f"{step_kinds.in_a_sentence(kind)} step retried: {reason}"[:300],
        "actor": actor,
        "as_of": as_of,
        "stuck": [*STUCK, State.CANCELLED],
        "open": list(Step.OPEN),
    }
    with connection.cursor() as cursor:
        cursor.execute(RETRY, facts)
        retried = [pk for (pk,) in cursor.fetchall()]
        cursor.execute(REVIVE_FOLLOWERS, {**facts, "ids": retried})
    if retried:
        doorbell.ring(described.queue, times=settings.WORKERS)
    return len(retried)


# Decided on before the update, in one statement: it says what the step had come to.
RETRY = """
WITH chosen AS (
    SELECT s.*, before.state AS state_before,
           (SELECT d.saw FROM billing_decision d
             WHERE d.account_id = s.account_id AND d.run_id = s.run_id AND d.act = s.kind
             ORDER BY d.id DESC LIMIT 1) AS last_seen
      FROM billing_step s
      LEFT JOIN billing_step before ON before.run_id = s.run_id AND before.account_id = s.account_id
                                   AND before.kind = %(follows)s
     WHERE s.id = ANY(%(ids)s) AND (before.state IS NULL OR before.state <> ALL(%(stuck)s))
), decided AS (
    INSERT INTO billing_decision (act, did, because, expected, saw, world_changed, account_id, run_id, actor)
    SELECT 'RETRY_STEP', 'DONE', %(decided)s, expected,
           jsonb_build_object('state', state, 'because', because), false, account_id, run_id, %(actor)s
      FROM chosen ORDER BY id
)
UPDATE billing_step s
   SET state = CASE WHEN c.state_before = ANY(%(open)s) THEN 'WAITING' ELSE 'READY' END,
       attempts = 0, deaths = 0, unknown_since = NULL, run_at = %(as_of)s, because = %(because)s, finished_at = NULL,
       expected = s.expected || coalesce(c.last_seen, '{}')
  FROM chosen c WHERE s.id = c.id
RETURNING s.id
"""
REVIVE_FOLLOWERS = """
UPDATE billing_step f SET state = 'WAITING', because = '', finished_at = NULL
  FROM billing_step s
 WHERE s.id = ANY(%(ids)s) AND f.run_id = s.run_id AND f.account_id = s.account_id
   AND f.kind = ANY(%(followers)s)
   AND (f.state = 'BLOCKED' OR (f.state = 'CANCELLED' AND f.because = %(cancelled_with)s))
"""


def _reopen(run_ids: Iterable[int], *, actor: str) -> None:
    """Make the report wait again; it may be about to be made, or be made already."""
    for run in CloseRun.objects.filter(pk__in=run_ids, state=CloseRun.State.FINISHED):
        decisions.record(
            decisions.decision(
                act="REOPEN",
                did=Decision.Did.DONE,
                because=f"steps retried by {actor}",
                account_id=None,
                saw=run.report,
                run_id=run.pk,
                actor=actor,
            )
        )
        run.state, run.finished_at, run.report = CloseRun.State.RUNNING, None, None
        run.save(update_fields=["state", "finished_at", "report"])
    Step.objects.filter(run__in=run_ids, account=None).update(
        state=State.WAITING, attempts=0, deaths=0, because="", finished_at=None
    )


# --- cancel


@transaction.atomic(durable=True)
def cancel(step_ids: Sequence[int], *, actor: str, reason: str, as_of: datetime) -> int:
    """
    End steps that have not started, or are stuck, with a Decision; what follows them is
    cancelled too.

    A running step is not cancelled: its lease is somebody's. Wait for it, or for its lease to end. Nor is
    an attempt that is in flight: the sweep takes it to its end.
    Nor is a report: without it the run would never end.

    :raises NotOpen: if a step's run is finished.
    """
    _lock_runs(step_ids)
    chosen = _locked(step_ids, CANCELLED)
    finished = CloseRun.objects.filter(
        pk__in={step.run_id for step in chosen}, state=CloseRun.State.FINISHED
    ).first()
    if finished is not None:
        raise NotOpen(f"{finished} is finished: its report was made; act on the account itself")
    facts: dict[str, Any] = {
        "ids": [step.pk for step in chosen],
        "because": f"cancelled by {actor}: {reason}"[:300],
        "decided": f"cancelled: {reason}"[:300],
        "actor": actor,
        "as_of": as_of,
    }
    with connection.cursor() as cursor:
        for kind in [each.kind for each in step_kinds.installed()]:
            followers = step_kinds.all_followers(kind)
            ids = [step.pk for step in chosen if step.kind == kind]
            if ids and followers:
                with_it: dict[str, Any] = {
                    "followers": followers,
                    "cancelled_with": cancelled_with(kind),
                }
                cursor.execute(CANCEL_FOLLOWERS, {**facts, **with_it, "ids": ids})
        cursor.execute(CANCEL, facts)
    return len(chosen)


CANCEL_FOLLOWERS = """
UPDATE billing_step f SET state = 'CANCELLED', because = %(cancelled_with)s, finished_at = %(as_of)s
  FROM billing_step s
 WHERE s.id = ANY(%(ids)s) AND f.run_id = s.run_id AND f.account_id = s.account_id
   AND f.kind = ANY(%(followers)s) AND f.state IN ('WAITING', 'BLOCKED', 'DEAD')
"""
CANCEL = """
WITH decided AS (
    INSERT INTO billing_decision (act, did, because, expected, saw, world_changed, account_id, run_id, actor)
    SELECT kind, 'SKIPPED', %(decided)s, expected, '{}', false, account_id, run_id, %(actor)s
      FROM billing_step WHERE id = ANY(%(ids)s) ORDER BY id
)
UPDATE billing_step SET state = 'CANCELLED', because = %(because)s, finished_at = %(as_of)s
 WHERE id = ANY(%(ids)s)
"""


def cancelled_with(kind: str) -> str:
    """Why a step is cancelled that followed one of this kind."""
    return f"its {step_kinds.in_a_sentence(kind)} step was cancelled"


def _lock_runs(step_ids: Sequence[int]) -> None:
    """
    The runs' reports come first: two people who steer the same run follow one another, and whoever is
    making its report is through.
    """
    of_steps = Step.objects.filter(pk__in=step_ids).order_by("run")
    runs.reports_for_update(list(of_steps.values_list("run", flat=True).distinct()))


def _locked(step_ids: Sequence[int], condition: Q) -> list[Step]:
    """Those in such a state that nobody has in hand; a worker's are passed over, as it passes over ours."""
    chosen = Step.objects.filter(condition, pk__in=step_ids).order_by("pk")
    return list(chosen.select_for_update(skip_locked=True).only("kind", "run", "account"))
