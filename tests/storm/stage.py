"""The processes of a storm: started, started again when they end, and found by what they do."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import psutil
from django.conf import settings

from tests.storm.notes import note

CLUSTERS = ("cluster-1", "cluster-2")
SITE = "site"
PROVIDER = "provider"
# Of the requests to it. What it executes and does not answer, it has done.
PROVIDER_FAULTS = "drop_before=0.03,execute_then_drop=0.04,500=0.03,slow=0.03:2,409=0.02,429=0.02"
PYTHON = [sys.executable, "-u"]


class Stage:
    """Keeps the processes up, as systemd would: one that ends is started again a second later."""

    def __init__(self) -> None:
        manage = [*PYTHON, str(settings.BASE_DIR / "manage.py")]
        self.site = f"http://127.0.0.1:{free_port()}"
        provider_port = settings.STRIPE_API_BASE.rpartition(":")[2]
        self.commands = {
            PROVIDER: [
                *(
                    *manage,
                    "fakestripe",
                    "--port",
                    provider_port,
                    "--seed",
                    str(settings.STORM_SEED),
                ),
                *("--book", str(settings.STORM_FOLDER / "provider.sqlite3")),
                *("--webhook-url", f"{self.site}/webhooks/stripe/"),
                *("--webhook-secret", settings.STRIPE_WEBHOOK_SECRETS[0]),
            ],
            **{name: [*manage, "cluster", "--supervise"] for name in CLUSTERS},
            SITE: [
                *(*PYTHON, "-m", "gunicorn", "config.wsgi", "--bind", self.site[len("http://") :]),
                *("--workers", "2", "--threads", "2", "--no-control-socket"),
                *("--log-level", "warning", "--graceful-timeout", "3"),
            ],
            "clockwork": [*PYTHON, "-m", "tests.storm.clockwork"],
            "writer": [*PYTHON, "-m", "tests.storm.writer"],
            "customer": [*PYTHON, "-m", "tests.storm.writer", "customer"],
            "reader": [*PYTHON, "-m", "tests.storm.reader"],
        }
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._start_at: dict[str, float] = dict.fromkeys(self.commands, 0.0)

    def tend(self) -> None:
        """Start whatever is not running and should be."""
        for name, at in list(self._start_at.items()):
            process = self.running.get(name)
            if process is not None and process.poll() is not None:
                note(f"{name.split('-')[0]} started again")
                del self.running[name]
                self._start_at[name] = time.monotonic() + 1
            elif process is None and time.monotonic() >= at:
                self._start(name)

    def start(self, *names: str) -> None:
        """Start these, and keep the others waiting until they are tended to."""
        for name in names:
            if name not in self.running:
                self._start(name)

    def retire(self, name: str) -> None:
        """End one for good."""
        self._start_at.pop(name, None)
        if (process := self.running.pop(name, None)) is not None:
            _kill_group(process)

    def end(self, *, but: str = "") -> None:
        """End everything else, whatever state it is in."""
        for name in self.commands:
            if name != but:
                self.retire(name)

    def crashes(self) -> int:
        """How often a supervisor has started its cluster again."""
        return sum(_log(name).read_text().count("starting it again") for name in CLUSTERS)

    # --- who is who

    def cluster(self, name: str) -> dict[str, psutil.Process]:
        """The processes of one cluster by their role; empty while it is not standing."""
        with suppress(psutil.Error, KeyError, IndexError, ValueError):
            supervisor = psutil.Process(self.running[name].pid)
            main = supervisor.children()[0]
            sentinel = main.children()[0]
            forked = sorted(sentinel.children(), key=lambda child: child.create_time())
            roles = ["worker 1", "worker 2", "monitor", "pusher"]
            return {
                "supervisor": supervisor,
                "main": main,
                "sentinel": sentinel,
                **dict(zip(roles, forked, strict=True)),
            }
        return {}

    def site_workers(self) -> list[psutil.Process]:
        with suppress(psutil.Error, KeyError):
            return psutil.Process(self.running[SITE].pid).children()
        return []

    def postmaster(self) -> psutil.Process | None:
        with suppress(psutil.Error, OSError, ValueError):
            pid = int((Path(settings.EMBEDDED_DB_DIR) / "postmaster.pid").read_text().split()[0])
            process = psutil.Process(pid)
            return process if process.name() == "postgres" else None
        return None

    def backends(self) -> list[psutil.Process]:
        """The sessions of our clients, and not the server's own helpers."""
        server = self.postmaster()
        return [child for child in server.children() if _is_backend(child)] if server else []

    def _start(self, name: str) -> None:
        with _log(name).open("ab") as log:
            self.running[name] = subprocess.Popen(
                self.commands[name],
                cwd=settings.BASE_DIR,
                env={**os.environ, "STORM_SITE": self.site},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def _log(name: str) -> Path:
    path: Path = settings.STORM_FOLDER / f"{name}.log"
    path.touch()
    return path


def _is_backend(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "month_close" in " ".join(process.cmdline())
    return False


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def everything_below(process: psutil.Process) -> Iterator[psutil.Process]:
    with suppress(psutil.Error):
        yield process
        yield from process.children(recursive=True)
