"""The runner: each step once, whoever dies on the way, and one account's trouble is nobody else's."""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import pytest
from django.db import DatabaseError, InterfaceError, OperationalError, connection
from django.db.models.functions import Now
from django_q.models import OrmQ

from accounts.models import Account
from billing import gateways
from billing.close import pipeline
from billing.close.engine import claiming, runner
from billing.close.health import sweeper
from billing.close.step import Chunk, Outcome, done, later, unknown
from billing.models import ClaimMarker, Decision, Step
from billing.step_kinds import Through
from billing.workers import doorbell
from tests.closing import cancel, start_close
from tests.factories import AS_OF, AccountFactory
from tests.provider import Killed

# The second is how psycopg2 tells of a server that was killed in the middle of a statement.
TROUBLE = [
    OperationalError("terminating connection"),
    DatabaseError("server closed the connection unexpectedly"),
    InterfaceError("connection already closed"),
]


@dataclass
class Module:
    """A step of the close that decides as the test says."""

    perform: Callable[[Chunk], Iterable[Outcome]]
    kind: str = "INVOICE"
    touches_the_world: bool = False
    queue: str = "default"
    follows: str | None = None
    through: Through = Through.NOBODY
    batch: int = 200

    def work(self) -> int:
        return runner.work_once(self, as_of=AS_OF)


def charging(perform: Callable[[Chunk], Iterable[Outcome]], *, batch: int = 200) -> Module:
    """A charge step: it touches the world."""
    return Module(
        perform,
        kind="CHARGE",
        queue="charge",
        touches_the_world=True,
        through=Through.CARD,
        batch=batch,
    )


def does_all(chunk: Chunk) -> list[Outcome]:
    return [done(step, "done", expect={"seen": True}) for step in chunk.steps]


def fails_on(*poison: Account, error: Exception | None = None) -> Callable[[Chunk], list[Outcome]]:
    def perform(chunk: Chunk) -> list[Outcome]:
        if any(step.account in poison for step in chunk.steps):
            raise error or ValueError("poison")
        return does_all(chunk)

    return perform


def raising(error: BaseException) -> Callable[[Chunk], list[Outcome]]:
    def perform(_chunk: Chunk) -> list[Outcome]:
        raise error

    return perform


@pytest.fixture
def accounts(db) -> list[Account]:
    return [AccountFactory() for _ in range(7)]


@pytest.fixture
def invoices(accounts) -> list[Step]:
    """The invoice steps of a run, ready."""
    return list(start_close().steps.filter(kind="INVOICE").order_by("account"))


@pytest.fixture
def charges(accounts) -> list[Step]:
    """The charge steps of a run, ready."""
    run = start_close()
    Module(does_all).work()
    return list(run.steps.filter(kind="CHARGE").order_by("account"))


def reread(steps: Sequence[Step]) -> list[Step]:
    current = Step.objects.in_bulk([step.pk for step in steps])
    return [current[step.pk] for step in steps]


def let_leases_run_out() -> None:
    Step.objects.filter(state="RUNNING").update(lease_until=Now() - timedelta(seconds=1))


