"""Runs: one per month and entity however it is started, and steered by a person without harm."""

from datetime import UTC, date, datetime

import pytest
from django.db import IntegrityError, connection, transaction
from django_q.models import OrmQ

from accounts.models import BillingEntity
from billing.close import runs
from billing.models import BillingPeriod, CloseRun
from billing.usage import tallying
from tests.closing import finish, start_close, step_of, work_once
from tests.factories import (
    AS_OF,
    OCTOBER,
    AccountFactory,
    EntityFactory,
    PeriodFactory,
    SummaryFactory,
    account_using,
)
from tests.workers import at_once

pytestmark = pytest.mark.django_db(transaction=True)

ANN = "ann@example.com"


class TestStart:
    def test_plans_every_step_of_every_account_once_and_rings(self):
        first, second = account_using("1.00"), AccountFactory()
        AccountFactory(entity=EntityFactory(slug="other", invoice_prefix="OT"))

        run = start_close()

        steps = {(s.account_id, s.kind): s.state for s in run.steps.all()}
        assert steps == {
            **{(a.pk, "INVOICE"): "READY" for a in (first, second)},
            **{(a.pk, k): "WAITING" for a in (first, second) for k in ("CHARGE", "EMAIL", "HOLD")},
            (None, "REPORT"): "WAITING",
        }
        assert OrmQ.objects.filter(key="default").exists()

    def test_opens_the_month_of_who_has_only_late_usage_before_anybody_works(self):
        late, other = AccountFactory(), account_using("1.00")
        SummaryFactory(account=late, period=PeriodFactory(account=late, month=date(2018, 9, 1)))
        # Used nothing: needs none.
        AccountFactory()

        start_close()

        opened = BillingPeriod.objects.filter(month=OCTOBER).values_list("account", flat=True)
        assert set(opened) == {late.pk, other.pk}

    def test_twice_is_the_same_run(self):
        account_using("1.00")
        run, is_new = runs.start(entity=EntityFactory(), month=OCTOBER, started_by=ANN, as_of=AS_OF)

        again, is_new_again = runs.start(
            entity=EntityFactory(), month=OCTOBER, started_by="schedule", as_of=AS_OF
        )

        assert (is_new, is_new_again) == (True, False)
        assert (again, again.started_by) == (run, ANN)
        assert run.steps.count() == 5

    def test_and_the_database_says_so_too(self):
        run = start_close()

        with pytest.raises(IntegrityError, match="one_run_per_entity_and_month"):
            CloseRun.objects.create(
                entity=run.entity, month=run.month, started_by=ANN, started_at=AS_OF
            )

    def test_goes_on_with_a_run_even_if_an_account_was_added_where_the_month_is_not_over(self):
        run = start_close(as_of=datetime(2018, 11, 1, 0, 30, tzinfo=UTC))
        AccountFactory(time_zone="Etc/GMT+12")

        assert start_close(as_of=datetime(2018, 11, 1, 0, 40, tzinfo=UTC)) == run

    def test_refuses_a_month_that_goes_on_and_says_when_it_is_over(self):
        AccountFactory(time_zone="America/New_York")

        with pytest.raises(runs.NotOverYet) as refused:
            start_close(as_of=datetime(2018, 11, 1, 3, 59, 59, tzinfo=UTC))

        assert str(refused.value) == (
            "2018-10 is over in the last of its accounts' time zones at 2018-11-01 04:00 UTC:"
            " close it then"
        )
        assert not CloseRun.objects.exists()

    def test_takes_closed_accounts_only_if_they_still_owe_an_invoice(self):
        used = account_using("1.00", state="CLOSED")
        AccountFactory(state="CLOSED")
        unused = AccountFactory()

        assert runs.accounts_to_close(EntityFactory()) == [used, unused]
        run = start_close()

        assert set(run.steps.filter(kind="HOLD").values_list("account", flat=True)) == {
            used.pk,
            unused.pk,
        }


