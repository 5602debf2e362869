"""The sandbox keeps the promises of the Gateway protocol, and its own book."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime

import pytest
from django.conf import settings

from billing import gateways
from billing.gateways import AttemptSpec, Misconfigured, OutcomeUnknown
from billing.gateways.sandbox import CARDS
from tests.factories import AS_OF
from tests.workers import at_once


@pytest.fixture(autouse=True)
def _no_database(monkeypatch):
    """Nothing here needs one; the workers' clean-up looks for it all the same."""
    monkeypatch.setattr("tests.workers.connection", type("None", (), {"close": lambda: None}))


def spec(token: str = "sandbox_visa", **facts) -> AttemptSpec:
    return AttemptSpec(
        **{
            "own_reference": "attempt 1",
            "account_ref": "acme",
            "token": token,
            "amount_minor": 1234,
            "currency": "EUR",
            **facts,
        }
    )


def submitted(sandbox, token: str = "sandbox_visa"):
    return sandbox.submit(sandbox.prepare(spec(token), key="1").ref, key="2")


class TestPrepare:
    def test_moves_nothing(self, sandbox):
        made = sandbox.prepare(spec(), key="1")

        assert made.status == "UNSUBMITTED"
        assert (made.own_reference, made.amount_minor, made.currency) == ("attempt 1", 1234, "EUR")

    def test_the_same_key_again_is_the_same_object(self, sandbox):
        assert sandbox.prepare(spec(), key="1") == sandbox.prepare(spec(), key="1")
        assert sandbox.prepare(spec(), key="2") != sandbox.prepare(spec(), key="1")

    def test_by_many_at_once_with_one_key_is_one_object(self, sandbox):
        results = at_once(*[lambda: sandbox.prepare(spec(), key="1")] * 8)

        assert len({made.ref for made in results}) == 1
        assert len(list(sandbox.book())) == 1

    def test_refuses_a_card_it_does_not_know(self, sandbox):
        with pytest.raises(
            Misconfigured, match="'4242' is not a sandbox card: use one of sandbox_visa"
        ):
            sandbox.prepare(spec("4242"), key="1")

    def test_refuses_an_amount_that_is_none(self, sandbox):
        with pytest.raises(sqlite3.IntegrityError):
            sandbox.prepare(spec(amount_minor=0), key="1")

        assert list(sandbox.book()) == []


class TestSubmit:
    @pytest.mark.parametrize("token", ["sandbox_visa", "sandbox_mastercard", "sandbox_slow"])
    def test_moves_the_money_of_a_card_that_pays(self, sandbox, token):
        assert submitted(sandbox, token).status == "SUCCEEDED"

    @pytest.mark.parametrize(
        ("token", "code"),
        [(card.token, card.decline_code) for card in CARDS.values() if card.decline_code],
    )
    def test_declines_with_the_cards_code(self, sandbox, token, code):
        seen = submitted(sandbox, token)

        assert (seen.status, seen.decline_code) == ("DECLINED", code)

    def test_twice_moves_it_once(self, sandbox):
        first = submitted(sandbox)

        assert sandbox.submit(first.ref, key="another") == first
        assert len(list(sandbox.book())) == 1

    def test_loses_its_reply_once_after_the_money_has_moved(self, sandbox):
        ref = sandbox.prepare(spec("sandbox_lost_reply"), key="1").ref

        with pytest.raises(OutcomeUnknown, match="lost"):
            sandbox.submit(ref, key="2")

        assert sandbox.read(ref).status == "SUCCEEDED"
        assert sandbox.submit(ref, key="3").status == "SUCCEEDED"

    def test_takes_its_time_with_the_slow_card(self, settings, monkeypatch):
        pauses = []
        monkeypatch.setattr("billing.gateways.sandbox.time.sleep", pauses.append)
        settings.SANDBOX_LATENCY_SECONDS, settings.SANDBOX_SLOW_SECONDS = 0.05, 2

        submitted(gateways.get("sandbox"), "sandbox_slow")

        assert pauses == [0.05, 0.05, 2, 0.05]


