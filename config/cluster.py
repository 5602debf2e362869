"""
The cluster that carries the doorbell: one broker for several queues, and a crash instead of a half-life.

Stock django-q2 replaces a dead worker and goes on. A worker killed while it waits dies holding the
lock of the queue, so the cluster that goes on looks alive and runs nothing (measured:
docs/decisions/0003). Here any death that is not a recycle ends every process of the cluster with exit
code 70, and whoever supervises it starts a fresh one. Nothing is lost by that: a doorbell carries
nothing, and a killed transaction is rolled back.
"""

import ctypes
import logging
import multiprocessing
import os
import queue
import signal
import sys
import uuid
from collections.abc import Callable
from time import monotonic, sleep
from types import FrameType, SimpleNamespace
from typing import Any, NoReturn

from django.db import connections
from django.db.models.functions import Now
from django_q import cluster as stock
from django_q import scheduler
from django_q.brokers.orm import ORM
from django_q.conf import Conf
from django_q.models import OrmQ

from accounts import clock
from billing.workers import doorbell, halting, heartbeats
from billing.workers.doorbell import SCHEDULES, UnknownQueue

logger = logging.getLogger(__name__)

# Exit code of a crashed cluster: EX_SOFTWARE of sysexits.h. Supervisors restart on anything but 0.
CRASHED = 70

# What a worker leaves in its timer when it retires (django_q.worker).
RECYCLED = -2

QUEUES_VARIABLE = "CLUSTER_QUEUES"
# Its name until the queues had theirs; still read where the new one is not set.
OLD_QUEUES_VARIABLE = "CLUSTER_LANES"

# How long a graceful stop may take before it becomes a crash. A drain lasts 45 s; systemd's
# TimeoutStopSec is 120 and should never have to act.
STOP_SECONDS = int(os.environ.get("CLUSTER_STOP_SECONDS", "100"))

# How soon the main process heeds a signal.
POLL_SECONDS = 0.1

# The database's clock on both sides, since the clocks of hosts differ; SKIP LOCKED, since clusters that
# fight for the same first rows make each other slower. MATERIALIZED: the claim must run just once.
CLAIM = """
    WITH due AS MATERIALIZED (
        SELECT id FROM django_q_ormq
        WHERE key = ANY(%(queues)s) AND lock <= statement_timestamp()
        ORDER BY lock, id
        LIMIT %(at_most)s
        FOR UPDATE SKIP LOCKED
    )
    UPDATE django_q_ormq AS doorbell
    SET lock = statement_timestamp() + %(lease_seconds)s * interval '1 second'
    FROM due
    WHERE doorbell.id = due.id
    RETURNING doorbell.id, doorbell.payload
"""


