"""The gateway against a provider process, over HTTP, through Stripe's own SDK."""

import dataclasses
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import requests
import stripe as sdk
from urllib3.exceptions import MaxRetryError

from billing import gateways
from billing.gateways import (
    About,
    Foreign,
    MethodGone,
    Misconfigured,
    NotAuthentic,
    NotSent,
    OutcomeUnknown,
    RateLimited,
    RefundRefused,
    RefundSpec,
    Status,
)
from billing.gateways import stripe as module
from billing.gateways.base import CardSetup, FinishedSetup
from billing.gateways.stripe import StripeGateway
from tests.stripe_provider import SECRET, StripeProvider, new_key, signed

BACK = "https://us.example/back/"
LONG_AGO = datetime(2018, 1, 1, tzinfo=UTC)


@pytest.fixture
def gateway(stripe) -> StripeGateway:
    return gateways.get("stripe")


class TestPrepare:
    def test_moves_no_money(self, gateway, stripe):
        spec = stripe.spec(amount_minor=1234)

        prepared = gateway.prepare(spec, key=new_key())

        assert prepared.status is Status.UNSUBMITTED
        assert prepared.own_reference == spec.own_reference
        assert (prepared.amount_minor, prepared.currency) == (1234, "EUR")
        assert stripe.taken() == 0

    def test_repeated_with_its_key_makes_one_object(self, gateway, stripe):
        spec, key = stripe.spec(), new_key()

        assert gateway.prepare(spec, key=key) == gateway.prepare(spec, key=key)
        assert len(stripe.intents()) == 1

    def test_refuses_a_card_of_another_customer(self, gateway, stripe):
        spec = stripe.spec(customer_ref=stripe.customer())

        with pytest.raises(Misconfigured):
            gateway.prepare(spec, key=new_key())

    def test_refuses_a_detached_card(self, gateway, stripe):
        spec = stripe.spec()
        gateway.detach(spec.token)

        with pytest.raises(Misconfigured):
            gateway.prepare(spec, key=new_key())

    def test_refuses_a_card_without_its_customer(self, gateway, stripe):
        with pytest.raises(Misconfigured, match="without its customer"):
            gateway.prepare(stripe.spec(customer_ref=""), key=new_key())

    def test_says_nothing_of_a_card_that_it_cannot_look_at(self, gateway, stripe, monkeypatch):
        """Whoever may not read cards knows of none that it is gone: nobody's is removed."""

        def refuse(*_):
            raise sdk.InvalidRequestError("Not with this key", "payment_method", code="other")

        monkeypatch.setattr(gateway._client.v1.payment_methods, "retrieve", refuse)

        with pytest.raises(Misconfigured, match="Not with this key") as refused:
            gateway.prepare(stripe.spec(customer_ref=stripe.customer()), key=new_key())
        assert not isinstance(refused.value, MethodGone)

    @pytest.mark.parametrize(
        ("amount_minor", "currency"),
        [(49, "EUR"), (5124, "KWD"), (10_000, "UGX"), (1234, "MGA"), (100_000_000, "EUR")],
    )
    def test_refuses_an_amount_that_cannot_be_charged(
        self, gateway, stripe, amount_minor, currency
    ):
        with pytest.raises(Misconfigured):
            gateway.prepare(
                stripe.spec(amount_minor=amount_minor, currency=currency), key=new_key()
            )

    @pytest.mark.parametrize(
        ("amount_minor", "currency", "at_the_provider"),
        [
            (5120, "KWD", 5120),
            (500, "JPY", 500),
            (1500, "ISK", 150_000),
            (123_400, "MGA", 1234),
            (20_000, "HUF", 20_000),
        ],
    )
    def test_speaks_of_amounts_as_the_provider_does(
        self, gateway, stripe, amount_minor, currency, at_the_provider
    ):
        ref = stripe.prepared(amount_minor=amount_minor, currency=currency)
        charged = gateway.submit(ref, key=new_key())

        assert charged.status is Status.SUCCEEDED
        assert (charged.amount_minor, charged.currency) == (amount_minor, currency)
        assert stripe.taken() == at_the_provider

    def test_charges_no_finer_than_it_can(self, gateway):
        assert gateway.chargeable_minor(5124, "KWD") == 5120


