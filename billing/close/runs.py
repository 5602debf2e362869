"""Start a close run, end it, and let a person steer it. The same month started twice is one run."""

import logging
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, OuterRef, Q

from accounts.models import Account, BillingEntity
from billing import decisions, doorbell, metering, periods
from billing.close import pipeline
from billing.models import CloseRun, Decision, Step

logger = logging.getLogger(__name__)
State = Step.State


class NotOverYet(Exception):
    """Somewhere the month still goes on."""

    def __init__(self, month: date, closes_at: datetime) -> None:
        super().__init__(
            f"{month:%Y-%m} is over in the last of its accounts' time zones at"
            f" {closes_at:%Y-%m-%d %H:%M} UTC: close it then"
        )


class NotOpen(Exception):
    """The step is not in a state that allows this."""


def start(
    *,
    entity: BillingEntity,
    month: date,
    started_by: str,
    as_of: datetime,
    when_balance_changed: str = CloseRun.ChangedBalance.CHARGE_DUE_NOW,
) -> tuple[CloseRun, bool]:
    """
    This will start the close of a month, or find the run that stands. Returns it, and whether it is new.

    :raises NotOverYet: before the month is over in every account's time zone.
    """
    standing = CloseRun.objects.filter(entity=entity, month=month).first()
    if standing is not None:
        return standing, False
    closes_at = periods.closes_at(month, zones(entity))
    if as_of < closes_at:
        raise NotOverYet(month, closes_at)
    metering.tally_everything(as_of=as_of)
    return _start(entity, month, started_by, as_of=as_of, when_balance_changed=when_balance_changed)


def start_due(*, as_of: datetime) -> list[CloseRun]:
    """
    This will start the latest month of every entity, once it is over in all its zones.

    One that cannot start does not stop the others: its error is raised after them.
    """
    started, errors = [], []
    for entity in BillingEntity.objects.filter(
        Exists(Account.objects.filter(entity=OuterRef("pk")))
    ):
        month = periods.latest_month_over(as_of, zones(entity))
        try:
            run, is_new = start(entity=entity, month=month, started_by="schedule", as_of=as_of)
        except Exception as error:
            logger.exception("%s %s cannot be closed", entity, month)
            errors.append(error)
        else:
            started += [run] if is_new else []
    if errors:
        raise errors[0]
    return started


def accounts_to_close(entity: BillingEntity) -> list[Account]:
    """The accounts that a close starting now would take."""
    return list(Account.objects.raw(f"SELECT a.* {TO_CLOSE} ORDER BY a.id", {"entity": entity.pk}))


def zones(entity: BillingEntity) -> list[str]:
    """The time zones an entity's accounts bill in."""
    return list(
        Account.objects.filter(entity=entity).values_list("time_zone", flat=True).distinct()
    )


@transaction.atomic(durable=True)
def _start(
    entity: BillingEntity,
    month: date,
    started_by: str,
    *,
    as_of: datetime,
    when_balance_changed: str,
) -> tuple[CloseRun, bool]:
    run, is_new = CloseRun.objects.get_or_create(
        entity=entity,
        month=month,
        defaults={
            "started_by": started_by,
            "started_at": as_of,
            "when_balance_changed": when_balance_changed,
        },
    )
    if is_new:
        with connection.cursor() as cursor:
            cursor.execute(PLAN, {"run": run.pk, "entity": entity.pk, "kinds": _account_kinds()})
        Step.objects.create(run=run, kind=Step.Kind.REPORT)
        doorbell.ring("default", times=settings.WORKERS)
    return run, is_new


def _account_kinds() -> list[str]:
    return [step.kind for step in pipeline.STEPS if step.kind != Step.Kind.REPORT]


# Every account that is open, or that closed owing us an invoice.
TO_CLOSE = """
  FROM accounts_account a
 WHERE a.entity_id = %(entity)s
   AND (a.state = 'ACTIVE'
        OR EXISTS (SELECT 1 FROM billing_usagesummary s WHERE s.account_id = a.id AND s.invoice_id IS NULL))
"""
PLAN = f"""
INSERT INTO billing_step (run_id, account_id, kind, state, priority, attempts, expected, because, last_error)
SELECT %(run)s, a.id, k.kind, CASE k.kind WHEN 'INVOICE' THEN 'READY' ELSE 'WAITING' END, 0, 0, '{{}}', '', ''
  FROM (SELECT a.id {TO_CLOSE}) AS a CROSS JOIN unnest(%(kinds)s::text[]) AS k(kind)
 ORDER BY a.id
"""


def release_report(run_id: int) -> bool:
    """
    This will ready the run's report if no account step is open. True for the one caller that did.

    The report's row is the lock: of any number of callers one gets it, and no retry slips between
    the look and the release.
    """
    with transaction.atomic(durable=True):
        [report] = _reports_for_update([run_id])
        if report.state != State.WAITING or _has_open_steps(run_id):
            return False
        Step.objects.filter(pk=report.pk).update(state=State.READY)
        doorbell.ring("default")
    return True