def parse_queues(text: str) -> tuple[str, ...]:
    """Read `charge,email`; nothing at all means every queue. Raises `UnknownQueue`."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in doorbell.queues():
            raise UnknownQueue(name)
    return names or doorbell.queues()


def queues_in_environment() -> str:
    """The queues that the environment says a cluster serves; empty: it says none."""
    return os.environ.get(QUEUES_VARIABLE) or os.environ.get(OLD_QUEUES_VARIABLE, "")


class SkipLockedBroker(ORM):  # type: ignore[misc]  # django_q is untyped
    """
    Queue in our database: `list_key` is the queue written to, `CLUSTER_QUEUES` the queues read from.

    `get_connection` closes nothing that still works, since CONN_MAX_AGE is None: it lets the next
    query test the connection, so a restarted database is met with a new one.
    """

    # When this process last said that it lives; None: not yet.
    beat_at: float | None = None

    def enqueue(self, package: str) -> int:
        """Leave `package` on this broker's queue, due at once by the database's clock."""
        row = self.get_connection().create(key=self.list_key, payload=package, lock=Now())
        return int(row.pk)

    def dequeue(self) -> list[tuple[int, str]] | None:
        """
        Claim what is due in one round trip, the oldest first, or wait a moment and return None.

        Raises `SystemExit` when the database cannot be had, or cannot be trusted. Only the pusher
        calls this; it dies of any error, but would sleep for ten seconds before the others do.
        """
        try:
            claimed = self._claim()
        except Exception as error:
            logger.exception("The cluster has lost its database")
            raise SystemExit(CRASHED) from error
        if claimed:
            return claimed
        sleep(Conf.POLL)
        return None

    def _claim(self) -> list[tuple[int, str]]:
        self.get_connection()
        served = parse_queues(queues_in_environment())
        self._beat(served)
        queues = [*served, SCHEDULES]
        with connections[Conf.ORM].cursor() as cursor:
            cursor.execute(
                CLAIM, {"queues": queues, "at_most": Conf.BULK, "lease_seconds": Conf.RETRY}
            )
            return [(int(pk), str(package)) for pk, package in cursor.fetchall()]

    def _beat(self, served: tuple[str, ...]) -> None:
        """
        Say that the cluster lives: whoever asks for doorbells is what makes it move.

        A sentinel or a worker that dies ends us too, so ours is the whole cluster's sign of life.
        """
        now = monotonic()
        if self.beat_at is None or now - self.beat_at >= heartbeats.BEAT_SECONDS:
            heartbeats.beat(queues=served, workers=Conf.WORKERS, is_first=self.beat_at is None)
            self.beat_at = now


def run_cluster(
    *, queues: tuple[str, ...], workers: int
) -> int:  # pragma: no cover - owns its process; every test of a real cluster starts here
    """Serve `queues` with `workers` processes until told to stop; return 0, or 70 after a crash."""
    os.environ[QUEUES_VARIABLE] = ",".join(queues)
    Conf.WORKERS = workers
    # No more doorbells in memory than workers: a lease runs from the claim, not from the start.
    Conf.QUEUE_LIMIT = workers
    # The workers look at it between batches; what they have begun is in their hands alone.
    halting.share()
    # Forked children must not share our connection.
    connections.close_all()
    # Every cluster keeps django-q's name, so the scheduler of each sees every schedule, whatever its
    # queues; and this broker lays what it fires on the queue that all clusters answer. So schedules run
    # as long as one cluster lives anywhere.
    schedule_by_the_databases_clock()
    cluster = CrashOnlyCluster(broker=SkipLockedBroker(list_key=SCHEDULES))
    stock.Sentinel = CrashOnlySentinel
    cluster.start()
    return cluster.watch()


def schedule_by_the_databases_clock() -> None:
    """
    Have django-q's scheduler ask the database what time it is.

    By its own clock, a host that is an hour ahead would put off each schedule by an hour for all others.
    """
    scheduler.timezone = SimpleNamespace(now=clock.now)
    scheduler.localtime = clock.now


def die_with(parent_pid: int) -> None:  # pragma: no cover - would bind the test runner; TestDeath
    """
    Have the kernel kill this process when its parent dies, and exit at once if it already has.

    Linux only. Elsewhere the children of a killed parent live on until they are stopped by hand.
    """
    if sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(CRASHED)


# The classes below, and what they call, own their process and its signals, out of reach of coverage:
# tests/config/test_cluster.py starts, kills and stops real clusters.


class CrashOnlyCluster(stock.Cluster):  # type: ignore[misc]  # pragma: no cover - owns its process
    """The main process: turns SIGTERM and SIGINT into a graceful stop, and dies with its sentinel."""

    def __init__(self, broker: SkipLockedBroker) -> None:
        super().__init__(broker)
        self.stopping = False
        signal.signal(signal.SIGCHLD, self.on_child_death)

    def on_child_death(self, _signum: int, _frame: FrameType | None) -> None:
        """Exit at once, even out of a call that waits for the dead sentinel."""
        ours = os.getpid() == self.pid and self.sentinel is not None
        if ours and self.sentinel.exitcode:
            os._exit(CRASHED)

    def sig_handler(self, _signum: int, _frame: FrameType | None) -> None:
        """
        Take note that we shall stop, once: Ctrl-C comes from the terminal and from a supervisor.

        Should the sentinel not even manage to crash in time, SIGALRM ends us, and all die with us.
        """
        if self.stopping or os.getpid() != self.pid:
            return
        self.stopping = True
        signal.alarm(STOP_SECONDS + 10)

    def watch(self) -> int:
        """
        Wait for the sentinel, telling it to stop when we are told; return our exit code.

        Not done in the signal handler: there it would wait for a dead sentinel, and the news of the
        death would wait for the handler.
        """
        told = False
        while self.sentinel.exitcode is None:
            if self.stopping and not told:
                told = True
                halting.tell()
                self.stop_event.set()
            self.sentinel.join(timeout=POLL_SECONDS)
        return CRASHED if self.sentinel.exitcode else 0


class CrashOnlySentinel(stock.Sentinel):  # type: ignore[misc]  # pragma: no cover - forked
    """Watches the workers, the monitor and the pusher, and ends them all when one dies."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _die_with_parent()
        super().__init__(*args, **kwargs, start=False)
        self.start()

    def start(self) -> None:
        """Guard the cluster until it is stopped."""
        # The main process alone decides when to stop: a SIGTERM sent to the whole process group
        # must not kill the workers in the middle of their work.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, self.on_child_death)
        signal.signal(signal.SIGALRM, self.on_stop_timeout)
        try:
            super().start()
        except Exception:
            logger.exception("The sentinel failed")
            self.crash("the sentinel failed")

    def spawn_process(self, target: Callable[..., None], *args: Any) -> Any:
        """Start a child that dies with us."""
        process: Any = stock.get_mp_context().Process(
            target=_run_child, args=(target, *args), name=f"Process-{uuid.uuid4().hex}"
        )
        process.daemon = True
        if target is stock.worker:
            process.daemon = Conf.DAEMONIZE_WORKERS
            process.timer = args[2]
            self.pool.append(process)
        process.start()
        return process

    def on_child_death(self, _signum: int, _frame: FrameType | None) -> None:
        """
        Crash the moment a child was killed or failed.

        A signal, for the guard loop may itself be waiting for a lock that the dead child held.
        """
        for child in self.children():
            if child.exitcode:
                self.crash(f"process {child.pid} ended with {child.exitcode}")

    def reincarnate(self, process: Any) -> None:
        """Replace a worker that retired after its share of tasks; any other death is a crash."""
        timer = getattr(process, "timer", None)
        if timer is None or int(timer.get_obj().value) != RECYCLED:
            self.crash(f"process {process.pid} died, or its task ran out of time")
        super().reincarnate(process)

    def stop(self) -> None:
        """Let the running tasks end, hand the waiting ones back; a crash if that takes too long."""
        signal.alarm(STOP_SECONDS)
        self.event_out.set()
        waiting = []
        while self.pusher.is_alive():
            waiting += self.take_waiting()
            self.pusher.join(timeout=0.1)
        waiting += self.take_waiting()
        OrmQ.objects.filter(pk__in=[task["ack_id"] for task in waiting]).update(lock=Now())
        super().stop()

    def take_waiting(self) -> list[dict[str, Any]]:
        """Empty the queue in memory, of what no worker has begun."""
        tasks = []
        try:
            while True:
                tasks.append(self.task_queue.get(block=False))
        except queue.Empty:
            return tasks

    def on_stop_timeout(self, _signum: int, _frame: FrameType | None) -> NoReturn:
        """End a graceful stop that did not end by itself."""
        self.crash(f"stopping took longer than {STOP_SECONDS} s")

    def crash(self, reason: str) -> NoReturn:
        """Kill every child and exit."""
        try:
            for child in self.children():
                child.kill()
            # Not the logger: this may run inside a signal handler that interrupted it.
            os.write(sys.stderr.fileno(), f"Cluster crashed: {reason}.\n".encode())
        finally:
            os._exit(CRASHED)

    def children(self) -> list[multiprocessing.Process]:
        """All processes started so far."""
        return [child for child in (*self.pool, self.monitor, self.pusher) if child is not None]


def _die_with_parent() -> None:  # pragma: no cover - runs forked; TestDeath
    parent = multiprocessing.parent_process()
    assert parent is not None, "only children of a cluster die with a parent"
    assert parent.pid is not None, "a parent that forked us has a pid"
    die_with(parent.pid)


def _run_child(
    target: Callable[..., None], *args: Any
) -> None:  # pragma: no cover - runs forked; every test of a real cluster
    _die_with_parent()
    # The sentinel's handlers are about the sentinel's children; a task may start processes of its own.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    target(*args)
