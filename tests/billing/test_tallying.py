import threading
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from django.db import DatabaseError, OperationalError, connection, transaction
from django.db.models import Sum

from accounts.models import Account
from billing import periods
from billing.models import (
    BillingPeriod,
    Invoice,
    UntalliedUsage,
    UsageBatch,
    UsageEvent,
    UsageSummary,
)
from billing.usage import billing_periods, partitions, tallying
from tests.factories import AccountFactory, EntityFactory, PeriodFactory, ProductFactory
from tests.workers import Aside, wait_until_somebody_waits

AS_OF = datetime(2018, 12, 1, tzinfo=UTC)
OCTOBER = date(2018, 10, 1)
NOVEMBER = date(2018, 11, 1)
DECEMBER = date(2018, 12, 1)


@pytest.fixture
def batch(db):
    return usage_batch


def usage_batch(*events, name="usage.csv"):
    """A batch, not tallied, of these events: (account, instant, what differs from an ordinary one)."""
    batch = UsageBatch.objects.create(source="csv", name=name, sha256="0" * 64)
    partitions.ensure_partitions({at.astimezone(UTC).date().replace(day=1) for _, at, *_ in events})
    product = ProductFactory()
    UsageEvent.objects.bulk_create(
        UsageEvent(
            **{
                "batch": batch,
                "account": account,
                "product": product,
                "source": "csv",
                "event_id": f"{batch.pk}-{number}",
                "item": "small",
                "unit": "hour",
                "quantity": Decimal(1),
                "unit_price": Decimal("0.5"),
                "starts_at": at,
                "ends_at": at + timedelta(hours=1),
                "effective_at": at,
            }
            | (changes[0] if changes else {})
        )
        for number, (account, at, *changes) in enumerate(events)
    )
    return batch


def at(day, hour=0, month=10):
    return datetime(2018, month, day, hour, tzinfo=UTC)


def stored_partitions():
    with connection.cursor() as cursor:
        cursor.execute(partitions.PARTITIONS)
        return {name for (name,) in cursor.fetchall()}


class TestEnsurePartitions:
    @pytest.mark.django_db
    def test_makes_the_months_that_are_missing_and_keeps_the_others(self):
        partitions.ensure_partitions([date(2031, 12, 1)])

        partitions.ensure_partitions([date(2031, 12, 1), date(2032, 1, 1)])
        partitions.ensure_partitions([])

        assert {"billing_usageevent_2031_12", "billing_usageevent_2032_01"} <= stored_partitions()

    @pytest.mark.django_db
    def test_a_partition_keeps_events_apart_append_only_and_unique(self):
        account = AccountFactory()
        batch = usage_batch((account, datetime(2033, 1, 31, 23, tzinfo=UTC)))

        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM billing_usageevent_2033_01")
            assert cursor.fetchone() == (1,)
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
            batch.events.update(quantity=2)
        event = batch.events.get()
        event.pk = None
        with pytest.raises(DatabaseError, match="unique"), transaction.atomic():
            event.save(force_insert=True)

    @pytest.mark.concurrency
    @pytest.mark.django_db(transaction=True)
    def test_several_at_once_make_it_once(self):
        errors = in_threads(
            4, lambda: partitions.ensure_partitions([date(2034, month, 1) for month in (1, 2, 3)])
        )

        assert errors == []
        assert "billing_usageevent_2034_03" in stored_partitions()


def in_threads(count, act):
    """Run the act in threads of their own, at once, and return the errors."""
    errors, together = [], threading.Barrier(count)

    def run():
        together.wait()
        try:
            act()
        except Exception as error:  # noqa: BLE001
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


