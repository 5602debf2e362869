"""The database check that notices what a restore that went wrong has left behind."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error
from django.db import connection

from billing.close.health import damage


def nothing_stands_twice(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **_kwargs: Any
) -> list[CheckMessage]:
    """Refuse tables that have lost their keys, and schedules that fire twice."""
    # `migrate` asks before there are any tables.
    if "default" not in (databases or ()) or not _has_tables():
        return []
    return [Error(f"{words}.", id="config.R001") for words in damage.found()]


def _has_tables() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('django_q_schedule') IS NOT NULL")
        (there,) = cursor.fetchone()
    return bool(there)
