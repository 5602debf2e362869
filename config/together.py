"""Several commands run as one: the end of any, or a signal to us, ends them all."""

import signal
import subprocess
from collections.abc import Callable, Mapping
from time import monotonic, sleep
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL_SECONDS = 0.1
# A cluster lets its drains end, which takes up to 45 s; its own limit is 100 s (config.cluster).
PATIENCE_SECONDS = 120


class Together:
    """Starts the commands, by name, and stays until they are gone."""

    def __init__(self, commands: Mapping[str, list[str]], *, say: Callable[[str], object]) -> None:
        self.commands = commands
        self.say = say
        self.stopping = False
        self.children: dict[str, subprocess.Popen[bytes]] = {}

    def run(self) -> int:
        """Return 0 when told to stop, else the exit code of the command that ended first, never 0."""
        for signum in STOP_SIGNALS:
            signal.signal(signum, self.stop)
        for name, command in self.commands.items():
            # A session of its own: Ctrl-C is for us, and we pass it on in our words.
            self.children[name] = subprocess.Popen(command, start_new_session=True)  # noqa: S603 - our own
        ended = self._wait_for_an_end()
        self._stop_children()
        return 0 if ended is None else ended or 1

    def stop(self, _signum: int, _frame: FrameType | None) -> None:
        """Take note that we shall stop."""
        self.stopping = True

    def _wait_for_an_end(self) -> int | None:
        """The exit code of the command that ended first; None when we were told to stop."""
        while not self.stopping:
            for name, child in self.children.items():
                code = child.poll()
                if code is not None:
                    self.say(f"{name} ended with exit code {code}; stopping the rest.")
                    return code
            sleep(POLL_SECONDS)
        return None

    def _stop_children(self) -> None:
        for child in self.children.values():
            child.terminate()
        deadline = monotonic() + PATIENCE_SECONDS
        for name, child in self.children.items():
            try:
                child.wait(timeout=max(0, deadline - monotonic()))
            except subprocess.TimeoutExpired:
                self.say(f"{name} did not stop within {PATIENCE_SECONDS} s; killing it.")
                child.kill()
                child.wait()
