"""
A second opinion: what localstripe can do too, it does the same.

Its gaps are known and left out: idempotency keys are ignored, declines and foreign cards are not
refused, most parameters of a confirm and all of a filtered list are unknown to it, a refund may
exceed its charge, and it speaks an API of 2017, whose word for the allowed cards has gone. It binds all interfaces by itself, hence the process of our own around its app.
"""

import importlib.util
import subprocess
import sys
import urllib.request

import pytest
import stripe

from tests.billing.fakestripe.conftest import eventually, speaking_to

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("localstripe") is None, reason="localstripe is not installed"
)
START = """
import socket, sys
from aiohttp import web
from localstripe import server
server.store.dump_to_disk = lambda: None
sock = socket.create_server(("127.0.0.1", 0))
print(sock.getsockname()[1], flush=True)
web.run_app(server.app, sock=sock, print=None)
"""
CARD = {"exp_month": 12, "exp_year": 2034, "cvc": "123"}


@pytest.fixture(scope="module")
def other():
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", START], stdout=subprocess.PIPE, text=True
    )
    try:
        url = f"http://127.0.0.1:{int(child.stdout.readline())}"
        eventually(lambda: answers(url))
        with speaking_to(url) as client:
            yield client
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def answers(url):
    try:
        urllib.request.urlopen(url, timeout=5)
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False
    return True


def card(client, number="4242424242424242"):
    return client.v1.payment_methods.create({"type": "card", "card": {"number": number, **CARD}})


def refusal(act, *args):
    with pytest.raises(stripe.StripeError) as refused:
        act(*args)
    return type(refused.value).__name__, refused.value.http_status


def customers(client, cards_only):
    made = client.v1.customers.create({"name": "Ada", "email": "a@b.test", "metadata": {"k": "v"}})
    read = client.v1.customers.retrieve(made.id)
    yield read.object, read.id[:4], read.name, read.email, read.metadata.to_dict(), read.livemode
    changed = client.v1.customers.update(made.id, {"name": "Grace"})
    yield changed.name, changed.email
    yield refusal(client.v1.customers.retrieve, "cus_nobody")


def cards(client, cards_only):
    customer = client.v1.customers.create({})
    made = card(client)
    yield made.object, made.id[:3], made.type, made.customer
    yield made.card.brand, made.card.last4, made.card.exp_month, made.card.exp_year
    saved = client.v1.payment_methods.attach(made.id, {"customer": customer.id})
    yield saved.customer == customer.id
    listed = client.v1.payment_methods.list({"customer": customer.id, "type": "card"})
    yield listed.object, [one.id == made.id for one in listed.data], listed.has_more
    yield client.v1.payment_methods.detach(made.id).customer
    for number in ("4000000000000002", "4000000000009995", "4000000000000069"):
        declining = card(client, number)
        said = {"customer": customer.id}
        yield refusal(client.v1.payment_methods.attach, declining.id, said)
    later = card(client, "4000000000000341")
    yield client.v1.payment_methods.attach(later.id, {"customer": customer.id}).object


def setups(client, cards_only):
    customer = client.v1.customers.create({})
    said = {"customer": customer.id, **cards_only}
    made = client.v1.setup_intents.create(said)
    yield made.object, made.id[:5], made.status, made.usage
    done = client.v1.setup_intents.confirm(made.id, {"payment_method": card(client).id})
    yield done.status, done.next_action, done.customer == customer.id
    waits = client.v1.setup_intents.create(said)
    strict = card(client, "4000002500003155").id
    yield client.v1.setup_intents.confirm(waits.id, {"payment_method": strict}).status
    yield client.v1.setup_intents.cancel(waits.id).status


def intents(client, cards_only):
    customer = client.v1.customers.create({})
    method = client.v1.payment_methods.attach(card(client).id, {"customer": customer.id})
    said = {
        "amount": 1000,
        "currency": "usd",
        "customer": customer.id,
        "payment_method": method.id,
        **cards_only,
        "metadata": {"attempt_id": "a-1"},
    }
    made = client.v1.payment_intents.create(said)
    yield made.object, made.id[:3], made.status, made.amount, made.currency
    yield made.metadata.to_dict(), made.payment_method == method.id
    done = client.v1.payment_intents.confirm(made.id)
    yield done.status, done.next_action
    yield refusal(client.v1.payment_intents.confirm, made.id)
    yield refusal(client.v1.payment_intents.cancel, made.id)
    fenced = client.v1.payment_intents.create(said)
    yield client.v1.payment_intents.cancel(fenced.id).status
    yield refusal(client.v1.payment_intents.confirm, fenced.id)
    yield refusal(client.v1.payment_intents.retrieve, "pi_nobody")
    at_once = client.v1.payment_intents.create({**said, "confirm": True, "off_session": True})
    yield at_once.status
    yield len(client.v1.payment_intents.list({"limit": 2}).data)


def refunds(client, cards_only):
    customer = client.v1.customers.create({})
    method = client.v1.payment_methods.attach(card(client).id, {"customer": customer.id})
    said = {"amount": 1000, "currency": "usd", "customer": customer.id, "confirm": True}
    paid = client.v1.payment_intents.create(
        {**said, "payment_method": method.id, "off_session": True}
    )
    part = client.v1.refunds.create({"payment_intent": paid.id, "amount": 400})
    yield part.object, part.id[:3], part.amount, part.currency, part.status
    rest = client.v1.refunds.create({"payment_intent": paid.id, "amount": 600})
    yield rest.amount, rest.payment_intent == paid.id


@pytest.mark.parametrize("story", [customers, cards, setups, intents, refunds])
def test_both_tell_the_same_story(story, client, other):
    ours = story(client, {"allowed_payment_method_types": ["card"]})
    theirs = story(other, {"payment_method_types": ["card"]})

    assert list(ours) == list(theirs)
