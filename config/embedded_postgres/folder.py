"""The data folder: what we refuse to touch, and how a new one comes to be."""

import glob
import logging
import os
import shutil
import tempfile
from pathlib import Path

import psycopg2
from django.core.exceptions import ImproperlyConfigured

from config.embedded_postgres.account import Account
from config.embedded_postgres.programs import major_version, run

logger = logging.getLogger(__name__)

SUPERUSER = "postgres"
# The built-in locale asks nothing of the machine, and knows upper and lower case of every script.
LOCALE = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")


class StartFailed(psycopg2.OperationalError):
    """PostgreSQL did not start; the message carries its last words and where the rest stands."""


class UnusableFolder(ImproperlyConfigured):
    """EMBEDDED_DB_DIR names a place where no database can be kept; the message says why."""

    def __init__(self, data_dir: Path, reason: object) -> None:
        super().__init__(f"EMBEDDED_DB_DIR {data_dir} cannot be used: {reason}.")


def refuse_unusable(*, data_dir: Path, account: Account) -> None:
    """Raise UnusableFolder when we must not write a database there."""
    if set(str(data_dir)) & set('"$`\\\n'):  # pg_ctl hands it to a shell
        raise UnusableFolder(data_dir, "no quotes, dollars, backslashes or line breaks, please")
    if not data_dir.exists():
        return
    if not data_dir.is_dir():
        raise UnusableFolder(data_dir, "it is not a folder")
    if (owner := data_dir.stat().st_uid) not in {account.uid, 0}:
        raise UnusableFolder(data_dir, f"it belongs to user {owner}: run as that user")
    if any(data_dir.iterdir()) and not is_initialised(data_dir=data_dir):
        raise UnusableFolder(data_dir, "it holds files, and they are not a PostgreSQL database")


def refuse_other_version(*, data_dir: Path, account: Account) -> None:
    """Raise UnusableFolder when another major version wrote it: PostgreSQL reads only its own."""
    theirs = (data_dir / "PG_VERSION").read_text().strip()
    ours = major_version(account=account)
    if theirs != ours:
        raise UnusableFolder(
            data_dir,
            f"it was written by PostgreSQL {theirs} and this is PostgreSQL {ours}: dump it with the "
            "old version, or set EMBEDDED_DB_DIR to a new folder",
        )


def is_initialised(*, data_dir: Path) -> bool:
    """Say whether a database is there, whole: `initialise` leaves no half of one."""
    return (data_dir / "PG_VERSION").exists()


def initialise(*, data_dir: Path, account: Account, fsync: bool) -> None:
    """Make a new database beside its place and move it there whole. Raises StartFailed."""
    logger.info("Creating a PostgreSQL database in %s", data_dir)
    for half_done in data_dir.parent.glob(glob.escape(data_dir.name) + ".init-*"):
        shutil.rmtree(half_done, ignore_errors=True)
    # A name of its own: the initdb of a killed process may still be writing to the last one.
    fresh = Path(tempfile.mkdtemp(prefix=f"{data_dir.name}.init-", dir=data_dir.parent))
    account.take_over(path=fresh)
    options = [*LOCALE, "--auth=trust"] if fsync else [*LOCALE, "--auth=trust", "--no-sync"]
    result = run("initdb", "-D", str(fresh), "-U", SUPERUSER, *options, account=account)
    if result.returncode != 0:
        raise StartFailed(f"initdb failed for {data_dir}:\n{result.stderr}")
    fresh.rename(data_dir)
    _sync_folder(data_dir.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
