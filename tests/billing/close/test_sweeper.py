"""The sweeper: what died is healed within a minute, and one part that fails stops no other."""

import time
import uuid
from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.db.models.functions import Now
from django_q.models import OrmQ

from billing.close.health import sweeper
from billing.gateways import OutcomeUnknown
from billing.invoices import credits
from billing.models import CreditGrant, PaymentAttempt, Step
from billing.payments import inbound, retries
from billing.workers import heartbeats
from notifications import lanes
from notifications.models import Lane
from tests.billing.builders import collect, grant, owing
from tests.closing import start_close, states, step_of, work
from tests.factories import AS_OF, account_using

pytestmark = pytest.mark.django_db(transaction=True)


def lease(*steps: Step, seconds_left: int) -> None:
    Step.objects.filter(pk__in=[step.pk for step in steps]).update(
        state="RUNNING",
        lease_token=uuid.uuid4(),
        lease_until=Now() + timedelta(seconds=seconds_left),
        attempts=1,
    )


class TestSweep:
    def test_of_a_quiet_installation_heals_nothing(self):
        assert set(sweeper.sweep(as_of=AS_OF).values()) == {0}

    def test_heals_each_thing_that_died(self, provider):
        waiting, leased = account_using("1.00"), account_using("2.00")
        run = start_close()
        work("INVOICE")
        lease(step_of(leased, "CHARGE"), seconds_left=-1)
        provider.after("submit", OutcomeUnknown("the reply was lost"))
        collect(waiting)
        grant(owing("3.00"), 900, expires_at=AS_OF + timedelta(seconds=30))
        OrmQ.objects.all().delete()

        healed = sweeper.sweep(as_of=AS_OF + timedelta(minutes=1))

        assert {part: count for part, count in healed.items() if count} == {
            "leases": 1,
            "rows": 1,
            "credits": 1,
            "doorbells": 2,
        }
        assert step_of(leased, "CHARGE").state == "UNKNOWN"
        assert PaymentAttempt.objects.get().state == "SUCCEEDED"
        assert CreditGrant.objects.get(kind="GOODWILL").expired_minor == 600
        assert set(OrmQ.objects.values_list("key", flat=True)) == {"charge", "email"}
        assert not run.is_finished

    def test_goes_on_after_a_part_that_fails_and_raises_its_error_at_the_end(self, monkeypatch):
        account_using("1.00")
        run = start_close()
        work("INVOICE", "CHARGE", "EMAIL", "HOLD")

        def broken(**_facts):
            raise LookupError("a defect")

        monkeypatch.setattr(sweeper, "take_rows", broken)
        monkeypatch.setattr(credits, "expire_due_credits", broken)

        with pytest.raises(LookupError):
            sweeper.sweep(as_of=AS_OF)

        assert run.steps.get(kind="REPORT").state == "READY"

    def test_a_provider_that_takes_long_keeps_no_bell_and_no_other_sweep_waiting(
        self, monkeypatch, caplog
    ):
        account_using("1.00")
        run = start_close()
        work("INVOICE", "CHARGE", "EMAIL", "HOLD")
        OrmQ.objects.all().delete()
        rung = []

        def take_long(**_facts):
            rung.extend(OrmQ.objects.values_list("key", flat=True))
            a_minute_later = SimpleNamespace(monotonic=lambda: time.monotonic() + 60)
            monkeypatch.setattr(sweeper, "time", a_minute_later)
            return 0

        monkeypatch.setattr(inbound, "process_due", take_long)

        healed = sweeper.sweep(as_of=AS_OF)

        assert "default" in rung
        assert run.steps.get(kind="REPORT").state == "READY"
        assert healed["reports"] == 1
        assert "rows" not in healed
        assert "given_up and what follows are left" in caplog.text
        assert heartbeats.last_sweep() is not None

    def test_that_ran_out_of_time_goes_on_where_it_stopped_so_that_each_part_has_its_turn(
        self, monkeypatch
    ):
        turns: list[str] = []
        now = [0.0]
        monkeypatch.setattr(sweeper, "time", SimpleNamespace(monotonic=lambda: now[0]))

        def hangs(name):
            def part(**_facts):
                turns.append(name)
                # As where a provider hangs: a minute for each part that calls it.
                now[0] += 60
                return 0

            return part

        monkeypatch.setattr(inbound, "process_due", hangs("events"))
        monkeypatch.setattr(sweeper, "take_rows", hangs("rows"))
        monkeypatch.setattr(retries, "retry_due", hangs("retries"))

        for _ in range(5):
            sweeper.sweep(as_of=AS_OF)

        assert turns == ["events", "rows", "retries", "events", "rows"]

    def test_whose_own_parts_take_all_the_time_calls_one_provider_all_the_same(self, monkeypatch):
        turns: list[str] = []
        monkeypatch.setattr(sweeper, "CALL_WITHIN_SECONDS", -1)
        for module, name in ((inbound, "process_due"), (sweeper, "take_rows")):
            part = lambda name=name, **_facts: turns.append(name) or 0  # noqa: E731
            monkeypatch.setattr(module, name, part)

        for _ in range(4):
            sweeper.sweep(as_of=AS_OF)

        assert turns == ["process_due", "take_rows"]


