"""
Records as people read them: amounts with their currency, numbers without idle zeros, and no raw JSON or codes.

A field that Django would show as it is stored is shown by a column of the same title that puts it in words.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.contrib import admin
from django.core.exceptions import FieldDoesNotExist
from django.db import models
from django.http import HttpRequest
from django.utils.html import format_html_join
from django.utils.safestring import SafeString, mark_safe

from accounts.admin import ReadOnlyAdmin, ReadOnlyRows
from accounts.codes import spelled_out
from billing.admin.cells import instant, money

NOTHING = "–"
BREAK = mark_safe("<br>")
# Stored in capitals, without a list of choices.
CODES = ("act", "kind", "decline_class")


class InWords:
    """Shows those fields of a model in words, in lists and on a record's own page."""

    model: type[models.Model]

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        return self._in_words(super().get_list_display(request))  # type: ignore[misc]

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        names = super().get_fields(request, obj)  # type: ignore[misc]
        if not self._is_only_read(request, obj):
            return list(names)
        return list(dict.fromkeys(self._in_words(names)))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        named = super().get_readonly_fields(request, obj)  # type: ignore[misc]
        if not self._is_only_read(request, obj):
            return list(named)
        hidden = super().get_exclude(request, obj) or ()  # type: ignore[misc]
        shown = [field.name for field in self.model._meta.fields if field.name not in hidden]
        added = [column for name in shown if (column := self._column(name)) != name]
        return list(dict.fromkeys([*named, *added]))

    def _is_only_read(self, request: HttpRequest, obj: Any) -> bool:
        return obj is not None and not self.has_change_permission(request, obj)  # type: ignore[attr-defined]

    def _in_words(self, names: Sequence[Any]) -> list[Any]:
        return [self._column(name) if isinstance(name, str) else name for name in names]

    def _column(self, name: str) -> str:
        """The name of the column that shows a field in words; the field's own where that reads well already."""
        if hasattr(type(self), name):
            return name
        if name.endswith("_minor") and hasattr(type(self), name.removesuffix("_minor")):
            return name.removesuffix("_minor")
        try:
            field = self.model._meta.get_field(name)
        except FieldDoesNotExist:
            return name
        say = _words_of(field)
        if say is None:
            return name
        column = f"{name}_in_words"
        if not hasattr(self, column):
            title = str(field.verbose_name).removesuffix(" minor")  # type: ignore[union-attr]
            setattr(self, column, admin.display(description=title, ordering=name)(say))
        return column


class ReadableAdmin(InWords, ReadOnlyAdmin):
    """Read-only records in words."""


class ReadableRows(InWords, ReadOnlyRows):
    """Read-only rows that belong to a record, in words."""


def _words_of(field: Any) -> Callable[[Any], str] | None:
    name: str = field.name
    if isinstance(field, models.JSONField):
        return lambda record: facts(getattr(record, name))
    if isinstance(field, models.DecimalField):
        return lambda record: number(getattr(record, name))
    if name.endswith("_minor"):
        return lambda record: _amount(record, getattr(record, name))
    if name == "provider_ref":
        return lambda record: _reference(getattr(record, name))
    if name in CODES and isinstance(field, models.CharField) and not field.choices:
        return lambda record: spelled_out(getattr(record, name))
    return None


def _reference(stored: str | None) -> str:
    """A provider's own reference; of what was done by hand it is the token of our form, which says nothing."""
    try:
        uuid.UUID(stored or "")
    except ValueError:
        return stored or NOTHING
    return NOTHING


def number(value: Decimal | None) -> str:
    """ "548.661": exact, without zeros that say nothing."""
    return NOTHING if value is None else f"{value.normalize():,f}"


def facts(stored: Any) -> str | SafeString:
    """What was kept as JSON, a line for each fact: amounts with their currency, instants with their zone."""
    if isinstance(stored, Mapping):
        currency = str(stored.get("currency", ""))
        lines = [
            (_title(name), _fact(name, value, currency))
            for name, value in stored.items()
            if not (name == "currency" and _has_amounts(stored))
        ]
        return format_html_join(BREAK, "{}: {}", lines) if lines else NOTHING
    if isinstance(stored, list):
        return format_html_join(BREAK, "{}", ((facts(each),) for each in stored))
    return _fact("", stored, "") if stored not in {None, ""} else NOTHING


def _has_amounts(stored: Mapping[str, Any]) -> bool:
    return any(name.endswith("_minor") for name in stored)


def _title(name: str) -> str:
    return name.removesuffix("_minor").replace("_", " ").capitalize()


def _fact(name: str, value: Any, currency: str) -> str | SafeString:
    match value:
        case None | "" | [] | {}:
            return NOTHING
        case bool():
            return "yes" if value else "no"
        case int() if name.endswith("_minor") and currency:
            return money(value, currency)
        case dict() | list():
            return facts(value)
        case str() if name.endswith(("_at", "as_of", "until")) and (moment := _moment(value)):
            return instant(moment)
        case _:
            return spelled_out(str(value))


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _amount(record: Any, amount_minor: int | None) -> str:
    return money(amount_minor, _currency(record))


def _currency(record: Any) -> str:
    """The currency of a record's amounts: its own, or that of what it belongs to."""
    for owner in ("", "payment", "invoice", "ledger_account", "account"):
        of = getattr(record, owner) if owner and hasattr(record, owner) else record
        if currency := getattr(of, "currency", ""):
            return str(currency)
    raise TypeError(f"{record!r} has an amount, and no currency")
