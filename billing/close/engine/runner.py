"""
Work on ready steps, a chunk at a time.

A step that touches only our database runs in one transaction with its claim, its outcome and the
readying of what follows: a kill rolls all of it back. One that touches the world is leased first,
works with nothing open, and may write its outcome only while its lease token stands.
"""

import json
import logging
import random
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import wraps
from typing import ParamSpec, cast

from django.conf import settings
from django.db import (
    connection,
    transaction,
)
from django.db.models import F
from django.db.models.functions import Coalesce

from accounts.models import Account
from billing import decisions, gateways, locks, step_kinds
from billing.close import pipeline
from billing.close.engine import claiming, leases, markers
from billing.close.engine.stint import Stint
from billing.close.step import Chunk, ChunkModule, FlowModule, Outcome, StepModule
from billing.models import Decision, Step
from billing.workers import doorbell, heartbeats, log_context
from notifications import bisect, dispatcher
from notifications.faults import is_the_databases_fault

P = ParamSpec("P")
logger = logging.getLogger(__name__)
State = Step.State

# Transient errors: 30 s, 1 min, 2 min… with full jitter, capped at an hour; then dead.
RETRY_BASE = timedelta(seconds=30)
RETRY_CAP = timedelta(hours=1)
ATTEMPTS_MAX = 8

# A bucket is refilled for a grant within half a second: worth more than a doorbell and another task.
WAIT_HERE_SECONDS = 1


def drain(
    queue: str,
    *,
    clock: Callable[[], datetime],
    until: Callable[[], bool],
    stopping: Callable[[], bool] = lambda: False,
) -> int:
    """
    Work on a queue until nothing is ready in it, or may begin, or `until` says stop. Returns steps ended.

    Once `stopping`, no more than what is on its way at a provider comes to its end.
    """
    modules = [module for module in pipeline.STEPS if module.queue == queue]
    worked = 0
    while not (until() or stopping()):
        ended, throttled = 0, None
        for module in modules:
            try:
                ended += _work(module, clock=clock, until=lambda _: until(), stopping=stopping)
            except claiming.Throttled as refused:
                throttled = refused
        worked += ended
        if not ended and not (throttled and wait(queue, throttled)):
            return worked
    doorbell.ring(queue)
    return worked


def wait(queue: str, throttled: claiming.Throttled | dispatcher.Throttled) -> bool:
    """
    Wait here for a bucket that fills in a moment, and be true.

    For all else it is better to leave: it is false, and a doorbell rings then.
    """
    if throttled.again_at is None:
        return False
    if throttled.wait_seconds > WAIT_HERE_SECONDS:
        doorbell.ring_at(queue, throttled.again_at)
        return False
    time.sleep(throttled.wait_seconds)
    return True


def work_once(
    module: ChunkModule | FlowModule,
    *,
    as_of: datetime,
    stopping: Callable[[], bool] = lambda: False,
) -> int:
    """Work on one chunk of a kind of step. Returns how many it took; 0: none is ready, or may begin."""
    try:
        return _work(module, clock=lambda: as_of, until=bool, stopping=stopping)
    except claiming.Throttled:
        return 0


def _work(
    module: ChunkModule | FlowModule,
    *,
    clock: Callable[[], datetime],
    until: Callable[[int], bool],
    stopping: Callable[[], bool],
) -> int:
    """One chunk; or as many as come, where steps are on their way for a while."""
    if isinstance(module, FlowModule):
        return _work_on_a_flow(module, clock=clock, until=until, stopping=stopping)
    if module.touches_the_world:
        return _work_in_the_world(module, as_of=clock())
    return _work_in_the_database(module, as_of=clock())


def _with_log_context(work: Callable[P, int]) -> Callable[P, int]:
    """What is logged within says which queue, kind and run it is about."""

    @wraps(work)
    def told(*args: P.args, **kwargs: P.kwargs) -> int:
        module = cast("StepModule", args[0])
        with log_context.about(lane=module.queue, kind=module.kind):
            return work(*args, **kwargs)

    return told


