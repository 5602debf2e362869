"""
A backup of the whole database, and its restore into a fresh one that then takes the name of the old.

Never into tables that are in use: `pg_restore --clean` cannot drop partitions, goes on after its errors, and leaves
rows twice and tables without keys, while whoever is still connected writes between them. Into a fresh database it
either succeeds whole or leaves everything as it was; the old one is kept under another name.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from django.core.management import call_command
from django.db import connection
from django.db.backends.utils import CursorWrapper
from django.db.utils import DatabaseError
from psycopg2 import sql

from config import schedules
from config.embedded_postgres.programs import binaries

# PostgreSQL cuts longer names off.
NAME_LENGTH = 63

SERVER = {"HOST": "PGHOST", "PORT": "PGPORT", "USER": "PGUSER", "PASSWORD": "PGPASSWORD"}
ENCRYPTION = ("sslmode", "sslrootcert", "sslcert", "sslkey")

Say = Callable[[str], object]


class ProgramFailed(Exception):
    """A program of PostgreSQL failed, or is not there; the message says why. Nothing was changed."""


class CannotRestore(Exception):
    """Nothing was changed; the message says why."""


def back_up(path: Path) -> None:
    """
    Write a backup of the whole database to a file. An older one of that name stays until the new one is whole.

    :raises ProgramFailed: if pg_dump fails; then nothing of the new one is left.
    """
    unfinished = path.with_name(f"{path.name}.part")
    try:
        _run("pg_dump", "--format=custom", f"--file={unfinished}", database=_name())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def restore(path: Path, *, say: Say) -> str:
    """
    Put the backup in the place of the database, which is kept. Returns the name that it is kept under.

    Whoever is connected is disconnected, and finds the restored database when they connect anew.

    :raises CannotRestore: if the backup cannot be put in its place; then the database is as it was.
    :raises ProgramFailed: if pg_restore cannot restore it whole; the same.
    """
    name = _name()
    # Also starts the embedded server.
    connection.ensure_connection()
    _run("pg_restore", "--list", str(path))
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYYMMDD_HH24MISS')")
        (stamp,) = cursor.fetchone()
    fresh, kept = (_named(name, f"{word}_{stamp}") for word in ("restored", "before"))
    _create(fresh, like=name)
    try:
        say(f"Restoring {path} into {fresh}")
        _run(
            "pg_restore",
            *("--exit-on-error", "--no-owner", "--no-privileges"),
            *(f"--jobs={os.cpu_count() or 1}", f"--dbname={fresh}", str(path)),
        )
        with _connected_to(fresh):
            say("Migrating it, and making its schedules")
            call_command("migrate", verbosity=0, interactive=False, skip_checks=True)
            schedules.sync()
            with connection.cursor() as cursor:
                # Doorbells of then are about work of then.
                cursor.execute("TRUNCATE django_q_ormq")
        _swap(name, fresh, kept)
    except BaseException:
        _drop(fresh)
        raise
    return kept


def _name() -> str:
    return str(connection.settings_dict["NAME"])


def _named(name: str, ending: str) -> str:
    return f"{name[: NAME_LENGTH - len(ending) - 1]}_{ending}"


def _run(program: str, *arguments: str, database: str = "") -> None:
    is_ours = connection.settings_dict["ENGINE"] == "config.embedded_postgres"
    path = str(binaries() / program) if is_ours else program
    where = [f"--dbname={database}"] if database else []
    try:
        ran = subprocess.run(  # noqa: S603 - PostgreSQL's program, our words
            [path, *where, *arguments],
            env={**os.environ, **_environment()},
            capture_output=True,
            check=False,
            text=True,
        )
    except FileNotFoundError:
        raise ProgramFailed(f"{program} is not installed: it comes with PostgreSQL") from None
    if ran.returncode:
        raise ProgramFailed(f"{program} failed: {ran.stderr.strip()[-2000:]}")


def _environment() -> dict[str, str]:
    """Where the server is and how it is reached, as PostgreSQL's programs read it; a password is no argument."""
    said = connection.settings_dict
    words = {name: said[key] for key, name in SERVER.items() if said.get(key)}
    options = said.get("OPTIONS", {})
    words |= {f"PG{name.upper()}": options[name] for name in ENCRYPTION if options.get(name)}
    return {name: str(word) for name, word in words.items()}


@contextmanager
def _connected_to(name: str) -> Iterator[None]:
    """This process's connection leads to another database of the server."""
    before = connection.settings_dict["NAME"]
    connection.close()
    connection.settings_dict["NAME"] = name
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict["NAME"] = before


@contextmanager
def _at_the_server() -> Iterator[CursorWrapper]:
    """A connection beside all databases: whoever creates or renames one must not be in it."""
    with _connected_to("postgres"), connection.cursor() as cursor:
        yield cursor


def _create(name: str, *, like: str) -> None:
    try:
        with _at_the_server() as cursor:
            cursor.execute(
                "SELECT pg_encoding_to_char(encoding), datcollate, datctype FROM pg_database"
                " WHERE datname = %s",
                [like],
            )
            encoding, collate, ctype = cursor.fetchone()
            statement = (
                "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}"
            )
            literals = (sql.Literal(each) for each in (encoding, collate, ctype))
            cursor.execute(sql.SQL(statement).format(sql.Identifier(name), *literals))
    except DatabaseError as error:
        raise CannotRestore(
            f"{str(error).strip()}. The role of DATABASE_URL must be allowed to create databases"
            f" (ALTER ROLE … CREATEDB), and to connect to the database postgres"
        ) from error


def _drop(name: str) -> None:
    with _at_the_server() as cursor:
        cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))


def _swap(name: str, fresh: str, kept: str) -> None:
    """Rename both in one transaction, with nobody in the one that goes."""
    old, new, aside = (sql.Identifier(each) for each in (name, fresh, kept))
    with _at_the_server() as cursor:
        cursor.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(old))
        try:
            cursor.execute(DISCONNECT, {"names": [name, fresh]})
            cursor.execute(
                sql.SQL(
                    "BEGIN; ALTER DATABASE {old} RENAME TO {aside};"
                    " ALTER DATABASE {new} RENAME TO {old}; COMMIT"
                ).format(old=old, new=new, aside=aside)
            )
        except DatabaseError as error:
            cursor.execute("ROLLBACK")
            cursor.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(old))
            raise CannotRestore(str(error).strip()) from error
        # To be looked at, or to go back to.
        cursor.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(aside))


# A session that is told to end is gone a moment later.
DISCONNECT = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
 WHERE datname = ANY(%(names)s) AND pid <> pg_backend_pid()
"""