class TestSubmit:
    def test_takes_the_money_once_however_often_it_is_sent(self, gateway, stripe):
        ref = stripe.prepared()

        first = gateway.submit(ref, key=new_key())
        second = gateway.submit(ref, key=new_key())

        assert first == second
        assert first.status is Status.SUCCEEDED
        assert first.decline_code == ""
        assert stripe.taken() == 1234

    def test_at_once_from_many_takes_it_once(self, gateway, stripe):
        ref = stripe.prepared()

        def submit(_):
            return gateway.submit(ref, key=new_key())

        with ThreadPoolExecutor(8) as pool:
            seen = list(pool.map(submit, range(16)))

        assert {o.status for o in seen} == {Status.SUCCEEDED}
        assert stripe.taken() == 1234

    @pytest.mark.parametrize(
        ("card", "code", "advice"),
        [
            ("chargeCustomerFail", "generic_decline", "try_again_later"),
            ("visa_chargeDeclinedInsufficientFunds", "insufficient_funds", "try_again_later"),
            ("visa_chargeDeclinedStolenCard", "stolen_card", "do_not_try_again"),
            ("chargeDeclinedExpiredCard", "expired_card", "do_not_try_again"),
            ("chargeDeclinedIncorrectCvc", "incorrect_cvc", "confirm_card_data"),
            ("chargeDeclinedProcessingError", "processing_error", "try_again_later"),
        ],
    )
    def test_says_what_the_bank_said(self, gateway, stripe, card, code, advice):
        declined = gateway.submit(stripe.prepared(card), key=new_key())

        assert declined.status is Status.DECLINED
        assert (declined.decline_code, declined.advice_code) == (code, advice)
        assert stripe.taken() == 0

    def test_of_a_declined_one_again_declines(self, gateway, stripe):
        ref = stripe.prepared("chargeCustomerFail")
        gateway.submit(ref, key=new_key())

        assert gateway.submit(ref, key=new_key()).decline_code == "generic_decline"

    def test_leaves_3d_secure_to_the_customer_on_the_same_object(self, gateway, stripe):
        ref = stripe.prepared("authenticationRequired")

        asked = gateway.submit(ref, key=new_key())
        stripe.authenticate(ref)

        assert (asked.status, asked.decline_code) == (
            Status.NEEDS_CUSTOMER,
            "authentication_required",
        )
        assert gateway.read(ref).status is Status.SUCCEEDED
        assert stripe.taken() == 1234

    def test_3d_secure_that_fails_is_a_decline(self, gateway, stripe):
        ref = stripe.prepared("authenticationRequired")
        gateway.submit(ref, key=new_key())
        stripe.authenticate(ref, succeeds=False)

        failed = gateway.read(ref)

        assert (failed.status, failed.decline_code) == (
            Status.DECLINED,
            "payment_intent_authentication_failure",
        )

    def test_of_a_card_detached_meanwhile_declines(self, gateway, stripe):
        spec = stripe.spec()
        ref = gateway.prepare(spec, key=new_key()).ref
        gateway.detach(spec.token)

        declined = gateway.submit(ref, key=new_key())

        assert (declined.status, declined.decline_code) == (
            Status.DECLINED,
            "payment_method_unusable",
        )

    def test_of_nothing_says_that_the_key_is_of_another_account(self, gateway):
        with pytest.raises(Misconfigured, match="pi_unknown"):
            gateway.submit("pi_unknown", key=new_key())

    def test_a_decline_without_its_object_is_read(self, gateway, stripe, monkeypatch):
        ref = stripe.prepared("chargeCustomerFail")
        monkeypatch.setattr(module, "_error", lambda error: {})

        assert gateway.submit(ref, key=new_key()).status is Status.DECLINED

    def test_another_refusal_is_ours(self, gateway, stripe, monkeypatch):
        ref = stripe.prepared()

        def refuse(*_):
            raise sdk.InvalidRequestError("Received unknown parameter", "off_session")

        monkeypatch.setattr(gateway._client.v1.payment_intents, "confirm", refuse)

        with pytest.raises(Misconfigured, match="unknown parameter"):
            gateway.submit(ref, key=new_key())


