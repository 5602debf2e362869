"""The database's schedules are those of the file, and every cluster fires them."""

from datetime import datetime, timedelta
from io import StringIO

import django_q.scheduler
import pytest
import time_machine
from django.core.management import call_command
from django.db import connection, transaction
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import OrmQ, Schedule
from django_q.scheduler import scheduler

from config import schedules
from config.cluster import SCHEDULES, SkipLockedBroker, schedule_by_the_databases_clock
from config.schedules import Entry

pytestmark = pytest.mark.django_db


def rows() -> dict[str, tuple[str, int]]:
    return {row.name: (row.func, row.minutes) for row in Schedule.objects.all()}


class TestSync:
    def test_writes_every_entry(self) -> None:
        schedules.sync()

        assert rows() == {
            "sweep": ("billing.tasks.sweep", 1),
            "count runs": ("billing.tasks.count_runs", 1),
            "start due closes": ("billing.tasks.start_due_closes", 60),
            "start due reconciliations": ("billing.tasks.start_due_reconciliations", 60),
            "deliver mail": ("billing.tasks.ring_email", 1),
        }
        assert Schedule.objects.get(name="start due closes").next_run.minute == 7

    def test_twice_is_the_same_as_once(self) -> None:
        schedules.sync()
        before = list(Schedule.objects.order_by("pk").values())

        schedules.sync()

        assert list(Schedule.objects.order_by("pk").values()) == before

    def test_deletes_what_the_file_does_not_list(self) -> None:
        Schedule.objects.create(name="forgotten", func="subprocess.getoutput", args="'id'")
        Schedule.objects.create(name=None, func="subprocess.getoutput", args="'id'")

        schedules.sync()

        assert len(rows()) == Schedule.objects.count() == len(schedules.SCHEDULES)

    def test_repairs_what_was_changed_by_hand_and_drops_doubles(self) -> None:
        for minutes in (1, 1, 5):
            Schedule.objects.create(
                name="sweep",
                func="os.abort",
                args="not python",
                cluster="elsewhere",
                repeats=0,
                schedule_type=Schedule.MINUTES,
                minutes=minutes,
            )

        schedules.sync()

        sweep = Schedule.objects.get(name="sweep")
        assert (sweep.func, sweep.args, sweep.minutes) == ("billing.tasks.sweep", None, 1)
        assert (sweep.cluster, sweep.repeats) == (schedules.CLUSTER, -1)

    def test_keeps_the_next_run_of_an_unchanged_entry(self) -> None:
        schedules.sync()
        due = timezone.now() - timedelta(hours=3)
        Schedule.objects.filter(name="start due closes").update(next_run=due)

        schedules.sync()

        assert Schedule.objects.get(name="start due closes").next_run == due

    def test_is_a_command(self) -> None:
        said = StringIO()

        call_command("sync_schedules", stdout=said)

        names = [entry.name for entry in schedules.SCHEDULES]
        assert said.getvalue() == f"Schedules: {', '.join(names)}.\n"
        assert len(rows()) == len(names)

    @pytest.mark.concurrency
    @pytest.mark.django_db(transaction=True)
    def test_waits_for_another_sync(self) -> None:
        with transaction.atomic():
            schedules.sync()
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT mode FROM pg_locks WHERE relation = 'django_q_schedule'::regclass"
                    " AND pid = pg_backend_pid() AND granted"
                )
                assert ("ExclusiveLock",) in cursor.fetchall()


@pytest.mark.django_db(transaction=True)
class TestFiring:
    @pytest.mark.parametrize("queue", ["charge", "email", "default"])
    def test_happens_in_every_cluster_on_the_queue_that_all_serve(
        self, monkeypatch: pytest.MonkeyPatch, queue: str
    ) -> None:
        monkeypatch.setenv("CLUSTER_QUEUES", queue)
        schedules.sync()
        Schedule.objects.update(next_run=timezone.now() - timedelta(hours=6))

        scheduler(broker=SkipLockedBroker(SCHEDULES))

        fired = OrmQ.objects.filter(key=SCHEDULES)
        assert {row.task["func"] for row in fired} == {entry.func for entry in schedules.SCHEDULES}
        assert SkipLockedBroker().dequeue()

    def test_does_not_catch_up_and_stays_aligned(self) -> None:
        schedules.sync()
        missed = (timezone.now() - timedelta(days=1)).replace(minute=7)
        Schedule.objects.update(next_run=missed)

        scheduler(broker=SkipLockedBroker(SCHEDULES))

        assert OrmQ.objects.count() == len(schedules.SCHEDULES)
        assert Schedule.objects.get(name="start due closes").next_run.minute == 7
        assert not Schedule.objects.filter(next_run__lt=timezone.now()).exists()

    @pytest.mark.parametrize("hours", [1, -1])
    def test_goes_by_the_database_s_clock_however_wrong_the_host_s_is(
        self, monkeypatch: pytest.MonkeyPatch, hours: int
    ) -> None:
        for name in ("timezone", "localtime"):
            monkeypatch.setattr(django_q.scheduler, name, getattr(django_q.scheduler, name))
        schedule_by_the_databases_clock()
        schedules.sync()
        due = Schedule.objects.earliest("pk")
        Schedule.objects.update(next_run=timezone.now() + timedelta(minutes=30))
        Schedule.objects.filter(pk=due.pk).update(next_run=timezone.now() - timedelta(seconds=1))

        with time_machine.travel(timezone.now() + timedelta(hours=hours)):
            scheduler(broker=SkipLockedBroker(SCHEDULES))

        assert [row.task["func"] for row in OrmQ.objects.all()] == [due.func]
        due.refresh_from_db()
        assert timezone.now() < due.next_run <= timezone.now() + timedelta(minutes=due.minutes)

    def test_sees_the_name_that_our_clusters_bear(self) -> None:
        assert schedules.CLUSTER == Conf.CLUSTER_NAME == Conf.PREFIX


class TestNextRun:
    @pytest.mark.parametrize(
        ("minutes", "at_minute", "after", "expected"),
        [
            (60, 7, "10:03:00", "10:07:00"),
            (60, 7, "10:07:00", "11:07:00"),
            (60, 7, "10:30:00", "11:07:00"),
            (1, 0, "10:30:20", "10:31:00"),
            (15, 5, "10:52:00", "11:05:00"),
        ],
    )
    def test_is_the_next_aligned_moment(
        self, minutes: int, at_minute: int, after: str, expected: str
    ) -> None:
        entry = Entry(name="any", func="any", minutes=minutes, at_minute=at_minute)

        moment = entry.next_run(after=datetime.fromisoformat(f"2026-11-01T{after}+00:00"))

        assert moment == datetime.fromisoformat(f"2026-11-01T{expected}+00:00")
