"""Two workers, or a worker and a customer, at the same account's money at the same instant."""

import threading
from datetime import timedelta

import pytest
from django.db import connection, transaction

from accounts.models import PaymentMethod
from billing import locks
from billing.gateways import Observation
from billing.models import Payment, PaymentAttempt
from billing.payments import booking, charges
from billing.payments.charges import (
    AttemptInFlight,
    NothingDue,
    Request,
    attempt_kind,
    driving,
)
from tests import charging
from tests.billing.builders import (
    assert_books_balance,
    collect,
    credit,
    due,
    owing,
    pay_by_hand,
)
from tests.factories import AS_OF, token
from tests.workers import PATIENCE_SECONDS, Aside, at_once, wait_until_somebody_waits

pytestmark = [pytest.mark.concurrency, pytest.mark.django_db(transaction=True)]

State = PaymentAttempt.State
SOON = AS_OF + timedelta(minutes=2)


@pytest.fixture(autouse=True)
def _books_balance(sandbox):
    yield
    assert_books_balance(sandbox)


class Gate:
    """Somebody waits here until the test lets them pass."""

    def __init__(self) -> None:
        self._reached, self._open = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self._reached.set()
        assert self._open.wait(PATIENCE_SECONDS), "nobody opened the gate"

    def wait_until_reached(self) -> None:
        assert self._reached.wait(PATIENCE_SECONDS), "nobody came to the gate"

    def open(self) -> None:
        self._open.set()


def stopped_at(provider, moment: str, call: str, account) -> tuple[Gate, Aside]:
    """A worker that collects from the account, stopped before or after this call."""
    gate = Gate()
    getattr(provider, moment)(call, gate)
    worker = Aside(lambda: collect(account))
    gate.wait_until_reached()
    return gate, worker


def book_by_hand(account) -> None:
    """The inside of record_payment, for a test that holds the transaction open itself."""
    booking.book(
        Payment(
            account=account,
            gateway="manual",
            provider_ref=str(token()),
            currency="EUR",
            amount_minor=1234,
            method="Cash",
            received_at=AS_OF,
        ),
        account=account,
        as_of=AS_OF,
    )


def test_many_collects_at_once_are_one_attempt(sandbox):
    account = owing()

    results = at_once(*[lambda: collect(account)] * 4)

    refused = [r for r in results if isinstance(r, AttemptInFlight | NothingDue)]
    (attempt,) = [r for r in results if r not in refused]
    assert attempt.state == State.SUCCEEDED
    assert len(list(sandbox.book())) == 1


def test_batches_that_share_accounts_in_another_order_do_not_wait_for_each_other():
    accounts = [owing() for _ in range(4)]
    requests = [Request(account.pk) for account in accounts]

    results = at_once(
        lambda: charging.collect_all(requests, as_of=AS_OF),
        lambda: charging.collect_all(requests[::-1], as_of=AS_OF),
    )

    assert sum(len(collected.attempts) for collected in results) == 4
    assert [due(account) for account in accounts] == [0, 0, 0, 0]


@pytest.mark.parametrize("call", ["prepare", "submit"])
def test_a_customer_who_pays_now_while_the_close_charges_is_told_so(provider, call):
    account = owing()
    gate, close = stopped_at(provider, "before", call, account)

    with pytest.raises(AttemptInFlight, match="on its way"):
        collect(account)

    gate.open()
    assert close.join().state == State.SUCCEEDED


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("call", ["prepare", "submit"])
def test_a_customer_who_cannot_wait_takes_the_closes_attempt_on_and_pays_once(
    provider, sandbox, moment, call
):
    account = owing()
    gate, close = stopped_at(provider, moment, call, account)

    (asked,) = charges.ask(list(PaymentAttempt.objects.all()), as_of=SOON)
    gate.open()
    driven = close.join()

    assert (asked.state, driven.state) == (State.SUCCEEDED, State.SUCCEEDED)
    assert Payment.objects.get().amount_minor == 1234
    assert [seen.status for seen in sandbox.book()] == ["SUCCEEDED"]


def test_two_sweepers_drive_an_attempt_once(provider):
    account = owing()
    provider.after("submit", ConnectionResetError())
    collect(account)

    results = at_once(*[lambda: charging.drive_due(as_of=SOON)] * 3)

    assert sorted(results) == [0, 0, 1]
    assert due(account) == 0


