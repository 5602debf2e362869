"""What our provider understands is what the SDK's own types allow, and no more."""

from operator import attrgetter

import pytest
import stripe
from stripe import params as sdk

from billing.gateways.standins.fakestripe import currencies, provider, routes
from billing.gateways.standins.fakestripe.errors import ApiError
from billing.gateways.standins.fakestripe.params import boolean, decode, mapping, sequence, text

TYPES = {
    "GET /v1/account": "AccountRetrieveCurrentParams",
    "POST /v1/customers": "CustomerCreateParams",
    "GET /v1/customers": "CustomerListParams",
    "GET /v1/customers/{id}": "CustomerRetrieveParams",
    "POST /v1/customers/{id}": "CustomerUpdateParams",
    "DELETE /v1/customers/{id}": "CustomerDeleteParams",
    "POST /v1/payment_methods": "PaymentMethodCreateParams",
    "GET /v1/payment_methods": "PaymentMethodListParams",
    "GET /v1/customers/{id}/payment_methods": "CustomerPaymentMethodListParams",
    "GET /v1/payment_methods/{id}": "PaymentMethodRetrieveParams",
    "POST /v1/payment_methods/{id}/attach": "PaymentMethodAttachParams",
    "POST /v1/payment_methods/{id}/detach": "PaymentMethodDetachParams",
    "POST /v1/setup_intents": "SetupIntentCreateParams",
    "GET /v1/setup_intents": "SetupIntentListParams",
    "GET /v1/setup_intents/{id}": "SetupIntentRetrieveParams",
    "POST /v1/setup_intents/{id}/confirm": "SetupIntentConfirmParams",
    "POST /v1/setup_intents/{id}/cancel": "SetupIntentCancelParams",
    "POST /v1/checkout/sessions": "checkout.SessionCreateParams",
    "GET /v1/checkout/sessions": "checkout.SessionListParams",
    "GET /v1/checkout/sessions/{id}": "checkout.SessionRetrieveParams",
    "POST /v1/payment_intents": "PaymentIntentCreateParams",
    "GET /v1/payment_intents": "PaymentIntentListParams",
    "GET /v1/payment_intents/search": "PaymentIntentSearchParams",
    "GET /v1/payment_intents/{id}": "PaymentIntentRetrieveParams",
    "POST /v1/payment_intents/{id}/confirm": "PaymentIntentConfirmParams",
    "POST /v1/payment_intents/{id}/cancel": "PaymentIntentCancelParams",
    "GET /v1/charges/{id}": "ChargeRetrieveParams",
    "GET /v1/charges": "ChargeListParams",
    "POST /v1/refunds": "RefundCreateParams",
    "GET /v1/refunds/{id}": "RefundRetrieveParams",
    "GET /v1/refunds": "RefundListParams",
    "GET /v1/disputes/{id}": "DisputeRetrieveParams",
    "GET /v1/disputes": "DisputeListParams",
    "POST /v1/disputes/{id}/close": "DisputeCloseParams",
    "GET /v1/balance_transactions/{id}": "BalanceTransactionRetrieveParams",
    "GET /v1/balance_transactions": "BalanceTransactionListParams",
    "GET /v1/payouts/{id}": "PayoutRetrieveParams",
    "GET /v1/payouts": "PayoutListParams",
    "GET /v1/events/{id}": "EventRetrieveParams",
    "GET /v1/events": "EventListParams",
}
# What a gateway says, checked in both directions: the SDK has the word, and we understand it.
SAID_BY_GATEWAYS = {
    "POST /v1/payment_intents": {
        "amount", "currency", "customer", "payment_method", "metadata", "description",
        "statement_descriptor_suffix", "receipt_email", "automatic_payment_methods",
        "allowed_payment_method_types", "setup_future_usage", "confirm", "off_session",
        "error_on_requires_action", "return_url", "mandate",
    },
    "POST /v1/payment_intents/{id}/confirm": {
        "off_session", "error_on_requires_action", "payment_method", "return_url", "mandate",
    },
    "POST /v1/payment_intents/{id}/cancel": {"cancellation_reason"},
    "GET /v1/payment_intents": {"customer", "created", "limit", "starting_after"},
    "POST /v1/refunds": {"payment_intent", "charge", "amount", "reason", "metadata"},
    "GET /v1/refunds": {"payment_intent", "charge"},
    "POST /v1/setup_intents": {
        "customer", "payment_method", "usage", "confirm", "metadata", "automatic_payment_methods",
        "allowed_payment_method_types", "return_url",
    },
    "POST /v1/checkout/sessions": {
        "mode", "customer", "currency", "allowed_payment_method_types", "setup_intent_data",
        "metadata", "success_url", "cancel_url",
    },
    "GET /v1/balance_transactions": {"type", "payout", "created"},
    "GET /v1/events": {"type", "types", "created"},
}  # fmt: skip


def of_the_sdk(endpoint):
    """The names that the SDK's own type for an endpoint has."""
    return set(attrgetter(TYPES[endpoint])(sdk).__annotations__)


def understood():
    return {f"{route.method} {route.path}": route for route in provider.routes.ROUTES}


def test_every_endpoint_is_checked_against_the_sdk():
    assert set(understood()) == set(TYPES)


