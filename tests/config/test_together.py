"""Commands run as one end as one: on a signal, or when one of them ends."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from config import together as together_module
from config.together import STOP_SIGNALS, Together
from tests.config.real_cluster import wait_until

WAITS = """
import pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
pathlib.Path(sys.argv[1]).touch()
signal.pause()
"""
DEAF = """
import pathlib, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).touch()
while True:
    signal.pause()
"""
# Ends once the other stands, so that the other has something to be stopped in.
ENDS = """
import pathlib, sys, time
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.01)
sys.exit(int(sys.argv[2]))
"""


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def python(script: str, *arguments: object) -> list[str]:
    return [sys.executable, "-S", "-c", script, *map(str, arguments)]


def once(path: Path, signum: int) -> Thread:
    """Send ourselves a signal once the path is there."""

    def send() -> None:
        wait_until(path.exists, "the command standing")
        os.kill(os.getpid(), signum)

    sender = Thread(target=send)
    sender.start()
    return sender


@pytest.mark.parametrize("signum", STOP_SIGNALS)
def test_a_signal_stops_all(tmp_path: Path, signum: int) -> None:
    ready = tmp_path / "ready"
    together = Together({"It": python(WAITS, ready)}, say=pytest.fail)
    sender = once(ready, signum)

    assert together.run() == 0
    sender.join()
    assert together.children["It"].returncode == 0


@pytest.mark.parametrize(("code", "result"), [(0, 1), (3, 3)])
def test_the_end_of_one_ends_all_and_is_never_a_success(
    tmp_path: Path, code: int, result: int
) -> None:
    ready = tmp_path / "ready"
    said: list[str] = []
    together = Together(
        {"One": python(WAITS, ready), "Two": python(ENDS, ready, code)}, say=said.append
    )

    assert together.run() == result
    assert said == [f"Two ended with exit code {code}; stopping the rest."]
    assert together.children["One"].returncode == 0


def test_one_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together_module, "PATIENCE_SECONDS", 0.1)
    ready = tmp_path / "ready"
    said: list[str] = []
    together = Together({"It": python(DEAF, ready)}, say=said.append)
    sender = once(ready, signal.SIGTERM)

    assert together.run() == 0
    sender.join()
    assert said == ["It did not stop within 0.1 s; killing it."]
    assert together.children["It"].returncode == -signal.SIGKILL