@pytest.mark.django_db
class TestOpenPeriods:
    def test_cuts_the_month_in_each_accounts_zone(self):
        zones = ["UTC", "America/New_York", "Asia/Kathmandu", "Pacific/Apia", "America/Havana"]
        accounts = [AccountFactory(time_zone=zone) for zone in zones]

        opened = billing_periods.open_periods(month=NOVEMBER)

        assert opened == len(zones)
        for account in accounts:
            period = account.periods.get()
            assert period.month == NOVEMBER
            assert period.starts_at == periods.starts_at(NOVEMBER, account.time_zone)
            assert period.ends_at == periods.ends_at(NOVEMBER, account.time_zone)

    def test_twice_is_once(self):
        AccountFactory()
        billing_periods.open_periods(month=OCTOBER)

        assert billing_periods.open_periods(month=OCTOBER) == 0

    def test_any_day_names_its_month(self):
        AccountFactory()

        billing_periods.open_periods(month=date(2018, 10, 17))

        assert BillingPeriod.objects.get().month == OCTOBER

    def test_leaves_out_closed_accounts_unless_they_are_named(self):
        closed = AccountFactory(state=Account.State.CLOSED)
        AccountFactory()

        assert billing_periods.open_periods(month=OCTOBER) == 1
        assert billing_periods.open_periods(month=OCTOBER, account_ids=[closed.pk]) == 1
        assert billing_periods.open_periods(month=NOVEMBER, account_ids=[]) == 0

    @pytest.mark.parametrize("order", [(10, 11, 12), (12, 11, 10), (10, 12, 11), (11, 10, 12)])
    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("Europe/Budapest", "America/New_York"),
            ("America/New_York", "Europe/Budapest"),
            ("Pacific/Kiritimati", "Pacific/Pago_Pago"),
            ("Pacific/Pago_Pago", "Pacific/Kiritimati"),
            ("Asia/Kathmandu", "Australia/Lord_Howe"),
            ("UTC", "America/Sao_Paulo"),
        ],
    )
    def test_periods_tile_though_the_zone_changed_in_between(self, before, after, order):
        account = AccountFactory(time_zone=before)
        first, *rest = [date(2018, month, 1) for month in order]
        billing_periods.open_periods(month=first)
        Account.objects.update(time_zone=after)

        for month in rest:
            assert billing_periods.open_periods(month=month) == 1

        tiles = list(account.periods.order_by("starts_at"))
        assert [tile.month.month for tile in tiles] == [10, 11, 12]
        for earlier, later in pairwise(tiles):
            assert earlier.ends_at == later.starts_at