class TestCancel:
    """The fence: once it says CANCELED, no money ever moves by this object."""

    @pytest.mark.parametrize("token", ["sandbox_visa", "sandbox_lost_reply", "sandbox_declined"])
    def test_no_submit_gets_through_any_more(self, sandbox, token):
        ref = sandbox.prepare(spec(token), key="1").ref

        assert sandbox.cancel(ref, key="2").status == "CANCELED"
        assert sandbox.submit(ref, key="3").status == "CANCELED"

    def test_closes_a_declined_charge(self, sandbox):
        declined = submitted(sandbox, "sandbox_declined")

        assert sandbox.cancel(declined.ref, key="3").status == "CANCELED"

    def test_comes_too_late_for_one_that_has_succeeded(self, sandbox):
        paid = submitted(sandbox)

        assert sandbox.cancel(paid.ref, key="3") == paid

    def test_and_a_submit_at_once_end_one_way(self, sandbox):
        ref = sandbox.prepare(spec(), key="1").ref

        at_once(*[lambda: sandbox.submit(ref, key="2"), lambda: sandbox.cancel(ref, key="3")] * 3)

        ended = sandbox.read(ref).status
        assert ended in {"SUCCEEDED", "CANCELED"}
        assert sandbox.submit(ref, key="4").status == ended


class TestTheBook:
    def test_lists_every_object_in_the_order_they_were_made(self, sandbox):
        made = [sandbox.prepare(spec(own_reference=f"attempt {n}"), key=str(n)) for n in range(3)]

        assert list(sandbox.book()) == made

    def test_shows_a_time_of_it_newest_first(self, sandbox):
        before = datetime.now(UTC)
        made = [sandbox.prepare(spec(own_reference=f"attempt {n}"), key=str(n)) for n in range(3)]

        assert list(sandbox.objects(since=before)) == made[::-1] == sandbox.newest()
        assert list(sandbox.objects(until=before)) == []
        assert made[0].made_at > before

    def test_from_before_objects_had_a_time_is_older_than_any(self, sandbox):
        made = sandbox.prepare(spec(), key="1")
        with closing(sqlite3.connect(settings.SANDBOX_BOOK)) as book, book:
            book.execute("DELETE FROM made")

        assert [seen.ref for seen in sandbox.objects()] == [made.ref]
        assert list(sandbox.objects(since=AS_OF)) == []

    def test_finds_all_that_carry_our_reference(self, sandbox):
        ours = [sandbox.prepare(spec(), key=key) for key in "ab"]
        sandbox.prepare(spec(own_reference="attempt 2"), key="c")

        assert sandbox.find(spec(), since=AS_OF) == ours

    @pytest.mark.parametrize("call", ["read", "cancel", "submit"])
    def test_says_that_it_has_no_such_object(self, sandbox, call):
        arguments = {} if call == "read" else {"key": "1"}

        with pytest.raises(Misconfigured, match="no charge 'sb_nothing'"):
            getattr(sandbox, call)("sb_nothing", **arguments)

    def test_is_shared_by_all_who_open_it(self, sandbox):
        made = sandbox.prepare(spec(), key="1")

        assert gateways.get("sandbox").read(made.ref) == made


class TestCards:
    """The same for everybody, and nobody's: nothing to enter, nothing to take away."""

    def test_look_like_cards_that_never_expire(self, sandbox):
        seen = sandbox.read_method("sandbox_visa")

        assert (seen.brand, seen.last_four, seen.expiry_year) == ("Visa", "4242", 9999)
        assert sandbox.detach("sandbox_visa") == seen

    def test_are_kept_under_the_account_and_not_entered(self, sandbox):
        customer = sandbox.ensure_customer(account_ref="acme", email="", name="Acme")
        begun = sandbox.begin_setup(account_ref="acme", customer_ref=customer)

        assert customer == "acme"
        assert begun.client_secret == ""
        assert sandbox.read_setup(begun.ref).method is None

    def test_can_be_charged_to_the_last_minor_unit(self, sandbox):
        assert sandbox.chargeable_minor(1, "ISK") == 1

    def test_tell_nothing_unasked(self, sandbox):
        with pytest.raises(gateways.NotAuthentic):
            sandbox.parse_webhook({}, b"{}")


class TestNames:
    def test_every_name_is_a_gateway(self):
        assert [gateways.get(name).name for name in gateways.names()] == gateways.names()

    def test_another_name_is_a_wrong_set_up(self):
        with pytest.raises(Misconfigured, match="gateway 'nowhere' is not one of sandbox"):
            gateways.get("nowhere")