# --- steps that touch only our database


@_with_log_context
def _work_in_the_database(module: ChunkModule, *, as_of: datetime) -> int:
    """Work on what is ready; after an error in halves, so that only the poison is charged an attempt."""
    claimed: list[int] = []

    def work_again(step_ids: Sequence[int]) -> None:
        _try(module, [], as_of=as_of, only=step_ids)

    try:
        return _try(module, claimed, as_of=as_of)
    except Exception as error:
        # Without any step in hand it is no step's fault, but a defect to be seen.
        if not claimed or is_the_databases_fault(error):
            raise
        for step_id, fault in bisect.failures(work_again, claimed, what="steps", tried=error):
            _charge_an_attempt(step_id, fault, as_of=as_of)
        return len(claimed)


def _try(
    module: ChunkModule,
    claimed: list[int],
    *,
    as_of: datetime,
    only: Sequence[int] | None = None,
) -> int:
    """One transaction; after an error what it had noted of its claim is erased, where the database hears us."""
    try:
        return _transact(module, claimed, as_of=as_of, only=only)
    except Exception as error:
        if claimed and is_the_databases_fault(error):
            markers.erase_if_heard(claimed)
        elif claimed:
            markers.erase(claimed)
        raise


@transaction.atomic(durable=True)
def _transact(
    module: ChunkModule, claimed: list[int], *, as_of: datetime, only: Sequence[int] | None
) -> int:
    steps = claiming.ready(module, limit=module.batch, only=only)
    claimed += [step.pk for step in steps]
    if not steps:
        return 0
    markers.note(claimed)
    log_context.add(run=steps[0].run_id)
    accounts = locks.accounts_for_update({s.account_id for s in steps if s.account_id is not None})
    if accounts:
        _look_up_by_key()
    outcomes = list(module.perform(Chunk(steps[0].run, steps, accounts, as_of)))
    _check_complete(steps, outcomes)
    write_down(module, outcomes, as_of=as_of)
    markers.erase(claimed)
    return len(steps)


def _look_up_by_key() -> None:
    """
    Until the end of the transaction: find rows by their keys, and never by going over whole tables.

    All that a chunk asks is about a few hundred accounts that it names. The planner, whose statistics
    are those of before the close, would rather read a quarter of a million rows than look up a thousand.
    """
    with connection.cursor() as cursor:
        cursor.execute(BY_KEY)


BY_KEY = """
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true)
"""


def _check_complete(steps: Sequence[Step], outcomes: Sequence[Outcome]) -> None:
    assert {s.pk for s in steps} == {o.step.pk for o in outcomes}, (
        "a step was left without an outcome"
    )


# --- steps that touch the world


@_with_log_context
def _work_on_a_flow(
    module: FlowModule,
    *,
    clock: Callable[[], datetime],
    until: Callable[[int], bool],
    stopping: Callable[[], bool],
) -> int:
    stint = Stint(
        module.open_flow(clock=clock),
        lease=lambda limit, suspects: claiming.lease(module, limit=limit, suspects=suspects),
        finish=lambda outcomes: _finish_leased(module, outcomes, as_of=clock()),
        fail=lambda step, error: _charge_an_attempt(
            step.pk, error, as_of=clock(), lease_token=step.lease_token
        ),
        clock=clock,
    )
    return stint.work(until=until, stopping=stopping)


@_with_log_context
def _work_in_the_world(module: ChunkModule, *, as_of: datetime) -> int:
    leased = claiming.lease(module, limit=module.batch)
    if not leased.steps:
        return 0
    log_context.add(run=leased.steps[0].run_id)
    try:
        _perform_leased(module, leased.steps, as_of=as_of)
    except Exception as error:
        if is_the_databases_fault(error):
            leases.give_back(leased.steps)
        raise
    claiming.report_to_lane(leased)
    return len(leased.steps)


