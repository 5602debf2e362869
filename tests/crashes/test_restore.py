"""
The database is restored from a backup: rows are gone whose money has moved (docs/payments.md).

A provider process goes on as it was; our rows go back in time. Nobody may be charged twice, and every
payment that was lost must be found again.
"""

from datetime import timedelta

import pytest

from billing import gateways, reconciliation
from billing.close.health import sweeper
from billing.gateways import OutcomeUnknown
from billing.gateways.standins.debit import DebitGateway
from billing.models import (
    GatewayGuard,
    PaymentAttempt,
    Reconciliation,
    ReconciliationBreak,
    Step,
)
from billing.payments import charges, guard
from billing.payments.charges import AttemptInFlight, GatewayClosed, Request
from tests import charging, restoring
from tests.billing.builders import bill, collect, credit, due, pay_by_hand
from tests.billing.stripe_builders import owing, using
from tests.billing.test_invoicing import NOVEMBER
from tests.billing.test_invoicing import using as use
from tests.closing import assert_books_hold, finish, start_close, step_of, work
from tests.factories import AS_OF, MandateFactory, account_using
from tests.restoring import Backup, copy_of_the_database
from tests.stripe_provider import new_key

pytestmark = pytest.mark.django_db(transaction=True)

State = PaymentAttempt.State
NEXT_DAY = AS_OF + timedelta(days=1)


def taken(stripe) -> dict[str, list[int]]:
    """What the provider has taken from each account of this test, charge by charge."""
    found: dict[str, list[int]] = {}
    for intent in stripe.intents():
        if intent["status"] == "succeeded":
            found.setdefault(intent["metadata"]["account_id"], []).append(intent["amount_received"])
    return found


def life_goes_on(*accounts, times: int = 4, since=AS_OF) -> None:
    """Sweeps, and everybody is asked for what they owe, over and over."""
    for minutes in range(2, 2 + 3 * times, 3):
        as_of = since + timedelta(minutes=minutes)
        sweeper.sweep(as_of=as_of)
        charging.collect_all([Request(account.pk) for account in accounts], as_of=as_of)


class Line:
    """The way to the provider; a backup is made at one point on it."""

    def __init__(self, gateway, *, at: tuple[str, str, int]) -> None:
        self._gateway = gateway
        self._moment, self._call, self._nth = at
        self._calls = 0
        self.backup: Backup | None = None

    def __getattr__(self, name: str):
        real = getattr(self._gateway, name)
        if name != self._call:
            return real

        def call(*args, **kwargs):
            self._calls += 1
            if self._moment == "before":
                self._back_up()
            answer = real(*args, **kwargs)
            if self._moment == "after":
                self._back_up()
            return answer

        return call

    def _back_up(self) -> None:
        if self._calls == self._nth:
            self.backup = Backup()


@pytest.mark.parametrize(
    "at",
    [
        ("before", "prepare", 1),
        ("after", "prepare", 1),
        ("before", "submit", 1),
        ("after", "submit", 1),
        ("before", "prepare", 2),
        ("after", "submit", 2),
        ("before", "cancel", 1),
        ("after", "cancel", 1),
        ("before", "submit", 3),
        ("after", "submit", 3),
    ],
    ids=lambda at: " ".join(map(str, at)),
)
def test_restored_to_any_moment_of_a_charge_nobody_pays_twice(stripe, monkeypatch, at):
    pays, declines, pays_last = (
        owing(stripe, "12.34"),
        owing(stripe, "20.00", card="chargeCustomerFail"),
        owing(stripe, "30.00"),
    )
    line = Line(gateways.get("stripe"), at=at)
    with monkeypatch.context() as patch:
        patch.setattr(gateways, "get", lambda name: line)
        for account in (pays, declines, pays_last):
            collect(account)

    line.backup.restore()
    has_lost_some = PaymentAttempt.objects.count() < 3
    with pytest.raises(GatewayClosed if has_lost_some else AttemptInFlight):
        collect(pays_last, as_of=AS_OF)
    before = taken(stripe)
    life_goes_on(pays, declines, pays_last)

    assert before == taken(stripe)
    assert before == {pays.external_id: [1234], pays_last.external_id: [3000]}
    assert [due(a, as_of=NEXT_DAY) for a in (pays, declines, pays_last)] == [0, 2000, 0]
    assert not guard.paused()
    assert not ReconciliationBreak.objects.exists()
    assert not PaymentAttempt.objects.filter(state__in=PaymentAttempt.IN_FLIGHT).exists()
    assert_books_hold(as_of=NEXT_DAY)


