"""
Whom a line of the log is about: run, step, account, attempt, as fields beside its words.

`about` says what a block of work is about; every line that is logged within it, by whomever, bears that.
`of` makes the fields of one row, for `extra=`. config/logs.py writes them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_fields: ContextVar[Mapping[str, Any]] = ContextVar("log_fields", default={})  # noqa: B039 - never changed

# What is written of a line, in this order. "lane" is the queue: the key has kept the name that logs are
# searched for.
FIELDS = ("request", "lane", "kind", "run", "step", "account", "attempt", "message_id")


@contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Give every line logged within the block these fields."""
    token = _fields.set({**_fields.get(), **fields})
    try:
        yield
    finally:
        _fields.reset(token)


def add(**fields: Any) -> None:
    """Give them to what follows in the innermost `about`: what is known only after a claim."""
    _fields.set({**_fields.get(), **fields})


def current() -> Mapping[str, Any]:
    """The fields of whatever is being worked on."""
    return _fields.get()


def of(row: Any) -> dict[str, Any]:
    """The fields of a step or an attempt: itself, its account, its run."""
    names = {"step": "step", "paymentattempt": "attempt"}
    found = {
        names[row._meta.model_name]: str(row.pk),
        "account": row.account_id,
        "run": row.run_id,
    }
    return {name: value for name, value in found.items() if value is not None}
