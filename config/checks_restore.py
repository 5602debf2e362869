"""The database check that notices what a restore that went wrong has left behind."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error

from billing.close.health import damage


def nothing_stands_twice(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **_kwargs: Any
) -> list[CheckMessage]:
    """Refuse tables that have lost their keys, and schedules that fire twice."""
    if not databases or "default" not in databases:
        return []
    return [Error(f"{words}.", id="config.R001") for words in damage.found()]
