"""Cells that a spreadsheet shows and never runs as formulas."""

from collections.abc import Mapping
from typing import Any

from billing import spreadsheets


def safe(row: Mapping[str, Any]) -> dict[str, Any]:
    """Put an apostrophe before text that would run as a formula; numbers stay numbers."""
    return {name: _safe(value) for name, value in row.items()}


def _safe(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and spreadsheets.runs(value) else value
