"""What the clusters run: short drains that leave nothing behind."""

from datetime import timedelta

import pytest
from django.utils import timezone
from django_q.models import OrmQ

from billing import reconciliation, tasks
from billing.close.engine import runner
from billing.models import CloseRun
from billing.payments import inbound
from billing.workers import halting
from config.schedules import SCHEDULES
from notifications import dispatcher, lanes
from notifications.models import Message
from tests.billing.builders import collect, owing, pay_by_hand
from tests.closing import start_close, states
from tests.factories import AccountFactory, account_using

pytestmark = pytest.mark.django_db(transaction=True)


class TestDrain:
    def test_of_each_queue_in_turn_finishes_a_month(self):
        account_using("12.00")
        account_using("3.00", card="sandbox_declined")
        run = start_close()

        assert [tasks.drain(queue) for queue in ("default", "charge", "email")] == [2, 2, 2]
        assert tasks.drain("default") == 2
        assert tasks.drain("default") == 1
        assert tasks.drain("email") == 0

        run.refresh_from_db()
        assert run.is_finished
        assert not Message.objects.filter(state="QUEUED").exists()

    def test_of_the_mail_delivers_whatever_the_outbox_holds(self, mailoutbox):
        pay_by_hand(owing("12.00"), 1200)

        tasks.drain("email")

        assert Message.objects.get().state == "SENT"
        assert len(mailoutbox) == 1

    def test_of_the_mail_goes_on_after_a_batch_of_which_nothing_was_sent(self, monkeypatch):
        turns = [50, 2, 1, 0]
        monkeypatch.setattr(dispatcher, "run", lambda *_, **__: turns.pop(0))

        tasks.drain("email")

        assert not turns

    def test_ends_when_its_time_is_over(self, monkeypatch):
        monkeypatch.setattr(tasks, "DRAIN_SECONDS", -1)
        monkeypatch.setattr(dispatcher, "run", None)
        monkeypatch.setattr(inbound, "process_due", None)
        account_using("12.00")
        start_close()

        assert [tasks.drain(queue) for queue in ("default", "charge", "email")] == [0, 0, 0]

        assert states() == {"READY": 1, "WAITING": 4}

    def test_of_the_charges_first_works_on_what_the_providers_said(self, monkeypatch):
        said = [3, 1, 0]
        monkeypatch.setattr(inbound, "process_due", lambda **_: said.pop(0))

        tasks.drain("charge")

        assert not said

    def test_of_the_mail_takes_turns_so_that_a_receipt_waits_for_no_close(self, monkeypatch):
        """The first turn of the invoices takes all its time; there are more of them."""
        said: list[str] = []
        ended = [100, 7, 0]
        taken = [1, 0, 0]

        def steps(*_args, **_facts):
            said.append("invoices")
            return ended.pop(0)

        def dispatch(*_args, **_facts):
            said.append("receipts")
            return taken.pop(0)

        monkeypatch.setattr(runner, "drain", steps)
        monkeypatch.setattr(dispatcher, "run", dispatch)

        assert tasks.drain("email") == 107

        assert said == ["invoices", "receipts"] * 3

    def test_lets_steps_go_on_after_their_turn_unless_something_else_is_due(self, monkeypatch):
        gave_way: list[bool] = []

        def steps(*_args, until, **_facts):
            gave_way.append(until())
            return 0

        monkeypatch.setattr(tasks, "TURN_SECONDS", -1)
        monkeypatch.setattr(runner, "drain", steps)

        tasks.drain("email")
        pay_by_hand(owing("12.00"), 1200)
        tasks.drain("email")

        assert gave_way == [False, True, False]

    def test_asks_once_a_turn_whether_something_else_is_due(self, monkeypatch):
        """The steps in hand ask between any two batches whether they shall give way."""
        now, asked, is_due = [0.0], [], [False]
        monkeypatch.setattr(tasks.time, "monotonic", lambda: now[0])
        monkeypatch.setattr(dispatcher, "is_due", lambda queue: asked.append(queue) or is_due[0])
        gives_way = tasks._gives_way("charge", is_over=bool)

        said = []
        for now[0] in (1, 4, 6, 7, 8, 12):
            said.append(gives_way())
        is_due[0] = True
        for now[0] in (13, 18, 19, 40):
            said.append(gives_way())

        assert said == [False] * 7 + [True] * 3
        assert asked == ["charge"] * 3

    def test_of_the_mail_stops_between_batches_when_told(self, monkeypatch):
        turns: list[int] = []

        def dispatch(*_args, stopping, **_facts):
            turns.append(100)
            assert stopping()
            return turns[-1]

        monkeypatch.setattr(dispatcher, "run", dispatch)
        monkeypatch.setattr(halting, "is_asked", lambda: bool(turns))

        tasks.drain("email")

        assert len(turns) == 1

    def test_of_the_mail_comes_back_when_the_lane_lets_it(self, monkeypatch):
        wait = lanes.Grant(
            provider="smtp",
            count=0,
            again_at=timezone.now() + timedelta(hours=1),
            wait_seconds=3600,
        )
        soon = lanes.Grant(provider="smtp", count=0, again_at=timezone.now(), wait_seconds=0.001)
        refusals = [soon, wait]

        def dispatch(*_args, **_facts):
            raise dispatcher.Throttled([refusals.pop(0)])

        monkeypatch.setattr(dispatcher, "run", dispatch)

        assert tasks.drain("email") == 0

        assert OrmQ.objects.get(key="email").lock > timezone.now() + timedelta(minutes=50)

    def test_rings_again_for_a_provider_that_is_not_listed_to_its_end(self, monkeypatch):
        monkeypatch.setattr(reconciliation, "work_all", lambda **_: True)

        tasks.drain("default")

        assert OrmQ.objects.count() == 1


class TestScheduledTasks:
    def test_stand_in_the_schedules(self):
        scheduled = {entry.func.rpartition(".")[2] for entry in SCHEDULES}

        assert {"sweep", "start_due_closes", "ring_email"} <= scheduled

    def test_start_the_close_of_last_month_once(self):
        AccountFactory()

        assert tasks.start_due_closes() == 1
        assert tasks.start_due_closes() == 0
        assert CloseRun.objects.get().started_by == "schedule"

    def test_start_the_nightly_reconciliations_once(self, sandbox):
        collect(owing("12.00"))

        assert tasks.start_due_reconciliations() == 1
        assert tasks.start_due_reconciliations() == 0

    def test_sweep_says_what_it_healed(self):
        CloseRun.objects.all().delete()
        AccountFactory()
        tasks.start_due_closes()
        OrmQ.objects.all().delete()

        assert tasks.sweep()["doorbells"] == 1
        assert CloseRun.objects.get().started_at <= timezone.now()

    def test_wake_the_mail(self):
        tasks.ring_email()

        assert set(OrmQ.objects.values_list("key", flat=True)) == {"email"}


def test_runs_that_go_on_are_counted_every_minute():
    account_using("12.00")
    start_close()

    assert tasks.count_runs() == 1
