"""Servers of a test's own, in this process and in others."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from django.db import ConnectionHandler

from config.embedded_postgres.server import Server, _joined

ROOT = Path(__file__).resolve().parent.parent.parent

# No setting of the project's is needed, so none of its tables is.
PROLOGUE = """
import os, signal, sys, time
from pathlib import Path
import django
from django.conf import settings
settings.configure(
    DATABASES={"default": {
        "ENGINE": "config.embedded_postgres",
        "NAME": "month_close",
        "OPTIONS": {"data_dir": Path(sys.argv[1]), "fsync": len(sys.argv) > 2},
    }},
    DATABASE_MUST_BE_DURABLE=False,
)
django.setup()
from django.db import connection

def ask(sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0] if cursor.description else None

def say(words):
    print(words, flush=True)
"""


def connect(data_dir: Path, **options: Any) -> Any:
    """A connection of this process to the server of `data_dir`."""
    database = {
        "ENGINE": "config.embedded_postgres",
        "NAME": "month_close",
        "OPTIONS": {"data_dir": data_dir, "fsync": False, **options},
    }
    return ConnectionHandler({"default": database})["default"]


def ask(connection: Any, sql: str) -> Any:
    """The first value the database answers with, if it answers."""
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0] if cursor.description else None


def spawn(
    body: str, data_dir: Path, *, durable: bool = False, **arguments: Any
) -> subprocess.Popen[str]:
    """Another process, that runs `body` with `ask` and `say` at hand."""
    arguments.setdefault("executable", sys.executable)
    return subprocess.Popen(
        [sys.executable, "-c", PROLOGUE + body, str(data_dir), *["durable"] * durable],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **arguments,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What the process said until it ended, having ended well."""
    said, complained = process.communicate(timeout=60)
    assert process.returncode == 0, complained
    return said


def postmaster_pid(data_dir: Path) -> int:
    return int((data_dir / "postmaster.pid").read_text().split("\n")[0])


def kill_server(data_dir: Path) -> None:
    """kill -9, as the kernel does when memory is short; its idle backends end a moment later."""
    pid = postmaster_pid(data_dir)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))


def is_alive(pid: int) -> bool:
    """Not gone, and not a zombie that a container's init forgets to bury."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    return False


def wait_until(happened: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "It did not happen in time."
        time.sleep(0.02)


@contextmanager
def a_place() -> Iterator[Path]:
    """A folder with a short path; its servers and itself are gone afterwards."""
    place = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    try:
        yield place
    finally:
        for data_dir in [found.parent for found in place.rglob("postmaster.pid")]:
            lock = _joined.pop(data_dir, None)
            if lock is not None:
                os.close(lock)
            Server(data_dir=data_dir)._stop()
            shutil.rmtree(Server(data_dir=data_dir).socket_dir, ignore_errors=True)
        shutil.rmtree(place, ignore_errors=True)  # a killed test's initdb may still write
