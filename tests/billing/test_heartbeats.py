"""Who works, and how much: counted with the steps, and alive only while it says so."""

import json
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.db.models.functions import Now

from billing.models import Contribution, Executor, Sweep
from billing.reports import hosts
from billing.workers import heartbeats
from config.cluster import SkipLockedBroker
from tests.closing import finish, start_close
from tests.factories import account_using

pytestmark = pytest.mark.django_db(transaction=True)


def beat(*, is_first: bool = False, queues: tuple[str, ...] = ("charge", "email")) -> None:
    heartbeats.beat(queues=queues, workers=2, is_first=is_first)


def silent_for(seconds: int) -> None:
    ago = Now() - timedelta(seconds=seconds)
    Executor.objects.update(beat_at=ago, started_at=ago)


def listed(*arguments: str) -> tuple[str, int]:
    """What the command says, and its exit code."""
    out = StringIO()
    try:
        call_command("executors", *arguments, stdout=out)
    except SystemExit as ended:
        return out.getvalue(), ended.code
    return out.getvalue(), 0


class TestBeat:
    def test_says_who_serves_what(self):
        beat(is_first=True)

        [seen] = heartbeats.seen()

        assert (seen.queues, seen.workers, seen.is_alive) == (("charge", "email"), 2, True)

    def test_again_moves_the_last_sign_of_life_alone(self):
        beat(is_first=True)
        silent_for(100)
        gone = heartbeats.seen()[0]

        beat()

        [seen] = heartbeats.seen()
        assert not gone.is_alive
        assert seen.is_alive
        assert seen.started_at == gone.started_at

    def test_of_a_new_process_with_an_old_number_begins_anew(self):
        beat(is_first=True)
        silent_for(100)
        before = heartbeats.seen()[0]

        beat(is_first=True)

        assert heartbeats.seen()[0].started_at > before.started_at

    def test_forgets_who_has_been_gone_for_a_day(self, settings):
        beat(is_first=True)
        silent_for(2 * 86_400)
        settings.HOST_NAME = "another"

        beat(is_first=True)

        assert [each.host for each in heartbeats.seen()] == ["another"]

    def test_comes_from_whoever_asks_for_doorbells_now_and_then(self, monkeypatch):
        broker = SkipLockedBroker(list_key="default")
        beats = []
        monkeypatch.setattr(heartbeats, "beat", lambda **facts: beats.append(facts["is_first"]))

        broker.dequeue()
        broker.dequeue()
        broker.beat_at -= heartbeats.BEAT_SECONDS
        broker.dequeue()

        assert beats == [True, False]


class TestCommand:
    def test_lists_them(self, settings):
        beat(is_first=True)

        table, _ = listed()
        [row] = json.loads(listed("--json")[0])

        assert settings.HOST_NAME in table
        assert (row["lanes"], row["state"]) == ("charge,email", "alive")

    def test_says_when_there_is_none(self):
        assert listed()[0] == "No cluster was seen within a day.\n"

    def test_fails_where_none_lives_here(self, settings):
        beat(is_first=True)

        assert listed("--here")[1] == 0
        silent_for(100)
        assert listed("--here")[1] == 1
        settings.HOST_NAME = "another"
        assert listed("--here") == ("No cluster was seen within a day.\n", 1)


class TestContributions:
    def test_add_up_to_the_steps_of_the_run(self, settings):
        accounts = [account_using(f"{euros}.00") for euros in (1, 2, 3)]
        run = finish(start_close())

        rows = {row["kind"]: row for row in hosts.worked(run)}

        assert {kind: row["steps"] for kind, row in rows.items()} == {
            **dict.fromkeys(["INVOICE", "CHARGE", "EMAIL", "HOLD"], len(accounts)),
            "REPORT": 1,
        }
        assert {row["host"] for row in rows.values()} == {settings.HOST_NAME}
        assert tuple(rows["CHARGE"]) == hosts.COLUMNS

    def test_of_several_processes_are_one_row_for_their_host(self):
        account_using("1.00")
        run = finish(start_close())
        Contribution.objects.create(
            run=run, kind="CHARGE", host="far", pid=1, steps=2, first_at=Now(), last_at=Now()
        )
        Contribution.objects.create(
            run=run, kind="CHARGE", host="far", pid=2, steps=3, first_at=Now(), last_at=Now()
        )

        [far] = [row for row in hosts.worked(run) if row["host"] == "far"]

        assert (far["steps"], far["processes"]) == (5, 2)

    def test_stand_in_the_report_command(self):
        account_using("1.00")
        finish(start_close())
        out = StringIO()

        call_command("close_report", "2018-10", "--hosts", "--json", stdout=out)

        assert {row["kind"] for row in json.loads(out.getvalue())} >= {"INVOICE", "REPORT"}

    def test_are_none_before_anything_ended(self):
        account_using("1.00")
        start_close()
        out = StringIO()

        call_command("close_report", "2018-10", "--hosts", stdout=out)

        assert out.getvalue() == "No step has ended.\n"


def test_speak_for_themselves(settings):
    account_using("1.00")
    run = finish(start_close())
    beat(is_first=True)
    heartbeats.note_sweep(failed=[])

    assert str(Executor.objects.get()).endswith(": charge,email")
    assert f"1 × REPORT of {run}" in str(Contribution.objects.get(kind="REPORT"))
    assert str(Sweep.objects.get()).endswith(f"on {settings.HOST_NAME}")
