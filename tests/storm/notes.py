"""What happened how often, in a file that every process of the storm adds a line to."""

import os
from collections import Counter
from pathlib import Path

from django.conf import settings


def note(what: str, times: int = 1) -> None:
    """One write, so that a kill leaves a whole line or none."""
    if times:
        descriptor = os.open(_path(), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{times} {what}\n".encode())
        os.close(descriptor)


def counted() -> Counter[str]:
    counts: Counter[str] = Counter()
    for line in _path().read_text().splitlines() if _path().exists() else []:
        times, _, what = line.partition(" ")
        counts[what] += int(times)
    return counts


class Mark:
    """Says of a process, by a file, that it is at something just now."""

    def __init__(self, what: str) -> None:
        self._folder = settings.STORM_FOLDER / what

    def __enter__(self) -> None:
        self._folder.mkdir(exist_ok=True)
        (self._folder / str(os.getpid())).touch()

    def __exit__(self, *_error: object) -> None:
        (self._folder / str(os.getpid())).unlink(missing_ok=True)


def marked(what: str) -> set[int]:
    """The processes that are at it; also such as were killed at it."""
    folder = settings.STORM_FOLDER / what
    return {int(path.name) for path in folder.iterdir()} if folder.exists() else set()


def _path() -> Path:
    return Path(settings.STORM_FOLDER) / "notes"
