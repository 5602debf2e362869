"""What a load balancer and an operator are told: ready, degraded and why, or not at all."""

from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, ProgrammingError, connection, connections, transaction
from django.db.migrations.recorder import MigrationRecorder
from django.db.models.functions import Now
from django.test import Client

from billing.close.health import readiness
from billing.models import Contribution, Executor, GatewayGuard, Step, Sweep
from billing.payments import guard
from billing.workers import doorbell, halting, heartbeats
from notifications import lanes
from notifications.models import Lane
from tests.billing.builders import collect, owing
from tests.closing import finish, start_close, work
from tests.factories import account_using

pytestmark = pytest.mark.django_db(transaction=True)

LONG_AGO = 1000


@pytest.fixture(autouse=True)
def _all_is_well():
    heartbeats.beat(queues=doorbell.queues(), workers=2, is_first=True)
    heartbeats.note_sweep(failed=[])


def ready() -> dict[str, Any]:
    return Client().get("/readyz?format=json").json()


def lines(status: int = 200) -> list[str]:
    answer = Client().get("/readyz")
    assert answer.status_code == status
    return answer.content.decode().splitlines()


@contextmanager
def no_database(monkeypatch, error: type[Exception] = OperationalError):
    def away(*_args, **_kwargs):
        raise error("could not connect to server")

    with monkeypatch.context() as patch:
        patch.setattr(type(connections["default"]), "cursor", away)
        yield


def due_since(seconds: int) -> None:
    Step.objects.filter(state="READY").update(run_at=Now() - timedelta(seconds=seconds))


class TestAlive:
    def test_answers_without_a_database(self, monkeypatch):
        with no_database(monkeypatch):
            answer = Client().get("/healthz")

        assert (answer.status_code, answer.content) == (200, b"ok\n")


class TestReady:
    def test_is_ok_where_nothing_waits(self):
        *told, swept = lines()

        assert told == [
            "ok",
            *(f"queue {queue}: 1 clusters, nothing is due" for queue in doorbell.queues()),
        ]
        assert swept.startswith("last sweep: ")

    def test_is_not_without_a_database(self, monkeypatch):
        with no_database(monkeypatch):
            assert lines(503) == ["not ready: the database does not answer: OperationalError"]
            assert ready()["status"] == "not ready"

    def test_is_not_with_an_empty_database(self, monkeypatch):
        with no_database(monkeypatch, ProgrammingError):
            assert lines(503) == ["not ready: the database has no tables: run manage.py migrate"]

    def test_is_not_with_a_schema_that_is_too_old(self):
        newest = max(
            name
            for app, name in MigrationRecorder(connection).applied_migrations()
            if app == "billing"
        )
        MigrationRecorder(connection).record_unapplied("billing", newest)

        [line] = lines(503)

        assert line == (
            f"not ready: 1 migrations are missing, the first is billing.{newest}: run manage.py migrate"
        )
        MigrationRecorder(connection).record_applied("billing", newest)

    def test_does_not_mind_a_schema_that_is_newer(self):
        MigrationRecorder(connection).record_applied("billing", "9999_of_the_next_release")

        assert lines()[0] == "ok"
        MigrationRecorder(connection).record_unapplied("billing", "9999_of_the_next_release")

    def test_asks_few_questions(self, django_assert_max_num_queries):
        account_using("1.00")
        start_close()
        Client().get("/readyz")

        with django_assert_max_num_queries(15):
            Client().get("/readyz")


