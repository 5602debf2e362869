"""Kills by seed. Each kind comes as often as any other, in an order of the seed's."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import psutil
from django.db import Error, connection

from tests.storm.notes import marked
from tests.storm.stage import CLUSTERS, PROVIDER, Stage, everything_below

# For whom it is meant may not be there just now: a cluster that is starting, nobody who pays. Then
# another one's turn comes first.
PATIENCE_SECONDS = 1.5
# A payment takes a fraction of a second: who wants to meet one has to wait.
PATIENCE_FOR = {"kill -9 site worker": 8.0, "stop and continue a worker": 4.0}
# Longer than the lease of a step (settings.py): who wakes up finds another at work.
FROZEN_SECONDS = (5.3, 7.0)
# Who has woken lives so much longer at least: to find its leases gone, and say so.
WAKING_SECONDS = 1.5


class NobodyThere(Exception):
    """There is no such process at the moment."""


class Monkey:
    def __init__(self, stage: Stage, rng: random.Random) -> None:
        self.stage = stage
        self.rng = rng
        self.kills: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()
        # Nobody is harmed before then (time.monotonic()): else the frozen would die in their sleep.
        self.spares_until = 0.0
        self._frozen: list[tuple[float, list[psutil.Process]]] = []
        self._order: list[str] = []
        self.kinds: dict[str, Callable[[], None]] = {
            "kill -9 idle worker": lambda: self._kill(self._worker(busy=False)),
            "kill -9 busy worker": lambda: self._kill(self._worker(busy=True)),
            "kill -9 pusher": lambda: self._kill(self._role("pusher")),
            "kill -9 monitor": lambda: self._kill(self._role("monitor")),
            "kill -9 sentinel": lambda: self._kill(self._role("sentinel")),
            "kill -9 main": lambda: self._kill(self._role("main")),
            "kill -9 whole group": self._kill_group,
            "kill -9 clockwork": lambda: self._kill(self._process("clockwork")),
            "kill -9 writer": lambda: self._kill(self._process("writer")),
            "kill -9 provider": lambda: self._kill(self._process(PROVIDER)),
            "kill -9 site worker": lambda: self._kill(self._site_worker()),
            "kill -9 postgres backend": lambda: self._kill(self._one_of(self.stage.backends())),
            "kill -9 postmaster": lambda: self._kill(self.stage.postmaster()),
            "terminate all backends": self._terminate_backends,
            "stop and continue a worker": self._freeze_worker,
            "stop and continue a cluster": self._freeze_cluster,
            "term a cluster": lambda: self._role("supervisor").terminate(),
        }

    def strike(self, *, while_waiting: Callable[[], None]) -> None:
        """Do the next harm, waiting a little for its victim to be there."""
        kind = self._next()
        deadline = time.monotonic() + _patience(kind)
        while True:
            with suppress(NobodyThere, psutil.Error, ProcessLookupError):
                self.kinds[kind]()
                self.kills[kind] += 1
                return
            if time.monotonic() > deadline:
                self.missed[kind] += 1
                self._order.insert(self.rng.randint(0, len(self._order)), kind)
                kind = self._next()
                deadline = time.monotonic() + _patience(kind)
            while_waiting()
            self.thaw()
            time.sleep(0.02)

    def thaw(self, *, all_of_them: bool = False) -> None:
        """Let those go on whose time is over."""
        for entry in list(self._frozen):
            until, processes = entry
            if all_of_them or time.monotonic() > until:
                self._frozen.remove(entry)
                for process in processes:
                    with suppress(psutil.Error):
                        process.resume()

    def _next(self) -> str:
        if len(self._order) < len(self.kinds) // 2:
            # Before the last ones' turn: they may be those that are never there.
            self._order += self.rng.sample(sorted(self.kinds), len(self.kinds))
        return self._order.pop()

    # --- how

    def _kill(self, process: psutil.Process | None) -> None:
        if process is None:
            raise NobodyThere
        process.kill()

    def _kill_group(self) -> None:
        os.killpg(self._role("supervisor").pid, signal.SIGKILL)

    def _freeze_worker(self) -> None:
        wakes_at = self._freeze([self._charging()])
        self.spares_until = wakes_at + WAKING_SECONDS

    def _freeze(self, processes: list[psutil.Process]) -> float:
        """Returns when they wake."""
        for process in processes:
            process.suspend()
        wakes_at = time.monotonic() + self.rng.uniform(*FROZEN_SECONDS)
        self._frozen.append((wakes_at, processes))
        return wakes_at

    def _freeze_cluster(self) -> None:
        self._freeze(list(everything_below(self._role("supervisor"))))

    def _terminate_backends(self) -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
        except Error as error:
            raise NobodyThere from error
        finally:
            connection.close()

    # --- whom

    def _role(self, role: str) -> psutil.Process:
        for name in self.rng.sample(CLUSTERS, len(CLUSTERS)):
            if role in (found := self.stage.cluster(name)):
                return found[role]
        raise NobodyThere

    def _worker(self, *, busy: bool) -> psutil.Process:
        at_work = marked("busy")
        return self._one_of([w for w in self._workers() if (w.pid in at_work) == busy])

    def _charging(self) -> psutil.Process:
        """With leases in hand, which are somebody else's when it wakes."""
        charging = marked("charging")
        return self._one_of([w for w in self._workers() if w.pid in charging])

    def _workers(self) -> list[psutil.Process]:
        return [
            process
            for name in CLUSTERS
            for role, process in self.stage.cluster(name).items()
            if role.startswith("worker")
        ]

    def _site_worker(self) -> psutil.Process:
        """In the middle of a customer's payment."""
        paying = marked("paying")
        return self._one_of([w for w in self.stage.site_workers() if w.pid in paying])

    def _process(self, name: str) -> psutil.Process:
        if name not in self.stage.running:
            raise NobodyThere
        return psutil.Process(self.stage.running[name].pid)

    def _one_of(self, processes: list[psutil.Process]) -> psutil.Process:
        if not processes:
            raise NobodyThere
        return self.rng.choice(processes)


def _patience(kind: str) -> float:
    return PATIENCE_FOR.get(kind, PATIENCE_SECONDS)
