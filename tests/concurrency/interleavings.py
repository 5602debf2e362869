"""
Two acts on PostgreSQL in every order of their steps: not by luck, but one at a time, as told.

Each act runs in a thread with a connection of its own and stops at its points: before it takes a row lock,
before each COMMIT, before each call to a provider. A schedule is a row of turns, like ABAAB; whoever has
the turn goes on to its next point. One that waits for a lock of another (`pg_blocking_pids`) has had its
turn, and goes on by itself as soon as the other lets go. So a schedule gives the same every time, and what
is wrong with one can be looked at: the failure says its turns.
"""

import itertools
import math
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper

from billing.payments import inbound
from billing.payments.charges import calls
from notifications.dispatcher.window import Window

Act = Callable[[], Any]

# Longer than any wait here may take, the lock_timeout of the product among them.
PATIENCE_SECONDS = 20
# A step takes a millisecond or two; only then is it worth asking whether it waits.
A_STEP_SECONDS = 0.004
# Where all orders are more than this, as many as SAMPLE are drawn by seed: with fourteen pairs, more than
# a thousand schedules in all, in a minute and a half on two cores. `make evidence` plays 252 of each.
ALL_UP_TO = 252
SAMPLE = int(os.environ.get("INTERLEAVINGS", "72"))
# Of pairs in which more happens outside the locks than under them.
FEWER = SAMPLE // 4

_here = threading.local()


def point() -> None:
    """The act of this thread stops here until its turn; anybody else goes by."""
    if (session := getattr(_here, "session", None)) is not None:
        session.stop()


@contextmanager
def points() -> Iterator[None]:
    """Inside, commits and calls to the provider are points. (Locks are: see `Session`.)"""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (BaseDatabaseWrapper, "_commit"),
            (calls, "_answer_of"),
            (inbound, "_ask"),
            (Window, "begin"),
        ):
            patch.setattr(owner, name, _after_a_point(getattr(owner, name)))
        yield


def _after_a_point(real: Callable[..., Any]) -> Callable[..., Any]:
    def stop_and_go(*args: Any, **kwargs: Any) -> Any:
        point()
        return real(*args, **kwargs)

    return stop_and_go


class Session:
    """A thread with a connection, for one act after the other."""

    def __init__(self) -> None:
        self.result: Any = None
        self.points = 0
        self.is_over = True
        self.has_stopped = threading.Event()
        self._may_go = threading.Semaphore(0)
        self._acts: queue.Queue[Act | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.pid = self._do(lambda: _ask("SELECT pg_backend_pid()"))

    def begin(self, act: Act) -> None:
        """Bring the act before its first step."""
        self.has_stopped.clear()
        self.points, self.is_over = 0, False
        self._acts.put(act)
        assert self.has_stopped.wait(PATIENCE_SECONDS), "the act does not begin"

    def go(self) -> None:
        """Let it go on to its next point; it may wait for another's lock before that."""
        self.has_stopped.clear()
        self._may_go.release()

    def stop(self) -> None:
        self.points += 1
        self.has_stopped.set()
        assert self._may_go.acquire(timeout=PATIENCE_SECONDS), "it is never its turn"

    def end(self) -> None:
        self._acts.put(None)
        self._thread.join(PATIENCE_SECONDS)

    def _run(self) -> None:
        _here.session = self
        with connection.execute_wrapper(self._before_statement):
            while (act := self._acts.get()) is not None:
                try:
                    self.stop()
                    self.result = act()
                except BaseException as raised:  # noqa: BLE001 - looked at by the schedule
                    self.result = raised
                self.is_over = True
                self.has_stopped.set()
        connection.close()

    def _before_statement(self, execute, sql, params, many, context):
        if "FOR UPDATE" in sql or "FOR NO KEY UPDATE" in sql:
            self.stop()
        return execute(sql, params, many, context)

    def _do(self, act: Act) -> Any:
        self.begin(act)
        self.go()
        assert self.has_stopped.wait(PATIENCE_SECONDS), "a question is not answered"
        return self.result


@dataclass
class Played:
    """How a schedule went: its turns, what each act returned or raised, and how many points it had."""

    turns: str
    results: list[Any]
    points: list[int]
    waited: bool


class Deadlock(AssertionError):
    """Everybody waits for another."""


class Table:
    """Where sessions meet."""

    def __init__(self, players: int) -> None:
        self.sessions = [Session() for _ in range(players)]
        self._waited = False

    def play(self, acts: Sequence[Act], turns: Sequence[int]) -> Played:
        """
        Play one schedule; whoever is not through at its end goes on in order.

        :raises Deadlock: if all wait for each other.
        """
        self._waited = False
        for session, act in zip(self.sessions, acts, strict=True):
            session.begin(act)
        for turn in turns:
            self._go(self.sessions[turn])
        while not all(session.is_over for session in self.sessions):
            before = [session.points for session in self.sessions]
            for session in self.sessions:
                self._go(session)
            if before == [session.points for session in self.sessions] and not any(
                session.has_stopped.is_set() for session in self.sessions
            ):
                raise Deadlock(_named(turns))
        return Played(
            _named(turns),
            [session.result for session in self.sessions],
            [session.points for session in self.sessions],
            self._waited,
        )

    def leave(self) -> None:
        for session in self.sessions:
            session.end()

    def _go(self, session: Session) -> None:
        if session.is_over or not session.has_stopped.is_set():
            return
        session.go()
        self._settle(session)
        # What it let go of, another may have waited for.
        for other in self.sessions:
            self._settle(other)

    def _settle(self, session: Session) -> None:
        """Until it stands at its next point, is through, or waits for another."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not session.has_stopped.wait(A_STEP_SECONDS):
            if self._waits(session):
                self._waited = True
                return
            assert time.monotonic() < deadline, "it neither goes on nor waits for anybody"

    def _waits(self, session: Session) -> bool:
        others = [other.pid for other in self.sessions if other is not session]
        return bool(_ask("SELECT pg_blocking_pids(%s) && %s::int[]", [session.pid, others]))


def orders(
    first: int, second: int, *, seed: int, all_up_to: int = ALL_UP_TO, sample: int = SAMPLE
) -> Iterator[tuple[int, ...]]:
    """All orders in which two can take so many turns; a sample of them where they are many."""
    if math.comb(first + second, first) <= all_up_to:
        for places in itertools.combinations(range(first + second), first):
            yield tuple(int(place not in places) for place in range(first + second))
        return
    turns = [0] * first + [1] * second
    rng = random.Random(seed)
    drawn: set[tuple[int, ...]] = set()
    while len(drawn) < sample:
        rng.shuffle(turns)
        if (order := tuple(turns)) not in drawn:
            drawn.add(order)
            yield order


def _named(turns: Sequence[int]) -> str:
    return "".join("AB"[turn] for turn in turns)


def _ask(sql: str, params: Sequence[Any] = ()) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchone()[0]
