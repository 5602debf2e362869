"""A cluster is whole or gone, and the database decides who gets a doorbell."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import StringIO
from pathlib import Path
from threading import Barrier
from unittest.mock import Mock

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from django.db.models.functions import Now
from django_q.brokers import get_broker
from django_q.conf import Conf
from django_q.models import OrmQ, Schedule

from billing.workers import doorbell
from billing.workers.doorbell import UnknownQueue
from config import cluster as cluster_module
from config.cluster import CRASHED, SCHEDULES, SkipLockedBroker, parse_queues
from config.management.commands import cluster as command
from tests.config.real_cluster import RealCluster, queue_is_empty, wait_until

real_database = pytest.mark.django_db(transaction=True)


@pytest.fixture
def start(transactional_db: None, tmp_path: Path) -> Iterator[Callable[..., RealCluster]]:
    started: list[RealCluster] = []

    def start_cluster(*arguments: str, **environment: str) -> RealCluster:
        running = RealCluster(tmp_path / f"notes-{len(started)}", *arguments, **environment)
        started.append(running)
        return running

    yield start_cluster
    for running in started:
        running.destroy()


@pytest.fixture
def running(start: Callable[..., RealCluster]) -> RealCluster:
    standing = start("--workers", "2")
    standing.await_ready()
    return standing


class TestDeath:
    @pytest.mark.parametrize(
        "role", ["worker", "other worker", "monitor", "pusher", "sentinel", "main"]
    )
    def test_of_any_process_ends_all_of_them_with_an_error(
        self, running: RealCluster, role: str
    ) -> None:
        running.role(role).kill()

        killed_at = time.monotonic()
        code = running.exit_code()
        assert code == (-signal.SIGKILL if role == "main" else CRASHED)
        assert time.monotonic() - killed_at < 5

    def test_of_a_busy_worker_leaves_its_doorbell_for_later(
        self, running: RealCluster, tmp_path: Path
    ) -> None:
        running.ring("charge", "hold", "drain", str(tmp_path / "gate"))
        wait_until(lambda: running.has_noted("drain began"), "the task beginning")

        for worker in running.children[:2]:
            worker.kill()

        assert running.exit_code() == CRASHED
        assert OrmQ.objects.filter(key="charge", lock__gt=Now()).count() == 1

    def test_of_a_stopped_sentinel_during_shutdown_does_not_hang_the_main_process(
        self, running: RealCluster
    ) -> None:
        sentinel = running.sentinel
        sentinel.suspend()
        running.process.terminate()

        sentinel.kill()

        assert running.exit_code() == CRASHED

    def test_of_a_task_that_runs_out_of_time_is_a_crash(
        self, running: RealCluster, tmp_path: Path
    ) -> None:
        running.ring("charge", "hold", "drain", str(tmp_path / "never"), timeout=1)

        assert running.exit_code() == CRASHED

    def test_does_not_come_from_retiring_a_worker(self, running: RealCluster) -> None:
        retired = {worker.pid for worker in running.children[:2]}
        tasks = [f"task {number}" for number in range(2 * Conf.RECYCLE)]

        for task in tasks:
            running.ring("default", "note", task)

        wait_until(lambda: running.has_noted(*tasks), "every task")
        wait_until(lambda: not retired <= {one.pid for one in running.children}, "a new worker")
        running.ring("default", "note", "still here")
        wait_until(lambda: running.has_noted("still here"), "work after the change")
        assert running.process.poll() is None


class TestStop:
    @pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
    def test_is_graceful(self, running: RealCluster, signum: int) -> None:
        running.process.send_signal(signum)

        assert running.exit_code() == 0
        assert queue_is_empty()

    @pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
    def test_finishes_the_running_tasks_when_the_whole_group_is_told(
        self, running: RealCluster, tmp_path: Path, signum: int
    ) -> None:
        gate = tmp_path / "gate"
        for task in ("one", "two"):
            running.ring("default", "hold", task, str(gate))
        wait_until(lambda: running.has_noted("one began", "two began"), "both beginning")

        os.killpg(running.process.pid, signum)
        running.process.send_signal(signum)
        gate.touch()

        assert running.exit_code() == 0
        assert running.has_noted("one done", "two done")
        assert queue_is_empty()

    def test_hands_back_what_waits_in_memory(self, running: RealCluster, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        for task in ("one", "two"):
            running.ring("default", "hold", task, str(gate))
        wait_until(lambda: running.has_noted("one began", "two began"), "both beginning")
        for task in ("three", "four", "five", "six"):
            running.ring("default", "note", task)
        waiting = OrmQ.objects.filter(lock__lte=Now())
        wait_until(lambda: waiting.count() == 1, "the rest being claimed")

        running.process.terminate()
        wait_until(lambda: waiting.count() == 4, "all being handed back")
        gate.touch()

        assert running.exit_code() == 0
        assert not running.has_noted("three")

    def test_that_takes_too_long_is_a_crash(
        self, start: Callable[..., RealCluster], tmp_path: Path
    ) -> None:
        stuck = start("--workers", "2", CLUSTER_STOP_SECONDS="1")
        stuck.await_ready()
        stuck.ring("default", "hold", "drain", str(tmp_path / "never"))
        wait_until(lambda: stuck.has_noted("drain began"), "the task beginning")

        stuck.process.terminate()

        assert stuck.exit_code() == CRASHED

    def test_that_comes_while_starting_is_obeyed(self, start: Callable[..., RealCluster]) -> None:
        young = start("--workers", "2")
        wait_until(lambda: "Cluster:" in young.log.read_text(), "the announcement")
        wait_until(young.main.children, "the sentinel")

        young.process.terminate()

        assert young.exit_code() == 0


class TestDatabase:
    @pytest.fixture
    def closed_database(self) -> Iterator[Callable[[], None]]:
        name = connection.ops.quote_name(str(connection.settings_dict["NAME"]))

        def allow(*, connections: bool) -> None:
            # Said from another database: one's own cannot be closed.
            with connection._nodb_cursor() as cursor:
                cursor.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {connections}")

        def close() -> None:
            allow(connections=False)
            _end_other_connections()

        yield close
        allow(connections=True)

    def test_lost_ends_the_cluster(
        self, running: RealCluster, closed_database: Callable[[], None]
    ) -> None:
        closed_database()

        lost_at = time.monotonic()
        assert running.exit_code() == CRASHED
        assert time.monotonic() - lost_at < 5
        assert "lost its database" in running.log.read_text()

    def test_lost_by_a_worker_that_keeps_the_pusher_waiting_ends_the_cluster(
        self, running: RealCluster, tmp_path: Path, closed_database: Callable[[], None]
    ) -> None:
        gate = tmp_path / "gate"
        tasks = [f"task {number}" for number in range(6)]
        for task in tasks:
            running.ring("default", "hold", task, str(gate))
        waiting = OrmQ.objects.filter(lock__lte=Now())
        wait_until(lambda: waiting.count() == 1, "the queue in memory being full")

        closed_database()
        gate.touch()

        assert running.exit_code() == CRASHED

    def test_that_comes_back_is_served_again(self, start: Callable[..., RealCluster]) -> None:
        supervised = start("--workers", "1", "--supervise")
        supervised.ring("default", "note", "before")
        wait_until(lambda: supervised.has_noted("before") and queue_is_empty(), "work before")

        _end_other_connections()
        supervised.ring("default", "note", "after")

        wait_until(lambda: supervised.has_noted("after"), "work after")


def _end_other_connections() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


class TestLanes:
    def test_a_cluster_answers_its_own_and_no_other(
        self, start: Callable[..., RealCluster]
    ) -> None:
        mail = start("--workers", "1", "--queues", "email,default")
        mail.await_ready(processes=3)
        assert "Cluster: queues email, default; 1 workers." in mail.log.read_text()

        mail.ring("charge", "note", "charged")
        mail.ring("email", "note", "mailed")
        mail.ring(SCHEDULES, "note", "scheduled")

        wait_until(lambda: mail.has_noted("mailed", "scheduled"), "the queues it serves")
        wait_until(lambda: OrmQ.objects.count() == 1, "the acknowledgements")
        assert OrmQ.objects.filter(key="charge", lock__lte=Now()).exists()
        assert not mail.has_noted("charged")

    def test_are_read_from_a_list(self) -> None:
        assert parse_queues(" charge, email,charge ") == ("charge", "email")

    def test_are_all_of_them_unless_said(self) -> None:
        assert parse_queues("") == doorbell.queues()

    def test_must_exist(self) -> None:
        with pytest.raises(UnknownQueue, match="Unknown queue 'chrage'"):
            parse_queues("default,chrage")


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda text: monkeypatch.setenv(cluster_module.QUEUES_VARIABLE, text)


@pytest.mark.django_db
class TestBroker:
    def test_is_the_one_in_use(self) -> None:
        assert type(get_broker("charge")) is SkipLockedBroker

    def test_claims_the_oldest_first_for_the_length_of_the_lease(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Conf, "POLL", 0)
        newer = OrmQ.objects.create(key="charge", payload="new", lock=Now() - timedelta(minutes=1))
        older = OrmQ.objects.create(key="email", payload="old", lock=Now() - timedelta(minutes=2))
        broker = SkipLockedBroker()

        claims = [broker.dequeue() for _ in range(3)]

        assert claims == [[(older.pk, "old")], [(newer.pk, "new")], None]
        lease = timedelta(seconds=Conf.RETRY)
        assert OrmQ.objects.filter(lock__gt=Now() + lease - timedelta(seconds=30)).count() == 2

    def test_keeps_the_queue_and_is_due_at_once(self) -> None:
        pk = SkipLockedBroker("charge").enqueue("package")

        assert OrmQ.objects.get(lock__lte=Now()).key == "charge"
        assert SkipLockedBroker().dequeue() == [(pk, "package")]

    def test_leaves_other_queues_alone(
        self, monkeypatch: pytest.MonkeyPatch, queues: Callable[[str], None]
    ) -> None:
        monkeypatch.setattr(Conf, "POLL", 0)
        queues("email")
        SkipLockedBroker("charge").enqueue("package")

        assert SkipLockedBroker().dequeue() is None

    def test_acknowledged_is_gone(self) -> None:
        broker = SkipLockedBroker("charge")
        pk = broker.enqueue("package")

        broker.acknowledge(pk)

        assert queue_is_empty()

    def test_ends_its_process_when_the_database_is_lost(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broker = SkipLockedBroker()

        def lose() -> None:
            raise OperationalError("server closed the connection unexpectedly")

        monkeypatch.setattr(broker, "_claim", lose)

        with pytest.raises(SystemExit) as exit_info:
            broker.dequeue()
        assert exit_info.value.code == CRASHED


@real_database
@pytest.mark.concurrency
def test_two_brokers_share_every_doorbell_out_exactly_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Conf, "POLL", 0)
    filler = SkipLockedBroker("charge")
    doorbells = {filler.enqueue(f"package {number}") for number in range(200)}
    together = Barrier(2)

    def drain() -> list[int]:
        broker, claimed = SkipLockedBroker(), []
        together.wait()
        while claim := broker.dequeue():
            claimed += [pk for pk, _ in claim]
        connection.close()
        return claimed

    with ThreadPoolExecutor(2) as pool:
        first, second = [future.result() for future in [pool.submit(drain), pool.submit(drain)]]

    assert first
    assert second
    assert sorted(first + second) == sorted(doorbells)


class TestSupervised:
    @pytest.fixture
    def supervised(self, start: Callable[..., RealCluster]) -> RealCluster:
        supervised = start("--workers", "1", "--queues", "default", "--supervise")
        wait_until(supervised.main.children, "the cluster being started")
        return supervised

    def test_starts_again_after_a_crash(self, supervised: RealCluster) -> None:
        supervised.ring("default", "note", "first")
        wait_until(lambda: supervised.has_noted("first"), "work before the crash")
        crashed = supervised.main.children()[0]
        supervised.seen.update(supervised.main.children(recursive=True))

        crashed.kill()
        supervised.ring("default", "note", "second")

        wait_until(lambda: supervised.has_noted("second"), "work after the crash")
        assert supervised.main.children()[0].pid != crashed.pid
        assert "ended with exit code -9" in supervised.log.read_text()

    @pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
    def test_stops_gracefully(self, supervised: RealCluster, signum: int) -> None:
        supervised.ring("default", "note", "work")
        wait_until(lambda: supervised.has_noted("work"), "work")
        supervised.seen.update(supervised.main.children(recursive=True))

        os.killpg(supervised.process.pid, signum)

        assert supervised.exit_code() == 0

    def test_dies_with_its_supervisor(self, supervised: RealCluster) -> None:
        supervised.ring("default", "note", "work")
        wait_until(lambda: supervised.has_noted("work"), "work")
        supervised.seen.update(supervised.main.children(recursive=True))

        supervised.main.kill()

        assert supervised.exit_code() == -signal.SIGKILL


class TestCommand:
    @pytest.mark.django_db
    def test_syncs_the_schedules_says_what_it_serves_and_passes_the_exit_code_on(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        served = Mock(return_value=CRASHED)
        dies_with = Mock()
        monkeypatch.setattr(command, "run_cluster", served)
        monkeypatch.setattr(command, "die_with", dies_with)
        said = StringIO()

        with pytest.raises(SystemExit) as exit_info:
            call_command("cluster", queues="email", workers=3, supervised_by=1234, stdout=said)

        assert exit_info.value.code == CRASHED
        served.assert_called_once_with(queues=("email",), workers=3)
        dies_with.assert_called_once_with(1234)
        assert said.getvalue() == "Cluster: queues email; 3 workers.\n"
        assert Schedule.objects.filter(name="sweep").exists()

    @pytest.mark.django_db
    def test_serves_every_queue_unless_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        served = Mock(return_value=0)
        monkeypatch.setattr(command, "run_cluster", served)

        with pytest.raises(SystemExit):
            call_command("cluster")

        served.assert_called_once_with(queues=doorbell.queues(), workers=settings.WORKERS)

    def test_supervises_a_cluster_like_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        supervisor = Mock()
        supervisor.return_value.run.return_value = 0
        monkeypatch.setattr(command, "Supervisor", supervisor)

        with pytest.raises(SystemExit) as exit_info:
            call_command("cluster", "--supervise", queues="charge,email", workers=3)

        assert exit_info.value.code == 0
        arguments = "cluster --queues charge,email --workers 3 --supervised-by"
        assert arguments in " ".join(supervisor.call_args.args[0])

    def test_refuses_a_queue_that_does_not_exist(self) -> None:
        with pytest.raises(CommandError, match="Unknown queue 'chrage'"):
            call_command("cluster", queues="chrage")

    def test_refuses_to_run_without_workers(self) -> None:
        with pytest.raises(CommandError, match="at least 1, not 0"):
            call_command("cluster", workers=0)

    def test_refuses_a_name_that_would_fire_no_schedules(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Conf, "CLUSTER_NAME", "charge")

        with pytest.raises(CommandError, match="Unset Q_CLUSTER_NAME"):
            call_command("cluster")
