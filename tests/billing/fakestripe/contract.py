"""
What our provider and Stripe's test mode have in common. Every test here runs against ours, and
against the real one when STRIPE_TEST_KEY is set; `client` says which.
"""

import pytest
import stripe

from tests.billing.fakestripe.conftest import confirm, prepare

DECLINES = {
    "pm_card_visa_chargeDeclined": ("card_declined", "generic_decline"),
    "pm_card_visa_chargeDeclinedInsufficientFunds": ("card_declined", "insufficient_funds"),
    "pm_card_visa_chargeDeclinedLostCard": ("card_declined", "lost_card"),
    "pm_card_visa_chargeDeclinedStolenCard": ("card_declined", "stolen_card"),
    "pm_card_chargeDeclinedExpiredCard": ("expired_card", None),
    "pm_card_chargeDeclinedIncorrectCvc": ("incorrect_cvc", None),
    "pm_card_chargeDeclinedProcessingError": ("processing_error", None),
}


class CustomersAndCards:
    def test_a_customer_keeps_what_was_said(self, client):
        made = client.v1.customers.create({"name": "Ada", "metadata": {"account_id": "7"}})

        read = client.v1.customers.retrieve(made.id)

        assert (read.object, read.name, read.metadata["account_id"]) == ("customer", "Ada", "7")
        assert read.livemode is False

    def test_a_deleted_customer_pays_no_more(self, client, customer, saved_card):
        client.v1.customers.delete(customer.id)

        assert client.v1.customers.retrieve(customer.id).deleted is True
        with pytest.raises(stripe.InvalidRequestError) as refusal:
            prepare(client, customer, saved_card.id)
        assert refusal.value.http_status == 400

    def test_a_card_is_saved_listed_and_taken_away(self, client, customer):
        card = client.v1.payment_methods.create({"type": "card", "card": {"token": "tok_visa"}})

        client.v1.payment_methods.attach(card.id, {"customer": customer.id})

        listed = client.v1.payment_methods.list({"customer": customer.id, "type": "card"})
        assert [method.id for method in listed.data] == [card.id]
        assert (listed.data[0].card.brand, listed.data[0].card.last4) == ("visa", "4242")
        assert client.v1.payment_methods.detach(card.id).customer is None
        assert client.v1.customers.payment_methods.list(customer.id).data == []

    def test_a_detached_card_is_refused(self, client, customer, saved_card):
        client.v1.payment_methods.detach(saved_card.id)

        with pytest.raises(stripe.InvalidRequestError):
            prepare(client, customer, saved_card.id)
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.payment_methods.attach(saved_card.id, {"customer": customer.id})

    def test_a_card_of_somebody_else_is_refused(self, client, saved_card):
        stranger = client.v1.customers.create({})

        with pytest.raises(stripe.InvalidRequestError):
            prepare(client, stranger, saved_card.id)
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.payment_methods.attach(saved_card.id, {"customer": stranger.id})

    def test_a_declining_card_cannot_be_saved(self, client, customer):
        with pytest.raises(stripe.CardError) as refusal:
            client.v1.payment_methods.attach(
                "pm_card_visa_chargeDeclined", {"customer": customer.id}
            )

        assert refusal.value.code == "card_declined"

    def test_a_setup_saves_the_card(self, client, customer):
        made = client.v1.setup_intents.create(
            {
                "customer": customer.id,
                "payment_method": "pm_card_visa",
                "allowed_payment_method_types": ["card"],
            }
        )

        done = client.v1.setup_intents.confirm(made.id)

        assert (made.status, done.status) == ("requires_confirmation", "succeeded")
        read = client.v1.setup_intents.retrieve(made.id, {"expand": ["payment_method"]})
        assert read.payment_method.customer == customer.id

    def test_a_setup_that_needs_the_customer_waits_for_them(self, client, customer):
        made = client.v1.setup_intents.create(
            {
                "customer": customer.id,
                "payment_method": "pm_card_authenticationRequiredOnSetup",
                "allowed_payment_method_types": ["card"],
                "confirm": True,
            }
        )

        assert made.status == "requires_action"
        assert made.client_secret.startswith(f"{made.id}_secret_")
        assert client.v1.setup_intents.cancel(made.id).status == "canceled"


