"""
One PostgreSQL server per data folder, shared by every process of this installation.

Whoever finds it missing starts it, whoever leaves last stops it. Beside the folder `postgres` lie
`postgres.lock` (held while somebody starts or stops), `postgres.users` (held by every process that
uses the server: the kernel lets go of it even on `kill -9`), `postgres.log` and `postgres.socket`.
"""

import fcntl
import hashlib
import logging
import os
import shlex
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from multiprocessing.util import Finalize
from pathlib import Path

import psycopg2
from django.core.exceptions import ImproperlyConfigured
from psycopg2 import sql
from psycopg2.extensions import make_dsn

from config.embedded_postgres import folder
from config.embedded_postgres.account import Account, account_for
from config.embedded_postgres.folder import SUPERUSER, StartFailed, UnusableFolder
from config.embedded_postgres.programs import binaries, run

logger = logging.getLogger(__name__)

PORT = "5432"
# sockaddr_un holds 108 bytes on Linux and 104 on macOS, the closing zero included.
LONGEST_SOCKET_PATH = 100
PROCESSES = Path("/proc")
# Crash recovery replays at most max_wal_size of log: minutes on a slow disk.
START_TIMEOUT_SECONDS = 300
STOP_TIMEOUT_SECONDS = 60
# Processes of a killed server end with their statement; until then the folder is not free.
ORPHANS_TIMEOUT_SECONDS = 30
# Between a server's first and last breath its socket may be absent.
SILENCE_TIMEOUT_SECONDS = 10

TUNING = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "256MB",
    "work_mem": "16MB",
    "max_wal_size": "2GB",
    # Web, workers and tests together; each costs little until it is used.
    "max_connections": "200",
    # A transaction left open holds its row locks: nobody else could charge that account.
    "idle_in_transaction_session_timeout": "60s",
}
# For tests only: a power cut loses commits, or the whole database.
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

# Which servers this process uses: data folder -> the open lock on its `.users`. A forked child
# shares that lock and may outlive us, so it is only ever closed, never unlocked.
_joined: dict[Path, int] = {}