@pytest.mark.django_db
class TestStepsThatTouchOnlyOurDatabase:
    def test_end_with_their_decisions_and_ready_what_follows(self, invoices):
        assert Module(does_all).work() == 7

        assert {step.state for step in reread(invoices)} == {"DONE"}
        assert Decision.objects.filter(act="INVOICE", did="DONE").count() == 7
        following = Step.objects.filter(kind__in=["CHARGE", "EMAIL"])
        assert {(step.state, step.expected["seen"]) for step in following} == {("READY", True)}
        assert set(Step.objects.filter(kind="HOLD").values_list("state", flat=True)) == {"WAITING"}

    def test_ring_the_queues_of_what_follows(self, invoices, settings):
        settings.WORKERS = 3
        OrmQ.objects.all().delete()

        Module(does_all).work()

        rung = {queue: OrmQ.objects.filter(key=queue).count() for queue in doorbell.queues()}
        assert rung == {"default": 0, "charge": 3, "email": 3}

    def test_one_poison_account_is_found_by_halves_and_charged_alone(self, invoices):
        assert Module(fails_on(invoices[3].account)).work() == 7

        poison, others = reread(invoices)[3], reread(invoices[:3] + invoices[4:])
        assert {step.state for step in others} == {"DONE"}
        assert {step.attempts for step in others} == {0}
        assert (poison.state, poison.attempts) == ("READY", 1)
        assert poison.last_error == "ValueError: poison"
        assert AS_OF <= poison.run_at <= AS_OF + timedelta(seconds=30)
        followers = Step.objects.filter(account=poison.account, kind__in=["CHARGE", "EMAIL"])
        assert set(followers.values_list("state", flat=True)) == {"WAITING"}
        assert not Decision.objects.filter(account=poison.account).exists()
        assert OrmQ.objects.filter(key="default", lock=poison.run_at).exists()

    def test_one_that_was_left_without_an_outcome_is_charged_too(self, invoices):
        Module(lambda chunk: does_all(chunk)[:-1]).work()

        assert {step.last_error for step in reread(invoices)} == {
            "AssertionError: a step was left without an outcome"
        }

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("trouble", TROUBLE)
    def test_trouble_of_the_database_is_nobodys_fault(self, invoices, trouble):
        with pytest.raises(type(trouble)):
            Module(raising(trouble)).work()

        assert {(step.state, step.attempts) for step in reread(invoices)} == {("READY", 0)}
        assert not ClaimMarker.objects.exists()

    def test_an_error_before_any_step_is_in_hand_is_not_swallowed(self, invoices, monkeypatch):
        def no_such_column(*_args, **_facts):
            raise LookupError("no such column")

        monkeypatch.setattr(claiming, "ready", no_such_column)

        with pytest.raises(LookupError):
            Module(does_all).work()

    def test_a_kill_right_before_the_commit_rolls_everything_back(self, invoices, monkeypatch):
        real = runner.write_down

        def write_down_and_die(*args, **facts):
            real(*args, **facts)
            raise Killed

        monkeypatch.setattr(runner, "write_down", write_down_and_die)
        OrmQ.objects.all().delete()

        with pytest.raises(Killed):
            Module(does_all).work()

        assert {step.state for step in reread(invoices)} == {"READY"}
        assert not Step.objects.filter(kind__in=["CHARGE", "EMAIL"], state="READY").exists()
        assert not Decision.objects.exists()
        assert not OrmQ.objects.exists()

    def test_waiting_is_neither_an_attempt_nor_a_decision_and_forgets_no_attempt(self, invoices):
        Step.objects.filter(kind="INVOICE").update(attempts=2)
        at = AS_OF + timedelta(days=9)

        Module(lambda chunk: [later(step, "not yet", run_at=at) for step in chunk.steps]).work()

        assert {(s.state, s.attempts, s.because, s.run_at) for s in reread(invoices)} == {
            ("READY", 2, "not yet", at)
        }
        assert not Decision.objects.exists()
        assert OrmQ.objects.filter(key="default", lock=at).count() == 1

    def test_a_step_that_somebody_else_has_ended_meanwhile_stays_as_it_is(
        self, invoices, monkeypatch
    ):
        Step.objects.exclude(pk=invoices[0].pk).filter(kind="INVOICE").delete()
        real = runner._charge_an_attempt

        def after_somebody_else(step_id, error, **facts):
            Module(does_all).work()
            real(step_id, error, **facts)

        monkeypatch.setattr(runner, "_charge_an_attempt", after_somebody_else)
        Step.objects.filter(pk=invoices[0].pk).update(attempts=7)

        Module(raising(ValueError("only here"))).work()

        [step] = reread(invoices[:1])
        assert (step.state, step.attempts, step.last_error) == ("DONE", 7, "")

    def test_a_follower_that_a_person_cancelled_stays_cancelled(self, invoices):
        cancelled = Step.objects.get(account=invoices[0].account, kind="EMAIL")
        cancel(cancelled)

        Module(does_all).work()

        assert reread([cancelled])[0].state == "CANCELLED"

    def test_steps_of_one_run_are_taken_at_a_time_the_urgent_first(self, accounts):
        seen = []

        def perform(chunk: Chunk) -> list[Outcome]:
            seen.append([step.account for step in chunk.steps])
            return does_all(chunk)

        start_close()
        Step.objects.filter(account=accounts[5], kind="INVOICE").update(priority=1)
        module = Module(perform, batch=3)
        while module.work():
            pass

        assert [len(chunk) for chunk in seen] == [3, 3, 1]
        assert seen[0] == [accounts[5], accounts[0], accounts[1]]

    def test_nothing_ready_is_nothing_done(self, db):
        assert Module(does_all).work() == 0
        assert charging(does_all).work() == 0


