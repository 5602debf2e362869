"""Told to stop: a process by its cluster, all of them by a halt."""

import multiprocessing

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError
from django_q.models import OrmQ

from accounts.models import BillingEntity
from billing import reconciliation, tasks
from billing.close.health import sweeper
from billing.models import Halt, Payment, PaymentAttempt
from billing.payments import charges
from billing.workers import halting, heartbeats
from notifications import lanes
from notifications.models import Lane
from tests.billing.builders import collect, owing
from tests.closing import start_close, work
from tests.factories import AS_OF, account_using

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nobody has been told, and each look is a new one."""
    monkeypatch.setattr(halting, "LOOK_EVERY_SECONDS", 0)
    monkeypatch.setattr(halting, "_halt_seen", halting._Seen())
    monkeypatch.setattr(halting, "_told", halting._told)


class TestAHalt:
    def test_has_every_queue_begin_nothing_more_until_it_is_lifted(self):
        account_using("12.00")
        start_close()
        work("INVOICE")
        halting.order(because="release 1.4", by="ops")

        assert [tasks.drain(queue) for queue in ("charge", "default", "email")] == [0, 0, 0]
        assert not Payment.objects.exists()

        halting.lift(by="ops")
        assert tasks.drain("charge") == 1
        assert Payment.objects.exists()

    def test_lets_a_customer_pay_and_nobody_else(self):
        theirs, supports, late = owing(), owing(), owing()
        charges.begin([charges.Request(theirs.pk, "ON_SESSION")], as_of=AS_OF)
        charges.begin([charges.Request(supports.pk, "AUTO")], as_of=AS_OF)
        charges.begin([charges.Request(late.pk, "RETRY")], as_of=AS_OF)
        halting.order(because="release 1.4", by="ops")

        assert tasks.drain("charge") == 1

        assert [payment.account for payment in Payment.objects.all()] == [theirs]
        halting.lift(by="ops")
        tasks.drain("charge")
        assert {payment.account for payment in Payment.objects.all()} == {theirs, supports, late}

    def test_waits_without_a_word_where_the_lane_lets_no_customer_pay(self):
        account = owing()
        charges.begin([charges.Request(account.pk, "ON_SESSION")], as_of=AS_OF)
        lanes.grant("sandbox", wanted=0)
        lanes.pause(Lane.objects.get(provider="sandbox").pk, by="ops", because="maintenance")
        halting.order(because="release 1.4", by="ops")

        assert tasks.drain("charge") == 0

        assert not Payment.objects.exists()

    def test_is_met_in_silence_so_that_no_queue_rings_for_itself_as_long_as_it_stands(self):
        account_using("12.00")
        start_close()
        work("INVOICE")
        collect(owing("1.00"))
        reconciliation.start_due(as_of=AS_OF)
        halting.order(because="release 1.4", by="ops")
        OrmQ.objects.all().delete()

        for queue in ("charge", "default", "email"):
            tasks.drain(queue)

        assert not OrmQ.objects.exists()

    def test_that_was_lifted_a_moment_ago_loses_no_doorbell(self, monkeypatch):
        monkeypatch.setattr(halting, "LOOK_EVERY_SECONDS", 60)
        halting.order(because="release 1.4", by="ops")
        assert halting.is_asked()
        halting.lift(by="ops")
        OrmQ.objects.all().delete()

        tasks.drain("charge")

        assert OrmQ.objects.filter(key="charge").exists()

    def test_holds_the_sweep_which_notes_that_it_was_there(self, provider):
        account = owing("12.34", card="sandbox_insufficient")
        BillingEntity.objects.update(retry_days=[3])
        collect(account, kind=PaymentAttempt.Kind.AUTO)
        account.payment_methods.update(token="sandbox_visa")
        halting.order(because="release 1.4", by="ops")
        before = provider.calls.copy()

        assert tasks.sweep() == {}
        assert provider.calls == before
        assert heartbeats.last_sweep() is not None

        halting.lift(by="ops")
        tasks.sweep()
        tasks.drain("charge")
        assert Payment.objects.get().account == account

    def test_ordered_in_the_middle_of_a_sweep_holds_the_rest_of_it(self, monkeypatch):
        def order(**_facts):
            halting.order(because="release 1.4", by="ops")
            return 0

        monkeypatch.setattr(sweeper, "take_rows", order)

        assert list(tasks.sweep())[-3:] == ["events", "given_up", "rows"]

    def test_holds_what_the_schedule_starts(self, sandbox):
        collect(owing("12.00"))
        halting.order(because="release 1.4", by="ops")

        assert (tasks.start_due_closes(), tasks.start_due_reconciliations()) == (0, 0)

        halting.lift(by="ops")
        assert (tasks.start_due_closes(), tasks.start_due_reconciliations()) == (1, 1)

    def test_lifted_wakes_every_queue(self, settings):
        halting.order(because="release 1.4", by="ops")
        OrmQ.objects.all().delete()

        halting.lift(by="ops")

        assert set(OrmQ.objects.values_list("key", flat=True)) == {"default", "charge", "email"}

    def test_stands_until_then_whoever_orders_another(self):
        halting.order(because="release 1.4", by="ops")

        with pytest.raises(halting.AlreadyHalted, match="release"):
            halting.order(because="disk full", by="somebody else")
        assert halting.halt().because == "release 1.4"

    def test_is_one_at_a_time(self):
        Halt.objects.create(because="one", ordered_by="ops")

        with pytest.raises(IntegrityError, match="one_halt_at_a_time"):
            Halt.objects.create(because="two", ordered_by="ops")

    def test_cannot_be_lifted_twice(self):
        with pytest.raises(halting.NotHalted):
            halting.lift(by="ops")

    def test_is_looked_at_once_a_second(self, monkeypatch, django_assert_num_queries):
        monkeypatch.setattr(halting, "LOOK_EVERY_SECONDS", 60)

        with django_assert_num_queries(1):
            assert [halting.is_asked(), halting.is_asked()] == [False, False]


class TestTheCommand:
    def test_orders_shows_and_lifts(self, capsys):
        call_command("halt")
        call_command("halt", because="release 1.4")
        call_command("halt")
        call_command("halt", lift=True)

        said = capsys.readouterr().out.splitlines()
        assert [line.split(",")[0].partition(": ")[2] for line in said[1:3]] == ["release 1.4"] * 2
        assert [said[0], said[3]] == ["Work goes on"] * 2

    def test_says_why_not(self):
        with pytest.raises(CommandError, match="no halt"):
            call_command("halt", lift=True)


class TestAProcess:
    def test_is_told(self):
        assert not halting.is_asked()

        halting.tell()

        assert halting.is_asked()
        halting._told.value = False

    def test_hears_what_the_one_that_forked_it_is_told(self):
        halting.share()
        context = multiprocessing.get_context("fork")
        hears, says = context.Pipe(duplex=False)

        child = context.Process(target=lambda: says.send(halting._told.value))
        halting.tell()
        child.start()

        assert hears.recv()
        child.join()