@pytest.mark.django_db
class TestTally:
    def test_adds_like_events_up(self, batch):
        account = AccountFactory()
        usage = batch((account, at(1)), (account, at(31, 23), {"quantity": Decimal("0.25")}))
        seen = []

        assert tallying.tally(as_of=AS_OF, on_progress=seen.append) == 1

        summary = UsageSummary.objects.get()
        assert (summary.quantity, summary.amount, summary.events) == (Decimal("1.25"), None, 2)
        assert (summary.unit_price, summary.invoice_id) == (Decimal("0.5"), None)
        assert (summary.first_at, summary.last_at) == (at(1), at(1, 0, month=11))
        assert summary.period.month == OCTOBER
        usage.refresh_from_db()
        assert usage.tallied_at == AS_OF
        assert seen == [usage]

    def test_twice_is_once(self, batch):
        batch((AccountFactory(), at(1)))
        tallying.tally(as_of=AS_OF)

        assert tallying.tally(as_of=AS_OF) == 0
        assert UsageSummary.objects.get().events == 1

    def test_a_later_batch_adds_to_the_same_summary(self, batch):
        account = AccountFactory()
        batch((account, at(2)), (account, at(2), {"unit_price": None, "amount": Decimal(3)}))
        batch((account, at(1)), (account, at(3), {"unit_price": None, "amount": Decimal(4)}))

        assert tallying.tally(as_of=AS_OF) == 2

        by_rate, by_amount = UsageSummary.objects.order_by("amount")
        if by_rate.amount is not None:
            by_rate, by_amount = by_amount, by_rate
        assert (by_rate.quantity, by_rate.events, by_rate.first_at) == (2, 2, at(1))
        assert (by_amount.amount, by_amount.quantity, by_amount.last_at) == (7, 2, at(3, 1))

    @pytest.mark.parametrize(
        "other",
        [
            {"kind": "FEE"},
            {"item": "large"},
            {"unit": "day"},
            {"unit_price": Decimal("0.6")},
            {"unit_price": None},
            {"unit_price": None, "amount": Decimal(0)},
        ],
    )
    def test_what_is_not_alike_stays_apart(self, batch, other):
        account = AccountFactory()
        for _ in range(2):
            batch((account, at(1)), (account, at(1), other))

        tallying.tally(as_of=AS_OF)

        assert [summary.events for summary in UsageSummary.objects.all()] == [2, 2]

    def test_a_batch_of_nothing_is_tallied(self, batch):
        usage = batch()

        assert tallying.tally(as_of=AS_OF) == 1

        usage.refresh_from_db()
        assert usage.tallied_at == AS_OF

    def test_an_event_at_the_end_of_a_period_belongs_to_the_next(self, batch):
        account = AccountFactory(time_zone="Europe/Budapest")
        edge = periods.ends_at(OCTOBER, "Europe/Budapest")
        batch((account, edge - timedelta(microseconds=1)), (account, edge))

        tallying.tally(as_of=AS_OF)

        months = UsageSummary.objects.order_by("period__month").values_list(
            "period__month", "events"
        )
        assert list(months) == [(OCTOBER, 1), (NOVEMBER, 1)]

    def test_opens_the_months_that_events_fall_into_and_no_others(self, batch):
        account, other = AccountFactory(), AccountFactory()
        batch((account, at(5)), (account, at(5, month=12)), (other, at(5, month=11)))

        tallying.tally(as_of=AS_OF)

        opened = BillingPeriod.objects.order_by("account", "month").values_list("account", "month")
        assert list(opened) == [
            (account.pk, OCTOBER),
            (account.pk, DECEMBER),
            (other.pk, NOVEMBER),
        ]

    def test_a_stored_period_decides_whatever_the_zone_is_now(self, batch):
        account = AccountFactory(time_zone="America/New_York")
        PeriodFactory(account=account, month=OCTOBER)  # until 04:00 UTC on 1 November
        Account.objects.update(time_zone="Europe/Budapest")
        batch((account, at(1, 3, month=11)), (account, at(1, 5, month=11)))

        tallying.tally(as_of=AS_OF)

        months = UsageSummary.objects.order_by("period__month").values_list(
            "period__month", "events"
        )
        assert list(months) == [(OCTOBER, 1), (NOVEMBER, 1)]

    @pytest.mark.parametrize(
        ("before", "after", "stored", "event", "expected"),
        [
            # October ended at 23:00 UTC; to New York it is still October then.
            ("Europe/Budapest", "America/New_York", OCTOBER, at(1, 1, month=11), NOVEMBER),
            # November began at 04:00 UTC; to Budapest it has been November for a while.
            ("America/New_York", "Europe/Budapest", NOVEMBER, at(1, 1, month=11), OCTOBER),
        ],
    )
    def test_an_event_between_two_zones_falls_into_the_neighbour(
        self, batch, before, after, stored, event, expected
    ):
        account = AccountFactory(time_zone=before)
        PeriodFactory(account=account, month=stored)
        Account.objects.update(time_zone=after)
        batch((account, event))

        tallying.tally(as_of=AS_OF)

        assert UsageSummary.objects.get().period.month == expected
        early, late = account.periods.order_by("starts_at")
        assert early.ends_at == late.starts_at

    def test_what_an_invoice_has_taken_stays_and_late_events_begin_anew(self, batch):
        account = AccountFactory()
        batch((account, at(1)))
        tallying.tally(as_of=AS_OF)
        UsageSummary.objects.update(invoice=draft_invoice(account))
        batch((account, at(2)), (account, at(3)))

        tallying.tally(as_of=AS_OF)

        taken, open_one = UsageSummary.objects.order_by("pk")
        assert (taken.events, open_one.events, open_one.invoice_id) == (1, 2, None)
        assert taken.period == open_one.period

    @pytest.fixture
    def left(self, batch, monkeypatch):
        """Usage of an account that had no billing period when it was tallied."""
        batch((AccountFactory(), at(1)))
        with monkeypatch.context() as patch:
            patch.setattr(tallying, "open_periods_of", lambda _: None)
            tallying.tally(as_of=AS_OF)
        return UntalliedUsage.objects.get()

    def test_usage_without_a_period_is_left_and_added_up_later(self, left):
        assert left.batch.tallied_at == AS_OF
        assert not UsageSummary.objects.exists()
        assert "of 1 events only 0" in left.because
        tallying.tally(as_of=AS_OF + tallying.TRY_AGAIN_AFTER)
        assert UsageSummary.objects.get().events == 1
        assert not UntalliedUsage.objects.exists()

    def test_what_was_left_is_added_up_once(self, left):
        tallying.tally(as_of=left.again_at)

        # A process that had read the row before another was done with it.
        tallying._tally_left(left.pk)

        assert UsageSummary.objects.get().events == 1

    def test_a_fault_of_the_database_is_no_accounts(self, batch, monkeypatch):
        usage = batch((AccountFactory(), at(1)))

        def gone(*_args, **_kwargs):
            raise OperationalError("the server went away")

        with monkeypatch.context() as patch:
            patch.setattr(tallying, "_add_to_summaries", gone)
            with pytest.raises(OperationalError):
                tallying.tally(as_of=AS_OF)

        usage.refresh_from_db()
        assert usage.tallied_at is None
        assert not UntalliedUsage.objects.exists()
        tallying.tally(as_of=AS_OF)
        assert UsageSummary.objects.get().events == 1

    def test_nor_is_one_that_comes_while_what_was_left_is_tried(self, left, monkeypatch):
        def gone(_left_id):
            raise OperationalError("the server went away")

        with monkeypatch.context() as patch:
            patch.setattr(tallying, "_tally_left", gone)
            with pytest.raises(OperationalError):
                tallying.tally(as_of=left.again_at)

        assert UntalliedUsage.objects.get().again_at == left.again_at
        tallying.tally(as_of=left.again_at)
        assert UsageSummary.objects.get().events == 1


