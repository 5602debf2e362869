"""Time zones by their names. A name that stands for none must stop nobody but its own account."""

from collections.abc import Iterable
from functools import cache
from zoneinfo import ZoneInfo


@cache
def is_known(name: str) -> bool:
    """Whether there is a time zone of this name here."""
    try:
        ZoneInfo(name)
    # What is no key, what leads out of the zones' folder, what is a folder there.
    except (KeyError, ValueError, OSError):
        return False
    return True


def known(names: Iterable[str]) -> list[str]:
    """Those of the names that stand for a time zone."""
    return [name for name in names if is_known(name)]


def or_utc(name: str) -> str:
    """
    The name, or "UTC" where it stands for no time zone.

    For what is only shown, and says its zone: a bill is never cut in a zone that nobody chose.
    """
    return name if is_known(name) else "UTC"
