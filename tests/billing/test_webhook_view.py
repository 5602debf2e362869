"""The door that anybody on the internet may knock at: only what the provider signed leaves a trace."""

import json

import pytest
from django.db import connection
from django.test import Client
from django_q.models import OrmQ

from billing.models import Payment, PaymentAttempt, ProviderEvent
from billing.views.ops import webhooks
from tests.billing.builders import collect
from tests.billing.stripe_builders import event, owing
from tests.stripe_provider import SECRET, signed
from tests.workers import at_once

pytestmark = pytest.mark.django_db(transaction=True)

URL = "/webhooks/stripe/"
EVENT = event("payment_intent.succeeded", "pi_1", event_id="evt_1")


@pytest.fixture(autouse=True)
def _stripe_without_a_process(settings):
    """Receiving asks nobody, so nobody has to be there."""
    settings.STRIPE_SECRET_KEY = "sk_test_1"
    settings.STRIPE_WEBHOOK_SECRETS = [SECRET]
    settings.STRIPE_API_BASE = "http://127.0.0.1:9"


def post(body: bytes, headers: dict[str, str], *, url: str = URL):
    client = Client(enforce_csrf_checks=True)
    return client.post(url, body, content_type="application/json", headers=headers)


def knock(said=EVENT, **how):
    delivery = signed(said, **how)
    return post(delivery["body"], delivery["headers"])


def assert_nothing_was_written() -> None:
    assert not ProviderEvent.objects.exists()
    assert not OrmQ.objects.exists()


class TestAnEventOfTheProvider:
    def test_is_kept_and_answered(self):
        assert knock().status_code == 200

        kept = ProviderEvent.objects.get()
        assert (kept.event_id, kept.outcome) == ("evt_1", "WAITING")
        assert str(kept) == "payment_intent.succeeded evt_1"

    def test_twice_is_kept_once_and_answered_both_times(self):
        assert [knock().status_code for _ in range(2)] == [200, 200]

        assert ProviderEvent.objects.count() == 1

    def test_in_twenty_copies_at_once_is_kept_once(self):
        answers = at_once(*[knock] * 20)

        assert [answer.status_code for answer in answers] == [200] * 20
        assert ProviderEvent.objects.count() == 1

    def test_of_a_type_that_nobody_knows_is_kept(self):
        assert knock(event("invoice.finalised", "in_1")).status_code == 200

        assert ProviderEvent.objects.get().type == "invoice.finalised"

    def test_is_kept_without_a_look_at_any_account(self, django_assert_max_num_queries):
        with django_assert_max_num_queries(8) as seen:
            knock()

        touched = " ".join(query["sql"] for query in seen.captured_queries)
        assert "billing_payment" not in touched
        assert "accounts_" not in touched

    def test_that_cannot_be_kept_is_not_answered_for(self, monkeypatch):
        """A crash before the commit: the provider has heard nothing and comes again."""

        def crash(lane):
            raise ConnectionResetError

        monkeypatch.setattr("billing.workers.doorbell.ring", crash)

        with pytest.raises(ConnectionResetError):
            knock()

        assert_nothing_was_written()


class TestWhatIsNotTheProviders:
    def test_unsigned(self, caplog):
        assert post(signed(EVENT)["body"], {}).status_code == 400

        assert "refused a webhook of stripe from 127.0.0.1" in caplog.text
        assert_nothing_was_written()

    def test_signed_by_another(self):
        assert knock(secret="whsec_forged").status_code == 400
        assert_nothing_was_written()

    @pytest.mark.parametrize(
        "altered",
        [
            pytest.param(lambda body: body + b" ", id="a space"),
            pytest.param(lambda body: body.replace(b"pi_1", b"pi_2"), id="another object"),
            pytest.param(lambda body: b"\xef\xbb\xbf" + body, id="a mark before it"),
            pytest.param(lambda body: b"", id="nothing"),
            pytest.param(
                lambda body: json.dumps(json.loads(body), indent=1).encode(), id="other breaks"
            ),
        ],
    )
    def test_altered(self, altered):
        delivery = signed(EVENT)

        answer = post(altered(delivery["body"]), delivery["headers"])

        assert answer.status_code == 400
        assert_nothing_was_written()

    def test_old(self):
        assert knock(age_seconds=301).status_code == 400
        assert_nothing_was_written()

    def test_signed_the_old_way(self):
        delivery = signed(EVENT)
        header = delivery["headers"]["Stripe-Signature"].replace("v1=", "v0=")

        assert post(delivery["body"], {"Stripe-Signature": header}).status_code == 400
        assert_nothing_was_written()

    def test_with_two_signatures(self):
        """Two headers arrive as one: the forger's time beside the provider's signature, say."""
        delivery = signed(EVENT, age_seconds=3600)
        fresh = signed(event("balance.available", ""))["headers"]["Stripe-Signature"]
        header = f"{fresh},{delivery['headers']['Stripe-Signature']}"

        assert post(delivery["body"], {"Stripe-Signature": header}).status_code == 400
        assert_nothing_was_written()

    def test_of_the_other_mode(self):
        assert knock({**EVENT, "livemode": True}).status_code == 400
        assert_nothing_was_written()

    def test_huge(self):
        huge = event("payment_intent.succeeded", "pi_1", padding="x" * webhooks.LARGEST_BYTES)

        assert knock(huge).status_code == 413
        assert_nothing_was_written()

    def test_as_large_as_may_be(self):
        room = webhooks.LARGEST_BYTES - len(signed({**EVENT, "padding": ""})["body"])

        assert knock({**EVENT, "padding": "x" * room}).status_code == 200
        assert ProviderEvent.objects.count() == 1

    def test_about_a_stranger(self, stripe):
        """Rightly signed, with a customer's attempt in it: nothing but a question to the provider."""
        attempt = collect(owing(stripe, card="authenticationRequired"))
        claim = event(
            "payment_intent.succeeded",
            attempt.provider_ref,
            status="succeeded",
            amount_received=999_999,
        )

        assert knock(claim).status_code == 200

        attempt.refresh_from_db()
        assert attempt.state == PaymentAttempt.State.REQUIRES_ACTION
        assert not Payment.objects.exists()


class TestTheDoor:
    @pytest.mark.parametrize("method", ["get", "put", "delete"])
    def test_takes_deliveries_only(self, client, method):
        assert getattr(client, method)(URL).status_code == 405

    def test_of_a_provider_that_is_not_set_up_is_not_there(self, settings):
        settings.STRIPE_SECRET_KEY = ""

        assert knock().status_code == 404
        assert post(b"{}", {}, url="/webhooks/paypal/").status_code == 404

    def test_of_the_sandbox_takes_nothing(self):
        assert post(b"{}", {}, url="/webhooks/sandbox/").status_code == 400

    def test_asks_to_come_back_while_our_keys_do_not_fit_together(self, settings):
        settings.STRIPE_SECRET_KEY = "sk_live_1"

        assert knock().status_code == 503
        assert_nothing_was_written()


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ("event_id = 'evt_1'", "provider_event_is_stored_once"),
        ("processed_at = now()", "provider_event_waits_or_is_processed"),
        ("outcome = 'APPLIED'", "provider_event_waits_or_is_processed"),
        ("next_try_at = NULL", "provider_event_waits_or_is_processed"),
    ],
)
def test_the_database_keeps_events_whole(changes, constraint):
    knock()
    knock(event("payment_intent.succeeded", "pi_2", event_id="evt_2"))

    with connection.cursor() as cursor, pytest.raises(Exception, match=constraint):
        cursor.execute(f"UPDATE billing_providerevent SET {changes} WHERE event_id = 'evt_2'")
