"""Month ends in seventeen zones: a leap day, the hours that summer time gives twice and takes, odd midnights."""

from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from accounts.models import Account
from billing import periods
from billing.close import runs
from billing.models import BillingPeriod, CloseRun, Invoice
from tests.billing.test_periods import ZONES
from tests.billing.test_tallying import usage_batch
from tests.closing import assert_books_hold, finish, start_close
from tests.factories import AccountFactory

pytestmark = pytest.mark.django_db(transaction=True)

# Of an event of usage_batch.
PRICE_MINOR = 50


def telling_instants(zone: str, months: list[date]) -> list[datetime]:
    """The bounds of the months, and the wall clock's jumps in them, each with its neighbours."""
    bounds = [periods.starts_at(month, zone) for month in months]
    told = [*bounds, *jumps(zone, bounds[0], bounds[-1])]
    near = [timedelta(minutes=30), timedelta(microseconds=1), timedelta(0)]
    return sorted({at + sign * delta for at in told for delta in near for sign in (1, -1)})


def jumps(zone: str, start: datetime, end: datetime) -> Iterator[datetime]:
    """The instants at which the wall clock is moved, to the half hour."""
    local, at = ZoneInfo(zone), start
    while at < end:
        later = at + timedelta(minutes=30)
        if at.astimezone(local).utcoffset() != later.astimezone(local).utcoffset():
            yield later
        at = later


def month_of(at: datetime, account: Account) -> date:
    return at.astimezone(ZoneInfo(account.time_zone)).date().replace(day=1)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(date(2024, 2, 1), id="leap day and spring"),
        pytest.param(date(2018, 10, 1), id="autumn"),
    ],
)
def test_each_event_is_billed_once_with_the_month_of_its_own_calendar(first):
    months = [first, periods.next_month(first)]
    after = periods.next_month(months[-1])
    accounts = [AccountFactory(time_zone=zone) for zone in ZONES]
    events = [
        (account, at)
        for account in accounts
        for at in telling_instants(account.time_zone, [*months, after])
    ]
    usage_batch(*events)
    used = Counter((account.pk, month_of(at, account)) for account, at in events)

    for month in months:
        as_of = periods.closes_at(month, ZONES)
        run = finish(start_close(month, as_of=as_of), as_of=as_of)
        assert start_close(month, as_of=as_of) == run

    billed = {
        (account, month): minor // PRICE_MINOR
        for account, month, minor in Invoice.objects.values_list(
            "account", "period__month", "total_minor"
        )
    }
    before = periods.previous_month(first)
    for account in accounts:
        # What nobody has closed before comes with the first close.
        assert billed.pop((account.pk, first)) == used[account.pk, before] + used[account.pk, first]
        assert billed.pop((account.pk, months[1])) == used[account.pk, months[1]]
        stored = account.periods.filter(month__in=months).order_by("month")
        assert stored[0].ends_at == stored[1].starts_at
    assert not billed
    assert_books_hold(as_of=as_of)


@pytest.mark.parametrize(
    ("zone", "month", "closes_at"),
    [
        # Its midnight comes twice: the first counts.
        ("America/Havana", date(2015, 10, 1), "2015-11-01T04:00"),
        # Its midnight never comes: the day begins at one.
        ("America/Asuncion", date(2017, 9, 1), "2017-10-01T04:00"),
        ("Pacific/Kiritimati", date(2024, 2, 1), "2024-02-29T10:00"),
        ("Pacific/Apia", date(2011, 12, 1), "2011-12-31T10:00"),
    ],
)
def test_a_close_is_started_once_on_the_hour_however_often_schedules_fire(zone, month, closes_at):
    account = AccountFactory(time_zone=zone)
    over = datetime.fromisoformat(f"{closes_at}+00:00")
    looks = [over + timedelta(minutes=minutes) for minutes in range(-60, 150, 30)]

    started = [
        (run.month, at) for at in looks for _ in range(2) for run in runs.start_due(as_of=at)
    ]

    assert started == [(periods.previous_month(month), looks[0]), (month, over)]
    assert CloseRun.objects.filter(month=month).count() == 1
    period = BillingPeriod.objects.filter(account=account, month=month)
    assert all(each.ends_at == over for each in period)
