"""What every gateway that keeps a book here promises, whether its money takes a second or days."""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime

import pytest

from billing import gateways
from billing.gateways import (
    AttemptSpec,
    Gateway,
    Misconfigured,
    OutcomeUnknown,
    RefundRefused,
    RefundSpec,
)
from tests.factories import AS_OF
from tests.served_sandbox import served_sandbox
from tests.workers import at_once


@pytest.fixture(autouse=True)
def _no_database(monkeypatch):
    """Nothing here needs one; the workers' clean-up looks for it all the same."""
    monkeypatch.setattr("tests.workers.connection", type("None", (), {"close": lambda: None}))


@dataclass
class Subject:
    """A gateway, its tokens that behave in named ways, and how its money comes to its end."""

    gateway: Gateway
    pays: str
    declines: str
    loses_reply: str
    time_passes: Callable[[], object]


@pytest.fixture
def over_http(settings) -> Iterator[None]:
    with served_sandbox(settings.SANDBOX_BOOK) as settings.SANDBOX_URL:
        yield


@pytest.fixture(params=["sandbox", "sandbox over HTTP", "debit"])
def subject(request, debit) -> Subject:
    if request.param == "sandbox over HTTP":
        request.getfixturevalue("over_http")
    gateway = gateways.get(request.param.split()[0])
    if gateway.name == "sandbox":
        names = ("sandbox_visa", "sandbox_insufficient", "sandbox_lost_reply")
        return Subject(gateway, *names, lambda: None)
    names = ("debit_pays.acme", "debit_insufficient.acme", "debit_lost_reply.acme")
    return Subject(gateway, *names, lambda: debit.advance(5))


def spec(token: str, **facts) -> AttemptSpec:
    return AttemptSpec(
        **{
            "own_reference": "attempt 1",
            "account_ref": "acme",
            "token": token,
            "amount_minor": 1234,
            "currency": "EUR",
            "charge_date": date(2018, 11, 4),
            **facts,
        }
    )


def prepared(subject, token: str = "", *, key: str = "1"):
    return subject.gateway.prepare(spec(token or subject.pays), key=key)


class TestPrepare:
    def test_moves_nothing_however_long_it_waits(self, subject):
        made = prepared(subject)
        subject.time_passes()

        assert (made.own_reference, made.amount_minor, made.currency) == ("attempt 1", 1234, "EUR")
        assert subject.gateway.read(made.ref).status == "UNSUBMITTED"

    def test_the_same_key_again_is_the_same_object(self, subject):
        assert prepared(subject) == prepared(subject)
        assert prepared(subject, key="2") != prepared(subject)

    def test_by_many_at_once_with_one_key_is_one_object(self, subject):
        results = at_once(*[lambda: prepared(subject)] * 8)

        assert len({made.ref for made in results}) == 1
        assert len(list(subject.gateway.book())) == 1

    def test_refuses_a_token_it_does_not_know(self, subject):
        with pytest.raises(Misconfigured, match=f"'4242'.*use one of {subject.pays.split('.')[0]}"):
            prepared(subject, "4242")

    def test_refuses_an_amount_that_is_none(self, subject):
        # Over HTTP one hears of a failure, and no more.
        with pytest.raises((sqlite3.IntegrityError, OutcomeUnknown)):
            subject.gateway.prepare(spec(subject.pays, amount_minor=0), key="1")

        assert list(subject.gateway.book()) == []


class TestSubmit:
    def test_moves_the_money_of_who_pays(self, subject):
        ref = prepared(subject).ref
        subject.gateway.submit(ref, key="2")
        subject.time_passes()

        assert subject.gateway.read(ref).status == "SUCCEEDED"

    def test_is_declined_with_the_reason(self, subject):
        ref = prepared(subject, subject.declines).ref
        subject.gateway.submit(ref, key="2")
        subject.time_passes()

        seen = subject.gateway.read(ref)
        assert (seen.status, seen.decline_code) == ("DECLINED", "insufficient_funds")

    def test_twice_moves_it_once(self, subject):
        ref = prepared(subject).ref

        assert subject.gateway.submit(ref, key="2") == subject.gateway.submit(ref, key="another")
        assert len(list(subject.gateway.book())) == 1

    def test_loses_its_reply_once_after_it_was_carried_out(self, subject):
        ref = prepared(subject, subject.loses_reply).ref

        with pytest.raises(OutcomeUnknown, match="lost"):
            subject.gateway.submit(ref, key="2")

        assert subject.gateway.read(ref).status == subject.gateway.submit(ref, key="3").status
        assert subject.gateway.read(ref).status != "UNSUBMITTED"