class TestALineThatFails:
    """The request was dropped, carried out without a reply, answered with a 500: it is never guessed."""

    @pytest.mark.parametrize("fault", ["drop_before", "execute_then_drop", "execute_then_500"])
    @pytest.mark.parametrize("again", ["same key", "next key"])
    def test_of_prepare_makes_no_second_charge(self, gateway, stripe, fault, again):
        spec, key = stripe.spec(), new_key()
        stripe.fault(fault, "/v1/payment_intents$")

        with pytest.raises(OutcomeUnknown):
            gateway.prepare(spec, key=key)

        found = gateway.find(spec, since=datetime.now(UTC))
        assert len(found) == (fault != "drop_before")
        if not found:
            ref = gateway.prepare(spec, key=key if again == "same key" else new_key()).ref
            found = gateway.find(spec, since=datetime.now(UTC))
            assert [seen.ref for seen in found] == [ref]

    @pytest.mark.parametrize(
        ("fault", "took"),
        [
            ("drop_before", Status.UNSUBMITTED),
            ("500_before", Status.UNSUBMITTED),
            ("409", Status.UNSUBMITTED),
            ("execute_then_drop", Status.SUCCEEDED),
            ("execute_then_500", Status.SUCCEEDED),
        ],
    )
    def test_of_submit_is_known_by_reading(self, gateway, stripe, fault, took):
        ref = stripe.prepared()
        stripe.fault(fault, "/confirm$")

        with pytest.raises(OutcomeUnknown):
            gateway.submit(ref, key=new_key())

        assert gateway.read(ref).status is took
        assert gateway.submit(ref, key=new_key()).status is Status.SUCCEEDED
        assert stripe.taken() == 1234

    def test_a_500_that_is_remembered_repeats_under_its_key_only(self, gateway, stripe):
        ref, key = stripe.prepared(), new_key()
        stripe.fault("500_before", "/confirm$", began=True)

        for _ in range(2):
            with pytest.raises(OutcomeUnknown):
                gateway.submit(ref, key=key)

        assert gateway.submit(ref, key=new_key()).status is Status.SUCCEEDED

    def test_says_when_to_come_back(self, gateway, stripe):
        ref = stripe.prepared()
        stripe.fault("429", "/confirm$", retry_after=7)

        with pytest.raises(RateLimited) as limited:
            gateway.submit(ref, key=new_key())

        assert limited.value.retry_after_seconds == 7

    def test_a_reply_that_takes_too_long_is_unknown(self, gateway, stripe, monkeypatch):
        ref = stripe.prepared()
        monkeypatch.setattr(module, "READ_SECONDS", 0.2)
        module._connected.cache_clear()
        stripe.fault("delay", "/confirm$", seconds=1, when="after")

        with pytest.raises(OutcomeUnknown):
            gateways.get("stripe").submit(ref, key=new_key())

        module._connected.cache_clear()
        assert gateway.read(ref).status is Status.SUCCEEDED

    def test_an_outage_is_unknown(self, gateway, stripe):
        stripe.fault("outage", "/v1/payment_intents", method="GET", seconds=60)

        with pytest.raises(OutcomeUnknown):
            gateway.read("pi_any")

    def test_a_key_used_for_something_else_is_unknown(self, gateway, stripe):
        key = new_key()
        gateway.prepare(stripe.spec(), key=key)

        with pytest.raises(OutcomeUnknown):
            gateway.prepare(stripe.spec(), key=key)

    def test_nobody_listens(self, gateway, settings):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            settings.STRIPE_API_BASE = f"http://127.0.0.1:{taken.getsockname()[1]}"

            with pytest.raises(NotSent):
                gateways.get("stripe").read("pi_any")

    def test_no_such_host(self, gateway, settings):
        settings.STRIPE_API_BASE = "https://stripe.invalid"

        with pytest.raises(NotSent):
            gateways.get("stripe").read("pi_any")

    def test_a_key_that_is_refused_is_ours_to_mend(self, gateway, stripe, monkeypatch):
        def refuse(*_):
            raise sdk.AuthenticationError("Invalid API Key provided: sk_test_***")

        monkeypatch.setattr(gateway._client.v1.payment_intents, "retrieve", refuse)

        with pytest.raises(Misconfigured, match="Invalid API Key"):
            gateway.read("pi_any")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (sdk.APIError("odd", json_body={"error": {"code": "lock_timeout"}}), RateLimited),
        (
            sdk.InvalidRequestError("odd", None, json_body={"error": {"code": "lock_timeout"}}),
            RateLimited,
        ),
        (sdk.RateLimitError("slow down"), RateLimited),
        (sdk.PermissionError("no"), Misconfigured),
        (sdk.APIError("<html>", json_body="<html>"), OutcomeUnknown),
        (sdk.APIError(None, json_body={"error": "unauthorized"}), OutcomeUnknown),
        (sdk.CardError("no", None, "card_declined"), OutcomeUnknown),
        (sdk.APIConnectionError("tls"), OutcomeUnknown),
    ],
)
def test_an_error_has_one_meaning(error, kind):
    assert type(module._translated(error)) is kind


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7.5", 7.5),
        # Sooner is none: it would be asked again and again.
        ("0.5", 5),
        ("0", 5),
        ("-1", 5),
        ("tomorrow", 5),
        ("nan", 5),
        ("inf", 5),
        ("1e15", 3600),
        ("31536000", 3600),
    ],
)
def test_comes_back_when_it_says_within_an_hour(said, seconds):
    error = module._translated(sdk.RateLimitError("slow down", headers={"Retry-After": said}))

    assert error.retry_after_seconds == seconds