class TestLanes:
    def test_say_for_how_long_their_oldest_step_is_due(self):
        account_using("1.00")
        start_close()
        due_since(100)

        told = ready()

        assert told["status"] == "ok"
        assert 100 <= told["lanes"]["default"]["oldest_due_seconds"] < 200
        assert told["lanes"]["charge"]["oldest_due_seconds"] is None

    def test_do_not_count_what_is_due_later(self):
        account_using("1.00")
        start_close()
        due_since(-100)

        assert ready()["lanes"]["default"]["oldest_due_seconds"] is None

    def test_find_the_oldest_below_what_goes_first(self):
        for euros in ("1.00", "2.00", "3.00"):
            account_using(euros)
        start_close()
        due_since(100)
        [first, second, _] = Step.objects.filter(kind="INVOICE")
        Step.objects.filter(pk=first.pk).update(priority=5, run_at=Now())
        Step.objects.filter(pk=second.pk).update(
            priority=-5, run_at=Now() - timedelta(seconds=LONG_AGO)
        )

        assert ready()["lanes"]["default"]["oldest_due_seconds"] >= LONG_AGO

    def test_stand_still_where_much_is_due_and_nothing_ends(self):
        account_using("1.00")
        start_close()
        due_since(LONG_AGO)

        told = lines()

        assert told[0] == "degraded"
        assert "none has ended in this run" in told[1]

    def test_stand_still_when_the_last_end_is_long_ago(self):
        account_using("1.00")
        account_using("2.00")
        start_close()
        work("INVOICE")
        work("HOLD")
        due_since(LONG_AGO)
        Contribution.objects.create(
            run=start_close(),
            kind="CHARGE",
            host="a",
            pid=1,
            steps=1,
            first_at=Now() - timedelta(seconds=LONG_AGO),
            last_at=Now() - timedelta(seconds=LONG_AGO),
        )

        told = lines()

        assert told[1].startswith("queue charge: its oldest step is due for 10")
        assert "none has ended for 10" in told[1]

    def test_that_are_behind_and_move_are_only_busy(self):
        account_using("1.00")
        account_using("2.00")
        run = start_close()
        work("INVOICE")
        due_since(LONG_AGO)
        for kind in ("CHARGE", "EMAIL"):
            heartbeats.contribute(run_id=run.pk, kind=kind, steps=1)

        assert ready()["status"] == "ok"

    def test_that_nobody_serves_are_named(self):
        Executor.objects.update(beat_at=Now() - timedelta(seconds=100))
        heartbeats.beat(queues=["charge"], workers=1, is_first=True)

        told = lines()

        assert told[0] == "degraded"
        assert [line.partition(":")[0] for line in told[1:3]] == ["queue default", "queue email"]


class TestSweeps:
    def test_that_never_came_are_missed(self):
        Sweep.objects.all().delete()

        assert lines()[:2] == ["degraded", "nobody has ever swept"]

    def test_that_stay_away_are_missed(self):
        Sweep.objects.update(ended_at=Now() - timedelta(seconds=LONG_AGO))

        assert lines()[1].startswith("nobody has swept for 10")

    def test_that_failed_say_where(self):
        heartbeats.note_sweep(failed=["attempts", "credits"])

        assert lines()[1] == "the last sweep failed at: attempts,credits"

    def test_that_leave_a_dead_lease_lying_are_no_sweeps(self):
        account_using("1.00")
        start_close()
        Step.objects.filter(kind="CHARGE").update(
            state="RUNNING",
            lease_token="0" * 32,
            lease_until=Now() - timedelta(seconds=LONG_AGO),
        )

        assert lines()[1].startswith("a lease ran out 10")


class TestTheRest:
    def test_says_how_the_last_close_went(self):
        account_using("1.00")
        run = finish(start_close())
        Step.objects.filter(run=run, kind="HOLD").update(state="DEAD")

        told = ready()

        assert told["status"] == "ok"
        assert (told["last_close"]["state"], told["last_close"]["dead"]) == ("FINISHED", 1)
        assert "finished, 1 dead and 0 blocked steps" in lines()[-1]

    def test_names_gateways_that_are_paused(self):
        collect(owing())
        GatewayGuard.objects.update(database_identity="another")
        guard.watch_all()

        assert lines()[:2] == ["degraded", "charging through sandbox is paused"]

    def test_says_that_work_is_halted_and_so_why_it_stands_still(self):
        account_using("1.00")
        start_close()
        due_since(LONG_AGO)
        halting.order(because="release 1.4", by="ann")

        told = lines()

        assert told[0] == "degraded"
        assert told[1] == "Halted by ann: release 1.4"
        assert told[2].startswith("queue default: 1 clusters")

    def test_names_providers_through_which_nothing_begins(self):
        lane = Lane.objects.create(provider="smtp", credential="ours")
        lanes.pause(lane.pk, by="ann", because="the server moves")

        told = lines()

        assert told[0] == "degraded"
        assert told[1].startswith("provider smtp: ")
        assert "the server moves" in told[1]


def test_the_question_for_the_oldest_reads_the_index_alone():
    account_using("1.00")
    start_close()
    # Where nobody has counted a table yet, its size is a guess.
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("SET LOCAL enable_bitmapscan = off")
        cursor.execute("SET LOCAL enable_sort = off")
        cursor.execute("EXPLAIN " + readiness.OLDEST, [["INVOICE", "CHARGE"]])
        plan = "\n".join(line for (line,) in cursor.fetchall())

    assert "steps_to_claim" in plan, plan
