"""Cells that a spreadsheet shows and never runs as formulas."""

from collections.abc import Mapping
from typing import Any

# Characters that start a formula in a spreadsheet (OWASP, "CSV Injection").
STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")


def safe(row: Mapping[str, Any]) -> dict[str, Any]:
    """Put an apostrophe before text that would run as a formula; numbers stay numbers."""
    return {name: _safe(value) for name, value in row.items()}


def _safe(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(STARTS_A_FORMULA) and not _is_number(value):
        return f"'{value}"
    return value


def _is_number(text: str) -> bool:
    digits = text.removeprefix("-").replace(".", "", 1)
    return digits.isascii() and digits.isdigit()
