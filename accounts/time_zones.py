"""The time zones that people choose from."""

from functools import cache
from zoneinfo import available_timezones


@cache
def known_time_zones() -> tuple[str, ...]:
    """By name: those of places, and UTC. Old names of zones, such as "EST5EDT", are left out."""
    places = {name for name in available_timezones() if "/" in name}
    left_out = ("Etc/", "SystemV/", "US/", "posix/", "right/")
    return tuple(sorted({"UTC", *(name for name in places if not name.startswith(left_out))}))