@pytest.mark.parametrize("endpoint", TYPES)
def test_no_parameter_is_of_our_invention(endpoint):
    known = of_the_sdk(endpoint)

    # A path's own words are no parameters, and every read expands.
    assert set(understood()[endpoint].accepts) <= known
    assert set(understood()[endpoint].needs) <= known


@pytest.mark.parametrize("endpoint", SAID_BY_GATEWAYS)
def test_what_gateways_say_is_understood(endpoint):
    known = of_the_sdk(endpoint)

    assert SAID_BY_GATEWAYS[endpoint] <= known
    assert SAID_BY_GATEWAYS[endpoint] <= set(understood()[endpoint].accepts)


class TestDecoding:
    def test_nested_and_listed_words(self):
        said = decode("a[b][c]=1&l[0]=x&l[1]=y&m[]=1&m[]=2&e=")

        assert said == {"a": {"b": {"c": "1"}}, "l": ["x", "y"], "m": ["1", "2"], "e": ""}

    def test_a_word_is_not_a_map_too(self):
        with pytest.raises(ApiError):
            decode("a=1&a[b]=2")

    @pytest.mark.parametrize(
        ("kind", "value"),
        [(text, {}), (boolean, "yes"), (mapping, "x"), (sequence, "x")],
    )
    def test_a_value_of_another_kind_is_refused(self, kind, value):
        with pytest.raises(ApiError):
            kind("name", value)

    def test_nothing_clears_a_map(self):
        assert mapping("name", "") == {}


class TestRefusals:
    @pytest.mark.parametrize(
        "said",
        [
            {"limit": 0},
            {"limit": 101},
            {"limit": "many"},
            {"created": {"since": 1}},
            {"created": {"gte": "today"}},
            {"starting_after": "pi_nobody"},
        ],
    )
    def test_a_list_is_asked_for_properly(self, client, said):
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.payment_intents.list(said)

    def test_a_moment_is_a_range_of_one_second(self, client, customer):
        found = client.v1.customers.list({"created": customer.created}).data

        assert [one.id for one in found] == [customer.id]

    @pytest.mark.parametrize(
        "said",
        [
            {"off_session": True},
            {"error_on_requires_action": True},
            {"confirm": True},
            {"confirm": "perhaps"},
            {"customer": "cus_nobody"},
            {"payment_method": "pm_nobody"},
            {"metadata": {"x" * 41: "1"}},
            {"metadata": {"x": "1" * 501}},
            {"metadata": {f"k{n}": "1" for n in range(51)}},
            {"amount": -5},
            {
                "automatic_payment_methods": {"enabled": True},
                "allowed_payment_method_types": ["card"],
            },
        ],
    )
    def test_an_intent_is_asked_for_properly(self, client, said):
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.payment_intents.create({"amount": 1000, "currency": "usd", **said})

    def test_a_parameter_of_older_versions_says_that_it_is_gone(self, client):
        said = {"amount": 1000, "currency": "usd", "payment_method_types": ["card"]}

        with pytest.raises(stripe.InvalidRequestError) as refusal:
            client.v1.payment_intents.create(said)

        assert refusal.value.code == "payment_method_types_no_longer_supported"

    def test_a_reason_is_one_of_stripes(self, client, prepared):
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.payment_intents.cancel(prepared.id, {"cancellation_reason": "mood"})


class TestCurrencies:
    @pytest.mark.parametrize(
        ("amount", "currency"),
        [(50, "usd"), (50, "jpy"), (5120, "kwd"), (500, "isk"), (17500, "huf"), (1, "top")],
    )
    def test_what_can_be_charged(self, amount, currency):
        currencies.check_amount(amount, currencies.check_currency(currency.upper()))

    @pytest.mark.parametrize(
        ("amount", "currency", "code"),
        [
            (49, "usd", "amount_too_small"),
            (29, "gbp", "amount_too_small"),
            (17_400, "huf", "amount_too_small"),
            (5124, "kwd", None),
            (550, "isk", "invalid_charge_amount_no_decimal_compatible"),
            (550, "ugx", "invalid_charge_amount_no_decimal_compatible"),
            (100_000_000, "jpy", "amount_too_large"),
            (0, "eur", "parameter_invalid_integer"),
        ],
    )
    def test_what_cannot(self, amount, currency, code):
        with pytest.raises(ApiError) as refusal:
            currencies.check_amount(amount, currency)

        assert refusal.value.body["error"].get("code") == code

    def test_a_refund_keeps_to_the_currency_too(self, client, customer):
        paid = client.v1.payment_intents.create(
            {"amount": 500, "currency": "isk", "payment_method": "pm_card_visa", "confirm": True,
             "off_session": True, "customer": customer.id})  # fmt: skip

        with pytest.raises(stripe.InvalidRequestError) as refusal:
            client.v1.refunds.create({"payment_intent": paid.id, "amount": 50})

        assert refusal.value.code == "invalid_charge_amount_no_decimal_compatible"


def test_no_two_endpoints_answer_one_request():
    for route in routes.ROUTES:
        path = route.path.replace("{id}", "x_y")
        first, _ = routes.find(route.method, path)
        assert first is route
