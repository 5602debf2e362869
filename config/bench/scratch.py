"""A database, a provider and a mail server of the benchmark's own; never the installation's."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg2
from django.conf import settings
from psycopg2 import sql

NAME = "month_close_bench"


@contextmanager
def place(
    *, latency_ms: float, rate: float | None, keep: Path | None = None
) -> Iterator[dict[str, str]]:
    """
    Set everything up, yield the environment in which it is used, and remove it all.

    With DATABASE_URL a database is created beside the one it names, and dropped; else an embedded
    server runs in the scratch folder.
    """
    # Told to stop, it leaves nothing behind either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="bench-close-", dir=keep))
    try:
        with _database(folder) as database, _processes(folder, latency_ms) as others:
            yield {
                **os.environ,
                **database,
                **others,
                "EMAIL_FILE_PATH": str(folder / "mail"),
                "SANDBOX_BOOK": str(folder / "unused.sqlite3"),
                "SANDBOX_RATE": str(rate or 0.0),
                "GATEWAYS": "sandbox",
                "STRIPE_SECRET_KEY": "",
                "DEBIT_WEBHOOK_SECRETS": "",
                "LOG_LEVEL": "WARNING",
            }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _database(folder: Path) -> Iterator[dict[str, str]]:
    if settings.DATABASES["default"]["ENGINE"] == "config.embedded_postgres":
        # The last of the processes that use the server stops it.
        yield {"EMBEDDED_DB_DIR": str(folder / "postgres")}
        return
    url = os.environ["DATABASE_URL"]
    name = f"{NAME}_{os.getpid()}"
    _execute(url, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield {
            "DATABASE_URL": urlunsplit(urlsplit(url)._replace(path=f"/{name}")),
            "EMBEDDED_DB_DIR": str(folder / "postgres"),
        }
    finally:
        _execute(url, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _execute(url: str, statement: sql.Composed) -> None:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)


@contextmanager
def _processes(folder: Path, latency_ms: float) -> Iterator[dict[str, str]]:
    manage = str(settings.BASE_DIR / "manage.py")
    book = str(folder / "book.sqlite3")
    module = ["-m", "billing.gateways.standins.sandbox_server", "--latency-ms", str(latency_ms)]
    with (
        _process([*module, "--book", book]) as (said, provider_pid),
        _process([manage, "mail_sink", "--port", "0"]) as (also_said, mail_pid),
    ):
        yield {
            "SANDBOX_URL": said,
            "EMAIL_URL": f"smtp://{also_said.rpartition(' ')[2]}",
            "BENCH_PROVIDER_PID": str(provider_pid),
            "BENCH_MAIL_PID": str(mail_pid),
        }


@contextmanager
def _process(arguments: list[str]) -> Iterator[tuple[str, int]]:
    """A process of ours; its first line, which says where it is, and its pid."""
    process = subprocess.Popen(  # noqa: S603 - our own modules
        [sys.executable, *arguments], cwd=settings.BASE_DIR, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None, "it was asked for"
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.terminate()
        process.wait()
