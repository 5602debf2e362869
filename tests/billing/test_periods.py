"""Months, and the instants they begin and end at."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import periods

OCTOBER, DECEMBER, JANUARY = date(2018, 10, 1), date(2018, 12, 1), date(2019, 1, 1)


class TestMonths:
    def test_go_over_the_turn_of_the_year(self):
        assert periods.next_month(DECEMBER) == JANUARY
        assert periods.previous_month(JANUARY) == DECEMBER

    def test_start_at_the_first_even_from_the_last_day(self):
        assert periods.next_month(date(2018, 10, 31)) == date(2018, 11, 1)
        assert periods.previous_month(date(2018, 10, 31)) == date(2018, 9, 1)


class TestBounds:
    @pytest.mark.parametrize(
        ("zone", "starts", "ends"),
        [
            ("UTC", "2018-10-01T00:00", "2018-11-01T00:00"),
            # Summer time ends on 28 October: the month has an hour more.
            ("Europe/Budapest", "2018-09-30T22:00", "2018-10-31T23:00"),
            ("America/New_York", "2018-10-01T04:00", "2018-11-01T04:00"),
            ("Asia/Kathmandu", "2018-09-30T18:15", "2018-10-31T18:15"),
            ("Pacific/Kiritimati", "2018-09-30T10:00", "2018-10-31T10:00"),
        ],
    )
    def test_are_midnights_of_the_zone(self, zone, starts, ends):
        assert periods.starts_at(OCTOBER, zone) == datetime.fromisoformat(starts + "+00:00")
        assert periods.ends_at(OCTOBER, zone) == datetime.fromisoformat(ends + "+00:00")

    def test_are_said_in_utc(self):
        assert periods.starts_at(OCTOBER, "Asia/Tokyo").tzinfo is UTC


class TestWhenAMonthIsOver:
    def test_is_when_it_is_over_in_the_last_zone(self):
        zones = ["Asia/Tokyo", "America/Los_Angeles", "UTC"]

        assert periods.closes_at(OCTOBER, zones) == datetime(2018, 11, 1, 7, tzinfo=UTC)

    def test_is_its_end_in_utc_where_there_are_no_zones(self):
        assert periods.closes_at(OCTOBER, []) == datetime(2018, 11, 1, tzinfo=UTC)

    def test_the_latest_one_over_waits_for_the_last_zone(self):
        zones = ["UTC", "America/Los_Angeles"]

        before = periods.latest_month_over(datetime(2018, 11, 1, 6, 59, tzinfo=UTC), zones)
        after = periods.latest_month_over(datetime(2018, 11, 1, 7, 0, tzinfo=UTC), zones)

        assert (before, after) == (date(2018, 9, 1), OCTOBER)


# Fourteen, and three whose months begin oddly: midnight is missing on 1 October 2017 in Asuncion and comes
# twice on 1 November 2015 in Havana; Apia had no 30 December 2011.
ZONES = (
    "UTC",
    "Europe/Berlin",
    "Europe/London",
    "America/New_York",
    "America/Los_Angeles",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Africa/Casablanca",
    "Asia/Kathmandu",
    "Asia/Tokyo",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
    "Pacific/Kiritimati",
    "Pacific/Apia",
    "Pacific/Pago_Pago",
    "America/Asuncion",
    "America/Havana",
)
FIRST, LAST = date(2007, 1, 1), date(2037, 1, 1)


def months() -> Iterator[date]:
    month = FIRST
    while month < LAST:
        yield month
        month = periods.next_month(month)


@pytest.mark.parametrize("zone", ZONES)
class TestInEveryZone:
    def test_months_tile_thirty_years(self, zone):
        """End on the instant the next begins, and are together as long as the calendar."""
        bounds = [(periods.starts_at(m, zone), periods.ends_at(m, zone)) for m in months()]

        assert all(end == start for (_, end), (start, _) in pairwise(bounds))
        assert all(start < end for start, end in bounds)
        lengths = sum((end - start for start, end in bounds), timedelta())
        assert lengths == periods.starts_at(LAST, zone) - periods.starts_at(FIRST, zone)

    def test_a_month_is_its_days_and_what_summer_time_takes_and_gives(self, zone):
        for month in months():
            start, end = periods.starts_at(month, zone), periods.ends_at(month, zone)
            days = (periods.next_month(month) - month).days

            # What the wall clock was moved; in Apia it was moved by a day.
            local = ZoneInfo(zone)
            moved = end.astimezone(local).utcoffset() - start.astimezone(local).utcoffset()
            begun_late = [
                at.astimezone(local).replace(tzinfo=None)
                - datetime.combine(day, datetime.min.time())
                for at, day in ((start, month), (end, periods.next_month(month)))
            ]
            assert end - start == timedelta(days=days) - moved - begun_late[0] + begun_late[1]

    def test_a_month_begins_with_the_first_instant_of_its_first_day(self, zone):
        local = ZoneInfo(zone)
        for month in months():
            start = periods.starts_at(month, zone)

            assert start.astimezone(local).date() == month
            assert (start - timedelta(microseconds=1)).astimezone(local).date() < month


@given(
    at=st.datetimes(datetime(2007, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC)),
    zone=st.sampled_from(ZONES),
)
def test_every_instant_is_in_the_one_month_its_wall_calendar_says(at, zone):
    month = at.astimezone(ZoneInfo(zone)).date().replace(day=1)
    around = [periods.previous_month(month), month, periods.next_month(month)]

    holding = [m for m in around if periods.starts_at(m, zone) <= at < periods.ends_at(m, zone)]

    assert holding == [month]


@given(
    at=st.datetimes(datetime(2007, 2, 2), datetime(2037, 1, 1), timezones=st.just(UTC)),
    zones=st.lists(st.sampled_from(ZONES), min_size=1, max_size=4),
)
def test_the_latest_month_over_is_over_everywhere_and_the_next_is_not(at, zones):
    month = periods.latest_month_over(at, zones)

    assert (
        periods.closes_at(month, zones) <= at < periods.closes_at(periods.next_month(month), zones)
    )
