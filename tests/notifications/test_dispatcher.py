"""The dispatcher, by a kind of a test's own: nothing is sent twice, lost, or sent by who has lost it."""

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.db.models.functions import Now

from notifications import dispatcher, lanes
from notifications.dispatcher import claims
from notifications.dispatcher.loop import Work
from notifications.models import Lane
from tests.config.real_cluster import wait_until
from tests.factories import AS_OF
from tests.notifications.parcels import kind
from tests.notifications.parcels.models import Parcel
from tests.workers import at_once

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.concurrency]


@pytest.fixture(autouse=True)
def book(settings, tmp_path, monkeypatch) -> Iterator[Path]:
    """The carrier's book; the kind has joined, and has its table."""
    settings.DISPATCHED_KINDS = [*settings.DISPATCHED_KINDS, "tests.notifications.parcels.kind"]
    monkeypatch.setattr(kind, "BOOK", tmp_path / "book")
    with connection.schema_editor() as editor:
        editor.create_model(Parcel)
    yield tmp_path / "book"
    with connection.schema_editor() as editor:
        editor.delete_model(Parcel)


def parcels(count: int = 1, **facts: Any) -> list[Parcel]:
    return [Parcel.objects.create(queue="parcels", **facts) for _ in range(count)]


def dead_worker(**facts: Any) -> dict[str, Any]:
    """What a row says whose worker was killed."""
    return {
        "state": "ON_ITS_WAY",
        "claims": 1,
        "lease_token": uuid.uuid4(),
        "lease_until": Now() - timedelta(seconds=1),
        **facts,
    }


def run(**facts: Any) -> int:
    facts = {"clock": lambda: AS_OF, "until": lambda: False, **facts}
    return dispatcher.run("parcels", **facts)


def reread(parcel: Parcel) -> Parcel:
    parcel.refresh_from_db()
    return parcel


def lane(**facts: Any) -> None:
    lanes.grant("cart", wanted=0)
    Lane.objects.filter(provider="cart").update(**facts)


def tokens() -> float:
    return Lane.objects.get(provider="cart").tokens


class TestRun:
    def test_takes_the_rows_of_its_queue_and_no_others(self):
        ours, theirs = parcels(25), Parcel.objects.create(queue="letters")

        assert run() == 25

        assert {reread(parcel).state for parcel in ours} == {"TAKEN"}
        assert {(p.claims, p.lease_token, p.lease_until) for p in ours} == {(1, None, None)}
        assert sorted(kind.handed_over()) == sorted(f"parcel {parcel.pk}" for parcel in ours)
        assert reread(theirs).state == "WAITING"

    def test_takes_first_what_a_person_waits_for(self, monkeypatch):
        parcels(3)
        [urgent] = parcels(1, priority=5)
        monkeypatch.setattr(kind, "THREADS", 1)

        run()

        assert kind.handed_over()[0] == f"parcel {urgent.pk}"

    def test_does_not_call_for_what_rests(self):
        [unwanted] = parcels(1, because="not wanted")

        run()

        assert reread(unwanted).state == "KEPT"
        assert unwanted.lease_token is None
        assert kind.handed_over() == []

    def test_halves_a_recheck_that_fails_down_to_the_row(self, monkeypatch):
        poison, *sound = parcels(8)
        recheck = kind.recheck

        def fail_on_poison(rows, *, as_of):
            if poison in rows:
                raise ZeroDivisionError("a defect")
            return recheck(rows, as_of=as_of)

        monkeypatch.setattr(kind, "recheck", fail_on_poison)
        run()

        assert "a defect" in reread(poison).because
        assert (poison.state, poison.lease_token) == ("WAITING", None)
        assert {reread(parcel).state for parcel in sound} == {"TAKEN"}

    def test_halves_answers_that_cannot_be_written_down(self, monkeypatch):
        poison, *sound = parcels(8)
        write_down = kind.write_down

        def fail_on_poison(answers, *, as_of):
            if poison in [parcel for parcel, _ in answers]:
                raise ZeroDivisionError("a defect")
            return write_down(answers, as_of=as_of)

        monkeypatch.setattr(kind, "write_down", fail_on_poison)
        run()

        assert "a defect" in reread(poison).because
        assert {reread(parcel).state for parcel in sound} == {"TAKEN"}

    def test_goes_round_as_often_as_a_row_needs(self, monkeypatch):
        [parcel] = parcels()
        write_down = kind.write_down
        rounds: list[int] = []

        def again_at_first(answers, *, as_of):
            rounds.append(1)
            return [parcel] if len(rounds) < 3 else write_down(answers, as_of=as_of)

        monkeypatch.setattr(kind, "write_down", again_at_first)

        assert run() == 1

        assert (reread(parcel).state, parcel.rechecks, parcel.claims) == ("TAKEN", 3, 1)

    def test_drives_those_whose_provider_is_there_and_tells_the_others(self, monkeypatch):
        near, far = parcels(1), parcels(1, carrier="ship")

        def reach(provider: str) -> None:
            if provider == "ship":
                raise dispatcher.Unreachable("no harbour")

        monkeypatch.setattr(kind, "reach", reach)

        dispatcher.drive(kind, [near[0].pk, far[0].pk], clock=lambda: AS_OF)

        assert reread(near[0]).state == "TAKEN"
        assert (reread(far[0]).state, "no harbour" in far[0].because) == ("WAITING", True)

    def test_asks_nobody_where_the_provider_is_not_there(self, monkeypatch, tmp_path):
        waiting = parcels(3)
        monkeypatch.setattr(kind, "BOOK", tmp_path / "gone" / "book")

        run()

        assert all("is not there" in reread(parcel).because for parcel in waiting)
        assert {parcel.rechecks for parcel in waiting} == {0}

    def test_two_workers_take_each_row_once(self):
        waiting = parcels(60)

        assert sum(at_once(run, run)) == 60

        assert len(kind.handed_over()) == len(set(kind.handed_over())) == 60
        assert {reread(parcel).claims for parcel in waiting} == {1}


