"""
How far a command has come: a bar on a terminal, a plain line every few seconds elsewhere.

Always on standard error, so that standard output stays one document another program can read.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from billing.reports.pace import duration

# Often enough to see that it lives, seldom enough for a log.
SECONDS_BETWEEN_LINES = 5.0


class Bar(Protocol):
    """What a command tells of its progress."""

    def advance(self, steps: int = 1) -> None:
        """Count so many more steps as done."""

    def say(self, label: str) -> None:
        """Tell what is being done now."""


@contextmanager
def bar(
    label: str,
    *,
    total: int | None = None,
    unit: str = "",
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Bar]:
    """
    Show progress while the block runs, on standard error.

    `total` None: how much there is to do is not known. The unit "B" counts bytes and is shown in
    kB, MB and GB.
    """
    stream = stream or sys.stderr
    pace = Pace(total=total, unit=unit, clock=clock)
    if not stream.isatty():
        lines = Lines(label, pace=pace, stream=stream)
        yield lines
        lines.finish()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[pace]}"),
    )
    with Progress(*columns, console=Console(file=stream)) as progress:
        task = progress.add_task(label, total=total, pace="")
        yield TerminalBar(progress, task=task, pace=pace)


class Pace:
    """Steps done so far, and what they say about the rest."""

    def __init__(self, *, total: int | None, unit: str, clock: Callable[[], float]) -> None:
        self.total = total
        self.unit = unit
        self.clock = clock
        self.started_at = clock()
        self.done = 0

    def __str__(self) -> str:
        """For example: 42 %, 1.2 MB of 2.8 MB, 0.4 MB/s, 4 s left."""
        seconds = self.clock() - self.started_at
        rate = self.done / seconds if seconds > 0 else 0.0
        parts = [self._so_far(), f"{amount(rate, self.unit)}/s"]
        if self.total and rate and self.done < self.total:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        return ", ".join(parts)

    def _so_far(self) -> str:
        if not self.total:
            return amount(self.done, self.unit)
        share = min(100, 100 * self.done // self.total)
        return f"{share} %, {amount(self.done, self.unit)} of {amount(self.total, self.unit)}"


class Lines:
    """Plain lines, for logs and pipes."""

    def __init__(self, label: str, *, pace: Pace, stream: TextIO) -> None:
        self.label = label
        self.pace = pace
        self.stream = stream
        self.next_line_at = pace.started_at + SECONDS_BETWEEN_LINES

    def advance(self, steps: int = 1) -> None:
        self.pace.done += steps
        if self.pace.clock() >= self.next_line_at:
            self._write(f"{self.label}: {self.pace}")

    def say(self, label: str) -> None:
        self.label = label
        self._write(label)

    def finish(self) -> None:
        """Write what was done."""
        self._write(f"Done: {self.pace}")

    def _write(self, line: str) -> None:
        self.stream.write(f"{line}\n")
        self.stream.flush()
        self.next_line_at = self.pace.clock() + SECONDS_BETWEEN_LINES


class TerminalBar:
    """A bar that redraws itself."""

    def __init__(self, progress: Progress, *, task: TaskID, pace: Pace) -> None:
        self.progress = progress
        self.task = task
        self.pace = pace

    def advance(self, steps: int = 1) -> None:
        self.pace.done += steps
        self.progress.update(self.task, completed=self.pace.done, pace=str(self.pace))

    def say(self, label: str) -> None:
        self.progress.update(self.task, description=label)


def amount(value: float, unit: str) -> str:
    """Write a count with its unit: 1234 → "1,234 accounts", bytes as "1.2 MB"."""
    if unit != "B":
        return f"{value:,.0f} {unit}".rstrip()
    for prefix, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if value >= size:
            return f"{value / size:.1f} {prefix}"
    return f"{value:.0f} B"