def _perform_leased(module: ChunkModule, steps: Sequence[Step], *, as_of: datetime) -> None:
    """
    Work on the leased steps; after an error in halves, so that only the poison is charged an attempt.

    What the first round did in the world stands in the attempts and messages it wrote, and is found
    there by the second: a step asks before it acts.
    """

    def work(some: Sequence[Step]) -> None:
        accounts = Account.objects.in_bulk([s.account_id for s in some if s.account_id is not None])
        outcomes = list(module.perform(Chunk(some[0].run, list(some), accounts, as_of)))
        _check_complete(some, outcomes)
        _finish_leased(module, outcomes, as_of=as_of)

    for step, error in bisect.failures(work, steps, what="steps"):
        _charge_an_attempt(step.pk, error, as_of=as_of, lease_token=step.lease_token)


@transaction.atomic(durable=True)
def _finish_leased(module: StepModule, outcomes: Sequence[Outcome], *, as_of: datetime) -> None:
    mine = leases.held([outcome.step for outcome in outcomes])
    fenced = {outcome.step.pk for outcome in outcomes} - mine
    if fenced:
        logger.warning(
            "%s: %s outcomes came after their lease ran out: dropped", module.kind, len(fenced)
        )
        leases.note_fenced(fenced)
    by_run: dict[int, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.step.pk in mine:
            by_run[outcome.step.run_id].append(outcome)
    for kept in by_run.values():
        write_down(module, kept, as_of=as_of)


# --- writing outcomes down


def write_down(module: StepModule, outcomes: Sequence[Outcome], *, as_of: datetime) -> None:
    """End or postpone steps, record the decisions and ready what follows, in the caller's transaction."""
    ended = [outcome for outcome in outcomes if outcome.is_end]
    _end(ended, as_of=as_of)
    _postpone(module, [outcome for outcome in outcomes if not outcome.is_end], as_of=as_of)
    decisions.record(*(_decision(o) for o in outcomes if o.is_decision and o.step.account_id))
    _ready_followers(module, [o for o in ended if o.state in {State.DONE, State.SKIPPED}])
    _block_followers(
        module, [o for o in ended if o.state in {State.BLOCKED, State.DEAD}], as_of=as_of
    )
    if ended:
        heartbeats.contribute(run_id=ended[0].step.run_id, kind=module.kind, steps=len(ended))


def _end(ended: Sequence[Outcome], *, as_of: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            END,
            {
                "ids": [outcome.step.pk for outcome in ended],
                "states": [outcome.state for outcome in ended],
                "because": [outcome.because[:300] for outcome in ended],
                "as_of": as_of,
            },
        )


END = """
UPDATE billing_step s
   SET state = o.state, because = o.because, finished_at = %(as_of)s, unknown_since = NULL,
       lease_token = NULL, lease_until = NULL
  FROM unnest(%(ids)s::bigint[], %(states)s::text[], %(because)s::text[]) AS o(id, state, because)
 WHERE s.id = o.id
"""


def _postpone(module: StepModule, outcomes: Sequence[Outcome], *, as_of: datetime) -> None:
    for outcome in outcomes:
        assert outcome.run_at is not None, f"{outcome.step} is postponed, but not until when"
        doorbell.ring_at(module.queue, outcome.run_at)
        Step.objects.filter(pk=outcome.step.pk).update(
            state=outcome.state,
            run_at=outcome.run_at,
            because=outcome.because[:300],
            unknown_since=Coalesce(F("unknown_since"), as_of)
            if outcome.state == State.UNKNOWN
            else None,
            lease_token=None,
            lease_until=None,
            # Waiting is not failing: the lease had counted it.
            attempts=F("attempts") - (1 if module.touches_the_world else 0),
        )


def _decision(outcome: Outcome) -> Decision:
    step = outcome.step
    return decisions.decision(
        act=step.kind,
        did=outcome.did,
        because=outcome.because,
        account_id=step.account_id,
        expected=step.expected,
        saw=outcome.saw,
        world_changed=outcome.world_changed,
        run_id=step.run_id,
        attempt=outcome.attempt,
        hold=outcome.hold,
    )


def _ready_followers(module: StepModule, outcomes: Sequence[Outcome]) -> None:
    following = step_kinds.followers(module.kind)
    if not outcomes or not following:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            READY_FOLLOWERS,
            {
                "run": outcomes[0].step.run_id,
                "kinds": [step.kind for step in following],
                "accounts": [outcome.step.account_id for outcome in outcomes],
                "expects": [json.dumps(outcome.expect) for outcome in outcomes],
            },
        )
    queues = dict.fromkeys(step.queue for step in following)
    # Turn about, so that workers spread over the queues instead of all starting with the first.
    for times in range(1, settings.WORKERS + 1):
        for queue in queues:
            doorbell.ring(queue, times=times)


