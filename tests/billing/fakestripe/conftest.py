"""A provider in a thread of the test, with a book of its own, and the official SDK to talk to it."""

import json
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
import stripe

from billing.gateways.standins.fakestripe.server import Options, Server


def sdk(url: str, key: str = "sk_test_contract", **kwargs) -> stripe.StripeClient:
    """The official client, set up as our gateway sets it up."""
    return stripe.StripeClient(
        key,
        base_addresses={"api": url},
        max_network_retries=0,
        http_client=stripe.RequestsClient(timeout=(5, 25)),
        **kwargs,
    )


@contextmanager
def speaking_to(url: str, key: str = "sk_test_contract", **kwargs):
    client = sdk(url, key, **kwargs)
    try:
        yield client
    finally:
        client._requestor._client.close()


class Control:
    """The provider's other door."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, method: str, path: str, body=None) -> tuple[int, dict]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def __call__(self, noun: str, **body) -> dict:
        status, answer = self.ask("POST", f"/_control/{noun}", body)
        assert status == 200, answer
        return answer

    def fault(self, fault: str, **rule) -> None:
        self("faults", rules=[{"fault": fault, **rule}])

    def later(self, seconds: int) -> None:
        self("clock", advance_seconds=seconds)

    def dump(self) -> dict:
        return self.ask("GET", "/dump")[1]


@contextmanager
def running(options: Options):
    server = Server(options)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()


@pytest.fixture
def server(tmp_path):
    with running(Options(book=tmp_path / "book.sqlite3", port=0)) as server:
        yield server


@pytest.fixture
def control(server):
    return Control(server.url)


@pytest.fixture
def client(server):
    with speaking_to(server.url) as client:
        yield client


@pytest.fixture
def customer(client):
    return client.v1.customers.create({"metadata": {"account_id": "7"}})


@pytest.fixture
def saved_card(client, customer):
    return client.v1.payment_methods.attach("pm_card_visa", {"customer": customer.id})


@pytest.fixture
def prepared(client, customer, saved_card):
    """An intent that has moved nothing yet."""
    return prepare(client, customer, saved_card.id)


def prepare(client, customer, payment_method, **params):
    said = {
        "amount": 1000,
        "currency": "usd",
        "customer": customer.id,
        "payment_method": payment_method,
        "metadata": {"attempt_id": "a-1"},
        **params,
    }
    return client.v1.payment_intents.create({name: value for name, value in said.items() if value})


def confirm(client, intent, key=None, **params):
    options = {"idempotency_key": key} if key else {}
    said = {"off_session": True, "error_on_requires_action": True, **params}
    return client.v1.payment_intents.confirm(intent.id, said, options)


def eventually(claim, seconds: float = 30):
    """Wait until the claim holds."""
    deadline = time.monotonic() + seconds
    while not (result := claim()):
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.02)
    return result
