"""What a database must promise before we trust it with money."""

import os
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import BaseDatabaseWrapper

# PostgreSQL 15: the oldest that has all the SQL we write (MERGE, NULLS NOT DISTINCT).
OLDEST_SERVER_VERSION = 150000
# With any of these off, a commit we told somebody about may be gone after a power cut.
DURABILITY = ("fsync", "full_page_writes", "synchronous_commit")

# Process and alias: a forked child connects anew, perhaps to another server.
_trusted: set[tuple[int, str]] = set()


class UnsafeDatabase(ImproperlyConfigured):
    """The database would lose, or could not keep, what we record in it."""


def refuse_unsafe_database(*, connection: BaseDatabaseWrapper, **_signal: Any) -> None:
    """Look at a database when this process first connects to it; raises UnsafeDatabase."""
    this = (os.getpid(), connection.alias)
    if this in _trusted:
        return
    try:
        _verify(connection)
        _trusted.add(this)
    finally:
        if this not in _trusted:
            # Left open, it would serve the next query unasked.
            connection.close()


def _verify(connection: BaseDatabaseWrapper) -> None:
    if connection.vendor != "postgresql":
        raise UnsafeDatabase(
            f"Database {connection.alias!r} is {connection.display_name}: the locks that guard money "
            "need PostgreSQL. Set DATABASE_URL to one, or leave it empty for the embedded one."
        )
    # The driver's own cursor: no test counts this query, no wrapper may refuse it.
    with connection.connection.cursor() as cursor:
        names = ["server_version_num", *DURABILITY]
        values = ", ".join(f"current_setting('{name}')" for name in names)
        cursor.execute(f"SELECT pg_backend_pid(), {values}")
        backend, version, *durability = cursor.fetchone()
    if int(version) < OLDEST_SERVER_VERSION:
        raise UnsafeDatabase(
            f"Database {connection.alias!r} is PostgreSQL {int(version) // 10000}: 15 or newer is "
            "needed. Set DATABASE_URL to a newer server."
        )
    # A pooler answers with a number of its own, and each transaction may meet another session.
    if backend != connection.connection.info.backend_pid and not settings.DATABASE_POOLED:
        raise UnsafeDatabase(
            f"Database {connection.alias!r} is reached through a pooler: set DATABASE_POOLED=true, or "
            "DATABASE_URL to the server itself."
        )
    off = [name for name, value in zip(DURABILITY, durability, strict=True) if value == "off"]
    if off and settings.DATABASE_MUST_BE_DURABLE:
        raise UnsafeDatabase(
            f"Database {connection.alias!r} runs with {', '.join(off)} off and would lose payments in "
            f"a power cut. Set {', '.join(f'{name} = on' for name in off)} in its postgresql.conf, "
            "or, for the embedded server, stop it and start it without the option fsync=False."
        )
