"""The databases of a sweep: one with nothing but the customers, a copy after each act, a copy for each run."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from django.core.management import call_command
from django.db import connection, connections

PATIENCE_SECONDS = 20
SESSIONS = "SELECT pid FROM pg_stat_activity WHERE datname = %s"


@contextmanager
def family() -> Iterator[str]:
    """A migrated database, by its name; it and all that are named after it are gone afterwards."""
    name = f"crash_sweep_{os.getpid()}"
    create(name)
    try:
        use(name)
        call_command("migrate", verbosity=0)
        connections.close_all()
        yield name
    finally:
        _drop_family(name)


def create(name: str, *, like: str = "template0") -> None:
    """Make a database, anew if there is one: as a copy, if it is like another."""
    connections.close_all()
    with connection._nodb_cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        _wait_until_left(like, cursor)
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE {like}")


def use(name: str) -> None:
    """From now on this process works on that database."""
    connections.close_all()
    connection.settings_dict["NAME"] = name


def _wait_until_left(name: str, cursor) -> None:
    """A session ends a moment after its process; only a database without any can be copied."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        cursor.execute(SESSIONS, [name])
        if not (sessions := cursor.fetchall()):
            return
        assert time.monotonic() < deadline, f"somebody is still in {name}: {sessions}"
        time.sleep(0.005)


def _drop_family(name: str) -> None:
    connections.close_all()
    with connection._nodb_cursor() as cursor:
        # The underscore would stand for any character.
        cursor.execute(
            "SELECT datname FROM pg_database WHERE starts_with(datname, %s) OR datname = %s",
            [f"{name}_", name],
        )
        for (each,) in cursor.fetchall():
            cursor.execute(f"DROP DATABASE {each} WITH (FORCE)")