def draft_invoice(account):
    return Invoice.objects.create(
        entity=account.entity,
        account=account,
        period=account.periods.get(),
        currency=account.currency,
    )


@pytest.mark.concurrency
@pytest.mark.django_db(transaction=True)
class TestTallyAtOnce:
    @pytest.fixture(autouse=True)
    def _entity(self):
        EntityFactory()

    def test_several_talliers_count_each_event_once(self):
        accounts = [AccountFactory() for _ in range(5)]
        for number in range(8):
            order = accounts if number % 2 else accounts[::-1]
            usage_batch(*((account, at(1 + number)) for account in order), name=f"{number}")

        errors = in_threads(4, lambda: tallying.tally(as_of=AS_OF))

        assert errors == []
        assert UsageSummary.objects.aggregate(n=Sum("events"))["n"] == 40
        assert UsageSummary.objects.count() == 5
        assert not UsageBatch.objects.filter(tallied_at=None).exists()

    def test_a_batch_that_another_is_tallying_is_left_to_it(self):
        account = AccountFactory()
        held = usage_batch((account, at(1)))
        usage_batch((account, at(2)))
        outcome = []

        with transaction.atomic():
            UsageBatch.objects.select_for_update().get(pk=held.pk)
            errors = in_threads(1, lambda: outcome.append(tallying.tally(as_of=AS_OF)))

        assert (errors, outcome) == ([], [1])
        assert UsageSummary.objects.get().events == 1

    def test_a_close_waits_for_who_is_tallying_and_takes_over_from_the_dead(self):
        account = AccountFactory()
        held = usage_batch((account, at(1)))

        with transaction.atomic():
            UsageBatch.objects.select_for_update().get(pk=held.pk)
            close = Aside(lambda: tallying.tally_everything(as_of=AS_OF))
            wait_until_somebody_waits()
            # The tallier dies: its transaction ends without a tally.
            transaction.set_rollback(True)

        assert close.join() is None
        assert UsageSummary.objects.get().events == 1

    def test_the_tally_waits_for_whoever_bills_the_account(self):
        account = AccountFactory()
        usage_batch((account, at(1)))
        tallying.tally(as_of=AS_OF)
        usage_batch((account, at(2)))
        started = threading.Event()

        def tally():
            started.set()
            tallying.tally(as_of=AS_OF)

        with transaction.atomic():
            Account.objects.select_for_update(no_key=True).get(pk=account.pk)
            thread = threading.Thread(target=lambda: in_threads(1, tally))
            thread.start()
            started.wait()
            thread.join(0.3)
            assert UsageSummary.objects.get().events == 1
            UsageSummary.objects.update(invoice=draft_invoice(account))
        thread.join()

        taken, later = UsageSummary.objects.order_by("pk")
        assert (taken.events, later.events, later.invoice_id) == (1, 1, None)

    def test_several_opening_the_same_months_open_each_once(self):
        for zone in ("UTC", "Asia/Tokyo", "America/New_York"):
            AccountFactory(time_zone=zone)

        errors = in_threads(
            4,
            lambda: [
                billing_periods.open_periods(month=date(2018, month, 1)) for month in (10, 11, 12)
            ],
        )

        assert errors == []
        assert BillingPeriod.objects.count() == 9
