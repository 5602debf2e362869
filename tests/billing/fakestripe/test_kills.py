"""Killed anywhere, the provider's book is whole: what was answered is there, once."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import stripe

from tests.billing.fakestripe.conftest import Control, confirm, eventually, prepare, speaking_to

START = """
import sys
from pathlib import Path
from billing.gateways.standins.fakestripe.server import Options, Server
server = Server(Options(Path(sys.argv[1]), port=int(sys.argv[2])))
print(server.server_address[1], flush=True)
server.run()
"""


@contextmanager
def process(book, port=0):
    child = subprocess.Popen(
        [sys.executable, "-c", START, book, str(port)], stdout=subprocess.PIPE, text=True
    )
    try:
        child.port = int(child.stdout.readline())
        child.url = f"http://127.0.0.1:{child.port}"
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_what_was_answered_survives_a_kill_and_the_rest_can_be_read(tmp_path):
    book = tmp_path / "book"
    with process(book) as first, speaking_to(first.url) as client:
        customer = client.v1.customers.create({})
        card = client.v1.payment_methods.attach("pm_card_visa", {"customer": customer.id})
        intent = prepare(client, customer, card.id)
        done = confirm(client, intent, key="k")
        Control(first.url).later(1000)
        Control(first.url).fault("drop_before", skip=1)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        with pytest.raises(stripe.APIConnectionError):
            client.v1.payment_intents.retrieve(intent.id)

    with process(book) as second, speaking_to(second.url) as client:
        assert client.v1.payment_intents.retrieve(intent.id).status == "succeeded"
        with pytest.raises(stripe.APIConnectionError):
            confirm(client, intent, key="k")
        again = confirm(client, intent, key="k")
        dump = Control(second.url).dump()

    assert again.latest_charge == done.latest_charge
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert dump["now"] - time.time() > 900
    assert [one["sequence"] for one in dump["requests"]] == [1, 2, 3, 4, 5, 6, 7]


def test_kills_in_the_middle_of_traffic_lose_nothing_and_double_nothing(tmp_path):
    book, answered, stopped = tmp_path / "book", {}, threading.Event()
    with process(book) as first, speaking_to(first.url) as client:
        port = first.port
        customer = client.v1.customers.create({})
        card = client.v1.payment_methods.attach("pm_card_visa", {"customer": customer.id})

    def pay(worker):
        with speaking_to(f"http://127.0.0.1:{port}") as client:
            for turn in range(10_000):
                intent = pay_once(client, f"{worker}-{turn}")
                if stopped.is_set():
                    return
                answered[f"{worker}-{turn}"] = intent

    def pay_once(client, attempt):
        while not stopped.is_set():
            try:
                said = {"metadata": {"attempt_id": attempt}}
                key = {"idempotency_key": f"create {attempt}"}
                intent = client.v1.payment_intents.create(
                    {"amount": 100, "currency": "usd", "customer": customer.id,
                     "payment_method": card.id, **said}, key)  # fmt: skip
                return confirm(client, intent, key=f"confirm {attempt}").id
            except stripe.APIConnectionError:
                time.sleep(0.02)
        return None

    with ThreadPoolExecutor(4) as pool:
        try:
            workers = [pool.submit(pay, worker) for worker in range(4)]
            for kill in range(4):
                with process(book, port) as child:
                    known = len(answered)
                    eventually(lambda known=known: len(answered) > known + 5)
                    time.sleep(0.01 * kill)
                    os.kill(child.pid, signal.SIGKILL)
        finally:
            stopped.set()
        [worker.result() for worker in workers]

    with process(book, port) as child:
        dump = Control(child.url).dump()
    made = [intent["metadata"]["attempt_id"] for intent in dump["payment_intents"]]
    succeeded = {one["id"] for one in dump["payment_intents"] if one["status"] == "succeeded"}
    charged = [charge["payment_intent"] for charge in dump["charges"]]
    assert len(answered) > 20
    assert len(made) == len(set(made))
    assert set(answered.values()) <= succeeded
    assert sorted(charged) == sorted(succeeded)


def test_the_log_cannot_be_changed(client, customer, server):
    with server.book.writing():
        for act in ("UPDATE request SET body = ''", "DELETE FROM request"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                server.book.rows(act)


def test_a_fault_of_our_own_leaves_no_half_of_a_request(client, server, control, monkeypatch):
    monkeypatch.setattr("billing.gateways.standins.fakestripe.events.record", lambda *args: 1 / 0)
    monkeypatch.setattr("socketserver.BaseServer.handle_error", lambda *args: None)

    with pytest.raises(stripe.APIConnectionError):
        client.v1.customers.create({}, {"idempotency_key": "k"})

    monkeypatch.undo()
    assert control.dump()["customers"] == []
    assert client.v1.customers.create({}, {"idempotency_key": "k"}).id
