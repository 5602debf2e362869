"""The system checks about pgbouncer: what cannot work in transaction mode is refused before it is tried."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.db import connections

EMBEDDED = "config.embedded_postgres"


def pooler_fits_the_settings(
    app_configs: Sequence[AppConfig] | None, **_kwargs: Any
) -> list[CheckMessage]:
    """Refuse what needs a session of its own while DATABASE_POOLED says that there is none."""
    if not settings.DATABASE_POOLED:
        return []
    database = settings.DATABASES["default"]
    found: list[CheckMessage] = []
    if database["ENGINE"] == EMBEDDED:
        found.append(
            Error(
                "DATABASE_POOLED is set without DATABASE_URL: the embedded PostgreSQL has no pooler.",
                hint="Set DATABASE_URL to pgbouncer, or leave DATABASE_POOLED out.",
                id="config.P001",
            )
        )
    if "options" in database.get("OPTIONS", {}):
        found.append(
            Error(
                f"DATABASE_URL says options={database['OPTIONS']['options']!r}, which pgbouncer refuses.",
                hint="Set them for the role: ALTER ROLE … SET …, and leave them out of the URL.",
                id="config.P002",
            )
        )
    if not database.get("DISABLE_SERVER_SIDE_CURSORS"):
        found.append(
            Error(
                "Cursors on the server are not switched off, and need a session of their own.",
                hint="Set DATABASES['default']['DISABLE_SERVER_SIDE_CURSORS'] to True.",
                id="config.P003",
            )
        )
    return found


def pooled_sessions_end(
    app_configs: Sequence[AppConfig] | None,
    databases: Sequence[str] | None = None,
    **_kwargs: Any,
) -> list[CheckMessage]:
    """Warn where a client that vanishes in a transaction would keep its locks: we cannot say it behind a pooler."""
    if not settings.DATABASE_POOLED or "default" not in (databases or ()):
        return []
    with connections["default"].cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('idle_in_transaction_session_timeout'), quote_ident(current_user)"
        )
        timeout, role = cursor.fetchone()
    if timeout != "0":
        return []
    return [
        Warning(
            f"The role {role} has no idle_in_transaction_session_timeout: a worker that vanishes behind"
            " the pooler keeps its row locks.",
            hint=f"ALTER ROLE {role} SET idle_in_transaction_session_timeout ="
            f" '{settings.DATABASE_DEAD_AFTER_SECONDS}s'",
            id="config.P004",
        )
    ]
