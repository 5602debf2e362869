"""What happens at the provider without us: time, banks, customers, payouts."""

import base64
import urllib.error
import urllib.request

import pytest
import stripe

from tests.billing.fakestripe.conftest import confirm, prepare, speaking_to

HOUR, DAY = 3_600, 86_400


@pytest.fixture
def paid(client, prepared):
    return confirm(client, prepared)


def pay_with(client, customer, card, **params):
    return prepare(client, customer, card, confirm=True, off_session=True, **params)


class TestAuthentication:
    def test_the_customer_passes_and_the_same_intent_succeeds(self, client, customer, control):
        intent = prepare(
            client,
            customer,
            "pm_card_authenticationRequired",
            allowed_payment_method_types=["card"],
        )
        client.v1.payment_intents.confirm(intent.id)

        control("authentication", intent=intent.id)

        assert client.v1.payment_intents.retrieve(intent.id).status == "succeeded"

    def test_the_customer_fails_and_the_intent_stays_open(self, client, customer, control):
        intent = prepare(
            client,
            customer,
            "pm_card_authenticationRequired",
            allowed_payment_method_types=["card"],
        )
        client.v1.payment_intents.confirm(intent.id)

        control("authentication", intent=intent.id, succeeds=False)

        read = client.v1.payment_intents.retrieve(intent.id)
        assert read.status == "requires_payment_method"
        assert read.last_payment_error.code == "payment_intent_authentication_failure"

    def test_the_customer_comes_back_after_an_off_session_refusal(self, client, customer, control):
        card = client.v1.payment_methods.attach(
            "pm_card_authenticationRequired", {"customer": customer.id}
        )
        intent = prepare(client, customer, card.id)
        with pytest.raises(stripe.CardError):
            confirm(client, intent)

        control("authentication", intent=intent.id)

        assert client.v1.payment_intents.retrieve(intent.id).status == "succeeded"

    def test_a_bank_may_decline_after_the_customer_passed(self, client, customer, control):
        card = "pm_card_authenticationRequiredChargeDeclinedInsufficientFunds"
        intent = prepare(client, customer, card, allowed_payment_method_types=["card"])
        client.v1.payment_intents.confirm(intent.id)

        control("authentication", intent=intent.id)

        read = client.v1.payment_intents.retrieve(intent.id)
        assert read.last_payment_error.decline_code == "insufficient_funds"

    def test_nobody_authenticates_what_does_not_wait(self, client, paid, control):
        seti = client.v1.setup_intents.create({})

        for ref in (paid.id, seti.id):
            status, _ = control.ask("POST", "/_control/authentication", {"intent": ref})
            assert status == 400

    def test_a_set_up_card_pays_without_its_customer(self, client, customer, control):
        said = {"customer": customer.id, "payment_method": "pm_card_authenticationRequiredOnSetup"}
        setup = client.v1.setup_intents.create({**said, "confirm": True})
        with pytest.raises(stripe.CardError) as before:
            pay_with(client, customer, said["payment_method"])

        control("authentication", intent=setup.id)

        card = client.v1.setup_intents.retrieve(setup.id).payment_method
        assert before.value.code == "authentication_required"
        assert pay_with(client, customer, card).status == "succeeded"

    def test_a_failed_set_up_saves_nothing(self, client, customer, control):
        said = {"customer": customer.id, "payment_method": "pm_card_authenticationRequiredOnSetup"}
        setup = client.v1.setup_intents.create({**said, "confirm": True})

        control("authentication", intent=setup.id, succeeds=False)

        read = client.v1.setup_intents.retrieve(setup.id)
        assert read.status == "requires_payment_method"
        assert read.last_setup_error.code == "setup_intent_authentication_failure"
        assert client.v1.payment_methods.list({"customer": customer.id}).data == []

    def test_a_card_may_be_saved_by_paying(self, client, customer):
        pay_with(client, customer, "pm_card_visa", setup_future_usage="off_session")

        (card,) = client.v1.payment_methods.list({"customer": customer.id}).data
        pay_with(client, customer, card.id, setup_future_usage="off_session")
        assert pay_with(client, customer, card.id).status == "succeeded"

    def test_a_card_set_up_for_later_wants_its_customer_only_when_they_are_there(
        self, client, customer
    ):
        card = "pm_card_authenticationRequiredSetupForOffSession"

        there = prepare(client, customer, card, confirm=True, allowed_payment_method_types=["card"])

        assert there.status == "requires_action"
        assert pay_with(client, customer, card).status == "succeeded"


