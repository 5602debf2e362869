"""
How log lines are written: for people, or as JSON for machines (the setting LOG_FORMAT).

Thirty lines of our own rather than python-json-logger: what we need of it is one dict, and its fields are
ours (billing/workers/log_context.py).
"""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from billing.workers import log_context


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Whom the line is about: what it says itself goes before what is being worked on."""
    ambient = log_context.current()
    found = {name: getattr(record, name, ambient.get(name)) for name in log_context.FIELDS}
    return {name: value for name, value in found.items() if value is not None}


class LineFormatter(logging.Formatter):
    """The line, and behind it whom it is about: [run=1 step=5 account=7]."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The words and the fields; a traceback follows below."""
        fields = " ".join(f"{name}={value}" for name, value in fields_of(record).items())
        line = super().formatMessage(record)
        return f"{line} [{fields}]" if fields else line


class JsonFormatter(logging.Formatter):
    """One JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """When, how bad, who says it, what, whom it is about; a traceback as one string."""
        said: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            **fields_of(record),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False, default=str)