class TestTakeRows:
    """Retries that are due, for which no person waits, behind a lane that lets few begin."""

    IN_A_MINUTE = AS_OF + timedelta(minutes=1)

    @pytest.fixture
    def due(self, provider) -> PaymentAttempt:
        provider.after("submit", OutcomeUnknown("the reply was lost"))
        return collect(owing("3.00"), kind=PaymentAttempt.Kind.RETRY)

    @pytest.fixture
    def slept(self, monkeypatch) -> list[float]:
        """How long it slept, each time; nobody waits for it."""
        slept: list[float] = []
        now = [0.0]

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            now[0] += seconds
            self.limit_lane(rate=1, tokens=1)

        patched = SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
        monkeypatch.setattr(sweeper, "time", patched)
        return slept

    def limit_lane(self, **limits: float) -> None:
        lanes.grant("sandbox", wanted=0)
        Lane.objects.filter(provider="sandbox").update(burst=1, refilled_at=Now(), **limits)

    def test_waits_until_the_lane_lets_the_next_begin(self, due, slept):
        self.limit_lane(rate=0.1, tokens=0)

        assert sweeper.take_rows(as_of=self.IN_A_MINUTE) == 1

        [seconds] = slept
        assert 0 < seconds <= 10
        due.refresh_from_db()
        assert due.state == "SUCCEEDED"

    def test_leaves_to_the_next_sweep_what_may_begin_only_after_its_time(self, due, slept):
        self.limit_lane(rate=0.01, tokens=0)

        assert sweeper.take_rows(as_of=self.IN_A_MINUTE) == 0

        assert slept == []
        due.refresh_from_db()
        assert due.state == "SUBMITTED"

    def test_that_woke_up_too_late_begins_nothing(self, due, provider, monkeypatch):
        self.limit_lane(rate=0.1, tokens=0)
        now = [0.0]

        def oversleep(_seconds: float) -> None:
            now[0] += 60
            self.limit_lane(rate=1, tokens=1)

        patched = SimpleNamespace(monotonic=lambda: now[0], sleep=oversleep)
        monkeypatch.setattr(sweeper, "time", patched)
        provider.calls.clear()

        assert sweeper.take_rows(as_of=self.IN_A_MINUTE) == 0

        assert not provider.calls["read"]
        due.refresh_from_db()
        assert due.state == "SUBMITTED"


class TestFreeExpiredLeases:
    def test_leaves_a_lease_that_stands(self):
        account = account_using("1.00")
        start_close()
        work("INVOICE")
        lease(step_of(account, "CHARGE"), seconds_left=5)

        assert sweeper.free_expired_leases(as_of=AS_OF) == 0

        assert step_of(account, "CHARGE").state == "RUNNING"

    def test_twice_is_the_same_as_once(self):
        account = account_using("1.00")
        start_close()
        work("INVOICE")
        lease(step_of(account, "CHARGE"), seconds_left=-1)

        assert [sweeper.free_expired_leases(as_of=AS_OF) for _ in range(2)] == [1, 0]


class TestReleaseReports:
    def test_releases_the_report_of_every_run_that_has_nothing_open(self):
        start_close()
        assert sweeper.release_reports() == 1
        assert sweeper.release_reports() == 0
        assert states() == {"READY": 1}


class TestDoorbells:
    def test_are_rung_for_what_is_ready_now_and_not_for_what_is_due_later(self):
        account = account_using("1.00")
        start_close()
        OrmQ.objects.all().delete()
        Step.objects.filter(account=account).update(run_at=Now() + timedelta(hours=1))

        assert sweeper.ring_for_ready_steps() == 0
        Step.objects.filter(account=account).update(run_at=Now())
        assert sweeper.ring_for_ready_steps() == 1

        assert set(OrmQ.objects.values_list("key", flat=True)) == {"default"}
