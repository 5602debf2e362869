"""Keeps one cluster alive where no systemd or container runtime does: `make run` and the demo."""

import signal
import subprocess
from collections.abc import Callable
from time import sleep
from types import FrameType

from config.cluster import CRASHED

# Long enough that a cluster without a database does not spin, short enough not to be noticed.
PAUSE_SECONDS = 1


class Supervisor:
    """Runs `command` again whenever it ends badly, until told to stop."""

    def __init__(self, command: list[str], *, say: Callable[[str], object]) -> None:
        self.command = command
        self.say = say
        self.stopping = False
        self.child: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Return 0 once the command ended well or stopped on request, 70 if it crashed stopping."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self.forward)
        while True:
            self.child = subprocess.Popen(self.command)  # noqa: S603 - our own manage.py
            if self.stopping:
                self.child.terminate()
            code = self.child.wait()
            if code == 0 or self.stopping:
                return CRASHED if code == CRASHED else 0
            self.say(f"The cluster ended with exit code {code}; starting it again.")
            sleep(PAUSE_SECONDS)

    def forward(self, signum: int, _frame: FrameType | None) -> None:
        """Stop, and have the command stop: it gets the signal we got."""
        self.stopping = True
        if self.child is not None:
            self.child.send_signal(signum)
