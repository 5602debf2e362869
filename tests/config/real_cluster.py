"""A real `manage.py cluster` on the database of the test, and the means to hurt it."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from django.conf import settings
from django.db import connection
from django_q.brokers import get_broker
from django_q.models import OrmQ
from django_q.tasks import async_task

# Generous, for a busy machine: it is only ever waited out by a test that fails.
DEADLINE_SECONDS = 30


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll `condition`; fail saying `what` did not happen."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_SECONDS} s"
        time.sleep(0.02)


class RealCluster:
    """The processes: `main` → `sentinel` → workers, monitor, pusher, forked in that order."""

    def __init__(self, notes: Path, *arguments: str, **environment: str) -> None:
        self.notes = notes
        self.log = notes.with_suffix(".log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(settings.BASE_DIR / "manage.py"), "cluster", *arguments],
                env=self.environment(environment),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.seen: set[psutil.Process] = {psutil.Process(self.process.pid)}

    @staticmethod
    def environment(extra: dict[str, str]) -> dict[str, str]:
        return {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "config.settings.test",
            "TEST_DATABASE_NAME": str(connection.settings_dict["NAME"]),
            **extra,
        }

    @property
    def main(self) -> psutil.Process:
        return psutil.Process(self.process.pid)

    @property
    def sentinel(self) -> psutil.Process:
        return self.main.children()[0]

    @property
    def children(self) -> list[psutil.Process]:
        forked = sorted(self.sentinel.children(), key=lambda child: child.create_time())
        self.seen.update(self.main.children(recursive=True))
        return forked

    def role(self, name: str) -> psutil.Process:
        """The process of that role, once all stand."""
        if name in ("main", "sentinel"):
            return getattr(self, name)
        return dict(
            zip(["worker", "other worker", "monitor", "pusher"], self.children, strict=True)
        )[name]

    def await_ready(self, processes: int = 4) -> None:
        wait_until(
            lambda: self.is_standing(processes), f"cluster standing up ({self.log.read_text()})"
        )
        self.ring("default", "note", "ready")
        wait_until(lambda: "ready" in self.lines(), f"first task ({self.log.read_text()})")
        wait_until(queue_is_empty, "acknowledgement of the first task")

    def is_standing(self, processes: int) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return bool(self.main.children()) and len(self.children) == processes

    def ring(self, queue: str, task: str, *arguments: str, **options: object) -> None:
        """Enqueue one of q_tasks, with our notes as its first argument."""
        func = f"tests.config.q_tasks.{task}"
        async_task(func, str(self.notes), *arguments, broker=get_broker(queue), **options)

    def lines(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    def has_noted(self, *lines: str) -> bool:
        return set(lines) <= set(self.lines())

    def exit_code(self) -> int:
        """Wait for the end; every process that was ever seen must be gone too."""
        code = self.process.wait(timeout=DEADLINE_SECONDS)
        wait_until(lambda: not self.survivors(), f"survivors of the cluster: {self.survivors()}")
        return code

    def survivors(self) -> list[psutil.Process]:
        alive = []
        for process in self.seen:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE:
                    alive.append(process)
        return alive

    def destroy(self) -> None:
        """Leave nothing behind, whatever the test did."""
        if self.process.poll() is None:
            self.seen.update(self.main.children(recursive=True))
        for process in self.survivors():
            # Killing one ends the others.
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(timeout=DEADLINE_SECONDS)
        wait_until(lambda: not self.survivors(), "killing what the test left")


def queue_is_empty() -> bool:
    """Everything was acknowledged."""
    return not OrmQ.objects.exists()
