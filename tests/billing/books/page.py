"""The table of docs/books.md, made of the files."""

import re
from pathlib import Path

from django.conf import settings

from billing.books import promises

PATH = Path(settings.BASE_DIR) / "docs" / "books.md"


def table() -> str:
    rows = (f"| `{promise.name}` | {promise.sentence} |" for promise in promises())
    return "\n".join(["| check | promises |", "| --- | --- |", *rows]) + "\n"


def write() -> None:
    text = PATH.read_text(encoding="utf-8")
    PATH.write_text(
        re.sub(r"\| check \| promises \|\n(\|.*\n)+", lambda _: table(), text), encoding="utf-8"
    )
