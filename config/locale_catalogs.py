"""
Translations without GNU gettext: find the strings, see which a language lacks, compile catalogues.

`locale/*/LC_MESSAGES/django.po` is what people edit. The `.mo` beside it is made from it, by
`manage.py compile_catalogs`, and never committed.
"""

import re
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract as babel_extract
from babel.messages.extract import extract_python
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from django.conf import settings
from django.utils.translation.reloader import translation_file_changed
from django.utils.translation.template import templatize

KEYWORDS: dict[str, Any] = {
    "_": None,
    "gettext": None,
    "gettext_lazy": None,
    "ngettext": (1, 2),
    "ngettext_lazy": (1, 2),
    "pgettext": ((1, "c"), 2),
    "pgettext_lazy": ((1, "c"), 2),
    "npgettext": ((1, "c"), 2, 3),
}
CODE = ("accounts", "notifications", "billing", "config")
TEMPLATES = ("templates",)
PLACEHOLDER = re.compile(r"%(?:\(\w+\))?[-+ #0]*\d*[a-z]|\{\w*\}")


def compile_catalogs() -> list[Path]:
    """Compile every catalogue that is newer than what was compiled from it; returns those."""
    compiled = [po.with_suffix(".mo") for po in _po_files() if _compile(po)]
    for mo in compiled:
        translation_file_changed(sender=None, file_path=mo)  # Django may have looked too early
    return compiled


def missing(language: str, *, folders: Iterable[str] = (*CODE, *TEMPLATES)) -> Catalog:
    """
    The strings of these folders that a language lacks, to be filled in and added to its .po.

    Lacking are those not there, empty, fuzzy, or with other placeholders than the original.
    """
    known = read_catalog(_po_file(language))
    lacking = Catalog(locale=language)
    for string in extract(folders):
        if not _is_translated(known.get(string.id, string.context), string):
            lacking.add(string.id, locations=string.locations, context=string.context)
    return lacking


def extract(folders: Iterable[str] = (*CODE, *TEMPLATES)) -> list[Message]:
    """Every string of the code and the templates in these folders that is to be translated."""
    found = Catalog()
    for path in _sources(folders):
        where = path.relative_to(settings.BASE_DIR).as_posix()
        method: Any = extract_python if path.suffix == ".py" else _extract_template
        with path.open("rb") as file:
            for line, string, _comments, context in babel_extract(method, file, KEYWORDS):
                found.add(string, locations=[(where, line)], context=context)
    return [string for string in found if string.id]


def read_catalog(po: Path) -> Catalog:
    with po.open("rb") as file:
        return read_po(file)


def languages() -> list[str]:
    """The languages that have a catalogue; English, the language of the code, needs none."""
    return sorted(po.parent.parent.name for po in _po_files())


def _extract_template(
    file: IO[bytes], keywords: Any, comment_tags: Any, options: Any
) -> Iterator[Any]:
    # In parentheses, the template's indentation means nothing to the tokenizer.
    code = f"({templatize(file.read().decode())})"
    yield from extract_python(BytesIO(code.encode()), keywords, comment_tags, options)


def _sources(folders: Iterable[str]) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((settings.BASE_DIR / folder).rglob("*")):
            if path.suffix in {".py", ".html", ".txt"}:
                yield path


def _is_translated(translation: Message | None, original: Message) -> bool:
    if translation is None or translation.fuzzy:
        return False
    theirs = _forms(translation.string)
    ours = {name for form in _forms(original.id) for name in PLACEHOLDER.findall(form)}
    return all(form and set(PLACEHOLDER.findall(form)) == ours for form in theirs)


def _forms(string: str | Iterable[str] | None) -> list[str]:
    """The singular and plural forms of a string; one form where it has no plural, or nothing."""
    return [string or ""] if string is None or isinstance(string, str) else list(string)


def _compile(po: Path) -> bool:
    mo = po.with_suffix(".mo")
    if mo.exists() and mo.stat().st_mtime >= po.stat().st_mtime:
        return False
    compiled = BytesIO()
    write_mo(compiled, read_catalog(po))
    # Whole or not at all: another process may be reading it, or writing it too.
    unfinished = mo.with_suffix(f".{id(compiled)}.tmp")
    unfinished.write_bytes(compiled.getvalue())
    unfinished.replace(mo)
    return True


def _po_files() -> list[Path]:
    return sorted(
        path for root in settings.LOCALE_PATHS for path in root.glob("*/LC_MESSAGES/django.po")
    )


def _po_file(language: str) -> Path:
    return next(po for po in _po_files() if po.parent.parent.name == language)
