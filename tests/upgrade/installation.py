"""One installation that two codes share: its folder, its settings, its processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.hosts.stage import everything_below
from tests.storm.stage import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
INSIDE = Path(__file__).with_name("inside.py")
DEBIT_SECRET, STRIPE_SECRET = "debit-of-the-upgrade", "whsec_upgrade"
# Short, so that the charges of the killed are taken on while the others still work.
LEASE_SECONDS = 10
LATENCY_SECONDS = 1.0
PATIENCE_SECONDS = 120
STOP_SECONDS = 60
KEPT = ("PATH", "HOME", "LANG", "TMPDIR")
# A line of a log with what belongs to it, as config/logs.py and gunicorn write them.
RECORD = re.compile(r"^(?=\[?\d{4}-\d\d-\d\d )", re.MULTILINE)
ERROR = re.compile(r"\A.*\b(ERROR|CRITICAL)\b|^Traceback", re.MULTILINE)
# Only a change of a table takes such a lock.
MET_THE_MIGRATION = re.compile(r"deadlock detected.*AccessExclusiveLock", re.DOTALL)
MIGRATE_TRIES = 5


class Failed(Exception):
    """Something of it did not go as it must; the message says what."""


class Installation:
    """The folder, its settings, and whatever runs in it."""

    def __init__(self, folder: Path, old: Path) -> None:
        self.folder = folder
        self.codes = {"old": old, "new": ROOT}
        self.site = f"http://127.0.0.1:{free_port()}"
        self.provider = f"http://127.0.0.1:{free_port()}"
        self.debit_book = folder / "debit.sqlite3"
        self.sandbox_book = folder / "sandbox.sqlite3"
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def settings(self) -> dict[str, str]:
        """Of both codes alike: an upgrade changes none. What a code does not know it does not read."""
        return {
            "DJANGO_SETTINGS_MODULE": "config.settings.base",
            "EMBEDDED_DB_DIR": str(self.folder / "postgres"),
            "EMAIL_FILE_PATH": str(self.folder / "mail"),
            "EMAIL_URL": "",
            "DATABASE_URL": "",
            "SECRET_KEY": "of-the-upgrade",
            "LOG_LEVEL": "WARNING",
            "SITE_URL": self.site,
            "STEP_LEASE_SECONDS": str(LEASE_SECONDS),
            "CLUSTER_STOP_SECONDS": str(STOP_SECONDS),
            # The providers.
            "GATEWAYS": "sandbox,stripe,debit",
            "SANDBOX_BOOK": str(self.sandbox_book),
            "SANDBOX_URL": "",
            "SANDBOX_LATENCY_SECONDS": str(LATENCY_SECONDS / 4),
            "SANDBOX_SLOW_SECONDS": str(LATENCY_SECONDS * 3),
            "STRIPE_SECRET_KEY": "sk_test_upgrade",
            "STRIPE_API_BASE": self.provider,
            "STRIPE_WEBHOOK_SECRETS": STRIPE_SECRET,
            "DEBIT_BOOK": str(self.debit_book),
            "DEBIT_WEBHOOK_SECRETS": DEBIT_SECRET,
            # Collected at once: the days of the notice would be longer than the upgrade.
            "DEBIT_NOTICE_DAYS": "0",
        }

    # --- what ends by itself

    def manage(self, code: str, *words: str, exits: tuple[int, ...] = (0,)) -> str:
        """
        Run a command of manage.py to its end. Returns what it said.

        :raises Failed: if it ends with another code.
        """
        return self._to_its_end(code, ["manage.py", *words], exits=exits)

    def migrate(self, code: str) -> int:
        """
        Migrate, and again where a worker of the other code was in the way, as an operator would.

        Returns how often it was.
        """
        for refused in range(MIGRATE_TRIES):
            said = self.manage(code, "migrate", "--verbosity", "0", exits=(0, 1))
            if not ERROR.search(said):
                return refused
            if not MET_THE_MIGRATION.search(said):
                break
        raise Failed(f"{code} code: migrate:\n{said}")

    def inside(self, code: str, *words: str) -> str:
        """Run an act of inside.py to its end."""
        return self._to_its_end(code, ["-", *words], reads=INSIDE.read_bytes())

    def _to_its_end(
        self,
        code: str,
        words: list[str],
        *,
        exits: tuple[int, ...] = (0,),
        reads: bytes = b"",
    ) -> str:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.codes[code],
            env=self._environment(code),
            input=reads,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        said = done.stdout.decode(errors="replace")
        if done.returncode not in exits:
            raise Failed(f"{code} code: {' '.join(words)} ended with {done.returncode}:\n{said}")
        return said

    # --- what stays

    def start_cluster(self, code: str, name: str) -> None:
        self.start(code, name, "manage.py", "cluster")

    def start_site(self, code: str) -> None:
        bind = ("--bind", self.site.removeprefix("http://"))
        words = (
            "--workers",
            "1",
            "--threads",
            "8",
            "--no-control-socket",
            "--log-level",
            "warning",
        )
        self.start(code, f"site-{code}", "-m", "gunicorn", "config.wsgi", *bind, *words)

    def start_sweeper(self, code: str) -> None:
        """The timer, quicker than the minute that systemd would keep."""
        self.start(code, f"sweeper-{code}", "manage.py", "close_sweep", "--every", "5")

    def start_provider(self) -> None:
        """Outlives the upgrade, as a provider does. Of the new code: it is to know all that both ask for."""
        self.start(
            *("new", "provider", "manage.py", "fakestripe"),
            *("--port", self.provider.rpartition(":")[2]),
            *("--book", str(self.folder / "provider.sqlite3")),
            *("--webhook-url", f"{self.site}/webhooks/stripe/"),
            *("--webhook-secret", STRIPE_SECRET),
        )

    def start(self, code: str, name: str, *words: str) -> None:
        """Start a process that stays. Its name is also that of its host, and of its log."""
        with self.log(name).open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-u", *words],
                cwd=self.codes[code],
                env=self._environment(code, host=name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self, *names: str) -> None:
        """
        Tell them to end, as systemd does, and wait until they have.

        :raises Failed: if one does not, or not well.
        """
        for name in names:
            self.running[name].terminate()
        for name in names:
            code = self.running.pop(name).wait(STOP_SECONDS * 2)
            # The sweeper has no word for it, nor has a shell's "terminated".
            if code not in {0, -signal.SIGTERM}:
                raise Failed(f"{name} ended with {code} when it was told to stop")

    def interrupt(self, name: str) -> None:
        """Ctrl-C, and wait for its end."""
        self.running[name].send_signal(signal.SIGINT)
        self.running.pop(name).wait(STOP_SECONDS)

    def kill(self, name: str) -> int:
        """SIGKILL for one and everything below it, at once. Returns how many processes there were."""
        process = self.running.pop(name)
        tree = everything_below(psutil.Process(process.pid))
        for each in tree:
            with suppress(psutil.NoSuchProcess):
                each.suspend()
        for each in tree:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()
        return len(tree)

    def leave(self) -> None:
        """End everything, whatever state it is in."""
        for name in list(self.running):
            self.kill(name)

    def wait_for(
        self, happened: Callable[[], object], what: str, *, seconds: int = PATIENCE_SECONDS
    ) -> None:
        """
        Wait until something has happened.

        :raises Failed: if it does not in time, or a process that should stay has ended meanwhile.
        """
        deadline = time.monotonic() + seconds
        while not happened():
            for name, process in self.running.items():
                if process.poll() is not None:
                    raise Failed(f"{name} has ended with {process.poll()}, waiting for: {what}")
            if time.monotonic() > deadline:
                raise Failed(f"not within {seconds} s: {what}")
            time.sleep(0.1)

    # --- what was said

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def errors(self) -> Iterator[str]:
        """What processes have logged as an error, with the name of each."""
        for log in sorted(self.folder.glob("*.log")):
            if log.name == "postgres.log":
                continue
            for record in RECORD.split(log.read_text(errors="replace")):
                if ERROR.search(record):
                    yield f"{log.stem} has logged: {record.strip()[-3000:]}"

    def _environment(self, code: str, *, host: str = "") -> dict[str, str]:
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        return {**kept, **self.settings(), "HOST_NAME": host or f"{code}-by-hand"}


def as_json(path: Path, what: Any) -> Path:
    path.write_text(json.dumps(what))
    return path