class TestLane:
    def test_spends_one_token_for_each_row(self):
        parcels(3)
        lane(rate=0.01, burst=50, tokens=10, refilled_at=Now())

        taken = 0
        while taken < 3:
            taken += run()

        assert 7 <= tokens() < 7.5

    def test_lets_a_person_go_on_where_its_rate_is_used_up_and_is_owed_the_token(self):
        [urgent], others = parcels(1, priority=dispatcher.URGENT), parcels(2)
        lane(rate=0.001, burst=50, tokens=0, refilled_at=Now(), cap=1)

        assert run() == 1

        assert kind.handed_over() == [f"parcel {urgent.pk}"]
        assert -1 <= tokens() < -0.9
        assert {reread(parcel).state for parcel in others} == {"WAITING"}

    def test_is_left_by_what_is_of_less_priority_than_was_asked_for(self):
        [urgent], _ = parcels(1, priority=20), parcels(1, priority=19)

        assert run(at_least=20) == 1

        assert kind.handed_over() == [f"parcel {urgent.pk}"]

    def test_gets_back_the_token_of_what_was_not_called_for(self):
        parcels(1, because="not wanted")
        lane(rate=0.01, burst=50, tokens=10, refilled_at=Now())

        run()

        assert 10 <= tokens() < 10.5

    def test_counts_the_claims_of_all_kinds_against_its_cap(self, monkeypatch):
        parcels(1, **dead_worker(lease_until=Now() + timedelta(seconds=30)))
        parcels(1)
        lane(cap=1)

        with pytest.raises(dispatcher.Throttled, match="as many are in flight"):
            run()

    def test_that_is_shut_keeps_no_other_waiting(self):
        [by_cart], [by_ship] = parcels(), parcels(carrier="ship")
        lane()
        lanes.pause(Lane.objects.get(provider="cart").pk, by="ops@acme.example", because="ice")

        assert run() == 1

        assert (reread(by_cart).state, by_cart.claims) == ("WAITING", 0)
        assert reread(by_ship).state == "TAKEN"