def _has_open_steps(run_id: int) -> bool:
    open_steps = Step.objects.filter(run=run_id, state__in=Step.OPEN)
    return open_steps.exclude(kind=Step.Kind.REPORT).exists()


def _reports_for_update(run_ids: Iterable[int]) -> list[Step]:
    reports = Step.objects.filter(run__in=run_ids, kind=Step.Kind.REPORT)
    return list(reports.select_for_update().order_by("pk"))


# --- steered by a person


@transaction.atomic(durable=True)
def retry(steps: Iterable[Step], *, actor: str, as_of: datetime) -> int:
    """
    This will make dead, blocked or cancelled steps ready again, and what follows them wait for them again.

    A step expects from now on what it last saw: whoever retries it was shown that. One that is stuck
    or cancelled because the step before it is, is left to that one, and not counted. A finished run runs again,
    and makes its report anew; a Decision keeps the one it had.
    """
    stuck = _locked(steps, Q(state__in=[State.DEAD, State.BLOCKED, State.CANCELLED]))
    reopened = {step.run_id for step in stuck if step.kind != Step.Kind.REPORT}
    _reopen(reopened, actor=actor)
    retried = 0
    for step in sorted(stuck, key=lambda step: pipeline.KINDS.index(step.kind)):
        if step.kind == Step.Kind.REPORT and step.run_id in reopened:
            continue
        before = _state_before(step)
        if before in {*STUCK, State.CANCELLED}:
            continue
        Step.objects.filter(pk=step.pk).update(
            state=State.WAITING if before in Step.OPEN else State.READY,
            attempts=0,
            run_at=as_of,
            because=f"retried by {actor}"[:300],
            finished_at=None,
            expected=step.expected | _last_seen(step),
        )
        Step.objects.filter(
            Q(state=State.BLOCKED) | Q(state=State.CANCELLED, because=_cancelled_with(step.kind)),
            run=step.run_id,
            account=step.account_id,
            kind__in=pipeline.all_followers(step.kind),
        ).update(state=State.WAITING, because="", finished_at=None)
        doorbell.ring(pipeline.BY_KIND[step.kind].lane)
        retried += 1
    return retried


STUCK = (State.BLOCKED, State.DEAD)


def _reopen(run_ids: Iterable[int], *, actor: str) -> None:
    """Make the report wait again; it may be about to be made, or be made already."""
    reports = _reports_for_update(run_ids)
    # Read after the lock: whoever was making the report is through.
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
    Step.objects.filter(pk__in=[report.pk for report in reports]).update(
        state=State.WAITING, attempts=0, because="", finished_at=None
    )


def _state_before(step: Step) -> str | None:
    """The state of the step that this one follows; None where it follows none."""
    return (
        Step.objects.filter(
            run=step.run_id, account=step.account_id, kind=pipeline.BY_KIND[step.kind].follows
        )
        .values_list("state", flat=True)
        .first()
    )


def _last_seen(step: Step) -> dict[str, Any]:
    decided = Decision.objects.filter(run=step.run_id, account=step.account_id, act=step.kind)
    last = decided.order_by("-pk").first()
    return last.saw if last else {}


@transaction.atomic(durable=True)
def cancel(steps: Iterable[Step], *, actor: str, reason: str, as_of: datetime) -> int:
    """
    This will end steps that have not started, or are stuck, with a Decision; what follows them is
    cancelled too.

    A running step is not cancelled: its lease is somebody's. Wait for it, or for its lease to end.
    Nor is a report: without it the run would never end.

    :raises NotOpen: if a step's run is finished.
    """
    cancelled: Sequence[Step] = list(
        _locked(
            steps,
            ~Q(kind=Step.Kind.REPORT) & Q(state__in=[State.WAITING, State.READY, *STUCK]),
        )
    )
    for step in cancelled:
        if step.run.is_finished:
            raise NotOpen(f"{step.run} is finished: its report was made; act on the account itself")
        Step.objects.filter(
            state__in=[State.WAITING, *STUCK],
            run=step.run_id,
            account=step.account_id,
            kind__in=pipeline.all_followers(step.kind),
        ).update(state=State.CANCELLED, because=_cancelled_with(step.kind), finished_at=as_of)
    Step.objects.filter(pk__in=[step.pk for step in cancelled]).update(
        state=State.CANCELLED, because=f"cancelled by {actor}: {reason}"[:300], finished_at=as_of
    )
    decisions.record(
        *(
            decisions.decision(
                act=step.kind,
                did=Decision.Did.SKIPPED,
                because=f"cancelled: {reason}",
                account_id=step.account_id,
                expected=step.expected,
                run_id=step.run_id,
                actor=actor,
            )
            for step in cancelled
        )
    )
    return len(cancelled)


def _cancelled_with(kind: str) -> str:
    return f"its {kind.lower()} step was cancelled"


def _locked(steps: Iterable[Step], condition: Q) -> list[Step]:
    return list(
        Step.objects.select_for_update(of=("self",))
        .filter(condition, pk__in=[step.pk for step in steps])
        .select_related("run")
        .order_by("pk")
    )
