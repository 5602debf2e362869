"""Events reach their receiver signed, at least once, and as badly as a test asks."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import stripe

from billing.gateways.standins.fakestripe.server import Options
from tests.billing.fakestripe.conftest import (
    Control,
    confirm,
    eventually,
    prepare,
    running,
    speaking_to,
)

SECRET = "whsec_test"


class Receiver(ThreadingHTTPServer):
    """Takes deliveries, and refuses the first few where it is told to."""

    daemon_threads = True

    def __init__(self):
        self.taken, self.refuses = [], 0
        super().__init__(("127.0.0.1", 0), Taking)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/hooks?x=1"

    def types(self):
        return [json.loads(body)["type"] for body, _ in self.taken]

    def ids(self):
        return [json.loads(body)["id"] for body, _ in self.taken]


class Taking(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.taken.append((body, self.headers["Stripe-Signature"]))
        refused = self.server.refuses > 0
        self.server.refuses -= refused
        self.send_response(500 if refused else 200)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def receiver():
    receiver = Receiver()
    thread = threading.Thread(target=receiver.serve_forever, args=(0.02,))
    thread.start()
    yield receiver
    receiver.shutdown()
    thread.join()
    receiver.server_close()


@pytest.fixture
def webhooks(control, receiver):
    control("webhooks", url=receiver.url, secret=SECRET)
    return control


def read(delivery):
    body, signature = delivery
    return stripe.Webhook.construct_event(body, signature, SECRET)


class TestDelivery:
    def test_the_official_sdk_accepts_the_signature(self, client, webhooks, receiver):
        customer = client.v1.customers.create({}, {"idempotency_key": "k"})

        eventually(lambda: receiver.taken)

        event = read(receiver.taken[0])
        assert (event.type, event.data.object.id) == ("customer.created", customer.id)
        assert event.request.idempotency_key == "k"
        assert event.pending_webhooks == 1
        assert client.v1.events.retrieve(event.id).type == "customer.created"

    def test_each_turn_of_a_payment_is_told(self, client, webhooks, receiver, customer):
        card = client.v1.payment_methods.attach("pm_card_visa", {"customer": customer.id})
        confirm(client, prepare(client, customer, card.id))
        client.v1.payment_intents.cancel(prepare(client, customer, card.id).id)

        eventually(lambda: len(receiver.taken) >= 7)

        assert sorted(receiver.types()) == [
            "charge.succeeded",
            "customer.created",
            "payment_intent.canceled",
            "payment_intent.created",
            "payment_intent.created",
            "payment_intent.succeeded",
            "payment_method.attached",
        ]
        listed = client.v1.events.list({"types": ["payment_intent.canceled", "charge.succeeded"]})
        assert [event.type for event in listed.data] == [
            "payment_intent.canceled",
            "charge.succeeded",
        ]
        assert len(client.v1.events.list({"type": "payment_intent.created"}).data) == 2
        assert len(client.v1.events.list().data) == 7

    def test_what_was_not_taken_is_sent_again(self, client, webhooks, receiver):
        receiver.refuses = 2
        client.v1.customers.create({})
        eventually(lambda: len(receiver.taken) == 1)
        webhooks.later(2)
        eventually(lambda: len(receiver.taken) == 2)
        webhooks.later(10)
        eventually(lambda: len(receiver.taken) == 3)

        assert len(set(receiver.ids())) == 1
        eventually(lambda: webhooks.dump()["deliveries"][0]["state"] == "delivered")

    def test_in_the_end_it_gives_up(self, client, webhooks, receiver):
        receiver.refuses = 99
        client.v1.customers.create({})

        def given_up():
            webhooks.later(86_400)
            (delivery,) = webhooks.dump()["deliveries"]
            return delivery["state"] == "given_up"

        eventually(given_up)
        assert len(receiver.taken) == 8

    def test_a_receiver_that_is_not_there_is_tried_again(self, client, control, receiver):
        control("webhooks", url="http://127.0.0.1:9/", secret=SECRET)
        client.v1.customers.create({})
        eventually(lambda: control.dump()["deliveries"][0]["tries"] == 1)

        control("webhooks", url=receiver.url)
        control.later(2)

        eventually(lambda: receiver.taken)

    def test_a_reply_that_is_late_may_be_overtaken(self, client, webhooks, receiver):
        webhooks.fault("delay", seconds=2, when="after")
        made = threading.Thread(target=lambda: client.v1.customers.create({}))
        made.start()

        eventually(lambda: receiver.taken, seconds=1.9)

        assert made.is_alive()
        made.join()


class TestMischief:
    def test_duplicates(self, client, webhooks, receiver):
        webhooks("webhooks", duplicate=1)

        client.v1.customers.create({})

        eventually(lambda: len(receiver.taken) == 2)
        assert len(set(receiver.ids())) == 1

    def test_withheld_events_can_still_be_listed_and_sent(self, client, webhooks, receiver):
        webhooks("webhooks", withhold=1)
        client.v1.customers.create({})

        (event,) = client.v1.events.list().data
        assert webhooks.dump()["deliveries"] == []
        webhooks("webhooks", resend=event.id)

        eventually(lambda: receiver.ids() == [event.id])

    def test_shuffled_and_delayed(self, client, webhooks, receiver):
        webhooks("webhooks", delay_seconds=100, shuffle_seconds=1000)
        for _ in range(12):
            client.v1.customers.create({})
        assert receiver.taken == []

        webhooks.later(1101)

        eventually(lambda: len(receiver.taken) == 12)
        due = [delivery["due_at"] for delivery in webhooks.dump()["deliveries"]]
        assert len(due) == 12

    def test_forged_altered_and_old_ones_are_refused_by_the_sdk(self, client, webhooks, receiver):
        webhooks("webhooks", forge={})
        webhooks("webhooks", forge={"type": "charge.refunded", "tamper": True})
        webhooks("webhooks", forge={"object": {"id": "pi_x"}, "age_seconds": 301})
        eventually(lambda: len(receiver.taken) == 3)

        for delivery in receiver.taken:
            with pytest.raises(stripe.SignatureVerificationError):
                read(delivery)

    def test_a_well_signed_event_may_be_of_anything(self, client, webhooks, receiver):
        customer = client.v1.customers.create({})
        forgery = {"of": customer.id, "type": "x.y", "livemode": True, "age_seconds": 0}
        webhooks("webhooks", forge=forgery)
        eventually(lambda: len(receiver.taken) == 2)

        (event,) = [read(one) for one in receiver.taken if b"evt_forged" in one[0]]

        assert (event.type, event.livemode, event.data.object.id) == ("x.y", True, customer.id)

    def test_only_this_machine_is_told(self, control):
        for url in ("https://example.com/", "http://10.0.0.1/"):
            assert control.ask("POST", "/_control/webhooks", {"url": url})[0] == 400
        assert control.ask("POST", "/_control/webhooks", {"colour": "red"})[0] == 400


class TestCommandLine:
    def test_the_receiver_may_be_named_at_the_start_and_is_remembered(self, tmp_path, receiver):
        book = tmp_path / "book"
        started = Options(
            book, port=0, seed=3, faults="429=0", webhook_url=receiver.url, webhook_secret=SECRET
        )
        with running(started):
            pass

        with running(Options(book, port=0, secret_key="sk_test_only")) as server:
            with speaking_to(server.url, "sk_test_only") as client:
                client.v1.customers.create({})
            eventually(lambda: receiver.taken)
            with speaking_to(server.url) as stranger, pytest.raises(stripe.AuthenticationError):
                stranger.v1.customers.create({})
            assert Control(server.url)("faults", rules=[])["odds"] == {"429": [0, 3]}

        assert read(receiver.taken[0]).type == "customer.created"