class Intents:
    def test_two_steps_move_the_money_once(self, client, prepared):
        done = confirm(client, prepared, expand=["latest_charge.balance_transaction"])

        assert prepared.status == "requires_confirmation"
        assert (prepared.amount_received, prepared.latest_charge) == (0, None)
        assert (done.status, done.amount_received) == ("succeeded", 1000)
        assert done.latest_charge.paid
        assert done.latest_charge.balance_transaction.amount == 1000
        with pytest.raises(stripe.InvalidRequestError) as again:
            confirm(client, prepared)
        assert again.value.code == "payment_intent_unexpected_state"

    def test_one_step_moves_the_money(self, client, customer, saved_card):
        done = prepare(
            client, customer, saved_card.id, confirm=True, off_session=True, description="October"
        )

        assert (done.status, done.description) == ("succeeded", "October")

    def test_a_canceled_intent_never_moves_money(self, client, prepared):
        canceled = client.v1.payment_intents.cancel(
            prepared.id, {"cancellation_reason": "abandoned"}
        )

        assert (canceled.status, canceled.cancellation_reason) == ("canceled", "abandoned")
        with pytest.raises(stripe.InvalidRequestError) as refusal:
            confirm(client, prepared)
        assert refusal.value.code == "payment_intent_unexpected_state"
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.payment_intents.cancel(prepared.id)

    def test_a_succeeded_intent_cannot_be_canceled(self, client, prepared):
        confirm(client, prepared)

        with pytest.raises(stripe.InvalidRequestError) as refusal:
            client.v1.payment_intents.cancel(prepared.id)

        assert refusal.value.code == "payment_intent_unexpected_state"
        assert refusal.value.error.payment_intent.status == "succeeded"

    @pytest.mark.parametrize("card", DECLINES)
    def test_a_decline_says_why_and_leaves_the_intent_open(self, client, customer, card):
        intent = prepare(client, customer, card)

        with pytest.raises(stripe.CardError) as refusal:
            confirm(client, intent)

        code, decline_code = DECLINES[card]
        error = refusal.value.error
        assert (refusal.value.http_status, error.code) == (402, code)
        assert decline_code in (None, error.decline_code)
        assert error.payment_intent.id == intent.id
        read = client.v1.payment_intents.retrieve(intent.id)
        assert (read.status, read.payment_method) == ("requires_payment_method", None)
        assert read.last_payment_error.code == code
        assert read.last_payment_error.payment_method.id
        assert client.v1.charges.retrieve(read.latest_charge).status == "failed"

    def test_a_declined_intent_takes_another_card(self, client, customer, saved_card):
        intent = prepare(client, customer, "pm_card_visa_chargeDeclined")
        with pytest.raises(stripe.CardError):
            confirm(client, intent)

        done = confirm(client, intent, payment_method=saved_card.id)

        assert (done.status, done.last_payment_error) == ("succeeded", None)

    def test_a_saved_card_may_decline_when_it_is_charged(self, client, customer):
        card = client.v1.payment_methods.attach(
            "pm_card_chargeCustomerFail", {"customer": customer.id}
        )

        with pytest.raises(stripe.CardError) as refusal:
            confirm(client, prepare(client, customer, card.id))

        assert refusal.value.code == "card_declined"

    def test_authentication_off_session_is_a_decline(self, client, customer):
        card = client.v1.payment_methods.attach(
            "pm_card_authenticationRequired", {"customer": customer.id}
        )
        intent = prepare(client, customer, card.id)

        with pytest.raises(stripe.CardError) as refusal:
            confirm(client, intent)

        assert refusal.value.code == "authentication_required"
        read = client.v1.payment_intents.retrieve(intent.id)
        assert read.status == "requires_payment_method"
        assert read.last_payment_error.code == "authentication_required"

    def test_authentication_on_session_waits_for_the_customer(self, client, customer):
        intent = prepare(
            client,
            customer,
            "pm_card_authenticationRequired",
            allowed_payment_method_types=["card"],
        )

        waiting = client.v1.payment_intents.confirm(intent.id)

        assert waiting.status == "requires_action"
        assert waiting.client_secret.startswith(f"{intent.id}_secret_")
        assert waiting.next_action.type == "use_stripe_sdk"

    def test_on_session_wants_somewhere_to_return_to(self, client, prepared):
        with pytest.raises(stripe.InvalidRequestError) as refusal:
            client.v1.payment_intents.confirm(prepared.id)

        assert "return_url" in refusal.value.user_message
        done = client.v1.payment_intents.confirm(prepared.id, {"return_url": "https://a.test/"})
        assert done.status == "succeeded"

    def test_nothing_is_confirmed_without_a_card(self, client, customer):
        intent = prepare(client, customer, None)

        with pytest.raises(stripe.InvalidRequestError):
            confirm(client, intent)

        assert intent.status == "requires_payment_method"

    def test_a_customers_intents_are_listed_newest_first(self, client, customer, saved_card):
        first, second, third = (prepare(client, customer, saved_card.id) for _ in range(3))

        page = client.v1.payment_intents.list({"customer": customer.id, "limit": 2})
        rest = client.v1.payment_intents.list(
            {"customer": customer.id, "starting_after": second.id, "created": {"gte": 1}}
        )
        before = client.v1.payment_intents.list(
            {"customer": customer.id, "ending_before": first.id, "limit": 1}
        )

        assert [intent.id for intent in page.data] == [third.id, second.id]
        assert (page.has_more, rest.has_more) == (True, False)
        assert [intent.id for intent in rest.data] == [first.id]
        assert [intent.id for intent in before.data] == [second.id]
        walked = client.v1.payment_intents.list({"customer": customer.id, "limit": 1})
        assert len(list(walked.auto_paging_iter())) == 3