@pytest.mark.parametrize(
    ("cause", "never_left"),
    [
        (requests.ConnectTimeout(), True),
        (requests.ReadTimeout(), False),
        (requests.ConnectionError(), False),
        (requests.ConnectionError(MaxRetryError(None, "/", ConnectionResetError())), False),
        (ValueError("odd"), False),
    ],
)
def test_only_what_never_had_a_connection_was_not_sent(cause, never_left):
    error = sdk.APIConnectionError("cut")
    error.__cause__ = cause

    assert isinstance(module._translated(error), NotSent) is never_left


class TestCancel:
    def test_ends_it_for_ever(self, gateway, stripe):
        ref = stripe.prepared()

        assert gateway.cancel(ref, key=new_key()).status is Status.CANCELED
        assert gateway.cancel(ref, key=new_key()).status is Status.CANCELED
        assert gateway.submit(ref, key=new_key()).status is Status.CANCELED
        assert stripe.taken() == 0

    def test_too_late_says_that_it_succeeded(self, gateway, stripe):
        ref = stripe.prepared()
        gateway.submit(ref, key=new_key())

        assert gateway.cancel(ref, key=new_key()).status is Status.SUCCEEDED

    def test_of_a_declined_one_keeps_why(self, gateway, stripe):
        ref = stripe.prepared("chargeCustomerFail")
        gateway.submit(ref, key=new_key())

        canceled = gateway.cancel(ref, key=new_key())

        assert (canceled.status, canceled.decline_code) == (Status.CANCELED, "generic_decline")

    @pytest.mark.parametrize("first", ["cancel", "submit"])
    def test_racing_with_submit_has_one_winner(self, gateway, stripe, first):
        ref = stripe.prepared()
        acts = [gateway.cancel, gateway.submit] * 4
        acts = acts if first == "cancel" else acts[::-1]

        with ThreadPoolExecutor(8) as pool:
            seen = list(pool.map(lambda act: act(ref, key=new_key()).status, acts))

        assert len(set(seen)) == 1
        assert seen[0] in {Status.CANCELED, Status.SUCCEEDED}
        assert stripe.taken() == (1234 if seen[0] is Status.SUCCEEDED else 0)

    def test_of_nothing_says_that_the_key_is_of_another_account(self, gateway):
        with pytest.raises(Misconfigured):
            gateway.cancel("pi_unknown", key=new_key())


class TestRefund:
    def spec(self, **facts: object) -> RefundSpec:
        return RefundSpec(
            **{
                "own_reference": "ours",
                "account_ref": "acme",
                "payment_ref": "pi_unknown",
                "amount_minor": 500,
                "currency": "EUR",
                **facts,
            }
        )

    def test_of_an_amount_that_cannot_be_paid_back_is_not_sent(self, gateway, stripe):
        ref = stripe.prepared(amount_minor=5120, currency="KWD")
        gateway.submit(ref, key=new_key())

        with pytest.raises(Misconfigured):
            gateway.refund(
                self.spec(payment_ref=ref, amount_minor=5124, currency="KWD"), key=new_key()
            )
        assert gateway.find_refunds(ref) == []

    def test_of_nothing_says_that_the_key_is_of_another_account(self, gateway):
        """Not that it was refused: else we would undo one that another account's key can still send."""
        with pytest.raises(Misconfigured, match="pi_unknown") as refused:
            gateway.refund(self.spec(), key=new_key())
        assert not isinstance(refused.value, RefundRefused)