class TestStartDue:
    def test_starts_the_latest_month_of_every_entity_with_accounts_once(self):
        AccountFactory()
        other = AccountFactory(entity=EntityFactory(slug="other", invoice_prefix="OT")).entity
        EntityFactory(slug="empty", invoice_prefix="EM")

        started = runs.start_due(as_of=AS_OF)

        assert {(run.entity, run.month) for run in started} == {
            (EntityFactory(), OCTOBER),
            (other, OCTOBER),
        }
        assert runs.start_due(as_of=AS_OF) == []

    @pytest.mark.parametrize(
        ("zone", "as_of", "month"),
        [
            ("UTC", datetime(2018, 11, 1, tzinfo=UTC), OCTOBER),
            ("UTC", datetime(2018, 10, 31, 23, 59, tzinfo=UTC), date(2018, 9, 1)),
            ("Pacific/Kiritimati", datetime(2018, 10, 31, 10, tzinfo=UTC), OCTOBER),
            ("Pacific/Kiritimati", datetime(2018, 10, 31, 9, 59, tzinfo=UTC), date(2018, 9, 1)),
            ("Etc/GMT+12", datetime(2019, 1, 1, 11, 59, tzinfo=UTC), date(2018, 11, 1)),
            ("Etc/GMT+12", datetime(2019, 1, 1, 12, tzinfo=UTC), date(2018, 12, 1)),
            # The autumn hour that comes twice, and the spring one that never comes.
            ("Europe/Budapest", datetime(2018, 10, 31, 23, tzinfo=UTC), OCTOBER),
            ("America/Santiago", datetime(2019, 4, 1, 3, tzinfo=UTC), date(2019, 3, 1)),
        ],
    )
    def test_starts_it_once_it_is_over_in_the_last_zone(self, zone, as_of, month):
        AccountFactory(time_zone=zone)

        assert [run.month for run in runs.start_due(as_of=as_of)] == [month]

    def test_one_entity_that_cannot_start_stops_no_other(self, monkeypatch):
        AccountFactory(entity=EntityFactory())
        other = AccountFactory(entity=EntityFactory(slug="other", invoice_prefix="OT")).entity
        real = runs.start

        def start(*, entity: BillingEntity, **facts):
            if entity.slug == "default":
                raise tallying.EventsWithoutPeriod("a batch in trouble")
            return real(entity=entity, **facts)

        monkeypatch.setattr(runs, "start", start)

        with pytest.raises(tallying.EventsWithoutPeriod):
            runs.start_due(as_of=AS_OF)
        assert CloseRun.objects.get().entity == other


class TestReleaseReport:
    def test_waits_until_no_step_of_an_account_is_open(self):
        account = account_using("1.00")
        run = start_close()
        released = []
        for kind in ("INVOICE", "CHARGE", "EMAIL", "HOLD"):
            released.append(runs.release_report(run.pk))
            work_once(kind)

        assert released == [False] * 4
        assert runs.release_report(run.pk)
        assert not runs.release_report(run.pk)
        assert step_of(account, "HOLD").finished_at is not None

    def test_waits_for_nobody_who_makes_it(self):
        run = start_close()
        runs.release_report(run.pk)

        def release_without_patience() -> bool:
            with connection.cursor() as cursor:
                cursor.execute("SET lock_timeout = '1s'")
            return runs.release_report(run.pk)

        with transaction.atomic():
            runs.reports_for_update([run.pk])

            assert at_once(release_without_patience) == [False]

    def test_a_run_without_accounts_has_a_report_all_the_same(self):
        run = finish(start_close())

        assert run.is_finished
        assert run.report["currencies"] == []

    def test_a_finished_run_without_a_report_cannot_be_written(self):
        run = start_close()

        with (
            pytest.raises(IntegrityError, match="finished_run_has_its_report"),
            transaction.atomic(),
        ):
            CloseRun.objects.filter(pk=run.pk).update(state="FINISHED", finished_at=AS_OF)