class TestALostClaim:
    def lose(self, *lost: Parcel) -> None:
        Parcel.objects.filter(pk__in=[parcel.pk for parcel in lost]).update(
            lease_token=uuid.uuid4(), lease_until=Now() + timedelta(seconds=60)
        )

    def test_before_the_recheck_sends_nothing(self, monkeypatch):
        mine, lost = parcels(2)
        recheck = kind.recheck

        def too_late(rows, *, as_of):
            self.lose(lost)
            return recheck(rows, as_of=as_of)

        monkeypatch.setattr(kind, "recheck", too_late)
        run()

        assert kind.handed_over() == [f"parcel {mine.pk}"]
        assert (reread(lost).state, lost.rechecks) == ("ON_ITS_WAY", 0)

    def test_sends_nothing_that_waits_for_its_turn(self, monkeypatch):
        """Noticed between batches, when the worker extends its claims."""
        first, waits = parcels(2)
        monkeypatch.setattr(kind, "THREADS", 1)
        call, may_go_on = kind.call, threading.Event()

        def slow(parcel, what):
            if parcel == first:
                self.lose(waits)
                connection.close()
                may_go_on.wait(10)
            return call(parcel, what)

        monkeypatch.setattr(kind, "call", slow)
        monkeypatch.setattr(Work, "_next_beat", lambda _self: 0.0)
        extend = claims.extend

        def noticed(*args):
            ours = extend(*args)
            if len(ours) < 2:
                may_go_on.set()
            return ours

        monkeypatch.setattr(claims, "extend", noticed)
        monkeypatch.setattr("notifications.dispatcher.window.LOOK_UP_SECONDS", 0.05)
        run()

        assert kind.handed_over() == [f"parcel {first.pk}"]
        assert reread(waits).state == "ON_ITS_WAY"

    def lost_while_it_was_out(self, monkeypatch) -> Parcel:
        [parcel] = parcels()
        call = kind.call

        def taken_over_meanwhile(row, what):
            said = call(row, what)
            self.lose(row)
            connection.close()
            return said

        monkeypatch.setattr(kind, "call", taken_over_meanwhile)
        run()
        return reread(parcel)

    def test_applies_what_the_provider_said_where_a_kind_says_so(self, monkeypatch):
        parcel = self.lost_while_it_was_out(monkeypatch)

        assert parcel.state == "TAKEN"
        # It is another's to end.
        assert parcel.lease_token is not None

    def test_writes_no_failure_on_what_is_anothers_by_now(self, monkeypatch):
        def fails(answers, *, as_of):
            raise ZeroDivisionError("a defect")

        monkeypatch.setattr(kind, "write_down", fails)

        parcel = self.lost_while_it_was_out(monkeypatch)

        assert (parcel.state, parcel.because) == ("ON_ITS_WAY", "")
        assert parcel.lease_token is not None

    def test_drops_what_the_provider_said_where_a_kind_says_so(self, monkeypatch):
        monkeypatch.setattr(kind, "always_applies", False)

        parcel = self.lost_while_it_was_out(monkeypatch)

        assert (parcel.state, parcel.because) == ("ON_ITS_WAY", "")


class TestParked:
    def test_is_what_has_killed_three_workers(self):
        [killer], beside = parcels(1, **dead_worker(deaths=2)), parcels(2)

        run()

        assert reread(killer).parked_at is not None
        assert (killer.state, killer.deaths) == ("ON_ITS_WAY", 3)
        assert {reread(parcel).state for parcel in beside} == {"TAKEN"}

    def test_is_claimed_by_nobody(self):
        [parked] = parcels(1, parked_at=Now(), deaths=3)

        assert run() == 0
        assert dispatcher.drive(kind, [parked.pk], clock=lambda: AS_OF) == []

        assert kind.handed_over() == []
        assert not dispatcher.is_due("parcels", as_of=AS_OF)

    def test_is_tried_once_more_when_a_person_orders_it(self):
        [parked], others = parcels(1, parked_at=Now(), deaths=3, claims=3), parcels(2)

        assert dispatcher.order(kind, parked.pk)
        assert not dispatcher.order(kind, others[0].pk)
        run()

        assert (reread(parked).state, parked.deaths) == ("TAKEN", 0)

    def test_comes_after_being_tried_alone(self, monkeypatch):
        suspect, other = parcels(1, **dead_worker(deaths=1)) + parcels(1, **dead_worker(deaths=1))
        together: list[int] = []
        recheck = kind.recheck

        def seen(rows, *, as_of):
            together.append(len(rows))
            return recheck(rows, as_of=as_of)

        monkeypatch.setattr(kind, "recheck", seen)
        run()

        assert together == [1, 1]
        assert {reread(suspect).deaths, reread(other).deaths} == {0}


class TestStop:
    def test_gives_back_what_is_not_sent_and_takes_in_what_is_out(self, monkeypatch):
        waiting = parcels(10)
        monkeypatch.setattr(kind, "THREADS", 1)
        told = threading.Event()
        call = kind.call

        def told_meanwhile(parcel, what):
            told.set()
            # Until whoever has the window has taken the others back.
            while Parcel.objects.filter(state="ON_ITS_WAY").count() > 1:
                connection.close()
            connection.close()
            return call(parcel, what)

        monkeypatch.setattr(kind, "call", told_meanwhile)
        monkeypatch.setattr("notifications.dispatcher.window.LOOK_UP_SECONDS", 0.05)

        run(stopping=told.is_set)

        taken = [parcel for parcel in waiting if reread(parcel).state == "TAKEN"]
        assert len(taken) == 1
        given_back = [parcel for parcel in waiting if parcel not in taken]
        assert {(p.state, p.claims, p.lease_token) for p in given_back} == {("WAITING", 0, None)}

    def test_by_trouble_of_the_database_frees_everything_at_once(self, monkeypatch):
        waiting = parcels(3)

        def trouble(*_args, **_facts):
            raise OperationalError("the database went away")

        monkeypatch.setattr(kind, "write_down", trouble)
        with pytest.raises(OperationalError):
            run()

        states = {(reread(p).state, p.lease_token, p.claims, p.deaths) for p in waiting}
        # They were sent, perhaps: that stays counted, and whoever is next looks first.
        assert states == {("WAITING", None, 1, 0)}