class Refunds:
    def test_parts_are_given_back_up_to_the_whole(self, client, prepared):
        confirm(client, prepared)
        said = {"payment_intent": prepared.id, "amount": 400, "reason": "requested_by_customer"}

        refund = client.v1.refunds.create({**said, "metadata": {"refund_attempt_id": "r-1"}})

        assert (refund.status, refund.amount) == ("succeeded", 400)
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.refunds.create({**said, "amount": 601})
        client.v1.refunds.create({"payment_intent": prepared.id})
        with pytest.raises(stripe.InvalidRequestError) as refusal:
            client.v1.refunds.create({"payment_intent": prepared.id})
        assert refusal.value.code == "charge_already_refunded"
        listed = client.v1.refunds.list({"payment_intent": prepared.id})
        assert [one.amount for one in listed.data] == [600, 400]
        assert listed.data[1].metadata["refund_attempt_id"] == "r-1"
        (charge,) = client.v1.charges.list({"payment_intent": prepared.id}).data
        assert (charge.refunded, charge.amount_refunded) == (True, 1000)

    def test_nothing_is_given_back_before_it_was_taken(self, client, prepared):
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.refunds.create({"payment_intent": prepared.id})


class Refusals:
    def test_the_amount_is_what_the_currency_allows(self, client):
        def refusal_of(amount, currency):
            with pytest.raises(stripe.InvalidRequestError) as refusal:
                client.v1.payment_intents.create({"amount": amount, "currency": currency})
            return refusal.value.code

        assert refusal_of(49, "usd") == "amount_too_small"
        assert refusal_of(0, "usd") in ("parameter_invalid_integer", "amount_too_small")
        assert refusal_of(5124, "kwd") != "amount_too_small"
        assert refusal_of(999_999_999, "usd") == "amount_too_large"
        refusal_of(1000, "zzz")

    def test_unknown_and_missing_parameters_are_named(self, client):
        with pytest.raises(stripe.InvalidRequestError) as unknown:
            client.v1.customers.create({"colour": "red"})
        with pytest.raises(stripe.InvalidRequestError) as missing:
            client.v1.payment_intents.create({"currency": "usd"})
        with pytest.raises(stripe.InvalidRequestError) as nobody:
            client.v1.payment_intents.retrieve("pi_nobody")

        assert (unknown.value.code, unknown.value.param) == ("parameter_unknown", "colour")
        assert (missing.value.code, missing.value.param) == ("parameter_missing", "amount")
        assert (nobody.value.http_status, nobody.value.code) == (404, "resource_missing")

    def test_another_request_with_the_same_key_is_refused(self, client, customer):
        key = {"idempotency_key": f"mismatch-{customer.id}"}
        first = client.v1.customers.create({"name": "one"}, key)

        again = client.v1.customers.create({"name": "one"}, key)

        assert again.id == first.id
        assert again.last_response.headers["Idempotent-Replayed"] == "true"
        with pytest.raises(stripe.IdempotencyError):
            client.v1.customers.create({"name": "two"}, key)

    def test_a_wrong_key_is_refused(self, client, stranger):
        with pytest.raises(stripe.AuthenticationError):
            stranger.v1.customers.create({})
