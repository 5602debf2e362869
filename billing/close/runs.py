"""Start a close run, end it, and let a person steer it. The same month started twice is one run."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, OuterRef, Q

from accounts.models import Account, BillingEntity
from billing import decisions, doorbell, metering, periods
from billing.close import pipeline
from billing.models import CloseRun, Decision, Step

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
    closes_at = periods.closes_at(month, zones(entity))
    if as_of < closes_at:
        raise NotOverYet(month, closes_at)
    metering.tally(as_of=as_of)
    return _start(entity, month, started_by, as_of=as_of, when_balance_changed=when_balance_changed)


def start_due(*, as_of: datetime) -> list[CloseRun]:
    """This will start the latest month of every entity, once it is over in all its zones."""
    started = []
    for entity in BillingEntity.objects.filter(
        Exists(Account.objects.filter(entity=OuterRef("pk")))
    ):
        month = periods.latest_month_over(as_of, zones(entity))
        run, is_new = start(entity=entity, month=month, started_by="schedule", as_of=as_of)
        started += [run] if is_new else []
    return started


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
PLAN = """
INSERT INTO billing_step (run_id, account_id, kind, state, priority, attempts, expected, because, last_error)
SELECT %(run)s, a.id, k.kind, CASE k.kind WHEN 'INVOICE' THEN 'READY' ELSE 'WAITING' END, 0, 0, '{}', '', ''
  FROM accounts_account a CROSS JOIN unnest(%(kinds)s::text[]) AS k(kind)
 WHERE a.entity_id = %(entity)s
   AND (a.state = 'ACTIVE'
        OR EXISTS (SELECT 1 FROM billing_usagesummary s WHERE s.account_id = a.id AND s.invoice_id IS NULL))
 ORDER BY a.id
"""


def release_report(run_id: int) -> bool:
    """
    This will ready the run's report if no account step is open. True for the one caller that did.

    The condition and the release are one statement, so of any number of callers one gets it.
    """
    open_steps = Step.objects.filter(run=run_id, state__in=Step.OPEN).exclude(kind=Step.Kind.REPORT)
    with transaction.atomic(durable=True):
        released = Step.objects.filter(
            ~Exists(open_steps), run=run_id, kind=Step.Kind.REPORT, state=State.WAITING
        ).update(state=State.READY)
        if released:
            doorbell.ring("default")
    return bool(released)


# --- steered by a person


@transaction.atomic(durable=True)
def retry(steps: Iterable[Step], *, actor: str, as_of: datetime) -> int:
    """
    This will make dead, blocked or cancelled steps ready again, and what follows them wait for them again.

    :raises NotOpen: if a step's run is finished.
    """
    retried = 0
    for step in _locked(steps, Q(state__in=[State.DEAD, State.BLOCKED, State.CANCELLED])):
        Step.objects.filter(pk=step.pk).update(
            state=State.READY, attempts=0, run_at=as_of, because="", finished_at=None
        )
        Step.objects.filter(
            run=step.run_id,
            account=step.account_id,
            kind__in=pipeline.all_followers(step.kind),
            state=State.BLOCKED,
        ).update(state=State.WAITING, because="", finished_at=None)
        doorbell.ring(pipeline.BY_KIND[step.kind].lane)
        retried += 1
    return retried


@transaction.atomic(durable=True)
def cancel(steps: Iterable[Step], *, actor: str, reason: str, as_of: datetime) -> int:
    """
    This will end steps that have not started, with a Decision; what follows them is cancelled too.

    A running step is not cancelled: its lease is somebody's. Wait for it, or for its lease to end.

    :raises NotOpen: if a step's run is finished.
    """
    cancelled: Sequence[Step] = list(
        _locked(steps, Q(state__in=[State.WAITING, State.READY, State.DEAD]))
    )
    for step in cancelled:
        Step.objects.filter(
            Q(pk=step.pk) | Q(kind__in=pipeline.all_followers(step.kind), state__in=Step.OPEN),
            run=step.run_id,
            account=step.account_id,
        ).exclude(state=State.RUNNING).update(
            state=State.CANCELLED,
            because=f"cancelled by {actor}: {reason}"[:300],
            finished_at=as_of,
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


def _locked(steps: Iterable[Step], condition: Q) -> list[Step]:
    locked = list(
        Step.objects.select_for_update(of=("self",))
        .filter(condition, pk__in=[step.pk for step in steps])
        .select_related("run")
        .order_by("pk")
    )
    for step in locked:
        if step.run.is_finished:
            raise NotOpen(f"{step.run} is finished: its report was made; act on the account itself")
    return locked