# A person may have cancelled one meanwhile: then it stays so.
READY_FOLLOWERS = """
UPDATE billing_step s
   SET state = 'READY', expected = o.expect
  FROM unnest(%(accounts)s::bigint[], %(expects)s::jsonb[]) AS o(account_id, expect)
 CROSS JOIN unnest(%(kinds)s::text[]) AS k(kind)
 WHERE s.run_id = %(run)s AND s.account_id = o.account_id AND s.kind = k.kind AND s.state = 'WAITING'
"""


def _block_followers(module: StepModule, outcomes: Sequence[Outcome], *, as_of: datetime) -> None:
    for state, because in ((State.BLOCKED, "is blocked"), (State.DEAD, "gave up")):
        accounts = [outcome.step.account_id for outcome in outcomes if outcome.state == state]
        if accounts:
            Step.objects.filter(
                run=outcomes[0].step.run_id,
                account__in=accounts,
                kind__in=step_kinds.all_followers(module.kind),
                state=State.WAITING,
            ).update(
                state=State.BLOCKED,
                because=f"its {step_kinds.in_a_sentence(module.kind)} step {because}",
                finished_at=as_of,
            )


# --- when a step fails


@transaction.atomic(durable=True)
def _charge_an_attempt(
    step_id: int, error: Exception, *, as_of: datetime, lease_token: uuid.UUID | None = None
) -> None:
    """A step failed by itself: try again later, or give up. Whoever has taken it meanwhile keeps it."""
    step = Step.objects.select_for_update(of=("self",)).select_related("run").get(pk=step_id)
    if step.lease_token != lease_token or not (lease_token or step.state in Step.CLAIMABLE):
        return
    logger.error("%s failed: %r", step, error, exc_info=error, extra=log_context.of(step))
    attempts = step.attempts if lease_token else step.attempts + 1
    Step.objects.filter(pk=step_id).update(
        attempts=attempts, last_error=f"{type(error).__name__}: {error}"
    )
    module = pipeline.BY_KIND[step.kind]
    if attempts >= ATTEMPTS_MAX or isinstance(error, gateways.Misconfigured):
        because = f"{type(error).__name__}: {error}"
        write_down(module, [Outcome(step, State.DEAD, because)], as_of=as_of)
    else:
        retry_at = as_of + retry_delay(attempts)
        Step.objects.filter(pk=step_id).update(
            state=State.READY,
            run_at=retry_at,
            lease_token=None,
            lease_until=None,
        )
        doorbell.ring_at(module.queue, retry_at)


def retry_delay(attempts: int) -> timedelta:
    """How long to wait after so many failed attempts: doubling, capped, with full jitter."""
    longest: timedelta = min(RETRY_CAP, RETRY_BASE * 2 ** (attempts - 1))
    return longest * random.random()  # noqa: S311 - spreads load, guards nothing