class TestCancel:
    """The fence: once it says CANCELED, no money ever moves by this object."""

    @pytest.mark.parametrize("token", ["pays", "declines", "loses_reply"])
    def test_no_submit_gets_through_any_more(self, subject, token):
        ref = prepared(subject, getattr(subject, token)).ref

        assert subject.gateway.cancel(ref, key="2").status == "CANCELED"
        assert subject.gateway.submit(ref, key="3").status == "CANCELED"
        subject.time_passes()
        assert subject.gateway.read(ref).status == "CANCELED"

    def test_closes_a_declined_charge(self, subject):
        ref = prepared(subject, subject.declines).ref
        subject.gateway.submit(ref, key="2")
        subject.time_passes()

        assert subject.gateway.cancel(ref, key="3").status == "CANCELED"
        assert subject.gateway.submit(ref, key="4").status == "CANCELED"

    def test_comes_too_late_for_one_that_has_succeeded(self, subject):
        ref = prepared(subject).ref
        subject.gateway.submit(ref, key="2")
        subject.time_passes()

        assert subject.gateway.cancel(ref, key="3").status == "SUCCEEDED"

    def test_and_a_submit_at_once_end_one_way(self, subject):
        ref = prepared(subject).ref

        at_once(
            *[
                lambda: subject.gateway.submit(ref, key="2"),
                lambda: subject.gateway.cancel(ref, key="3"),
            ]
            * 3
        )

        ended = subject.gateway.read(ref).status
        assert ended in {"SUCCEEDED", "PROCESSING", "CANCELED"}
        assert subject.gateway.submit(ref, key="4").status == ended


class TestTheBook:
    def test_lists_every_object_in_the_order_they_were_made(self, subject):
        made = [
            subject.gateway.prepare(spec(subject.pays, own_reference=f"attempt {n}"), key=str(n))
            for n in range(3)
        ]

        assert list(subject.gateway.book()) == made

    def test_shows_a_time_of_it_newest_first(self, subject):
        before = datetime.now(UTC)
        made = [prepared(subject, key=key) for key in "abc"]

        assert list(subject.gateway.objects(since=before)) == made[::-1] == subject.gateway.newest()
        assert list(subject.gateway.objects(until=before)) == []
        assert (made[0].account_ref, made[0].token) == ("acme", subject.pays)
        assert list(subject.gateway.settlements()) == []

    def test_finds_all_that_carry_our_reference(self, subject):
        ours = [prepared(subject, key=key) for key in "ab"]
        subject.gateway.prepare(spec(subject.pays, own_reference="attempt 2"), key="c")

        assert subject.gateway.find(spec(subject.pays), since=AS_OF) == ours

    @pytest.mark.parametrize("call", ["read", "cancel", "submit"])
    def test_says_that_it_has_no_such_object(self, subject, call):
        arguments = {} if call == "read" else {"key": "1"}

        with pytest.raises(Misconfigured, match="'nothing'"):
            getattr(subject.gateway, call)("nothing", **arguments)

    def test_is_shared_by_all_who_open_it(self, subject):
        made = prepared(subject)

        assert gateways.get(subject.gateway.name).read(made.ref) == made


class TestMethods:
    def test_that_may_be_chosen_are_those_that_can_be_charged(self, subject):
        offered = subject.gateway.test_methods("acme")

        assert {subject.pays, subject.declines, subject.loses_reply} <= offered.keys()
        for token, words in offered.items():
            method = subject.gateway.read_method(token)
            assert method.token == token
            assert f"{method.brand} ···· {method.last_four}: " in words

    def test_are_kept_under_the_account_and_not_entered(self, subject):
        gateway = subject.gateway
        customer = gateway.ensure_customer(account_ref="acme", email="", name="Acme")
        begun = gateway.begin_setup(
            account_ref="acme",
            customer_ref=customer,
            currency="EUR",
            return_url="https://us.example/",
        )

        assert customer == "acme"
        assert begun.url == ""
        assert gateway.read_setup(begun.ref).method is None
        back = "https://us.example/"
        assert gateway.begin_authentication("any", return_url=back) == back

    def test_can_be_charged_to_the_last_minor_unit(self, subject):
        assert subject.gateway.chargeable_minor(1, "ISK") == 1


class TestRefund:
    def spec(self, charge, amount_minor: int = 500) -> RefundSpec:
        return RefundSpec("refund 1", "acme", charge.ref, amount_minor, "EUR")

    def paid(self, subject):
        charge = prepared(subject)
        subject.gateway.submit(charge.ref, key="2")
        subject.time_passes()
        return charge

    def test_is_made_once_by_a_key_or_never_where_there_are_none(self, subject):
        charge = self.paid(subject)
        if not subject.gateway.capabilities.takes_refunds:
            with pytest.raises(RefundRefused, match="by bank transfer"):
                subject.gateway.refund(self.spec(charge), key="3")
            with pytest.raises(Misconfigured):
                subject.gateway.read_refund("any")
            assert subject.gateway.find_refunds(charge.ref) == []
            return

        made = [subject.gateway.refund(self.spec(charge), key="3") for _ in range(2)]

        assert made[0] == made[1] == subject.gateway.read_refund(made[0].ref)
        assert subject.gateway.find_refunds(charge.ref) == made[:1]

    @pytest.mark.parametrize("amount_minor", [735, 10**9])
    def test_of_more_than_is_left_is_refused(self, subject, amount_minor):
        charge = self.paid(subject)
        if subject.gateway.capabilities.takes_refunds:
            subject.gateway.refund(self.spec(charge), key="3")

        with pytest.raises(RefundRefused):
            subject.gateway.refund(self.spec(charge, amount_minor), key="4")

    def test_that_is_unknown_is_a_fault_of_ours(self, subject):
        with pytest.raises(Misconfigured):
            subject.gateway.read_refund("unheard of")