@pytest.mark.parametrize("looks_like_itself", [False, True], ids=["dump", "snapshot"])
def test_a_close_goes_on_in_a_copy_from_before_it_charged(stripe, looks_like_itself):
    accounts = [using(stripe, f"{n}.00") for n in range(10, 16)]
    late = using(stripe, "99.00")
    run = start_close()
    work("INVOICE")
    collect(late)
    with copy_of_the_database() as copy:
        work("CHARGE")
        assert sum(map(sum, taken(stripe).values())) == 75_00 + 99_00

        copy.move_there()
        if looks_like_itself:
            restoring.looks_like_itself(checked_ago=timedelta(hours=1))
        work("CHARGE")
        waiting = step_of(accounts[0], "CHARGE")
        sweeper.sweep(as_of=AS_OF + timedelta(minutes=1))
        run = finish(run, as_of=NEXT_DAY)

        assert (waiting.state, waiting.attempts) == (Step.State.READY, 0)
        why = "has charges that this database has lost" if looks_like_itself else "not the database"
        assert why in waiting.because
        assert {account.external_id: [n * 100] for n, account in enumerate(accounts, 10)} | {
            late.external_id: [9900]
        } == taken(stripe)
        assert [due(account, as_of=NEXT_DAY) for account in accounts] == [0] * 6
        assert run.is_finished
        assert Reconciliation.objects.get().counts == {
            "listed": Reconciliation.objects.get().counts["listed"],
            "foreign": Reconciliation.objects.get().counts["foreign"],
            "found_again": 6,
            "breaks": 0,
        }
        assert_books_hold(as_of=NEXT_DAY)


def test_before_the_invoices_the_money_is_credit_that_pays_them(stripe):
    account = using(stripe, "12.34")
    backup = Backup()
    finish(start_close())
    assert taken(stripe) == {account.external_id: [1234]}

    backup.restore()
    run = start_close()
    sweeper.sweep(as_of=AS_OF)
    work("INVOICE", "CHARGE", as_of=AS_OF)
    life_goes_on(account)
    finish(run, as_of=NEXT_DAY)

    assert taken(stripe) == {account.external_id: [1234]}
    assert (due(account, as_of=NEXT_DAY), credit(account, as_of=NEXT_DAY)) == (0, 0)
    assert_books_hold(as_of=NEXT_DAY)