@pytest.mark.django_db
class TestRetries:
    @pytest.mark.parametrize(
        ("attempts", "seconds"), [(1, 30), (2, 60), (3, 120), (7, 1920), (8, 3600), (30, 3600)]
    )
    def test_wait_twice_as_long_each_time_up_to_an_hour(self, attempts, seconds, monkeypatch):
        monkeypatch.setattr("random.random", lambda: 1.0)

        assert runner.retry_delay(attempts) == timedelta(seconds=seconds)

    def test_come_back_at_different_times(self):
        delays = [runner.retry_delay(4) for _ in range(50)]

        assert len(set(delays)) > 40
        assert min(delays) >= timedelta(0)
        assert max(delays) <= timedelta(seconds=240)

    def test_end_after_eight_attempts_with_a_decision_and_block_what_follows(self, invoices):
        poison = invoices[0]
        module = Module(fails_on(poison.account))
        for attempt in range(1, 8):
            module.work()
            assert reread([poison])[0].attempts == attempt
        module.work()

        [step] = reread([poison])
        assert (step.state, step.attempts) == ("DEAD", 8)
        assert step.because == "ValueError: poison"
        assert Decision.objects.get(account=step.account).did == "DEAD"
        followers = Step.objects.filter(account=step.account).exclude(pk=step.pk)
        assert {(s.state, s.because) for s in followers} == {
            ("BLOCKED", "its invoice step gave up")
        }
        assert module.work() == 0

    def test_what_cannot_help_to_repeat_is_dead_at_once(self, invoices):
        Module(fails_on(invoices[0].account, error=gateways.Misconfigured("wrong key"))).work()

        [step] = reread(invoices[:1])
        assert (step.state, step.because) == ("DEAD", "Misconfigured: wrong key")


