"""A supervisor starts its command again until it ends well or is told to stop."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from config import supervisor as supervisor_module
from config.cluster import CRASHED
from config.supervisor import Supervisor
from tests.config.real_cluster import wait_until

FAILS_TWICE = """
import pathlib, sys
tries = pathlib.Path(sys.argv[1])
tries.open("a").write("x")
sys.exit(0 if len(tries.read_text()) == 3 else 70)
"""

WAITS_FOR_A_SIGNAL = """
import pathlib, signal, sys
code = int(sys.argv[2])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(code))
pathlib.Path(sys.argv[1]).touch()
while True:
    signal.pause()
"""


@pytest.fixture(autouse=True)
def own_signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(supervisor_module, "PAUSE_SECONDS", 0)
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def python(script: str, *arguments: object) -> list[str]:
    return [sys.executable, "-S", "-c", script, *map(str, arguments)]


def test_starts_its_command_again_until_it_ends_well(tmp_path: Path) -> None:
    said: list[str] = []

    code = Supervisor(python(FAILS_TWICE, tmp_path / "tries"), say=said.append).run()

    assert code == 0
    assert said == ["The cluster ended with exit code 70; starting it again."] * 2


@pytest.mark.parametrize("code", [0, CRASHED])
def test_passes_a_signal_on_and_returns_how_the_command_ended(tmp_path: Path, code: int) -> None:
    ready = tmp_path / "ready"
    supervisor = Supervisor(python(WAITS_FOR_A_SIGNAL, ready, code), say=pytest.fail)

    def tell_us_to_stop() -> None:
        wait_until(ready.exists, "the command standing")
        os.kill(os.getpid(), signal.SIGTERM)

    teller = Thread(target=tell_us_to_stop)
    teller.start()

    assert supervisor.run() == code
    teller.join()


def test_told_to_stop_between_two_commands_keeps_none_running(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    fails_then_waits = f"import os, sys\nif not os.path.exists({str(ready)!r}): sys.exit(70)\n"
    said: list[str] = []

    def stop(message: str) -> None:
        said.append(message)
        ready.touch()
        supervisor.forward(signal.SIGTERM, None)

    supervisor = Supervisor(
        python(fails_then_waits + WAITS_FOR_A_SIGNAL, tmp_path / "second", 0), say=stop
    )

    assert supervisor.run() == 0
    assert len(said) == 1
    assert supervisor.child is not None
    assert supervisor.child.returncode is not None


def test_told_to_stop_before_the_first_command_is_obeyed() -> None:
    supervisor = Supervisor(python("import time; time.sleep(60)"), say=pytest.fail)

    supervisor.forward(signal.SIGTERM, None)

    assert supervisor.run() == 0
