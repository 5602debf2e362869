"""What the clusters under test are asked to run."""

import time
from pathlib import Path


def note(path: str, text: str) -> None:
    """Append one line, in one write."""
    with Path(path).open("a") as notes:
        notes.write(f"{text}\n")


def hold(path: str, text: str, gate: str) -> None:
    """Say that we began, wait for the gate to appear, say that we are done."""
    note(path, f"{text} began")
    while not Path(gate).exists():
        time.sleep(0.02)
    note(path, f"{text} done")
