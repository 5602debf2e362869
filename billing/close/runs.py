"""Start a close run, and end it. The same month started twice is one run."""

import logging
from collections.abc import Iterable
from datetime import date, datetime

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, OuterRef, QuerySet

from accounts.models import Account, BillingEntity
from billing import periods, step_kinds
from billing.models import CloseRun, Step
from billing.step_kinds import Through
from billing.usage import billing_periods, tallying
from billing.workers import doorbell, halting
from notifications import delivery

logger = logging.getLogger(__name__)
State = Step.State


class NotOverYet(Exception):
    """Somewhere the month still goes on."""

    def __init__(self, month: date, closes_at: datetime) -> None:
        super().__init__(
            f"{month:%Y-%m} is over in the last of its accounts' time zones at"
            f" {closes_at:%Y-%m-%d %H:%M} UTC: close it then"
        )


def start(
    *,
    entity: BillingEntity,
    month: date,
    started_by: str,
    as_of: datetime,
    when_balance_changed: str = CloseRun.ChangedBalance.CHARGE_DUE_NOW,
) -> tuple[CloseRun, bool]:
    """
    Start the close of a month, or find the run that stands. Returns it, and whether it is new.

    :raises NotOverYet: before the month is over in every account's time zone.
    """
    standing = CloseRun.objects.filter(entity=entity, month=month).first()
    if standing is not None:
        return standing, False
    check_is_over(entity=entity, month=month, as_of=as_of)
    tallying.tally_everything(as_of=as_of)
    billing_periods.open_periods_to_close(month=month, entity_id=entity.pk)
    return _start(entity, month, started_by, as_of=as_of, when_balance_changed=when_balance_changed)


def check_is_over(*, entity: BillingEntity, month: date, as_of: datetime) -> None:
    """
    Do nothing once the month is over for all of the entity's accounts.

    :raises NotOverYet: before that.
    """
    closes_at = periods.closes_at(month, zones(entity))
    if as_of < closes_at:
        raise NotOverYet(month, closes_at)


def start_due(*, as_of: datetime) -> list[CloseRun]:
    """
    Start the latest month of every entity, once it is over in all its zones.

    One that cannot start does not stop the others: its error is raised after them. Under a halt none is started.
    """
    if halting.halt():
        return []
    started, errors = [], []
    for entity in BillingEntity.objects.filter(
        Exists(Account.objects.filter(entity=OuterRef("pk")))
    ):
        try:
            month = periods.latest_month_over(as_of, zones(entity))
            run, is_new = start(entity=entity, month=month, started_by="schedule", as_of=as_of)
        except Exception as error:
            logger.exception("the latest month of %s cannot be closed", entity)
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
            cursor.execute(PLAN, {"run": run.pk, "entity": entity.pk, **_planned()})
            # The workers begin before autovacuum looks; to them the table must not seem empty.
            cursor.execute("ANALYZE billing_step")
        Step.objects.create(run=run, kind=step_kinds.of_runs().kind)
        for queue in dict.fromkeys(
            each.queue for each in step_kinds.of_accounts() if not each.follows
        ):
            doorbell.ring(queue, times=settings.WORKERS)
    return run, is_new


def _planned() -> dict[str, list[str]]:
    """What each account does, and in which state it begins."""
    kinds = step_kinds.of_accounts()
    return {
        "kinds": [each.kind for each in kinds],
        "states": [State.READY if each.follows is None else State.WAITING for each in kinds],
        "through": [each.through for each in kinds],
    }


# Every account that is open; or that a release before this one called closed, and that owes us an invoice. One
# whose closing stands has its final invoice: what came later is a person's to invoice (billing/closure/).
TO_CLOSE = """
  FROM accounts_account a
 WHERE a.entity_id = %(entity)s
   AND (a.state = 'ACTIVE'
        OR EXISTS (SELECT 1 FROM billing_usagesummary s WHERE s.account_id = a.id AND s.invoice_id IS NULL))
   AND NOT EXISTS (SELECT 1 FROM billing_accountclosure c WHERE c.account_id = a.id AND c.reopened_at IS NULL)
"""
# The card is PaymentMethod.objects.default_of, in SQL.
PLAN = f"""
INSERT INTO billing_step
       (run_id, account_id, kind, state, priority, attempts, expected, because, last_error, provider)
SELECT %(run)s, a.id, k.kind, k.state, 0, 0, '{{}}', '', '',
       CASE k.through WHEN '{Through.CARD}' THEN coalesce(card.gateway, '')
                      WHEN '{Through.MAIL_SERVER}' THEN '{delivery.PROVIDER}' ELSE '' END
  FROM (SELECT a.id {TO_CLOSE}) AS a
 CROSS JOIN unnest(%(kinds)s::text[], %(states)s::text[], %(through)s::text[]) AS k(kind, state, through)
  LEFT JOIN accounts_paymentmethod card
    ON card.account_id = a.id AND card.is_default AND card.state = 'ACTIVE'
 ORDER BY a.id
"""


def release_report(run_id: int) -> bool:
    """
    Ready the run's report if no account step is open. True for the one caller that did.

    The report's row is the lock: of any number of callers one gets it, and no retry slips between
    the look and the release. Nobody waits for it who would not release it: whoever makes the report has it.
    """
    report = _reports([run_id]).get()
    if not _may_be_made(report):
        return False
    with transaction.atomic(durable=True):
        [report] = reports_for_update([run_id])
        if not _may_be_made(report):
            return False
        Step.objects.filter(pk=report.pk).update(state=State.READY)
        doorbell.ring(step_kinds.of_runs().queue)
    return True


def _may_be_made(report: Step) -> bool:
    # Also of a kind that is not installed here: it may be where another worker runs.
    open_steps = Step.objects.filter(run=report.run_id, state__in=Step.OPEN)
    return report.state == State.WAITING and not open_steps.exclude(kind=report.kind).exists()


def reports_for_update(run_ids: Iterable[int]) -> list[Step]:
    """Lock the reports of the runs, in order: whoever releases or reopens one goes first."""
    return list(_reports(run_ids).select_for_update().order_by("pk"))


def _reports(run_ids: Iterable[int]) -> QuerySet[Step]:
    # Not by its kind: a run has the one that it was planned with.
    return Step.objects.filter(run__in=run_ids, account=None)
