"""Keys as Stripe keeps them, and only as long."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import stripe

from tests.billing.fakestripe.conftest import confirm, eventually, prepare

DAY = 86_400


class TestReplay:
    def test_a_decline_is_replayed_with_its_status_and_its_request(self, client, customer, control):
        intent = prepare(client, customer, "pm_card_visa_chargeDeclined")
        with pytest.raises(stripe.CardError) as first:
            confirm(client, intent, key="k")

        with pytest.raises(stripe.CardError) as again:
            confirm(client, intent, key="k")

        assert again.value.json_body == first.value.json_body
        assert again.value.headers["Idempotent-Replayed"] == "true"
        assert again.value.headers["Original-Request"] == first.value.request_id
        assert len(control.dump()["charges"]) == 1

    def test_a_refused_cancel_is_replayed_even_when_it_would_now_succeed(self, client, prepared):
        confirm(client, prepared)

        for _ in range(2):
            with pytest.raises(stripe.InvalidRequestError) as refusal:
                client.v1.payment_intents.cancel(prepared.id, {}, {"idempotency_key": "k"})
            assert refusal.value.code == "payment_intent_unexpected_state"

        assert refusal.value.headers["Idempotent-Replayed"] == "true"

    @pytest.mark.parametrize("began", [True, False])
    def test_a_500_is_replayed_for_ever_if_the_execution_had_begun(self, client, control, began):
        control.fault("500_before", began=began)
        key = {"idempotency_key": "k"}
        with pytest.raises(stripe.APIError) as broken:
            client.v1.customers.create({}, key)
        assert broken.value.http_status == 500

        if began:
            with pytest.raises(stripe.APIError) as again:
                client.v1.customers.create({}, key)
            assert again.value.headers["Idempotent-Replayed"] == "true"
        else:
            assert client.v1.customers.create({}, key).id

        assert len(control.dump()["customers"]) == (0 if began else 1)

    def test_a_failed_validation_is_not_kept(self, client):
        key = {"idempotency_key": "k"}
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.payment_intents.create({"amount": 1, "currency": "usd"}, key)

        assert client.v1.payment_intents.create({"amount": 100, "currency": "usd"}, key).id

    def test_a_read_ignores_its_key(self, client, customer, control):
        key = {"idempotency_key": "k"}
        before = client.v1.customers.retrieve(customer.id, {}, key)
        client.v1.customers.update(customer.id, {"name": "Ada", "metadata": {"tier": "2"}})

        after = client.v1.customers.retrieve(customer.id, {}, key)

        assert (before.name, after.name) == (None, "Ada")
        assert after.metadata.to_dict() == {"account_id": "7", "tier": "2"}

    def test_a_key_is_of_one_endpoint(self, client, prepared):
        key = {"idempotency_key": "k"}
        client.v1.customers.create({}, key)

        with pytest.raises(stripe.IdempotencyError) as refusal:
            client.v1.payment_intents.cancel(prepared.id, {}, key)

        assert "same endpoint" in refusal.value.user_message

    def test_a_key_of_more_than_255_characters_is_refused(self, client):
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.customers.create({}, {"idempotency_key": "k" * 256})

    def test_a_key_is_forgotten_after_a_day_of_the_virtual_clock(self, client, control):
        key = {"idempotency_key": "k"}
        first = client.v1.customers.create({}, key)
        control.later(DAY - 60)
        still = client.v1.customers.create({}, key)
        control.later(120)

        forgotten = client.v1.customers.create({}, key)

        assert still.id == first.id
        assert forgotten.id != first.id


class TestConcurrency:
    def test_twenty_threads_with_one_key_make_one_intent(self, client, customer, control):
        gate = threading.Barrier(20)

        def create(_):
            gate.wait()
            try:
                said = {"amount": 1000, "currency": "usd", "customer": customer.id}
                return client.v1.payment_intents.create(said, {"idempotency_key": "k"}).id
            except stripe.APIError as error:
                return error.http_status

        with ThreadPoolExecutor(20) as pool:
            answers = set(pool.map(create, range(20)))

        (intent,) = control.dump()["payment_intents"]
        assert answers <= {intent["id"], 409}
        assert intent["id"] in answers

    def test_a_key_in_use_is_a_409(self, client, control):
        control.fault("delay", seconds=2)
        key = {"idempotency_key": "k"}
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(client.v1.customers.create, {}, key)
            eventually(lambda: not control.ask("POST", "/_control/faults", {})[1]["rules"])

            with pytest.raises(stripe.APIError) as refusal:
                client.v1.customers.create({}, key)

            assert (refusal.value.http_status, refusal.value.error.code) == (
                409,
                "idempotency_key_in_use",
            )
            assert (
                client.v1.customers.create({}, key if slow.result() else {}).id == slow.result().id
            )

    def test_a_confirm_and_a_cancel_that_race_are_put_in_order(self, client, customer, saved_card):
        def attempt(act):
            gate.wait()
            try:
                return act().status
            except stripe.InvalidRequestError as error:
                return error.code

        for _ in range(8):
            intent = prepare(client, customer, saved_card.id)
            gate = threading.Barrier(2)
            with ThreadPoolExecutor(2) as pool:
                acts = (
                    lambda one=intent: confirm(client, one),
                    lambda one=intent: client.v1.payment_intents.cancel(one.id),
                )
                answers = list(pool.map(attempt, acts))

            final = client.v1.payment_intents.retrieve(intent.id)
            assert sorted(answers) in (
                ["payment_intent_unexpected_state", "succeeded"],
                ["canceled", "payment_intent_unexpected_state"],
            )
            assert final.status in answers
            assert len(client.v1.charges.list({"payment_intent": intent.id}).data) == (
                final.status == "succeeded"
            )

    def test_many_confirms_of_one_intent_charge_once(self, client, prepared, control):
        def attempt(_):
            try:
                return confirm(client, prepared).status
            except stripe.InvalidRequestError as error:
                return error.code

        with ThreadPoolExecutor(10) as pool:
            answers = sorted(pool.map(attempt, range(20)))

        assert answers == ["payment_intent_unexpected_state"] * 19 + ["succeeded"]
        assert len(control.dump()["charges"]) == 1
