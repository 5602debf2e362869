"""
Every schedule of this installation. Change one here; the database follows when a cluster starts.

Periods and days are not scheduled: a task that runs often looks which are due. So a missed run, or
one run twice, changes nothing.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection, transaction
from django_q.models import Schedule


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A function to run every `minutes`, aligned to `at_minute` of the hour."""

    name: str
    func: str
    minutes: int
    at_minute: int = 0

    def next_run(self, *, after: datetime) -> datetime:
        """The first aligned moment that lies after `after`."""
        moment = after.replace(minute=self.at_minute % self.minutes, second=0, microsecond=0)
        while moment <= after:
            moment += timedelta(minutes=self.minutes)
        return moment


# Minutes, not cron strings: those need croniter, and fire twice in the hour that autumn repeats.
SCHEDULES = (
    # Heals: expired leases, lost doorbells, finished runs.
    Entry(name="sweep", func="billing.tasks.sweep", minutes=1),
    # Looks at how fast runs are, so that a page knows it at once.
    Entry(name="count runs", func="billing.tasks.count_runs", minutes=1),
    # Not on the hour, when periods end and everything else starts too.
    Entry(name="start due closes", func="billing.tasks.start_due_closes", minutes=60, at_minute=7),
    Entry(
        name="start due reconciliations",
        func="billing.tasks.start_due_reconciliations",
        minutes=60,
        at_minute=17,
    ),
    Entry(name="deliver mail", func="billing.tasks.ring_email", minutes=1),
)

# django_q's own name for a cluster. All of ours bear it, so each of them fires every schedule.
CLUSTER = "default"


@transaction.atomic
def sync() -> None:
    """Write `SCHEDULES` to the database and delete whatever else is scheduled there."""
    as_of = _locked_as_of()
    _mend_key()
    Schedule.objects.exclude(name__in=[entry.name for entry in SCHEDULES]).delete()
    Schedule.objects.filter(name=None).delete()
    for entry in SCHEDULES:
        _sync_entry(entry, as_of=as_of)


def _mend_key() -> None:
    """
    Have each row once and the key that keeps it so, also after a restore that failed.

    Rows with one id would be changed together, and both would fire.
    """
    with connection.cursor() as cursor:
        cursor.execute(DROP_DOUBLES)
        cursor.execute(HAS_KEY)
        (has_key,) = cursor.fetchone()
        if not has_key:
            cursor.execute("ALTER TABLE django_q_schedule ADD PRIMARY KEY (id)")
        cursor.execute(NEXT_ID)


DROP_DOUBLES = """
DELETE FROM django_q_schedule a USING django_q_schedule b WHERE a.id = b.id AND a.ctid > b.ctid
"""
HAS_KEY = """
SELECT EXISTS (SELECT 1 FROM pg_index WHERE indrelid = 'django_q_schedule'::regclass AND indisprimary)
"""
# A sequence that was not restored gives ids out that are taken.
NEXT_ID = """
SELECT setval(pg_get_serial_sequence('django_q_schedule', 'id'), greatest(max(id), 1))
  FROM django_q_schedule WHERE pg_get_serial_sequence('django_q_schedule', 'id') IS NOT NULL
"""


def _sync_entry(entry: Entry, *, as_of: datetime) -> None:
    rhythm = {"schedule_type": Schedule.MINUTES, "minutes": entry.minutes}
    kept = Schedule.objects.filter(name=entry.name, **rhythm).order_by("pk").first()
    # An unchanged rhythm keeps its next run: clusters that restart often must not push it away.
    row = kept or Schedule(name=entry.name, **rhythm, next_run=entry.next_run(after=as_of))
    row.func, row.cluster, row.repeats = entry.func, CLUSTER, -1
    row.args = row.kwargs = row.hook = row.intended_date_kwarg = row.cron = None
    row.save()
    Schedule.objects.filter(name=entry.name).exclude(pk=row.pk).delete()


def _locked_as_of() -> datetime:
    """
    Shut out other syncs and the scheduler until we commit, and read the database's clock.

    The name of a schedule is not unique to django_q, so only this keeps two clusters that start
    together from adding each entry twice. Taken before any row, so it cannot deadlock.
    """
    with connection.cursor() as cursor:
        cursor.execute("LOCK TABLE django_q_schedule IN EXCLUSIVE MODE")
        cursor.execute("SELECT clock_timestamp()")
        as_of: datetime = cursor.fetchone()[0]
    return as_of