class TestFind:
    def test_finds_what_carries_our_reference(self, gateway, stripe):
        spec = stripe.spec()
        another = dataclasses.replace(spec, own_reference="another")
        gateway.prepare(another, key=new_key())
        ref = gateway.prepare(spec, key=new_key()).ref

        assert [seen.ref for seen in gateway.find(spec, since=datetime.now(UTC))] == [ref]

    def test_does_not_look_further_back_than_asked(self, gateway, stripe):
        spec = stripe.spec()
        gateway.prepare(spec, key=new_key())

        assert gateway.find(spec, since=datetime.now(UTC) + timedelta(hours=2)) == []

    def test_leaves_another_installations_alone(self, gateway, stripe, settings):
        spec = stripe.spec()
        ref = gateway.prepare(spec, key=new_key()).ref
        settings.INSTALLATION_ID = "another"

        assert gateway.find(spec, since=LONG_AGO) == []
        assert gateway.read(ref).own_reference == ""

    def test_without_a_customer_there_was_none(self, gateway, stripe):
        spec = stripe.spec(customer_ref="")

        assert gateway.find(spec, since=LONG_AGO) == []

    def test_reads_page_after_page(self, gateway, stripe, monkeypatch):
        monkeypatch.setattr(module, "PAGE", 2)
        spec = stripe.spec()
        made = [gateway.prepare(spec, key=new_key()).ref for _ in range(5)]

        assert [seen.ref for seen in gateway.find(spec, since=LONG_AGO)] == made[::-1]

    def test_the_book_is_all_of_ours_and_only_ours(self, gateway, stripe):
        paid, declined = stripe.prepared(), stripe.prepared("chargeCustomerFail")
        stripe.post("payment_intents", amount=999, currency="eur")
        gateway.submit(paid, key=new_key())
        gateway.submit(declined, key=new_key())
        if stripe.url.startswith("https"):
            pytest.skip("the book of a Stripe account is long")

        assert {seen.ref: seen.status for seen in gateway.book()} == {
            paid: Status.SUCCEEDED,
            declined: Status.DECLINED,
        }

    def test_a_time_of_it_is_newest_first_and_passes_over_what_is_not_ours(self, gateway, stripe):
        spec = stripe.spec(account_ref="acme")
        first = gateway.prepare(spec, key=new_key())
        foreign = stripe.post("payment_intents", amount=999, currency="eur")["id"]
        last = gateway.prepare(spec, key=new_key())

        listed = list(gateway.objects(since=first.made_at, until=last.made_at))

        assert [seen.ref for seen in listed][:3] == [last.ref, foreign, first.ref]
        assert isinstance(listed[1], Foreign)
        assert gateway.newest() == [last, first]
        assert (first.account_ref, first.token, first.customer_ref) == (
            "acme",
            spec.token,
            spec.customer_ref,
        )

    def test_the_newest_of_ours_is_found_behind_a_page_of_others(self, gateway, stripe):
        ours = stripe.prepared()
        for _ in range(101):
            stripe.post("payment_intents", amount=999, currency="eur")

        assert [seen.ref for seen in gateway.newest()] == [ours]

    def test_a_card_that_was_refused_is_still_named(self, gateway, stripe):
        spec = stripe.spec("chargeCustomerFail")
        refused = gateway.submit(gateway.prepare(spec, key=new_key()).ref, key=new_key())

        assert refused.token == spec.token


class TestSettlements:
    def test_a_payout_says_what_it_consists_of(self, gateway, stripe):
        paid = stripe.prepared(amount_minor=10_00)
        gateway.submit(paid, key=new_key())
        stripe.post("refunds", payment_intent=paid, amount=250)
        payout = stripe.pay_out()

        lines = [
            line
            for line in gateway.settlements()
            if line.payout_ref == payout and line.charge_ref == paid
        ]

        assert sorted((each.about, each.amount_minor, each.currency) for each in lines) == [
            ("CHARGE", 1000, "EUR"),
            ("REFUND", -250, "EUR"),
        ]
        charge = next(each for each in lines if each.about == "CHARGE")
        assert (charge.gross_minor, charge.fee_minor, charge.net_minor) == (1000, 59, 941)
        assert charge.own_reference
        assert charge.exchange_rate is None


