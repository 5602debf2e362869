"""Text that a spreadsheet would run as a formula: told, and written so that it can be read back."""

import re

# Characters that start a formula in a spreadsheet (OWASP, "CSV Injection").
STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

_KEPT = re.compile(rf"'*[{re.escape(''.join(STARTS_A_FORMULA))}]").match


def runs(text: str) -> bool:
    """Say whether a spreadsheet would run it; numbers stay numbers."""
    return text.startswith(STARTS_A_FORMULA) and not _is_number(text)


def kept_from_running(text: str) -> str:
    """Put an apostrophe before text that would run; `as_it_was` takes it away again, and no other."""
    return f"'{text}" if _KEPT(text) and not _is_number(text) else text


def as_it_was(text: str) -> str:
    """Take away the apostrophe that `kept_from_running` put."""
    return text[1:] if text.startswith("'") and _KEPT(text) else text


def _is_number(text: str) -> bool:
    digits = text.removeprefix("-").replace(".", "", 1)
    return digits.isascii() and digits.isdigit()
