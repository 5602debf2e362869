"""
Render the templates of a kind of message, a hundred thousand times a night.

Django takes most of a millisecond for the three templates of an invoice, and two invoices differ only
in their values. So a page is rendered once for each shape of its context (which values are there, how
many rows), with a mark in place of each value, and kept. For a message, its values replace the marks,
escaped as text or HTML needs. So a template must not change or compare a value: it may only show it or
ask whether it is there. tests/notifications/test_rendering.py compares both ways for every kind.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from typing import Any, TypeAlias

from django.template import Context, Engine
from django.utils import translation
from django.utils.functional import Promise

# A page is about 15 kB: no more than some megabytes of them, however many shapes there are.
PAGES_KEPT = 512
# From Unicode's private use area: they mean nothing in any text.
MARK = "\ue000{}\ue001"
MARKS = re.compile("\ue000([0-9]+)\ue001")
# Templates may ask where the lines end (linebreaksbr).
LINE_BREAK = re.compile("[\r\n]")
SUBJECT_LENGTH = 300

# The shape of a context: the place of a value, a literal that templates ask about, or shapes of rows.
Shape: TypeAlias = tuple[Any, ...]
VALUE: Shape = ("value",)


@dataclass(frozen=True)
class Said:
    """A rendered message."""

    subject: str
    body_text: str
    body_html: str


@dataclass(frozen=True)
class _Page:
    """A rendered template, cut at its marks: text, number of a value, text, number…"""

    parts: tuple[str, ...]

    def filled(self, values: Sequence[str]) -> str:
        parts = list(self.parts)
        parts[1::2] = [values[int(number)] for number in parts[1::2]]
        return "".join(parts).strip() + "\n"


def render(kind: str, *, locale: str, context: Mapping[str, Any]) -> Said:
    """
    Render a kind's subject, text and HTML in a language.

    :raises TypeError: if the context holds anything but text, booleans, whole numbers, and rows of these.
    """
    values: list[str] = []
    shape = _shape(context, values, locale)
    subject, text, html = _pages(kind, locale, shape)
    return Said(
        subject=_one_line(subject.filled(values)),
        body_text=text.filled(values),
        body_html=html.filled([escape(value) for value in values]),
    )


def _shape(said: Any, values: list[str], locale: str) -> Shape:
    """The shape of a value, whatever its text; the text is added to the values."""
    # The commonest first: here are some fifty values of each message.
    if isinstance(said, Promise):
        with translation.override(locale):
            said = str(said)
    if type(said) is str:
        if said and not LINE_BREAK.search(said):
            values.append(said)
            return VALUE
        return ("literal", str, MARKS.sub("", said))
    if isinstance(said, str | bool | int):
        # With its type: 1 and True would be the same key.
        return ("literal", type(said), said)
    if isinstance(said, list):
        return ("list", tuple(_shape(each, values, locale) for each in said))
    if isinstance(said, Mapping):
        return ("rows", tuple((name, _shape(each, values, locale)) for name, each in said.items()))
    raise TypeError(f"{said!r} is not plain: format it before it goes into a message")


@lru_cache(maxsize=PAGES_KEPT)
def _pages(kind: str, locale: str, shape: Shape) -> tuple[_Page, _Page, _Page]:
    values = _marked(shape, iter(range(1_000_000)))
    name = f"emails/{kind.lower()}"
    with translation.override(locale):
        return (
            _page(f"{name}.subject.txt", values, escaped=False),
            _page(f"{name}.txt", values, escaped=False),
            _page(f"{name}.html", values, escaped=True),
        )


def _marked(shape: Shape, numbers: Any) -> Any:
    """Make a context of this shape, with marks for its values."""
    match shape:
        case ("value",):
            return MARK.format(next(numbers))
        case ("rows", rows):
            return {name: _marked(each, numbers) for name, each in rows}
        case ("list", each_of):
            return [_marked(each, numbers) for each in each_of]
    return shape[2]


def _page(template: str, values: dict[str, Any], *, escaped: bool) -> _Page:
    # Text and HTML are escaped here, so that no template can forget it.
    page = Engine.get_default().get_template(template)
    return _Page(tuple(MARKS.split(page.render(Context(values, autoescape=escaped)))))


def _one_line(subject: str) -> str:
    """Put a subject on one line: it is a header, and a line break in a name must not begin another."""
    lines = (line.strip() for line in subject.splitlines())
    return " ".join(line for line in lines if line)[:SUBJECT_LENGTH]
