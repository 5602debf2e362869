"""Months and the instants they begin and end at. Pure; bounds are stored once cut (BillingPeriod)."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from accounts import zones


def next_month(month: date) -> date:
    """The first day of the month after."""
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)


def previous_month(month: date) -> date:
    """The first day of the month before."""
    return date(month.year - (month.month == 1), (month.month - 2) % 12 + 1, 1)


def starts_at(month: date, time_zone: str) -> datetime:
    """The instant a month begins in a zone, in UTC."""
    return datetime(month.year, month.month, 1, tzinfo=ZoneInfo(time_zone)).astimezone(UTC)


def ends_at(month: date, time_zone: str) -> datetime:
    """The instant a month ends in a zone, in UTC; the next one begins at it."""
    return starts_at(next_month(month), time_zone)


def first_instant_after(day: date, time_zone: str) -> datetime:
    """The first instant after a day in a zone, in UTC: also where the clocks leave midnight out, or repeat it."""
    after = day + timedelta(days=1)
    return datetime.combine(after, time.min, tzinfo=ZoneInfo(time_zone)).astimezone(UTC)


def closes_at(month: date, time_zones: Iterable[str]) -> datetime:
    """
    The instant a month is over in the last of the zones; in UTC where there are none.

    A name of no zone does not count: whoever bears it is not billed, and the others need not wait.
    """
    there = zones.known(time_zones)
    return max((ends_at(month, zone) for zone in there), default=ends_at(month, "UTC"))


def latest_month_over(as_of: datetime, time_zones: Iterable[str]) -> date:
    """The first day of the latest month that is over in all of the zones."""
    in_zones = list(time_zones)
    # East of Greenwich even the month that UTC is still in may be over.
    month = as_of.astimezone(UTC).date().replace(day=1)
    while closes_at(month, in_zones) > as_of:
        month = previous_month(month)
    return month