class TestWhatAnIntentSays:
    INTENT = {
        "id": "pi_1",
        "livemode": False,
        "status": "requires_payment_method",
        "created": 1541149200,
        "amount": 1234,
        "amount_received": 0,
        "currency": "eur",
    }

    def observe(self, gateway, **facts):
        return gateway._observe({**self.INTENT, **facts})

    def test_without_a_card_nothing_can_come_of_it(self, gateway):
        seen = self.observe(gateway)

        assert (seen.status, seen.decline_code) == (Status.DECLINED, "payment_method_missing")

    @pytest.mark.parametrize(
        ("said", "status"),
        [("processing", Status.PROCESSING), ("requires_action", Status.NEEDS_CUSTOMER)],
    )
    def test_is_on_its_way(self, gateway, said, status):
        assert self.observe(gateway, status=said).status is status

    def test_a_state_we_have_no_word_for_is_unknown(self, gateway):
        with pytest.raises(OutcomeUnknown, match="requires_capture"):
            self.observe(gateway, status="requires_capture")

    def test_of_the_other_mode_is_refused(self, gateway):
        with pytest.raises(Misconfigured, match="not of test mode"):
            self.observe(gateway, livemode=True)

    def test_what_was_taken_counts_not_what_was_asked(self, gateway):
        assert self.observe(gateway, status="succeeded", amount_received=900).amount_minor == 900

    def test_a_networks_stop_is_advice(self, gateway):
        error = {
            "decline_code": "do_not_honor",
            "network_decline_code": "R3",
            "payment_method": {"card": {"brand": "visa"}},
        }

        assert self.observe(gateway, last_payment_error=error).advice_code == "do_not_try_again"


class TestCards:
    def test_a_customer_is_made_once(self, gateway, stripe):
        who = {"account_ref": new_key(), "email": f"{new_key()}@acme.example", "name": "Acme"}

        first = gateway.ensure_customer(**who)

        assert gateway.ensure_customer(**who) == first
        assert gateway.ensure_customer(**{**who, "account_ref": "sister"}) != first

    def test_a_customer_without_an_address_is_made_anew(self, gateway):
        who = {"account_ref": "acme", "email": "", "name": "Acme"}

        assert gateway.ensure_customer(**who) != gateway.ensure_customer(**who)

    def test_a_card_is_entered_on_the_providers_page(self, gateway, stripe):
        customer = stripe.customer()

        begun = gateway.begin_setup(
            account_ref="acme", customer_ref=customer, currency="EUR", return_url=BACK
        )
        before = gateway.read_setup(begun.ref)
        came_back = stripe.enter_card(begun.url)
        after = gateway.read_setup(begun.ref)

        assert isinstance(begun, CardSetup)
        assert came_back == f"{BACK}?setup={begun.ref}"
        assert (before.account_ref, before.method) == ("acme", None)
        assert after.method == gateway.read_method(after.method.token)
        assert (after.method.customer_ref, after.method.brand) == (customer, "Visa")
        assert after.method.last_four == "4242"
        assert after.method.expiry_year > 2026

    def test_a_setup_intent_of_its_own_is_read_too(self, gateway, stripe):
        begun = stripe.setup_intent("acme", stripe.customer())

        assert gateway.read_setup(begun) == FinishedSetup("acme", None)

    def test_detached_twice_is_detached(self, gateway, stripe):
        token = stripe.card(stripe.customer())

        assert gateway.detach(token).customer_ref == ""
        assert gateway.detach(token).customer_ref == ""

    def test_what_cannot_be_detached_is_said(self, gateway, stripe, monkeypatch):
        token = stripe.card(stripe.customer())

        def refuse(*_):
            raise sdk.InvalidRequestError("This card pays for a subscription", "payment_method")

        monkeypatch.setattr(gateway._client.v1.payment_methods, "detach", refuse)

        with pytest.raises(Misconfigured, match="subscription"):
            gateway.detach(token)

    def test_a_brand_is_written_as_it_writes_itself(self, gateway):
        assert module._method({"id": "pm", "card": {"brand": "amex"}}).brand == "American Express"

    def test_what_is_no_card_has_no_looks(self, gateway):
        assert module._method({"id": "pm", "customer": None}).last_four == ""


EVENT = {
    "id": "evt_1",
    "type": "payment_intent.succeeded",
    "livemode": False,
    "data": {"object": {"id": "pi_1"}},
}


def parse(gateway, event=EVENT, **how):
    delivery = signed(event, **how)
    return gateway.parse_webhook(delivery["headers"], delivery["body"])


