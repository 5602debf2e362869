"""What goes wrong on request, and what the book says of it afterwards."""

import threading
import time

import pytest
import stripe

from billing.gateways.standins.fakestripe import faults
from billing.gateways.standins.fakestripe.book import Book
from tests.billing.fakestripe.conftest import confirm, eventually, speaking_to


def only(control):
    """The one intent in the book."""
    (intent,) = control.dump()["payment_intents"]
    return intent


class TestRules:
    def test_a_request_may_be_lost_before_it_arrives(self, client, prepared, control):
        control.fault("drop_before", match={"path": "/confirm$"})

        with pytest.raises(stripe.APIConnectionError):
            confirm(client, prepared)

        assert only(control)["status"] == "requires_confirmation"
        assert confirm(client, prepared).status == "succeeded"

    def test_a_reply_may_be_lost_after_the_money_moved(self, client, prepared, control):
        control.fault("execute_then_drop", match={"method": "POST", "path": "/confirm$"})

        with pytest.raises(stripe.APIConnectionError):
            confirm(client, prepared, key="k")

        assert only(control)["status"] == "succeeded"
        assert confirm(client, prepared, key="k").status == "succeeded"
        last = control.dump()["requests"][-2]
        assert (last["fault"], last["dropped"], last["status"]) == ("execute_then_drop", True, 200)

    def test_a_500_after_the_money_moved_sticks_to_its_key(self, client, prepared, control):
        control.fault("execute_then_500", match={"path": "/confirm$"})

        for _ in range(2):
            with pytest.raises(stripe.APIError) as broken:
                confirm(client, prepared, key="k")
            assert broken.value.http_status == 500

        assert client.v1.payment_intents.retrieve(prepared.id).status == "succeeded"
        with pytest.raises(stripe.InvalidRequestError):
            confirm(client, prepared, key="the next one")

    def test_a_500_does_not_hide_that_nothing_could_begin(self, client, control):
        control.fault("execute_then_500")

        with pytest.raises(stripe.InvalidRequestError):
            client.v1.payment_intents.create({"amount": 1, "currency": "usd"})

    def test_a_slow_request_is_carried_out_after_its_caller_gave_up(
        self, server, prepared, control
    ):
        control.fault("delay", seconds=1.5, match={"path": "/confirm$"})
        hasty = stripe.StripeClient(
            "sk_test_hasty",
            base_addresses={"api": server.url},
            max_network_retries=0,
            http_client=(http := stripe.RequestsClient(timeout=(5, 0.2))),
        )

        with pytest.raises(stripe.APIConnectionError):
            confirm(hasty, prepared)
        assert only(control)["status"] == "requires_confirmation"

        eventually(lambda: only(control)["status"] == "succeeded")
        http.close()

    def test_a_slow_reply_comes_after_the_money_moved(self, client, prepared, control):
        control.fault("delay", seconds=0.3, when="after", match={"path": "/confirm$"})
        began = time.monotonic()

        assert confirm(client, prepared).status == "succeeded"

        assert time.monotonic() - began >= 0.3

    def test_a_slow_reply_does_not_hold_its_key(self, server, client, prepared, control):
        control.fault("delay", seconds=2, when="after", match={"path": "/confirm$"})
        with speaking_to(server.url) as other:
            slow = threading.Thread(target=lambda: confirm(other, prepared, key="k"))
            slow.start()
            eventually(lambda: only(control)["status"] == "succeeded")

            replayed = confirm(client, prepared, key="k")
            slow.join()

        assert replayed.last_response.headers["Idempotent-Replayed"] == "true"

    def test_refusals_in_front_of_the_api_name_their_reason(self, client, control):
        control.fault("409")
        control.fault("429", retry_after=7)

        with pytest.raises(stripe.APIError) as conflict:
            client.v1.customers.create({})
        with pytest.raises(stripe.RateLimitError) as limited:
            client.v1.customers.create({})

        assert (conflict.value.http_status, conflict.value.error.code) == (
            409,
            "idempotency_key_in_use",
        )
        assert limited.value.headers["Retry-After"] == "7"
        assert client.v1.customers.create({}).id

    def test_an_outage_ends_by_the_virtual_clock(self, client, control):
        control.fault("outage", seconds=6 * 3600)
        for _ in range(3):
            with pytest.raises(stripe.APIError) as down:
                client.v1.customers.list()
            assert down.value.http_status == 503

        control.later(6 * 3600 + 1)

        assert client.v1.customers.list().data == []
        assert control("faults", rules=[])["rules"] == []

    def test_an_outage_may_be_given_its_end(self, client, control):
        control.fault("outage", until=control("clock")["now"] - 1)

        assert client.v1.customers.list().data == []

    def test_a_rule_skips_strikes_and_ends(self, client, control):
        control.fault("drop_before", skip=1, times=2, match={"method": "GET"})

        def lists():
            try:
                return client.v1.customers.list().object
            except stripe.APIConnectionError:
                return "lost"

        assert [lists() for _ in range(4)] == ["list", "lost", "lost", "list"]

    def test_a_rule_finds_its_attempt_by_metadata(self, client, customer, prepared, control):
        control.fault("drop_before", times=9, match={"metadata": {"attempt_id": "a-1"}})

        with pytest.raises(stripe.APIConnectionError):
            confirm(client, prepared)
        with pytest.raises(stripe.APIConnectionError):
            client.v1.refunds.create({"payment_intent": prepared.id})
        with pytest.raises(stripe.APIConnectionError):
            client.v1.customers.create({"metadata": {"attempt_id": "a-1"}})

        assert client.v1.customers.retrieve(customer.id).id

    def test_rules_are_taken_back(self, client, control):
        control.fault("drop_before")
        control("faults", odds="drop_before=1")

        control("faults", clear=True)

        assert client.v1.customers.list().data == []

    @pytest.mark.parametrize(
        "body",
        [
            [{"fault": "earthquake"}],
            [{"fault": "429", "color": "red"}],
            [{"fault": "429", "match": {"verb": "GET"}}],
            [{"fault": "outage"}],
            {"odds": "earthquake=1"},
            {"odds": "429=often"},
        ],
    )
    def test_a_rule_that_says_nothing_is_refused(self, control, body):
        status, answer = control.ask("POST", "/_control/faults", body)

        assert (status, answer["error"]["type"]) == (400, "invalid_request_error")


class TestOdds:
    ODDS = "drop_before=0.1,execute_then_drop=0.1,500=0.2,429=0.1,slow=0.1:2,500_before=0.1"

    def drawn(self, path, seed):
        book = Book(path)
        with book.writing():
            book.set("seed", seed)
            book.set("odds", faults.read_odds(self.ODDS))
            return [faults.choose(book, sequence, "POST", "/v1/x", {}) for sequence in range(400)]

    def test_a_seed_and_a_sequence_always_meet_the_same_faults(self, tmp_path):
        first = self.drawn(tmp_path / "a", 7)

        again, other = self.drawn(tmp_path / "b", 7), self.drawn(tmp_path / "c", 8)

        assert first == again
        assert first != other

    def test_every_kind_comes_about_as_often_as_was_said(self, tmp_path):
        kinds = [fault.kind for fault in self.drawn(tmp_path / "a", 7)]

        assert 80 < kinds.count("") < 160
        assert 20 < kinds.count("drop_before") < 65
        assert {"execute_then_drop", "execute_then_500", "500_before", "429", "delay"} < set(kinds)

    def test_odds_reach_requests(self, client, control):
        control("faults", odds="429=1")

        with pytest.raises(stripe.RateLimitError):
            client.v1.customers.list()