@pytest.mark.django_db(transaction=True)
class TestStepsThatTouchTheWorld:
    def test_are_leased_committed_and_worked_on_with_nothing_open(self, charges, settings):
        settings.STEP_LEASE_SECONDS = 45
        seen = []

        def perform(chunk: Chunk) -> list[Outcome]:
            assert not connection.in_atomic_block
            seen.extend(reread(chunk.steps))
            return does_all(chunk)

        assert charging(perform).work() == 7

        assert {(step.state, step.attempts) for step in seen} == {("RUNNING", 1)}
        assert len({step.lease_token for step in seen}) == 1
        with connection.cursor() as cursor:
            cursor.execute("SELECT now()")
            (now,) = cursor.fetchone()
        left = seen[0].lease_until - now
        assert timedelta(seconds=30) < left <= timedelta(seconds=45)
        assert {(step.state, step.lease_token) for step in reread(charges)} == {("DONE", None)}
        assert set(Step.objects.filter(kind="HOLD").values_list("state", flat=True)) == {"READY"}

    def test_of_a_worker_that_died_are_asked_about_again_by_the_next(self, charges):
        with pytest.raises(Killed):
            charging(raising(Killed())).work()
        assert sweeper.free_expired_leases(as_of=AS_OF) == 0
        let_leases_run_out()

        assert sweeper.free_expired_leases(as_of=AS_OF) == 7
        assert {step.state for step in reread(charges)} == {"UNKNOWN"}
        assert charging(does_all).work() == 7

        assert {(s.state, s.attempts, s.deaths) for s in reread(charges)} == {("DONE", 1, 1)}

    def test_a_worker_that_comes_back_too_late_writes_nothing(self, charges, caplog):
        def overtaken(chunk: Chunk) -> list[Outcome]:
            let_leases_run_out()
            sweeper.free_expired_leases(as_of=AS_OF)
            charging(lambda chunk: [done(s, "by the second") for s in chunk.steps]).work()
            return [done(step, "by the first") for step in chunk.steps]

        with caplog.at_level(logging.WARNING):
            charging(overtaken).work()

        assert {step.because for step in reread(charges)} == {"by the second"}
        assert Decision.objects.filter(act="CHARGE").count() == 7
        assert "7 outcomes came after their lease ran out" in caplog.text

    def test_nor_while_another_is_at_work_on_it(self, charges):
        def overtaken(chunk: Chunk) -> list[Outcome]:
            let_leases_run_out()
            sweeper.free_expired_leases(as_of=AS_OF)
            with pytest.raises(Killed):
                charging(raising(Killed())).work()
            return [done(step, "by the first") for step in chunk.steps]

        charging(overtaken).work()

        assert {step.state for step in reread(charges)} == {"RUNNING"}
        assert not Decision.objects.filter(act="CHARGE").exists()

    def test_nor_does_its_error_charge_whoever_has_the_step_now(self, charges):
        def overtaken(chunk: Chunk) -> list[Outcome]:
            let_leases_run_out()
            sweeper.free_expired_leases(as_of=AS_OF)
            Step.objects.filter(state="UNKNOWN").update(attempts=0)
            with pytest.raises(Killed):
                charging(raising(Killed())).work()
            raise ValueError("too late")

        Step.objects.filter(kind="CHARGE").exclude(pk=charges[0].pk).delete()
        charging(overtaken).work()

        [step] = reread(charges[:1])
        assert (step.state, step.attempts, step.last_error) == ("RUNNING", 1, "")

    def test_one_that_kills_its_worker_is_found_alone_and_dead_the_third_time(
        self, charges, monkeypatch
    ):
        monkeypatch.setattr(claiming, "SUSPECTS_TOGETHER", 3)
        poison = charges[4]
        seen = []

        def perform(chunk: Chunk) -> list[Outcome]:
            seen.append(len(chunk.steps))
            if poison in chunk.steps:
                raise Killed
            return does_all(chunk)

        module = charging(perform)
        while Step.objects.filter(kind="CHARGE", state__in=Step.OPEN).exists():
            with suppress(Killed):
                module.work()
            let_leases_run_out()
            sweeper.free_expired_leases(as_of=AS_OF)

        # All seven; then three at a time; of those with whom it was killed each alone; then the last one.
        assert seen == [7, 3, 3, 1, 1, 1, 1]
        assert (reread([poison])[0].state, reread([poison])[0].because) == (
            "DEAD",
            "its worker died 3 times",
        )
        others = Step.objects.filter(kind="CHARGE").exclude(pk=poison.pk)
        assert set(others.values_list("state", "attempts")) == {("DONE", 1)}

    def test_of_one_that_is_dead_what_follows_is_blocked(self, charges):
        Step.objects.filter(kind="CHARGE").update(deaths=2)
        for _ in charges:
            with pytest.raises(Killed):
                charging(raising(Killed())).work()
            let_leases_run_out()
            sweeper.free_expired_leases(as_of=AS_OF)

        assert set(Step.objects.filter(kind="HOLD").values_list("because", flat=True)) == {
            "its charge step gave up"
        }

    @pytest.mark.parametrize(("postpone", "state"), [(later, "READY"), (unknown, "UNKNOWN")])
    def test_waiting_for_the_world_is_not_an_attempt(self, charges, postpone, state):
        at = AS_OF + timedelta(minutes=5)

        charging(lambda chunk: [postpone(s, "wait", run_at=at) for s in chunk.steps]).work()

        assert {(s.state, s.attempts, s.run_at) for s in reread(charges)} == {(state, 0, at)}
        assert OrmQ.objects.filter(key="charge", lock=at).count() == 1

    def test_one_poison_account_costs_its_neighbours_nothing(self, charges):
        assert charging(fails_on(charges[3].account)).work() == 7

        poison, others = reread(charges)[3], reread(charges[:3] + charges[4:])
        assert {(step.state, step.attempts) for step in others} == {("DONE", 1)}
        assert (poison.state, poison.attempts) == ("READY", 1)
        assert poison.lease_token is None
        assert AS_OF <= poison.run_at <= AS_OF + timedelta(seconds=30)
        assert Step.objects.get(account=poison.account, kind="HOLD").state == "WAITING"

    @pytest.mark.parametrize("trouble", TROUBLE)
    def test_trouble_of_the_database_gives_the_leases_back_uncharged(self, charges, trouble):
        with pytest.raises(type(trouble)):
            charging(raising(trouble)).work()

        assert {(step.state, step.attempts) for step in reread(charges)} == {("UNKNOWN", 0)}

    def test_a_defect_of_the_runner_itself_leaves_the_leases_to_run_out(self, charges, monkeypatch):
        def broken(*_args, **_facts):
            raise LookupError("a defect")

        monkeypatch.setattr(runner, "_charge_an_attempt", broken)

        with pytest.raises(LookupError):
            charging(fails_on(charges[0].account)).work()

        assert reread(charges)[0].state == "RUNNING"

    def test_even_if_the_connection_was_cut(self, charges):
        def cut_off(chunk: Chunk) -> list[Outcome]:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            raise AssertionError("unreachable")

        with pytest.raises(OperationalError):
            charging(cut_off).work()

        assert {(step.state, step.attempts) for step in reread(charges)} == {("UNKNOWN", 0)}


@pytest.mark.django_db
class TestDrain:
    @pytest.fixture
    def modules(self, monkeypatch):
        modules = (Module(does_all, batch=3), Module(does_all, kind="HOLD", follows="CHARGE"))
        monkeypatch.setattr(pipeline, "STEPS", (*modules, charging(raising(Killed()))))

    def test_works_on_its_queue_alone_until_nothing_is_ready(self, invoices, modules):
        assert runner.drain("default", clock=lambda: AS_OF, until=lambda: False) == 7

        assert {step.state for step in reread(invoices)} == {"DONE"}

    def test_rings_for_the_rest_when_its_time_is_over(self, invoices, modules):
        OrmQ.objects.all().delete()
        looks = iter([False, True])

        assert runner.drain("default", clock=lambda: AS_OF, until=lambda: next(looks)) == 3

        assert Step.objects.filter(kind="INVOICE", state="READY").count() == 4
        assert OrmQ.objects.filter(key="default").exists()