@dataclass(frozen=True, kw_only=True)
class Server:
    """The server of one data folder, running or not. `data_dir` must be resolved."""

    data_dir: Path
    fsync: bool = True

    @cached_property
    def socket_dir(self) -> Path:
        """Where clients find the server: beside the data, or under /tmp where that is too long."""
        beside = self._beside(".socket")
        if len(bytes(beside / f".s.PGSQL.{PORT}")) < LONGEST_SOCKET_PATH:
            return beside
        digest = hashlib.sha256(bytes(self.data_dir)).hexdigest()[:16]
        # Not gettempdir(): every process must arrive at the same folder, whatever its TMPDIR.
        return Path("/tmp") / f"month-close-{digest}"  # noqa: S108 - its owner is verified

    def join(self) -> None:
        """Count this process among the server's users, once, until it exits; wait out a stop.

        Raises ImproperlyConfigured when somebody else owns the socket's folder.
        """
        if self.data_dir not in _joined:
            lock = self._open_lock(".users")
            fcntl.flock(lock, fcntl.LOCK_SH)
            if _joined.setdefault(self.data_dir, lock) == lock:
                # Unlike atexit: in multiprocessing's children too, and after our own have ended.
                Finalize(None, self.leave, exitpriority=-100)
            else:
                os.close(lock)
        if self.socket_dir.exists():
            self._verify_socket_dir(account_for(data_dir=self.data_dir))

    def leave(self) -> None:
        """Stop counting this process; the last one out stops the server."""
        lock = _joined.pop(self.data_dir, None)
        if lock is None:
            return
        os.close(lock)
        if not self.data_dir.exists():
            return
        with suppress(BlockingIOError), self._lock(".lock"), self._lock(".users", fcntl.LOCK_NB):
            if self.is_running():
                self._stop()

    def ensure_running(self, *, database: str) -> None:
        """Return when the server answers and holds `database`, whatever that takes.

        Raises ImproperlyConfigured when the folder cannot be used, StartFailed when PostgreSQL fails.
        """
        with self._lock(".lock"):
            account = account_for(data_dir=self.data_dir)
            folder.refuse_unusable(data_dir=self.data_dir, account=account)
            began = time.monotonic()
            while True:
                if not self.is_running():
                    self._start(account)
                try:
                    return self._create_missing(database)
                except psycopg2.OperationalError as error:
                    if time.monotonic() - began > _patience_seconds(error):
                        raise
                    time.sleep(0.1)

    def is_running(self) -> bool:
        """Say whether a PostgreSQL serves this folder, whoever started it."""
        try:
            pid = int((self.data_dir / "postmaster.pid").read_text().split("\n")[0])
        except (FileNotFoundError, ValueError):
            return self._answers()
        # The pid may say nothing: it may be that of another container.
        return self._is_our_postmaster(pid) or self._answers()

    def _is_our_postmaster(self, pid: int) -> bool:
        """Tell our server from a stranger who was given its pid after a crash."""
        if not PROCESSES.exists():  # macOS
            return self._pg_ctl("status", account=account_for(data_dir=self.data_dir)) is None
        try:
            arguments = (PROCESSES / f"{pid}/cmdline").read_text(errors="replace").split("\0")
        except OSError:
            return False
        if Path(arguments[0]).name not in {"postgres", "postmaster"}:
            return False
        folders = [Path(value) for name, value in pairwise(arguments) if name == "-D"]
        # Started by hand it may name its folder in ways we cannot follow: then it counts as ours.
        return not any(named.is_absolute() and named != self.data_dir for named in folders)

    def _answers(self) -> bool:
        with closing(socket.socket(socket.AF_UNIX)) as client:
            return client.connect_ex(str(self.socket_dir / f".s.PGSQL.{PORT}")) == 0

    def _start(self, account: Account) -> None:
        try:
            self._prepare(account)
        except OSError as error:
            raise UnusableFolder(self.data_dir, error) from error
        options = TUNING | {"unix_socket_directories": str(self.socket_dir)}
        options |= {} if self.fsync else NOT_DURABLE
        words = " ".join(shlex.quote(f"--{name}={value}") for name, value in options.items())
        self._start_once_orphans_are_gone(words, account)
        logger.info("PostgreSQL serves %s", self.data_dir)

    def _prepare(self, account: Account) -> None:
        account.open_way_to(path=binaries() / "postgres")
        account.open_way_to(path=self.data_dir)
        if not folder.is_initialised(data_dir=self.data_dir):
            folder.initialise(data_dir=self.data_dir, account=account, fsync=self.fsync)
        folder.refuse_other_version(data_dir=self.data_dir, account=account)
        account.take_over(path=self.data_dir)
        self._prepare_socket_dir(account)
        self._beside(".log").touch(mode=0o600)
        account.take_over(path=self._beside(".log"))
        # No server runs: what the last one left behind can only be in the way.
        (self.data_dir / "postmaster.pid").unlink(missing_ok=True)
        for leftover in self.socket_dir.glob(".s.PGSQL.*"):
            leftover.unlink()

    def _prepare_socket_dir(self, account: Account) -> None:
        with suppress(FileExistsError):
            self.socket_dir.mkdir(mode=0o700)
        self._verify_socket_dir(account)
        account.take_over(path=self.socket_dir)

    def _verify_socket_dir(self, account: Account) -> None:
        """Refuse a socket folder that somebody else could have put their own server in."""
        status = self.socket_dir.lstat()
        private = stat.S_ISDIR(status.st_mode) and not stat.S_IMODE(status.st_mode) & 0o077
        if not private or status.st_uid not in {account.uid, 0}:
            raise ImproperlyConfigured(
                f"{self.socket_dir} must be a folder of user {account.uid} that nobody else may enter "
                "(0700): remove it, or set EMBEDDED_DB_DIR to another folder."
            )

    def _start_once_orphans_are_gone(self, options: str, account: Account) -> None:
        log = self._beside(".log")
        deadline = time.monotonic() + ORPHANS_TIMEOUT_SECONDS
        wait = ["-w", "-t", str(START_TIMEOUT_SECONDS)]
        while True:
            read_before = log.stat().st_size
            failure = self._pg_ctl("start", "-l", str(log), "-o", options, *wait, account=account)
            if failure is None:
                return
            said = log.read_bytes()[read_before:].decode(errors="replace")
            if "is still in use" not in said or time.monotonic() > deadline:  # pragma: no branch
                last = "\n".join((said + failure).splitlines()[-20:])
                raise StartFailed(f"PostgreSQL did not start; its log {log} ends:\n{last}")
            time.sleep(0.1)  # pragma: no cover - only while a killed server's backends outlive it

    def _stop(self) -> None:
        wait = ["-m", "fast", "-w", "-t", str(STOP_TIMEOUT_SECONDS)]
        failure = self._pg_ctl("stop", *wait, account=account_for(data_dir=self.data_dir))
        if failure is not None:
            logger.warning("PostgreSQL in %s did not stop: %s", self.data_dir, failure)

    def _pg_ctl(self, act: str, *options: str, account: Account) -> str | None:
        """Return what went wrong, or None."""
        result = run("pg_ctl", act, "-D", str(self.data_dir), *options, account=account)
        return None if result.returncode == 0 else result.stdout + result.stderr

    def _create_missing(self, database: str) -> None:
        dsn = make_dsn(host=str(self.socket_dir), port=PORT, user=SUPERUSER, dbname="postgres")
        with closing(psycopg2.connect(dsn)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT FROM pg_database WHERE datname = %s", [database])
                if cursor.rowcount == 0:
                    cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))

    @contextmanager
    def _lock(self, suffix: str, how: int = 0) -> Iterator[None]:
        lock = self._open_lock(suffix)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | how)
            try:
                yield
            finally:
                # Closing is not enough: a child forked meanwhile would keep the lock.
                fcntl.flock(lock, fcntl.LOCK_UN)
        finally:
            os.close(lock)

    def _open_lock(self, suffix: str) -> int:
        path = self._beside(suffix)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Linux refuses O_CREAT even to root on a file of another's in a folder like /tmp.
            create = 0 if path.exists() else os.O_CREAT
            return os.open(path, os.O_RDWR | os.O_NOFOLLOW | create, 0o600)
        except OSError as error:
            raise UnusableFolder(self.data_dir, error) from error

    def _beside(self, suffix: str) -> Path:
        return self.data_dir.with_name(self.data_dir.name + suffix)


def _patience_seconds(error: psycopg2.OperationalError) -> float:
    if "the database system is" in str(error):  # starting up, shutting down, recovering
        return START_TIMEOUT_SECONDS
    return 0 if "FATAL" in str(error) else SILENCE_TIMEOUT_SECONDS