class TestALostChargeThatIsStillOnItsWay:
    """The bank has it for days, and the attempt before it, which had ended, is in flight again."""

    THE_DAY_AFTER = AS_OF + timedelta(days=1)

    @pytest.fixture(autouse=True)
    def _without_notice(self, debit, settings):
        settings.DEBIT_NOTICE_DAYS = 0

    def debits(self, debit, account) -> list[str]:
        """How each debit of the account stands at its provider, oldest first."""
        book = gateways.get("debit").book()
        return [seen.status for seen in book if seen.account_ref == account.external_id]

    def in_flight(self, account) -> list[tuple[str, str]]:
        attempts = account.attempts.filter(state__in=PaymentAttempt.IN_FLIGHT)
        return list(attempts.values_list("gateway", "state"))

    def customer_changes_to_debit(self, stripe, debit):
        """The database is from before; both providers have gone on. Their card would pay by now."""
        both_are_in_use = with_mandate()
        collect(both_are_in_use)
        account = owing(stripe, "12.34", card="authenticationRequired")
        waits = collect(account, kind=PaymentAttempt.Kind.AUTO)
        assert waits.state == State.REQUIRES_ACTION
        backup = Backup()
        gateways.get("stripe").cancel(waits.provider_ref, key=new_key())
        charges.ask([waits], as_of=AS_OF)
        account.payment_methods.update(is_default=False)
        MandateFactory(account=account)
        assert collect(account).state == State.PROCESSING
        stripe.becomes(account.payment_methods.get(gateway="stripe").token, "visa")

        backup.restore()
        GatewayGuard.objects.update(database_identity="another")
        return account

    def test_through_another_gateway_is_found_before_any_opens(self, stripe, debit):
        account = self.customer_changes_to_debit(stripe, debit)

        life_goes_on(account)

        assert not guard.paused()
        assert taken(stripe) == {}
        assert self.in_flight(account) == [("debit", State.PROCESSING)]
        debit.advance(2)
        life_goes_on(account, since=self.THE_DAY_AFTER)
        assert (taken(stripe), self.debits(debit, account)) == ({}, ["SUCCEEDED"])
        assert due(account, as_of=NEXT_DAY) == 0
        assert not ReconciliationBreak.objects.filter(state="OPEN").exists()
        assert_books_hold(as_of=NEXT_DAY)

    @pytest.mark.parametrize("silent", ["stripe", "debit"])
    def test_nor_do_they_open_as_long_as_one_of_them_does_not_answer(
        self, stripe, debit, monkeypatch, hours_pass_in_lanes, silent
    ):
        account = self.customer_changes_to_debit(stripe, debit)
        real = gateways.get

        with monkeypatch.context() as patch:
            patch.setattr(gateways, "get", lambda name: Silent() if name == silent else real(name))
            life_goes_on(account)
            closed = [each.gateway for each in guard.paused()]
        life_goes_on(account, since=self.THE_DAY_AFTER)

        assert closed == ["debit", "stripe"]
        assert not guard.paused()
        assert taken(stripe) == {}
        assert self.in_flight(account) == [("debit", State.PROCESSING)]

    def test_for_the_rest_of_one_that_was_only_reserved_is_found_again(
        self, debit, settings, monkeypatch
    ):
        settings.DEBIT_NOTICE_DAYS = 2
        charge_day, day_of_the_rest = AS_OF + timedelta(days=2), AS_OF + timedelta(days=5)
        account = with_mandate()
        line = Line(gateways.get("debit"), at=("before", "prepare", 1))
        with monkeypatch.context() as patch:
            patch.setattr(gateways, "get", lambda name: line)
            collect(account)
        pay_by_hand(account, 500)
        charging.drive_due(as_of=charge_day)
        charging.drive_due(as_of=day_of_the_rest)
        assert self.debits(debit, account) == ["CANCELED", "PROCESSING"]

        line.backup.restore()
        GatewayGuard.objects.update(database_identity="another")
        life_goes_on(account, since=day_of_the_rest)
        life_goes_on(account, since=day_of_the_rest + timedelta(days=3))

        assert not guard.paused()
        assert self.debits(debit, account) == ["CANCELED", "PROCESSING"]
        assert self.in_flight(account) == [("debit", State.PROCESSING)]
        assert_books_hold(as_of=day_of_the_rest + timedelta(days=3, minutes=12))

    def test_after_one_that_was_left_behind_unsubmitted_that_is_cancelled_first(
        self, debit, settings, monkeypatch
    ):
        settings.DEBIT_NOTICE_DAYS = 2
        account = with_mandate()
        line = Line(gateways.get("debit"), at=("after", "prepare", 1))
        with monkeypatch.context() as patch:
            patch.setattr(gateways, "get", lambda name: line)
            collect(account)
        PaymentAttempt.objects.update(state=State.RELEASED, next_action_at=None)
        settings.DEBIT_NOTICE_DAYS = 0
        collect(account)
        assert self.debits(debit, account) == ["UNSUBMITTED", "PROCESSING"]

        line.backup.restore()
        GatewayGuard.objects.update(database_identity="another")
        life_goes_on(account)

        assert not guard.paused()
        assert self.debits(debit, account) == ["CANCELED", "PROCESSING"]
        assert self.in_flight(account) == [("debit", State.PROCESSING)]

    def test_after_one_that_was_only_reserved_and_has_taken_money_both_are_found(
        self, stripe, debit, monkeypatch
    ):
        collect(with_mandate())
        account = owing(stripe, "12.34")
        line = Line(gateways.get("stripe"), at=("before", "prepare", 1))
        real = gateways.get
        with monkeypatch.context() as patch:
            patch.setattr(gateways, "get", lambda name: line if name == "stripe" else real(name))
            collect(account)
        more_used(account, "15.00")
        account.payment_methods.update(is_default=False)
        MandateFactory(account=account)
        assert collect(account).state == State.PROCESSING

        line.backup.restore()
        GatewayGuard.objects.update(database_identity="another")
        life_goes_on(account)

        assert not guard.paused()
        assert taken(stripe) == {account.external_id: [1234]}
        assert self.in_flight(account) == [("debit", State.PROCESSING)]
        assert due(account, as_of=NEXT_DAY) == 0

    def test_that_cannot_be_written_down_keeps_all_closed_until_a_person_has_looked(
        self, stripe, debit, monkeypatch
    ):
        account = self.customer_changes_to_debit(stripe, debit)

        def unreadable(*_: object) -> None:
            raise OutcomeUnknown("a mandate that we have no word for")

        monkeypatch.setattr(DebitGateway, "read_method", unreadable)
        life_goes_on(account)
        closed = [each.gateway for each in guard.paused()]
        found = ReconciliationBreak.objects.get(state="OPEN")
        reconciliation.accept(break_id=found.pk, owner="ann", reason="cancelled there", as_of=AS_OF)
        sweeper.sweep(as_of=AS_OF + timedelta(hours=1))

        assert closed == ["debit", "stripe"]
        assert (found.kind, found.account) == ("NOT_BOOKED", account)
        assert not guard.paused()


def more_used(account, amount: str) -> None:
    """Another month is billed."""
    use(account, amount, month=NOVEMBER)
    bill(account, month=NOVEMBER)


def with_mandate():
    account = account_using("12.34", card=None)
    MandateFactory(account=account)
    bill(account)
    return account


class Silent:
    """A provider that cannot be reached."""

    def __getattr__(self, name: str):
        raise ConnectionResetError(name)