class TestSetups:
    def test_a_declining_card_is_not_set_up(self, client, customer):
        said = {"customer": customer.id, "payment_method": "pm_card_chargeDeclined"}

        with pytest.raises(stripe.CardError) as refusal:
            client.v1.setup_intents.create({**said, "confirm": True})

        setup = refusal.value.error.setup_intent
        assert setup.status == "requires_payment_method"
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.setup_intents.confirm(setup.id)
        done = client.v1.setup_intents.confirm(setup.id, {"payment_method": "pm_card_visa"})
        assert done.status == "succeeded"
        with pytest.raises(stripe.InvalidRequestError) as again:
            client.v1.setup_intents.confirm(setup.id)
        assert again.value.code == "setup_intent_unexpected_state"
        (listed,) = client.v1.setup_intents.list({"customer": customer.id}).data
        assert listed.id == setup.id

    def test_a_setup_without_a_customer_saves_for_nobody(self, client):
        done = client.v1.setup_intents.create({"payment_method": "pm_card_visa", "confirm": True})

        assert done.status == "succeeded"
        assert client.v1.payment_methods.retrieve(done.payment_method).customer is None


class TestCards:
    def test_a_raw_test_number_becomes_a_card(self, client):
        card = {"number": "5555 5555 5555 4444", "exp_month": 3, "exp_year": 2031, "cvc": "123"}

        made = client.v1.payment_methods.create({"type": "card", "card": card})

        shown = made.card
        assert (shown.brand, shown.last4, shown.exp_month) == ("mastercard", "4444", 3)

    def test_a_number_is_not_in_the_log(self, client, control):
        card = {"number": "4242424242424242", "exp_month": 3, "exp_year": 2031, "cvc": "123"}

        client.v1.payment_methods.create({"type": "card", "card": card})

        assert control.dump()["requests"][-1]["params"]["card"]["number"] == "…4242"
        assert "4242424242424242" not in str(control.dump())

    @pytest.mark.parametrize(
        ("card", "code"),
        [
            ({"number": "4111111111111111", "exp_month": 3, "exp_year": 2031}, "card_declined"),
            (
                {"number": "4242424242424242", "exp_month": 13, "exp_year": 2031},
                "invalid_expiry_month",
            ),
            ({"number": "4242424242424242", "exp_year": 2031}, "parameter_invalid_integer"),
            ({"exp_month": 3, "exp_year": 2031}, "parameter_missing"),
            ({"token": "tok_gold"}, "resource_missing"),
        ],
    )
    def test_any_other_card_is_refused(self, client, card, code):
        with pytest.raises(stripe.StripeError) as refusal:
            client.v1.payment_methods.create({"type": "card", "card": card})

        assert refusal.value.code == code

    def test_an_unsaved_card_pays_once(self, client, customer):
        card = client.v1.payment_methods.create({"type": "card", "card": {"token": "tok_visa"}})
        pay_with(client, customer, card.id)

        with pytest.raises(stripe.InvalidRequestError):
            pay_with(client, customer, card.id)
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.payment_methods.detach(card.id)

    def test_test_tokens_are_cards_everywhere(self, client, saved_card):
        assert client.v1.payment_methods.retrieve("pm_card_amex").card.brand == "amex"
        assert client.v1.payment_methods.list({"type": "card"}).data == []
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.payment_methods.retrieve("pm_card_gold")
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.payment_intents.create(
                {"amount": 100, "currency": "usd", "payment_method": saved_card.id}
            )

    def test_a_saved_card_may_turn_bad_and_good_again(self, client, customer, saved_card, control):
        control(
            "cards",
            payment_method=saved_card.id,
            becomes="chargeDeclinedInsufficientFunds",
        )
        with pytest.raises(stripe.CardError) as refusal:
            pay_with(client, customer, saved_card.id)
        assert refusal.value.error.decline_code == "insufficient_funds"
        assert refusal.value.error.advice_code == "try_again_later"
        assert refusal.value.error.network_decline_code == "51"

        control("cards", payment_method=saved_card.id, becomes="visa")

        assert pay_with(client, customer, saved_card.id).status == "succeeded"
        body = {"payment_method": saved_card.id, "becomes": "gold"}
        assert control.ask("POST", "/_control/cards", body)[0] == 404


