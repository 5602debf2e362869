"""
The views of the promises, always made of the files as they are.

No migration knows them, so one may change any column they read: `migrate` drops them before it
changes anything and makes them anew when it has changed everything. To change a promise, change its
file and run `migrate`.
"""

from pathlib import Path
from typing import Any

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor

from billing import waiting
from billing.books.promises import FOLDER, promises
from billing.money import EXPONENTS

# book_ is a promise, books_ is what several of them read.
STANDING = r"""
SELECT viewname FROM pg_views
 WHERE schemaname = current_schema() AND (viewname LIKE 'book\_%' OR viewname LIKE 'books\_%')
"""


def drop_before_migrating(*, using: str, plan: list[Any], **_signal: Any) -> None:
    """Drop the views, if there is anything to migrate."""
    if plan:
        with transaction.atomic(using=using):
            _drop(connections[using])


def create_after_migrating(*, using: str, plan: list[Any] | None = None, **_signal: Any) -> None:
    """Make the views anew, if the schema is the newest. `plan` None: a flush, nothing changed."""
    if plan is None or _is_behind(connections[using]):
        return
    with transaction.atomic(using=using):
        _drop(connections[using])
        _create(connections[using])


def standing(connection: BaseDatabaseWrapper) -> set[str]:
    """The names of the views that the database has."""
    with connection.cursor() as cursor:
        cursor.execute(STANDING)
        return {name for (name,) in cursor.fetchall()}


def _is_behind(connection: BaseDatabaseWrapper) -> bool:
    executor = MigrationExecutor(connection)
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def _drop(connection: BaseDatabaseWrapper) -> None:
    if names := standing(connection):
        with connection.cursor() as cursor:
            cursor.execute(f"DROP VIEW {', '.join(sorted(names))} CASCADE")


def _create(connection: BaseDatabaseWrapper) -> None:
    shared = {path.stem: path.read_text(encoding="utf-8") for path in _shared()}
    shared["books_minor_units"] = _minor_units()
    shared["books_limits"] = _limits()
    with connection.cursor() as cursor:
        for name, query in shared.items():
            cursor.execute(f"CREATE VIEW {name} AS {query}")
        for promise in promises():
            cursor.execute(f"CREATE VIEW {promise.name} AS {promise.query}")
            cursor.execute(f"COMMENT ON VIEW {promise.name} IS %s", [promise.sentence])


def _shared() -> list[Path]:
    return sorted((FOLDER / "shared").glob("*.sql"))


def _limits() -> str:
    """How long each state may last: as the table says, or as somebody has written down instead."""
    rows = ", ".join(f"('{kind}', {seconds})" for kind, seconds in waiting.LIMITS.items())
    return f"""
        SELECT kind, coalesce(own.seconds, limits.seconds) * interval '1 second' AS lasts
          FROM (VALUES {rows}) AS limits (kind, seconds) LEFT JOIN billing_waitinglimit own USING (kind)"""


def _minor_units() -> str:
    """The currencies whose minor unit is not a hundredth, from the one place that says so."""
    rows = ", ".join(f"('{currency}', {10**digits})" for currency, digits in EXPONENTS.items())
    return f"SELECT * FROM (VALUES {rows}) AS units (currency, minor_per_major)"
