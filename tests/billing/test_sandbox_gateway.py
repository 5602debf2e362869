"""What the sandbox does beyond the contract that every gateway keeps (gateways/test_contract.py)."""

import sqlite3
from contextlib import closing

import pytest
from django.conf import settings

from billing import gateways
from billing.gateways import AttemptSpec
from billing.gateways.standins.sandbox import CARDS
from tests.factories import AS_OF


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

    def test_takes_its_time_with_the_slow_card(self, settings, monkeypatch):
        pauses = []
        monkeypatch.setattr("billing.gateways.standins.sandbox.time.sleep", pauses.append)
        settings.SANDBOX_LATENCY_SECONDS, settings.SANDBOX_SLOW_SECONDS = 0.05, 2

        submitted(gateways.get("sandbox"), "sandbox_slow")

        assert pauses == [0.05, 0.05, 2, 0.05]


class TestTheBook:
    def test_from_before_objects_had_a_time_is_older_than_any(self, sandbox):
        made = sandbox.prepare(spec(), key="1")
        with closing(sqlite3.connect(settings.SANDBOX_BOOK)) as book, book:
            book.execute("DELETE FROM made")

        assert [seen.ref for seen in sandbox.objects()] == [made.ref]
        assert list(sandbox.objects(since=AS_OF)) == []


class TestCards:
    """The same for everybody, and nobody's: nothing to enter, nothing to take away."""

    def test_look_like_cards_that_never_expire(self, sandbox):
        seen = sandbox.read_method("sandbox_visa")

        assert (seen.brand, seen.last_four, seen.expiry_year) == ("Visa", "4242", 9999)
        assert sandbox.detach("sandbox_visa") == seen

    def test_tell_nothing_unasked(self, sandbox):
        with pytest.raises(gateways.NotAuthentic):
            sandbox.parse_webhook({}, b"{}")