class TestRefunds:
    def test_a_refund_may_fail_after_it_succeeded(self, client, customer, control):
        paid = pay_with(client, customer, "pm_card_refundFail")
        refund = client.v1.refunds.create({"payment_intent": paid.id})
        assert refund.status == "succeeded"

        control.later(HOUR)

        read = client.v1.refunds.retrieve(refund.id)
        assert (read.status, read.failure_reason) == ("failed", "expired_or_canceled_card")
        charge = client.v1.charges.retrieve(paid.latest_charge)
        assert (charge.refunded, charge.amount_refunded) == (False, 0)
        assert "refund.failed" in [event["type"] for event in control.dump()["events"]]

    @pytest.mark.parametrize(
        ("card", "final"),
        [("pm_card_pendingRefund", "succeeded"), ("pm_card_pendingRefundFail", "failed")],
    )
    def test_a_refund_may_pend(self, client, customer, control, card, final):
        paid = pay_with(client, customer, card)
        refund = client.v1.refunds.create({"charge": paid.latest_charge})
        assert refund.status == "pending"

        control.later(HOUR)

        assert client.v1.refunds.retrieve(refund.id).status == final

    def test_a_bank_may_send_any_refund_back_once(self, client, paid, control):
        refund = client.v1.refunds.create({"payment_intent": paid.id})

        control("refunds", refund=refund.id, status="failed")

        body = {"refund": refund.id, "status": "failed"}
        assert control.ask("POST", "/_control/refunds", body)[0] == 400
        assert client.v1.refunds.create({"payment_intent": paid.id}).amount == 1000

    @pytest.mark.parametrize("said", [{}, {"amount": 0}, {"charge": "ch_nobody"}])
    def test_a_refund_of_nothing_is_refused(self, client, paid, said):
        if "amount" in said:
            said = {**said, "payment_intent": paid.id}

        with pytest.raises(stripe.InvalidRequestError):
            client.v1.refunds.create(said)


class TestDisputes:
    def test_a_lost_dispute_takes_the_money_and_a_fee(self, client, paid, control):
        opened = control("disputes", payment_intent=paid.id, reason="fraudulent")

        (dispute,) = client.v1.disputes.list({"payment_intent": paid.id}).data
        assert (dispute.id, dispute.amount, dispute.status) == (
            opened["id"],
            1000,
            "needs_response",
        )
        assert client.v1.charges.retrieve(paid.latest_charge).disputed
        with pytest.raises(stripe.InvalidRequestError) as refusal:
            client.v1.refunds.create({"payment_intent": paid.id})
        assert refusal.value.code == "charge_disputed"
        assert client.v1.disputes.close(dispute.id).status == "lost"
        (taken,) = client.v1.disputes.retrieve(dispute.id).balance_transactions
        assert (taken.amount, taken.fee, taken.type) == (-1000, 1500, "adjustment")
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.disputes.close(dispute.id)

    def test_a_won_dispute_brings_the_money_back(self, client, paid, control):
        opened = control("disputes", charge=paid.latest_charge, amount=300)

        control("disputes", dispute=opened["id"], status="won")

        read = client.v1.disputes.retrieve(opened["id"])
        assert [one.amount for one in read.balance_transactions] == [-300, 300]
        told = [event["type"] for event in control.dump()["events"]][-2:]
        assert told == ["charge.dispute.funds_reinstated", "charge.dispute.closed"]
        assert control.ask("POST", "/_control/disputes", {"charge": paid.latest_charge})[0] == 400

    def test_a_card_may_dispute_at_once(self, client, customer):
        paid = pay_with(client, customer, "pm_card_createDispute")

        (dispute,) = client.v1.disputes.list({"charge": paid.latest_charge}).data
        assert dispute.reason == "fraudulent"


