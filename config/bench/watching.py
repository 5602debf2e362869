"""Processor time and memory of processes, from /proc: Linux only, and no package needed."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
EVERY_SECONDS = 0.5


@dataclass
class Use:
    """What one process has used so far."""

    cpu_seconds: float
    memory_mb: float


def use(pid: int) -> Use | None:
    """Processor seconds, and resident memory in MB; None if the process is gone."""
    with suppress(OSError, ValueError, IndexError):
        fields = (PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()
        resident_pages = int((PROC / f"{pid}/statm").read_text().split()[1])
        return Use(
            cpu_seconds=(int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND,
            memory_mb=resident_pages * os.sysconf("SC_PAGESIZE") / 1e6,
        )
    return None


def descendants(roots: Iterable[int]) -> list[int]:
    """The processes below some processes, with them."""
    children: dict[int, list[int]] = {}
    for stat in PROC.glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found, look_at = [], list(roots)
    while look_at:
        pid = look_at.pop()
        found.append(pid)
        look_at += children.get(pid, [])
    return found


@dataclass
class Watch:
    """
    Samples groups of processes in a thread of its own, until told to stop.

    A process that ends counts with what it had used at the last look.
    """

    groups: Mapping[str, Callable[[], Iterable[int]]]
    seen: dict[str, dict[int, Use]] = field(default_factory=dict)
    # By group: (seconds since the start, the largest process's memory in MB).
    memory: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def __enter__(self) -> "Watch":
        self._started_at = time.monotonic()
        self._over = threading.Event()
        self._before = {name: self._look(name) for name in self.groups}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._sample()

    def cpu_seconds(self, group: str) -> float:
        """Used since the watch began."""
        before = self._before[group]
        return sum(
            now.cpu_seconds - (before[pid].cpu_seconds if pid in before else 0)
            for pid, now in self.seen[group].items()
        )

    def peak_mb(self, group: str) -> float:
        """Of the largest process of the group."""
        return max((mb for _, mb in self.memory[group]), default=0.0)

    def memory_by_quarter_mb(self, group: str) -> list[float]:
        """The peak in each quarter of the time: flat, if nothing leaks."""
        samples = self.memory[group]
        size = max(1, -(-len(samples) // 4))
        quarters = [samples[i : i + size] for i in range(0, len(samples), size)]
        return [round(max(mb for _, mb in quarter), 1) for quarter in quarters]

    def _run(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            self._sample()

    def _sample(self) -> None:
        for name in self.groups:
            uses = self._look(name)
            self.seen.setdefault(name, {}).update(uses)
            largest = max((each.memory_mb for each in uses.values()), default=0.0)
            at = time.monotonic() - self._started_at
            self.memory.setdefault(name, []).append((at, largest))

    def _look(self, name: str) -> dict[int, Use]:
        looked = {pid: use(pid) for pid in self.groups[name]()}
        return {pid: used for pid, used in looked.items() if used is not None}
