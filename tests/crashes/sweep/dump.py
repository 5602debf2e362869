"""
What the database says, in words that do not depend on when and how often: to hold two runs side by side.

Every row of our own tables is a line. Ids become what they stand for, instants become "@", and what
counts tries or tells of the last failure is left out, for a fault may add to that and to nothing else.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from hashlib import blake2b
from typing import Any

from django.apps import apps
from django.db.models import ForeignKey, Model

APPS = ("accounts", "billing", "notifications")
# How often something was tried, what went wrong the last time; a body, which says the hour; and which
# copy of the database it is.
LEFT_OUT = {
    "attempts", "claims", "tries", "deaths", "fenced", "key_generation", "last_error", "body_text", "body_html",
    "database_identity",
}  # fmt: skip

UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+(\+[0-9:]+|Z)?")
# "invoice:17", as sources of entries and facts of messages name a row.
NAMED_ROW = re.compile(r"\b([a-z]+):\d+")
# Numbers in JSON that mean something by themselves.
MEANT = re.compile(r"_minor$|^(invoices|quantity|amount|kinds|events)$")

# What a row is called by others; the rest go by what they say.
NAMES = {
    "Account": "external_id",
    "BillingEntity": "slug",
    "CloseRun": "month",
    "Product": "code",
    "BillingPeriod": "month",
    "Invoice": "number",
    "PaymentMethod": "token",
}


def dump() -> list[str]:
    """Every row as a line, sorted."""
    models = [model for app in APPS for model in apps.get_app_config(app).get_models()]
    rows = {model: list(model._default_manager.all()) for model in models}
    lines = _Lines(rows)
    return sorted(lines.of(row) for model in models for row in rows[model] if _counts(row))


def _counts(row: Any) -> bool:
    match type(row).__name__:
        case "UsageBatch":
            # Importing a file again is the importer's right; it leaves a batch that added nothing.
            return bool(row.rows_added)
        case "Decision":
            # Who looks at another moment finds something to wait for, or does not.
            return bool(row.did != "WAITED")
        case "Executor" | "Contribution" | "Sweep":
            # Who did it.
            return False
        case "FollowUp":
            # When a sweep looks next; one that is not there is made by the next.
            return False
        case "RunProgress":
            # Counted by whoever looked.
            return False
        case "ClaimMarker":
            # With what a worker has died.
            return False
        case "Lane" | "LaneTally":
            # How the calls went.
            return False
    return True


class _Lines:
    """The line of each row; one that others name is told by its own line, in short."""

    def __init__(self, rows: dict[type[Model], list[Any]]) -> None:
        self._rows = {(model, row.pk): row for model, some in rows.items() for row in some}
        self._known: dict[tuple[type[Model], Any], str] = {}

    def of(self, row: Model) -> str:
        key = (type(row), row.pk)
        if key not in self._known:
            self._known[key] = f"{type(row).__name__}({', '.join(self._fields(row))})"
        return self._known[key]

    def _fields(self, row: Model) -> Iterable[str]:
        for field in row._meta.concrete_fields:
            if field.primary_key or field.name in LEFT_OUT:
                continue
            value = getattr(row, field.attname)
            if isinstance(field, ForeignKey):
                yield f"{field.name}={self._name(field.related_model, value)}"
            else:
                yield f"{field.name}={plain(value)}"

    def _name(self, model: Any, pk: Any) -> str:
        if pk is None:
            return "-"
        row = self._rows[model, pk]
        if (named_by := NAMES.get(model.__name__)) is not None:
            return str(getattr(row, named_by))
        return f"{model.__name__}~{blake2b(self.of(row).encode(), digest_size=4).hexdigest()}"


def plain(value: Any, key: str = "") -> str:
    """A value without ids and instants."""
    match value:
        case None:
            return "-"
        case datetime():
            return "@"
        case dict():
            return "{" + ", ".join(f"{k}: {plain(v, k)}" for k, v in sorted(value.items())) + "}"
        case list():
            return "[" + ", ".join(plain(each, key) for each in value) + "]"
        case bool():
            return str(value)
        case int() if key and not MEANT.search(key):
            return "#"
    text = NAMED_ROW.sub(r"\1:#", INSTANT.sub("@", UUID.sub("#", str(value))))
    return repr(text) if isinstance(value, str) else text
