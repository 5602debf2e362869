"""Months, and the instants they begin and end at."""

from datetime import UTC, date, datetime

import pytest

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
