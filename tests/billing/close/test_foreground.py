"""Attending a run: it takes part until the run ends, and outlives the database going away."""

from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from billing.close import foreground
from billing.close.engine import runner
from billing.close.foreground import Sight
from billing.close.step import later
from billing.close.steps import hold
from billing.models import CloseRun, Step
from billing.workers import halting
from tests.closing import finish, in_a_thread_of_the_provider, start_close, states
from tests.factories import account_using

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(foreground, "LOOK_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(foreground, "RECONNECT_AFTER_SECONDS", 0.01)


def work_on(run: CloseRun, *, looks: int = 200, **facts: object) -> list[Sight]:
    """What was seen until it ended; it is stopped after so many looks, should it not end."""
    seen: list[Sight] = []
    foreground.work_on(
        run,
        clock=timezone.now,
        on_sight=seen.append,
        **{"stopped": lambda: len(seen) >= looks, **facts},
    )
    assert len(seen) < looks, "it did not end by itself"
    return seen


def cut_the_connection() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")


def order_a_halt() -> None:
    halting.order(because="release 1.4", by="ops")


class TestWorkOn:
    def test_works_until_the_run_is_finished_and_shows_how_far_it_is(self):
        account_using("12.00")
        account_using("3.00", card="sandbox_declined")
        run = start_close()

        seen = work_on(run)

        assert run.is_finished
        assert [sight.ended for sight in seen] == sorted(sight.ended for sight in seen)
        assert (seen[-1].ended, seen[-1].everything) == (9, 9)

    def test_of_a_finished_run_looks_once(self):
        run = finish(start_close())

        assert len(work_on(run)) == 1

    def test_ends_where_all_that_is_left_waits_for_a_far_day(self, monkeypatch):
        account_using("12.00", card=None)
        run = start_close(as_of=timezone.now())
        far = timezone.now() + timedelta(days=14)
        monkeypatch.setattr(
            hold, "perform", lambda chunk: [later(s, "not yet", run_at=far) for s in chunk.steps]
        )

        seen = work_on(run)

        assert not run.is_finished
        assert seen[-1].waits_until > timezone.now() + timedelta(days=13)

    def test_ends_where_the_report_is_dead_for_a_person_has_to_act(self):
        run = start_close()
        run.steps.update(state="DEAD", finished_at=timezone.now())

        work_on(run)

        assert not run.is_finished

    def test_frees_what_a_killed_worker_left_and_finishes_it(self):
        account_using("12.00")
        run = start_close()
        runner.work_once(runner.pipeline.BY_KIND["INVOICE"], as_of=timezone.now())
        Step.objects.filter(kind="CHARGE").update(
            state="RUNNING", lease_token="0" * 32, lease_until=timezone.now(), attempts=1
        )

        work_on(run)

        assert run.is_finished

    def test_only_watches_where_the_work_is_left_to_the_clusters(self):
        account_using("12.00")
        run = start_close()
        seen: list[Sight] = []

        foreground.work_on(
            run,
            clock=timezone.now,
            on_sight=seen.append,
            stopped=lambda: len(seen) == 3,
            work=False,
        )

        assert states() == {"READY": 1, "WAITING": 4}

    def test_ends_with_a_word_where_a_halt_is_ordered_and_sends_nothing_more(
        self, provider, monkeypatch
    ):
        monkeypatch.setattr(halting, "LOOK_EVERY_SECONDS", 0)
        monkeypatch.setattr(halting, "_halt_seen", halting._Seen())
        account_using("12.00")
        run = start_close()
        provider.after("prepare", in_a_thread_of_the_provider(order_a_halt))

        with pytest.raises(halting.Halted, match="Halted by ops: release"):
            work_on(run)

        assert provider.calls["prepare"] == 1
        assert provider.calls["submit"] == 0
        assert not Step.objects.filter(state="RUNNING").exists()

    def test_stops_when_told_after_the_chunk_in_hand(self):
        account_using("12.00")
        run = start_close()
        seen: list[Sight] = []

        foreground.work_on(
            run, clock=timezone.now, on_sight=seen.append, stopped=lambda: len(seen) == 1
        )

        assert not run.is_finished
        assert not Step.objects.filter(state="RUNNING").exists()


class TestTheDatabaseGoesAway:
    def test_and_comes_back_so_the_run_is_finished(self, monkeypatch):
        account_using("12.00")
        run = start_close()
        real, cuts = runner.work_once, iter(range(3))

        def cut_off(module, **facts):
            worked = real(module, **facts)
            if worked and next(cuts, None) is not None:
                cut_the_connection()
            return worked

        monkeypatch.setattr(runner, "work_once", cut_off)

        work_on(run)

        assert run.is_finished
        assert run.report["currencies"][0]["collected"] == "12.00"

    def test_and_stays_away_so_it_is_said(self, monkeypatch):
        monkeypatch.setattr(foreground, "RECONNECTS_MAX", 3)
        tries = []

        def away(**_facts):
            tries.append(1)
            raise OperationalError("connection refused")

        monkeypatch.setattr(foreground, "_work_a_little", away)

        with pytest.raises(OperationalError, match="refused"):
            work_on(start_close())
        assert len(tries) == 4