class TestPayouts:
    def test_a_payout_gathers_what_is_available(self, client, customer, paid, control):
        client.v1.refunds.create({"payment_intent": paid.id, "amount": 100})
        assert control.ask("POST", "/_control/payouts", {"currency": "usd"})[0] == 400
        control.later(2 * DAY)

        payout = control("payouts", currency="usd")

        # 2.9 % of 1,000 and 30 are 59; the refund gives no fee back.
        assert payout["amount"] == 1000 - 59 - 100
        lines = client.v1.balance_transactions.list({"payout": payout["id"]}).data
        assert [(one.type, one.net, one.status) for one in lines] == [
            ("payout", -841, "available"),
            ("refund", -100, "available"),
            ("charge", 941, "available"),
        ]
        assert client.v1.balance_transactions.retrieve(lines[2].id).source == paid.latest_charge
        charged = client.v1.balance_transactions.list({"type": "charge", "created": {"lte": 1}})
        assert charged.data == []
        assert client.v1.payouts.retrieve(payout["id"]).status == "paid"
        assert [one.id for one in client.v1.payouts.list().data] == [payout["id"]]

    def test_forints_are_paid_out_whole(self, client, customer, control):
        pay_with(client, customer, "pm_card_bypassPending", amount=123_456, currency="huf")

        payout = control("payouts", currency="huf")

        assert payout["amount"] == (123_456 - 3_580 - 30) // 100 * 100


class TestSearch:
    def test_a_search_lags_behind_the_list(self, client, customer, prepared, control):
        query = f"metadata['attempt_id']:'a-1' AND customer:'{customer.id}'"

        fresh = client.v1.payment_intents.search({"query": query}).data
        control.later(60)
        indexed = client.v1.payment_intents.search({"query": query}).data
        other = client.v1.payment_intents.search({"query": "metadata['attempt_id']:'b'"}).data

        assert fresh == other == []
        assert [intent.id for intent in indexed] == [prepared.id]
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.payment_intents.search({"query": "amount > 10"})


class TestTheDoor:
    def test_the_account_is_the_books(self, client, control):
        account = client.v1.accounts.retrieve_current()

        assert account.id == control.dump()["account"]

    def test_customers_are_listed_until_they_are_deleted(self, client, customer):
        client.v1.customers.delete(client.v1.customers.create({"email": "a@b.test"}).id)

        assert [one.id for one in client.v1.customers.list().data] == [customer.id]
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.customers.delete("cus_nobody")

    @pytest.mark.parametrize("key", ["sk_live_x", "rk_live_x", "pk_test_x"])
    def test_only_test_keys_open_it(self, server, key):
        with speaking_to(server.url, key) as client, pytest.raises(stripe.AuthenticationError):
            client.v1.customers.list()

    @pytest.mark.parametrize("user", ["sk_test_x:", "nobody:", None])
    def test_curl_may_say_the_key_as_a_user(self, server, user):
        said = base64.b64encode(user.encode()).decode() if user else "abc"
        request = urllib.request.Request(
            f"{server.url}/v1/customers", headers={"Authorization": f"Basic {said}"}
        )

        if user == "sk_test_x:":
            with urllib.request.urlopen(request) as answer:
                assert answer.status == 200
        else:
            with pytest.raises(urllib.error.HTTPError) as refusal:
                urllib.request.urlopen(request)
            assert refusal.value.code == 401
            refusal.value.close()

    def test_bytes_that_are_no_text_are_refused(self, server):
        request = urllib.request.Request(
            f"{server.url}/v1/customers",
            data=b"\xff=\xfe",
            headers={"Authorization": "Bearer sk_test_x"},
        )

        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(request)

        assert refusal.value.code == 400
        refusal.value.close()

    def test_the_version_of_the_api_is_echoed(self, server, client):
        assert client.v1.customers.list().last_response.headers["Stripe-Version"] == (
            stripe.api_version
        )
        with speaking_to(server.url, stripe_version="2025-01-01") as other:
            assert other.v1.customers.list().last_response.headers["Stripe-Version"] == "2025-01-01"

    def test_what_is_not_spoken_is_a_404(self, client, control):
        with pytest.raises(stripe.InvalidRequestError) as refusal:
            client.v1.charges.search({"query": "x"})
        assert refusal.value.http_status == 404
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.subscriptions.list()
        assert control.ask("POST", "/_control/weather", {})[0] == 404
        assert control.ask("POST", "/_control/refunds", {})[0] == 400

    def test_what_cannot_be_expanded_is_refused(self, client, prepared):
        for path in ("amount", "colour", "client_secret"):
            with pytest.raises(stripe.InvalidRequestError):
                client.v1.payment_intents.retrieve(prepared.id, {"expand": [path, f"{path}.x"]})
        listed = client.v1.payment_intents.list({"expand": ["data.customer", "data.latest_charge"]})
        assert listed.data[0].customer.object == "customer"