class TestParseWebhook:
    def test_reads_what_the_event_is_about(self, gateway):
        (hint,) = parse(gateway)

        assert (hint.event_id, hint.about, hint.object_ref) == ("evt_1", About.CHARGE, "pi_1")

    @pytest.mark.parametrize(
        ("kind", "about"),
        [
            ("setup_intent.succeeded", About.SETUP),
            ("payment_method.detached", About.METHOD),
            ("payment_intent.created", About.OTHER),
            ("balance.available", About.OTHER),
        ],
    )
    def test_knows_what_it_acts_on(self, gateway, kind, about):
        (hint,) = parse(gateway, {**EVENT, "type": kind})

        assert hint.about is about

    def test_takes_any_of_its_secrets(self, gateway, settings):
        settings.STRIPE_WEBHOOK_SECRETS = ["whsec_new", SECRET]

        assert parse(gateway, secret="whsec_new")
        assert parse(gateway, secret=SECRET)

    def test_refuses_the_secret_of_another(self, gateway):
        with pytest.raises(NotAuthentic):
            parse(gateway, secret="whsec_forged")

    def test_refuses_everything_without_a_secret(self, gateway, settings):
        settings.STRIPE_WEBHOOK_SECRETS = []

        with pytest.raises(NotAuthentic, match="STRIPE_WEBHOOK_SECRETS"):
            parse(gateway)

    def test_refuses_what_is_older_than_five_minutes(self, gateway):
        assert parse(gateway, age_seconds=290)
        with pytest.raises(NotAuthentic, match="tolerance"):
            parse(gateway, age_seconds=310)

    @pytest.mark.parametrize(
        "altered",
        [
            "",
            "{stamp},v0={signature}",
            "v1={signature}",
            "{stamp},v1={signature},{stamp},v1={signature}",
            "{stamp}9,v1={signature}",
            "t=soon,v1={signature}",
            "{stamp},v1={signature}0",
        ],
    )
    def test_refuses_another_signature(self, gateway, altered):
        delivery = signed(EVENT)
        stamp, signature = delivery["headers"]["Stripe-Signature"].split(",v1=")
        header = altered.format(stamp=stamp, signature=signature)

        with pytest.raises(NotAuthentic):
            gateway.parse_webhook({"Stripe-Signature": header}, delivery["body"])

    def test_refuses_a_body_altered_by_one_space(self, gateway):
        delivery = signed(EVENT)

        with pytest.raises(NotAuthentic):
            gateway.parse_webhook(delivery["headers"], delivery["body"] + b" ")

    def test_refuses_what_is_not_text(self, gateway):
        with pytest.raises(NotAuthentic, match="UTF-8"):
            gateway.parse_webhook(signed(EVENT)["headers"], b"\xff")

    @pytest.mark.parametrize(
        "event", [[], "text", {}, {**EVENT, "data": None}, {**EVENT, "data": {"object": []}}]
    )
    def test_refuses_what_is_signed_but_no_event(self, gateway, event):
        with pytest.raises(NotAuthentic, match="not an event"):
            parse(gateway, event)

    def test_refuses_an_event_of_the_other_mode(self, gateway):
        with pytest.raises(NotAuthentic, match="live"):
            parse(gateway, {**EVENT, "livemode": True})


