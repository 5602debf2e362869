"""What the sandbox says of customers, cards and events: as little as the protocol allows."""

import pytest

from billing.gateways import Misconfigured, NotAuthentic
from billing.gateways.standins.sandbox import CARDS


def test_charges_any_amount_in_full(sandbox):
    assert sandbox.chargeable_minor(5124, "KWD") == 5124


def test_keeps_cards_under_the_account(sandbox):
    assert sandbox.ensure_customer(account_ref="acme", email="", name="") == "acme"


def test_has_no_form_to_enter_a_card_in(sandbox):
    begun = sandbox.begin_setup(
        account_ref="acme", customer_ref="acme", currency="EUR", return_url="https://us.example/"
    )

    assert begun.url == ""
    assert sandbox.read_setup(begun.ref).method is None
    assert sandbox.read_setup(begun.ref).account_ref == "acme"


def test_sends_nobody_to_a_bank(sandbox):
    assert sandbox.begin_authentication("sb_1", return_url="https://us.example/") == (
        "https://us.example/"
    )


@pytest.mark.parametrize("token", CARDS)
def test_knows_how_its_cards_look(sandbox, token):
    method = sandbox.read_method(token)

    assert (method.token, method.last_four) == (token, CARDS[token].last_four)
    assert method == sandbox.detach(token)


def test_knows_no_other_card(sandbox):
    with pytest.raises(Misconfigured):
        sandbox.read_method("pm_card_visa")


def test_tells_nothing_unasked(sandbox):
    with pytest.raises(NotAuthentic):
        sandbox.parse_webhook({}, b"{}")
