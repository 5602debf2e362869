"""
The database is restored from a backup: rows are gone whose money has moved (docs/payments.md).

A provider process goes on as it was; our rows go back in time. Nobody may be charged twice, and every
payment that was lost must be found again.
"""

from datetime import timedelta

import pytest

from billing import gateways, guard, payments
from billing.close import sweeper
from billing.models import (
    PaymentAttempt,
    Reconciliation,
    ReconciliationBreak,
    Step,
)
from billing.payments import AttemptInFlight, ChargingStopped, Request
from tests import restoring
from tests.billing.builders import collect, credit, due
from tests.billing.stripe_builders import owing, using
from tests.closing import assert_books_hold, finish, start_close, step_of, work
from tests.factories import AS_OF
from tests.restoring import Backup, copy_of_the_database

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


def life_goes_on(*accounts, times: int = 4) -> None:
    """Sweeps, and everybody is asked for what they owe, over and over."""
    for minutes in range(2, 2 + 3 * times, 3):
        as_of = AS_OF + timedelta(minutes=minutes)
        sweeper.sweep(as_of=as_of)
        payments.collect_all([Request(account.pk) for account in accounts], as_of=as_of)


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
    with pytest.raises(ChargingStopped if has_lost_some else AttemptInFlight):
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