@pytest.mark.parametrize(
    ("moment", "call"),
    [("before", "prepare"), ("after", "prepare"), ("before", "submit"), ("after", "submit")],
)
class TestAZombie:
    """A driver that was paused, was taken for dead, and goes on after another has finished."""

    def test_changes_nothing_when_the_other_has_charged(self, provider, sandbox, moment, call):
        account = owing("12.34")
        gate, zombie = stopped_at(provider, moment, call, account)
        charging.drive_due(as_of=SOON)
        assert due(account) == 0

        gate.open()

        assert zombie.join().state == State.SUCCEEDED
        assert Payment.objects.count() == 1

    def test_cannot_charge_what_the_other_has_given_up(self, provider, sandbox, moment, call):
        if (moment, call) == ("after", "submit"):
            pytest.skip("the money has moved: there is nothing to give up")
        account = owing("12.34")
        gate, zombie = stopped_at(provider, moment, call, account)
        pay_by_hand(account, 1234)
        charging.drive_due(as_of=SOON)

        gate.open()

        assert zombie.join().state == State.RELEASED
        assert "SUCCEEDED" not in {seen.status for seen in sandbox.book()}
        assert credit(account) == 0

    def test_leaves_alone_the_attempt_that_came_after(self, provider, sandbox, moment, call):
        if (moment, call) == ("after", "submit"):
            pytest.skip("the money has moved: no attempt comes after")
        account = owing("12.34")
        gate, zombie = stopped_at(provider, moment, call, account)
        cards = PaymentMethod.objects.filter(account=account)
        cards.update(state="REMOVED", removed_at=AS_OF)
        charging.drive_due(as_of=SOON)
        cards.update(state="ACTIVE", removed_at=None)
        collect(account, as_of=SOON)

        gate.open()

        assert zombie.join().state == State.RELEASED
        assert Payment.objects.count() == 1
        assert due(account) == 0


def test_ten_who_learn_of_the_same_success_book_it_once(provider, sandbox):
    account = owing("12.34")
    provider.after("submit", ConnectionResetError())
    attempt = collect(account)
    seen: Observation = sandbox.read(attempt.provider_ref)

    results = at_once(*[lambda: charges.apply_provider_state({attempt.pk: seen}, as_of=SOON)] * 10)

    assert {result[attempt.pk].state for result in results} == {State.SUCCEEDED}
    assert Payment.objects.count() == 1


def test_the_same_payment_recorded_by_two_clicks_is_one():
    account = owing("12.34")
    form = token()

    results = at_once(*[lambda: pay_by_hand(account, 1234, token=form)] * 2)

    assert sorted(type(result).__name__ for result in results) == ["AlreadyRecorded", "Payment"]
    assert credit(account) == 0


def test_a_payment_that_has_the_lock_first_is_seen_by_the_recheck(monkeypatch):
    account = owing("12.34")
    gate, recheck = Gate(), attempt_kind.recheck

    def stopped(attempts, **facts):
        if attempts[0].provider_ref is not None:
            gate()
        return recheck(attempts, **facts)

    monkeypatch.setattr(attempt_kind, "recheck", stopped)
    charge = Aside(lambda: collect(account))
    gate.wait_until_reached()

    with transaction.atomic():
        locked = locks.account_for_update(account.pk)
        gate.open()
        wait_until_somebody_waits()
        book_by_hand(locked)

    attempt = charge.join()
    assert (attempt.state, attempt.because) == (State.RELEASED, "settled meanwhile")


def test_a_payment_that_waits_for_the_settling_charge_becomes_credit(monkeypatch):
    account = owing("12.34")
    gate = Gate()
    book = booking.book_all
    monkeypatch.setattr(
        booking,
        "book_all",
        lambda payments, *accounts, **facts: (
            gate() if payments[0].attempt else None,
            book(payments, *accounts, **facts),
        )[1],
    )
    charge = Aside(lambda: collect(account))
    gate.wait_until_reached()
    by_hand = Aside(lambda: pay_by_hand(account, 1234))

    wait_until_somebody_waits(for_us=False)
    gate.open()

    assert charge.join().state == State.SUCCEEDED
    assert by_hand.join().amount_minor == 1234
    assert (due(account), credit(account)) == (0, 1234)


def drive_whatever_others_do(attempts) -> None:
    with driving.Phases(clock=lambda: SOON) as flow:
        flow.enter(attempts, fresh=False)
        while flow:
            flow.turn()


def test_storing_the_providers_objects_never_deadlocks_with_a_recheck(provider):
    """Both lock attempts without the other's account locks: in one order, or one of them dies."""
    accounts = [owing() for _ in range(6)]
    for _ in accounts:
        provider.after("prepare", ConnectionResetError())
    charging.collect_all([Request(a.pk) for a in accounts], as_of=AS_OF)
    attempts = list(PaymentAttempt.objects.order_by("-account"))

    results = at_once(
        lambda: charging.drive(attempts, as_of=SOON),
        lambda: drive_whatever_others_do(
            PaymentAttempt.objects.select_related("account", "payment_method")
        ),
    )

    assert not [result for result in results if isinstance(result, BaseException)]
    assert [due(account) for account in accounts] == [0] * 6


def test_a_customer_is_not_kept_waiting_by_a_provider_that_does_not_answer(provider):
    """While a call is out, the account's row is free: credit can be granted, usage stored."""
    account = owing("12.34")
    gate, charge = stopped_at(provider, "before", "submit", account)

    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = '100ms'")
        locks.account_for_update(account.pk)

    gate.open()
    assert charge.join().state == State.SUCCEEDED