class TestExtends:
    def test_its_claims_while_calls_are_out(self, monkeypatch):
        [parcel] = parcels()
        seen: list[bool] = []
        call = kind.call

        def slow(row, what):
            Parcel.objects.update(lease_until=Now() + timedelta(seconds=5))
            later = Parcel.objects.filter(lease_until__gt=Now() + timedelta(seconds=30))
            wait_until(later.exists, "the claim being extended")
            seen.append(True)
            connection.close()
            return call(row, what)

        monkeypatch.setattr(kind, "call", slow)
        monkeypatch.setattr(Work, "_next_beat", lambda _self: 0.0)
        monkeypatch.setattr("notifications.dispatcher.window.LOOK_UP_SECONDS", 0.05)
        run()

        assert seen == [True]
        assert reread(parcel).state == "TAKEN"

    @pytest.mark.parametrize(
        ("left", "more_than", "is_it"), [(-1, 45, True), (30, 45, True), (58, 59, False)]
    )
    def test_at_the_recheck_those_that_have_lost_a_quarter_of_their_time(
        self, left, more_than, is_it, monkeypatch
    ):
        [parcel] = parcels()
        recheck, write_down = kind.recheck, kind.write_down
        seen: list[bool] = []

        def takes_its_time(rows, *, as_of):
            Parcel.objects.update(lease_until=Now() + timedelta(seconds=left))
            return recheck(rows, as_of=as_of)

        def looks(answers, *, as_of):
            until = Now() + timedelta(seconds=more_than)
            seen.append(Parcel.objects.filter(lease_until__gt=until).exists())
            return write_down(answers, as_of=as_of)

        monkeypatch.setattr(kind, "recheck", takes_its_time)
        monkeypatch.setattr(kind, "write_down", looks)
        run()

        assert seen == [is_it]
        assert reread(parcel).state == "TAKEN"


class TestAProcess:
    """A worker of an installation of which the kind is part, killed and followed by another."""

    @pytest.fixture
    def worker(self, book) -> Iterator[Callable[..., subprocess.Popen[str]]]:
        started: list[subprocess.Popen[str]] = []

        def start(*, seconds_each: float = 0.0) -> subprocess.Popen[str]:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.notifications.parcels"],
                    env={
                        **os.environ,
                        "TEST_DATABASE_NAME": str(connection.settings_dict["NAME"]),
                        "PARCEL_BOOK": str(book),
                        "PARCEL_SECONDS_EACH": str(seconds_each),
                    },
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            return started[-1]

        yield start
        for process in started:
            process.kill()
            process.communicate()

    def test_killed_loses_nothing_and_sends_nothing_twice(self, worker):
        waiting = parcels(40)
        first = worker(seconds_each=0.02)
        wait_until(lambda: len(kind.handed_over()) > 5, "the first parcels")
        first.send_signal(signal.SIGKILL)
        first.wait()
        Parcel.objects.filter(lease_token__isnull=False).update(lease_until=Now())

        assert worker().wait(60) == 0

        assert {reread(parcel).state for parcel in waiting} == {"TAKEN"}
        assert sorted(kind.handed_over()) == sorted(f"parcel {p.pk}" for p in waiting)
        assert max(parcel.claims for parcel in waiting) == 2

    def test_told_to_stop_leaves_nothing_claimed(self, worker):
        waiting = parcels(40)
        first = worker(seconds_each=0.05)
        wait_until(lambda: len(kind.handed_over()) > 5, "the first parcels")

        first.send_signal(signal.SIGTERM)

        assert first.wait(60) == 0
        assert not Parcel.objects.filter(lease_token__isnull=False).exists()
        left = [parcel for parcel in waiting if reread(parcel).state == "WAITING"]
        assert left
        assert {parcel.claims for parcel in left} == {0}
        assert len(kind.handed_over()) == 40 - len(left)