class TestAuthentication:
    """The customer is there, and completes the intent that was refused while they were not."""

    @pytest.fixture
    def refused(self, gateway, stripe) -> str:
        ref = stripe.prepared("authenticationRequired")
        assert gateway.submit(ref, key=new_key()).status == "NEEDS_CUSTOMER"
        return ref

    def test_approved_it_is_the_same_intent_that_succeeds(self, gateway, stripe, refused):
        url = gateway.begin_authentication(refused, return_url=BACK)

        came_back = stripe.answer_bank(url, "approve")

        assert came_back.startswith(f"{BACK}?payment_intent={refused}&")
        assert gateway.read(refused).status == "SUCCEEDED"
        assert len(stripe.intents()) == 1

    def test_refused_it_is_a_decline(self, gateway, stripe, refused):
        stripe.answer_bank(gateway.begin_authentication(refused, return_url=BACK), "refuse")

        seen = gateway.read(refused)
        assert (seen.status, seen.decline_code) == (
            "DECLINED",
            "payment_intent_authentication_failure",
        )

    def test_begun_twice_it_is_the_same_page(self, gateway, refused):
        first = gateway.begin_authentication(refused, return_url=BACK)

        assert gateway.begin_authentication(refused, return_url=BACK) == first

    def test_where_the_bank_asks_nothing_the_customer_comes_back_at_once(
        self, gateway, stripe, refused
    ):
        token = stripe.intents()[0]["last_payment_error"]["payment_method"]["id"]
        stripe.becomes(token, "visa")

        assert gateway.begin_authentication(refused, return_url=BACK) == BACK
        assert gateway.read(refused).status == "SUCCEEDED"

    def test_declined_at_once_the_customer_comes_back(self, gateway, stripe, refused):
        token = stripe.intents()[0]["last_payment_error"]["payment_method"]["id"]
        stripe.becomes(token, "visa_chargeDeclined")

        assert gateway.begin_authentication(refused, return_url=BACK) == BACK

    def test_of_what_waits_for_nobody_there_is_none(self, gateway, stripe):
        assert gateway.begin_authentication(stripe.prepared(), return_url=BACK) == BACK

    def test_of_what_was_canceled_meanwhile_there_is_none(
        self, gateway, stripe, refused, monkeypatch
    ):
        looked = gateway._client.v1.payment_intents.retrieve(refused)
        gateway.cancel(refused, key=new_key())
        monkeypatch.setattr(gateway._client.v1.payment_intents, "retrieve", lambda _: looked)

        assert gateway.begin_authentication(refused, return_url=BACK) == BACK

    def test_a_refusal_we_do_not_know_is_said(self, gateway, refused, monkeypatch):
        def refuse(*_):
            raise sdk.InvalidRequestError("Not like that", "return_url")

        monkeypatch.setattr(gateway._client.v1.payment_intents, "confirm", refuse)

        with pytest.raises(Misconfigured, match="Not like that"):
            gateway.begin_authentication(refused, return_url=BACK)


class TestSettings:
    def test_without_a_key_there_is_no_such_gateway(self, settings):
        settings.STRIPE_SECRET_KEY = ""

        assert gateways.names() == ["sandbox"]
        with pytest.raises(Misconfigured, match="not set up: STRIPE_SECRET_KEY is empty"):
            gateways.get("stripe")

    def test_cards_are_entered_on_its_own_page_test_cards_as_well(self, gateway):
        assert gateway.test_methods("a-1") == {}

    @pytest.mark.parametrize(
        ("secret", "live", "said"),
        [
            ("sk_live_1", False, "STRIPE_LIVE=1"),
            ("rk_live_1", False, "STRIPE_LIVE=1"),
            ("sk_test_1", True, "STRIPE_SECRET_KEY is a test key"),
            ("secret", False, "not a key"),
            ("sk_test", False, "not a key"),
        ],
    )
    def test_a_key_that_does_not_fit_is_refused(self, settings, secret, live, said):
        settings.STRIPE_SECRET_KEY = secret
        settings.STRIPE_LIVE = live

        with pytest.raises(Misconfigured, match=said):
            gateways.get("stripe")

    def test_a_live_key_is_taken_where_it_is_said(self, settings):
        settings.STRIPE_SECRET_KEY = "rk_live_1"
        settings.STRIPE_LIVE = True

        with pytest.raises(NotAuthentic):
            gateways.get("stripe").parse_webhook({}, b"")

    def test_the_key_leaves_this_machine_only_encrypted(self, settings):
        settings.STRIPE_SECRET_KEY = "sk_test_1"
        settings.STRIPE_API_BASE = "http://stripe.example"

        with pytest.raises(Misconfigured, match="https"):
            gateways.get("stripe")

    def test_connections_are_kept_within_a_process_and_never_shared_with_another(self):
        ours = module._connected("sk_test_1", "http://localhost", 1)

        assert module._connected("sk_test_1", "http://localhost", 1) is ours
        assert module._connected("sk_test_1", "http://localhost", 2) is not ours

    def test_the_sdk_repeats_nothing_and_waits_no_longer_than_told(self):
        client = module._connected("sk_test_1", "http://localhost/", 3)

        requestor = client._requestor
        assert requestor._options.max_network_retries == 0
        assert requestor._options.stripe_version == module.API_VERSION
        assert requestor._options.base_addresses["api"] == "http://localhost"
        assert requestor._client._timeout == (5, 25)


def test_a_dump_shows_what_we_sent(gateway, stripe: StripeProvider):
    """The fence is ours only if the calls are: one object, no card number, our marks on it."""
    ref = stripe.prepared()
    (intent,) = stripe.intents()

    assert intent["id"] == ref
    assert intent["status"] == "requires_confirmation"
    assert set(intent["metadata"]) == {"attempt_id", "account_id", "installation"}
    assert "4242424242424242" not in json.dumps(intent)
