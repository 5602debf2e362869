"""
One provider process per folder, shared by every process that uses it.

Whoever finds it missing starts it, and it ends when the last of them is gone. In the folder lie
`provider.json` (where it is, and its keys), its book, `provider.users` (held by every process that uses
it: the kernel lets go of it even on `kill -9`), `provider.lock` (held while one is started) and its log.
"""

import fcntl
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

ADDRESS = "127.0.0.1"
MANAGE = Path(__file__).parents[4] / "manage.py"
START_TIMEOUT_SECONDS = 30
# It notices soon after its last user has gone.
END_TIMEOUT_SECONDS = 5
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Access:
    """Where the provider of a folder is, and what it accepts."""

    port: int
    secret_key: str
    webhook_secret: str

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{ADDRESS}:{self.port}"


class DoesNotStart(Exception):
    """The provider of a folder does not answer."""


# The open locks by which this process is a user of a folder's provider, for as long as it lives.
_used: dict[Path, int] = {}
# Those this process has started. They may outlive it, so nobody waits for them.
_started: list[subprocess.Popen[bytes]] = []


def access(folder: Path) -> Access | None:
    """The provider of a folder; none if none was ever set up there."""
    try:
        return Access(**json.loads((folder / "provider.json").read_text()))
    except FileNotFoundError:
        return None


def renew(folder: Path) -> Access:
    """Set up a provider with an empty book, on a port that is free now. The old book is gone."""
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder / "provider.lock"):
        _await_end(folder)
        for leftover in folder.glob("book.sqlite3*"):
            leftover.unlink()
        made = Access(
            port=_free_port(),
            secret_key=f"sk_test_{secrets.token_hex(12)}",
            webhook_secret=f"whsec_{secrets.token_hex(12)}",
        )
        written = folder / "provider.json.new"
        written.write_text(json.dumps(asdict(made)))
        written.replace(folder / "provider.json")
    return made


def use(folder: Path) -> None:
    """
    Make this process a user of the folder's provider until it exits, and start it if it is not there.

    :raises DoesNotStart: if it does not answer in time.
    """
    if folder not in _used:
        users = os.open(folder / "provider.users", os.O_RDWR | os.O_CREAT, 0o600)
        # Waits for one that is just ending.
        fcntl.flock(users, fcntl.LOCK_SH)
        _used[folder] = users
    with _lock(folder / "provider.lock"):
        there = access(folder)
        assert there is not None, f"no provider was set up in {folder}"
        if not _answers(there):
            _start(folder, there)


def leave_when_unused(  # pragma: no cover - in the provider's own process: see test_shared.py
    users: Path, leave: Callable[[], object]
) -> None:
    """Call `leave` once nobody uses the provider any more, from a thread of its own."""

    def watch() -> None:
        lock = os.open(users, os.O_RDWR | os.O_CREAT, 0o600)
        while True:
            time.sleep(POLL_SECONDS)
            try:
                # Kept until this process ends: who comes now waits for that.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            leave()
            return

    threading.Thread(target=watch, daemon=True).start()


def _start(folder: Path, there: Access) -> None:
    command = [
        *(sys.executable, str(MANAGE), "fakestripe"),
        *("--port", str(there.port), "--book", str(folder / "book.sqlite3")),
        *("--secret-key", there.secret_key, "--webhook-secret", there.webhook_secret),
        *("--users", str(folder / "provider.users")),
    ]
    log = folder / "provider.log"
    with log.open("w") as output:
        process = subprocess.Popen(  # noqa: S603 - our own manage.py
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    _started.append(process)
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if _answers(there):
            return
        time.sleep(0.05)
    process.kill()
    raise DoesNotStart(f"the payment provider did not start; {log} says: {log.read_text().strip()}")


def _answers(there: Access) -> bool:
    """Whether our provider is there: a stranger on its port does not know its key."""
    request = urllib.request.Request(  # noqa: S310 - an address of this machine
        f"{there.url}/v1/account", headers={"Authorization": f"Bearer {there.secret_key}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5):  # noqa: S310 - as above
            return True
    except OSError:
        return False


def _await_end(folder: Path) -> None:
    """Return when the provider that may still be there has noticed that nobody uses it."""
    there = access(folder)
    deadline = time.monotonic() + END_TIMEOUT_SECONDS
    while there is not None and _answers(there):
        if time.monotonic() > deadline:
            raise DoesNotStart(f"the payment provider in {folder} is in use by another process")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((ADDRESS, 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
