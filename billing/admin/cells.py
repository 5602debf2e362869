"""Money and instants as staff read them, and the small tables of a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Model
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from notifications import formats


def money(amount_minor: int | None, currency: str) -> str:
    """ "€12.00", or a dash for what is not said."""
    return "–" if amount_minor is None else formats.money(amount_minor, currency, "en")


def instant(moment: datetime | None) -> str:
    """ "23 November 2026, 06:12 (UTC)", or a dash."""
    return formats.instant(moment, "en", "UTC") if moment else "–"


def admin_url(record: Model) -> str:
    """The admin page of a record."""
    meta = record._meta
    return reverse(f"admin:{meta.app_label}_{meta.model_name}_change", args=[record.pk])


def tag(text: str, tone: str) -> SafeString:
    """A word in a coloured pill."""
    return format_html('<span class="tag {}">{}</span>', tone, text)


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table."""

    text: str
    url: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """A titled table of the newest rows; `more_url` leads to all of them."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    empty: str
    more_url: str = ""

    @property
    def labelled(self) -> list[list[tuple[str, Cell]]]:
        """Each cell with its column's name, which stands before it on a phone."""
        return [list(zip(self.columns, row, strict=True)) for row in self.rows]


def row(*cells: str | Cell) -> list[Cell]:
    """A table's row; bare text is a cell."""
    return [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells]


def to(record: Model, text: str = "") -> Cell:
    """A cell that leads to a record."""
    return Cell(text or str(record), url=admin_url(record))
