"""A backup of the whole database, and a restore from it, while the provider goes on as it was."""

import io
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta

from django.db import connection
from django.db.models import F
from django.db.models.functions import Now

from billing.models import GatewayGuard
from billing.payments import guard
from tests.emptying import TABLES

SEQUENCES = "SELECT schemaname || '.' || sequencename, last_value FROM pg_sequences"


class Backup:
    """Every row as it was committed at one instant; taken from any thread."""

    def __init__(self) -> None:
        self._rows: dict[str, bytes] = {}
        with closing(connection.copy()) as beside, beside.cursor() as cursor:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            cursor.execute(TABLES, [[]])
            for (table,) in cursor.fetchall():
                rows = io.BytesIO()
                cursor.copy_expert(f"COPY (SELECT * FROM {table}) TO STDOUT", rows)
                self._rows[table] = rows.getvalue()
            cursor.execute(SEQUENCES)
            self._sequences = cursor.fetchall()
            cursor.execute("COMMIT")

    def restore(self, *, aged: timedelta = timedelta(hours=1)) -> None:
        """The same database again, by its identity; and as much time has passed since the backup."""
        with connection.cursor() as cursor:
            cursor.execute("SET session_replication_role = replica")
            for table, rows in self._rows.items():
                cursor.execute(f"DELETE FROM {table}")
                cursor.copy_expert(f"COPY {table} FROM STDIN", io.BytesIO(rows))
            for name, last_value in self._sequences:
                cursor.execute(
                    "SELECT setval(%s, coalesce(%s, 1), %s)",
                    [name, last_value, last_value is not None],
                )
            cursor.execute("SET session_replication_role = DEFAULT")
        GatewayGuard.objects.update(checked_at=F("checked_at") - aged)


def looks_like_itself(*, checked_ago: timedelta = timedelta(0)) -> None:
    """The database we are in is the one that charged, as far as its own rows can tell."""
    GatewayGuard.objects.update(database_identity=guard.identity(), checked_at=Now() - checked_ago)


@contextmanager
def copy_of_the_database() -> Iterator["Copy"]:
    """A copy made now, as PostgreSQL makes them; `move_there` makes it the one we work on."""
    original = connection.settings_dict["NAME"]
    name = f"{original}_copy"
    _alone(original, f'CREATE DATABASE "{name}" TEMPLATE "{original}"')
    try:
        yield Copy(name)
    finally:
        connection.close()
        connection.settings_dict["NAME"] = original
        _alone(original, f'DROP DATABASE "{name}"')


class Copy:
    def __init__(self, name: str) -> None:
        self._name = name

    def move_there(self) -> None:
        connection.close()
        connection.settings_dict["NAME"] = self._name


def _alone(original: str, statement: str) -> None:
    """With nobody connected to either database."""
    connection.close()
    with connection._nodb_cursor() as cursor:
        cursor.execute(statement)
