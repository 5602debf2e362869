"""Network namespaces on a bridge, and what may happen to a cable."""

import os
import shutil
import subprocess
from pathlib import Path

NETWORK = "10.77.0."
MASK = "/24"
SWITCH = "switch"


class CannotRun(Exception):
    """What this needs is not there; the message says what, and how to get it."""


def require(*programs: str, packages: str) -> None:
    """:raises CannotRun: unless we are root, on Linux, with these programs, and may make namespaces."""
    if os.geteuid() != 0:
        raise CannotRun("only root can make network namespaces: run it with sudo")
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise CannotRun(f"{', '.join(missing)} is missing: apt-get install {packages}")
    probe = Network()
    try:
        probe.add_host("a", 2)
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip()
        raise CannotRun(f"network namespaces cannot be made here: {said}") from error
    finally:
        probe.remove()


class Network:
    """Hosts by name, each a namespace with an address and a cable to the switch."""

    def __init__(self) -> None:
        # Several may run on one machine.
        self._prefix = f"month-close-{os.getpid()}-"
        self._names: list[str] = []
        self.addresses: dict[str, str] = {}

    def add_host(self, name: str, number: int) -> None:
        """A host with the address of this number, connected to all others."""
        if not self._names:
            self._add_namespace(SWITCH)
            self._ip("-n", self._full(SWITCH), "link", "add", "bridge", "type", "bridge")
            self._ip("-n", self._full(SWITCH), "link", "set", "bridge", "up")
        self._add_namespace(name)
        inside, port = self._full(name), f"to-{name}"
        self._ip(
            *("link", "add", port, "netns", self._full(SWITCH)),
            *("type", "veth", "peer", "name", "eth0", "netns", inside),
        )
        self._ip("-n", self._full(SWITCH), "link", "set", port, "master", "bridge", "up")
        self._ip("-n", inside, "address", "add", f"{NETWORK}{number}{MASK}", "dev", "eth0")
        self._ip("-n", inside, "link", "set", "eth0", "up")
        self.addresses[name] = f"{NETWORK}{number}"

    def cut_off(self, name: str) -> None:
        """Pull its cable: nothing gets in or out, and nobody is told."""
        self._ip("-n", self._full(SWITCH), "link", "set", f"to-{name}", "down")

    def bring_back(self, name: str) -> None:
        """Plug the cable in again."""
        self._ip("-n", self._full(SWITCH), "link", "set", f"to-{name}", "up")

    def inside(self, name: str) -> list[str]:
        """The words that run a command on a host: it is exec'ed, so its pid is ours to kill."""
        return ["ip", "netns", "exec", self._full(name)]

    def remove(self) -> None:
        """Remove everything that was made, whatever state it is in."""
        for name in self._names:
            subprocess.run(["ip", "netns", "delete", self._full(name)], check=False)
        self._names.clear()

    def _add_namespace(self, name: str) -> None:
        self._ip("netns", "add", self._full(name))
        self._names.append(name)
        self._ip("-n", self._full(name), "link", "set", "lo", "up")

    def _full(self, name: str) -> str:
        return self._prefix + name

    @staticmethod
    def _ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""
