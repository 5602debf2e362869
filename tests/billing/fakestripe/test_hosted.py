"""The provider's own pages: what a customer does on them is what the API then says."""

import urllib.error
import urllib.parse
import urllib.request

import pytest
import stripe

BACK = "http://127.0.0.1:1/back/"


class StayHere(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def visit(url: str, **said: str) -> tuple[int, str, str]:
    """Status, page, and where it sends its visitor."""
    data = urllib.parse.urlencode(said).encode() if said else None
    try:
        with urllib.request.build_opener(StayHere).open(url, data, timeout=20) as answer:
            return answer.status, answer.read().decode(), ""
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers.get("Location") or ""


@pytest.fixture
def session(client, customer):
    return client.v1.checkout.sessions.create(
        {
            "mode": "setup",
            "customer": customer.id,
            "allowed_payment_method_types": ["card"],
            "success_url": BACK + "?setup={CHECKOUT_SESSION_ID}",
            "cancel_url": BACK,
            "setup_intent_data": {"metadata": {"account_id": "acme"}},
        }
    )


class TestEnteringACard:
    def test_saves_it_and_comes_back_with_the_session(self, client, customer, session):
        status, page, _ = visit(session.url)
        assert (status, BACK in page) == (200, True)

        status, _, location = visit(session.url, card="pm_card_visa")

        assert (status, location) == (303, f"{BACK}?setup={session.id}")
        seen = client.v1.checkout.sessions.retrieve(
            session.id, {"expand": ["setup_intent.payment_method"]}
        )
        assert (seen.status, seen.setup_intent.status) == ("complete", "succeeded")
        assert seen.setup_intent.payment_method.customer == customer.id
        assert seen.setup_intent.metadata["account_id"] == "acme"
        told = [event.type for event in client.v1.events.list().data]
        assert {"setup_intent.succeeded", "checkout.session.completed"} <= set(told)

    def test_says_on_the_page_that_a_card_was_declined(self, client, session):
        status, page, _ = visit(session.url, card="pm_card_visa_chargeDeclined")

        assert (status, "Your card was declined." in page) == (200, True)
        assert client.v1.checkout.sessions.retrieve(session.id).status == "open"

    @pytest.mark.parametrize(
        ("answer", "then"), [("approve", f"{BACK}?setup="), ("refuse", "/hosted/checkout/")]
    )
    def test_asks_the_bank_where_that_wants_it(self, session, answer, then):
        _, _, bank = visit(session.url, card="pm_card_authenticationRequiredOnSetup")
        assert "Your bank asks" in visit(bank)[1]

        status, _, location = visit(bank, answer=answer)

        assert (status, location) == (303, then + session.id)

    def test_twice_is_refused(self, session):
        visit(session.url, card="pm_card_visa")

        status, page, _ = visit(session.url, card="pm_card_mastercard")

        assert (status, "is complete" in page) == (200, True)

    def test_is_listed(self, client, customer, session):
        found = client.v1.checkout.sessions.list({"customer": customer.id}).data

        assert [one.id for one in found] == [session.id]

    def test_without_a_currency_or_a_kind_is_refused(self, client):
        with pytest.raises(stripe.InvalidRequestError, match="currency"):
            client.v1.checkout.sessions.create({"mode": "setup", "success_url": BACK})

    def test_goes_on_for_nobody_in_particular(self, client):
        session = client.v1.checkout.sessions.create(
            {"mode": "setup", "success_url": BACK, "currency": "eur"}
        )

        assert "Back" not in visit(session.url)[1]


class TestConfirmingAPayment:
    @pytest.mark.parametrize(
        ("answer", "status", "told"),
        [
            ("approve", "succeeded", "succeeded"),
            ("refuse", "requires_payment_method", "failed"),
        ],
    )
    def test_is_the_same_intent(self, client, customer, answer, status, told):
        intent = client.v1.payment_intents.create(
            {
                "amount": 1000,
                "currency": "usd",
                "customer": customer.id,
                "payment_method": "pm_card_authenticationRequired",
                "confirm": True,
                "return_url": BACK,
            }
        )
        assert intent.next_action.type == "redirect_to_url"

        _, _, location = visit(intent.next_action.redirect_to_url.url, answer=answer)

        assert location == f"{BACK}?payment_intent={intent.id}&redirect_status={told}"
        assert client.v1.payment_intents.retrieve(intent.id).status == status

    def test_of_what_waits_for_nobody_is_refused(self, prepared, server):
        status, page, _ = visit(
            f"{server.url}/hosted/authenticate/{prepared.id}?back={BACK}", answer="approve"
        )

        assert (status, "waits for no authentication" in page) == (400, True)


def test_there_is_nothing_elsewhere(server):
    assert visit(f"{server.url}/hosted/else/x")[0] == 404
    assert visit(f"{server.url}/hosted/checkout/cs_test_nobody")[0] == 404
