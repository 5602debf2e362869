"""The hosts and what runs on them: started, killed by pid, and gone in the end."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.hosts.network import Network, tail
from tests.hosts.postgres import Postgres

ROOT = Path(__file__).resolve().parent.parent.parent
MANAGE = [sys.executable, str(ROOT / "manage.py")]
DATABASE, PROVIDER = "database", "provider"
PROVIDER_PORT, SMTP_PORT = 12111, 1025
PATIENCE_SECONDS = 120
TEMPLATE = "template_of_close"


class Stage:
    """One network, one database server, one provider; workers come and go."""

    postgres: Postgres

    def __init__(self, place: Path, *, dead_after: int, lease: int) -> None:
        self.place = place
        self.dead_after, self.lease = dead_after, lease
        self.network = Network()
        self.processes: list[psutil.Process] = []
        self.of_host: dict[str, list[psutil.Process]] = {}
        self.pooler_port: int | None = None
        self.database = TEMPLATE

    def begin(self, **settings: str) -> None:
        """Make the database's host and the provider's, and start PostgreSQL with these settings."""
        self.network.add_host(DATABASE, 2)
        self.network.add_host(PROVIDER, 3)
        self.postgres = Postgres(self.place, self.network, DATABASE, **settings)
        self._note(DATABASE, self.postgres.process.pid)
        self.postgres.wait()

    # --- hosts

    def add_worker(self, name: str, number: int) -> None:
        """A host that is there from now on, and reaches the provider by its own loopback."""
        self.network.add_host(name, number)
        self.reach_provider(name)

    def reach_provider(self, host: str) -> None:
        here, there = "127.0.0.1", self.network.addresses[PROVIDER]
        self.run_on(
            host, "forward", f"{here}:{PROVIDER_PORT}", f"{there}:{PROVIDER_PORT}", module=True
        )

    def start_cluster(self, host: str, *, workers: int = 2, **settings: str) -> None:
        """What systemd would keep running on a host, with these settings besides."""
        command = [*MANAGE, "cluster", "--supervise", "--workers", str(workers)]
        self.start(host, "cluster", command, **settings)

    def kill(self, host: str) -> int:
        """Every process of a host, at once; how many there were."""
        tree = [
            each for process in self.of_host.pop(host, []) for each in everything_below(process)
        ]
        for each in tree:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        return len(tree)

    # --- the provider and the mail server

    def start_provider(self, *, latency_ms: int = 0) -> None:
        """Its book is the one of this close; each request takes so long."""
        faults = ["--faults", f"slow=1:{latency_ms / 1000}" if latency_ms else ""]
        book = ["--book", str(self.place / f"{self.database}.sqlite3")]
        port = ["--port", str(PROVIDER_PORT)]
        self.start(PROVIDER, "provider", [*MANAGE, "fakestripe", *port, *book, *faults])
        address = self.network.addresses[PROVIDER]
        self.run_on(
            PROVIDER,
            "forward",
            f"{address}:{PROVIDER_PORT}",
            f"127.0.0.1:{PROVIDER_PORT}",
            module=True,
        )
        mails = self.place / f"{self.database}.mails"
        mails.touch()
        self.run_on(PROVIDER, "mail_sink", address, str(SMTP_PORT), str(mails), module=True)

    def stop_provider(self) -> None:
        """It ends, and its book is whole on the disk."""
        self.kill(PROVIDER)

    # --- databases

    def create(self, database: str) -> None:
        """A copy of the template, and of the provider's book that belongs to it, to close."""
        self.postgres.ask(f"CREATE DATABASE {database} TEMPLATE {TEMPLATE}")
        for book in self.place.glob(f"{TEMPLATE}.sqlite3*"):
            shutil.copy(book, self.place / book.name.replace(TEMPLATE, database))
        self.database = database

    def ask(self, query: str, *parameters: object) -> list[tuple]:
        return self.postgres.ask(query, *parameters, database=self.database)

    def mails(self) -> list[str]:
        return (self.place / f"{self.database}.mails").read_text().splitlines()

    # --- processes

    def act(self, host: str, *words: str, pooled: bool = False) -> str:
        """One act of world.py on a host, to its end; what it said."""
        done = subprocess.run(
            [*self.network.inside(host), sys.executable, "-m", "tests.hosts.world", *words],
            cwd=ROOT,
            env=self.environment(host, pooled=pooled),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{words[0]} failed on {host}:\n{done.stderr[-3000:]}")
        return done.stdout

    def judge(self, seed: int, accounts: int) -> dict[str, Any]:
        document = self.act(DATABASE, "judge", str(seed), str(accounts))
        told: dict[str, Any] = json.loads(document.splitlines()[-1])
        mails = self.mails()
        told["violations"] += self._against_the_mail_server(mails)
        return told | {"mails": len(mails), "mails sent again": len(mails) - len({*mails})}

    def _against_the_mail_server(self, mails: list[str]) -> list[str]:
        """What says that it was sent has arrived; once or, as SMTP has it, again under the same Message-ID."""
        sent = self.ask("SELECT id, recipient FROM notifications_message WHERE state = 'SENT'")
        arrived = {mail.strip("<").partition("@")[0] for mail in mails}
        return [
            f"said to be sent to {to}, and is not there" for pk, to in sent if pk not in arrived
        ]

    def run_on(self, host: str, name: str, *words: str, module: bool = False) -> subprocess.Popen:
        """A program that stays: one of this package's modules, or one of manage.py's commands."""
        command = [sys.executable, "-u", "-m", f"tests.hosts.{name}"] if module else [*MANAGE, name]
        return self.start(host, name, [*command, *words])

    def environment(self, host: str, *, pooled: bool) -> dict[str, str]:
        """The settings of an installation on this host."""
        address = self.network.addresses[DATABASE]
        port = {"port": self.pooler_port} if pooled and self.pooler_port else {}
        kept = {
            name: os.environ[name]
            for name in ("PATH", "HOME", "LANG", "TMPDIR")
            if name in os.environ
        }
        return {
            **kept,
            "DATABASE_URL": self.postgres.url(address, self.database, **port),
            "DATABASE_POOLED": str(bool(port)),
            "DATABASE_DEAD_AFTER_SECONDS": str(self.dead_after),
            "STEP_LEASE_SECONDS": str(self.lease),
            "DJANGO_SETTINGS_MODULE": "config.settings.base",
            "HOST_NAME": host,
            "EMBEDDED_DB_DIR": str(self.place / "no-postgres"),
            "SECRET_KEY": "of-our-own-hosts",
            "STRIPE_SECRET_KEY": "sk_test_hosts",
            "STRIPE_API_BASE": f"http://127.0.0.1:{PROVIDER_PORT}",
            "EMAIL_URL": f"smtp://{self.network.addresses[PROVIDER]}:{SMTP_PORT}",
            "CLUSTER_STOP_SECONDS": "20",
        }

    def leave(self) -> None:
        """End everything."""
        for process in reversed(self.processes):
            for each in everything_below(process):
                with suppress(psutil.NoSuchProcess):
                    each.kill()
        self.network.remove()

    def start(self, host: str, name: str, command: list[str], **settings: str) -> subprocess.Popen:
        """Run a command on a host until it ends or is ended; its words are in the log of its name."""
        with self.log(host, name).open("ab") as log:
            process = subprocess.Popen(
                [*self.network.inside(host), *command],
                cwd=ROOT,
                env={**self.environment(host, pooled=True), **settings},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._note(host, process.pid)
        return process

    def log(self, host: str, name: str) -> Path:
        return self.place / f"{host}-{name}.log"

    def _note(self, host: str, pid: int) -> None:
        process = psutil.Process(pid)
        self.processes.append(process)
        self.of_host.setdefault(host, []).append(process)


def everything_below(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return []


def wait_for(
    happened: Callable[[], object], what: str, *, seconds: int = PATIENCE_SECONDS
) -> float:
    """How many seconds it took."""
    began = time.monotonic()
    while not happened():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.2)
    return time.monotonic() - began


def last_words(place: Path) -> str:
    """The ends of all logs, for whoever asks why it failed."""
    return "\n".join(
        f"--- {log.name}\n{tail(log)}" for log in sorted(place.glob("*.log")) if log.stat().st_size
    )
