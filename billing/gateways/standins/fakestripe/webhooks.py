"""
Signed deliveries of events: at least once, in no promised order, and as badly as a test asks.

Deliveries are rows of the book, so that a kill loses none of them.
"""

import hashlib
import hmac
import http.client
import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from billing.gateways.standins.fakestripe.book import Book
from billing.gateways.standins.fakestripe.errors import Object, invalid

DEFAULTS: Object = {
    "url": "",
    "secret": "",
    # Parts of the events, from 0 to 1.
    "duplicate": 0,
    "withhold": 0,
    # Every delivery waits this long, and then up to that long, each differently.
    "delay_seconds": 0,
    "shuffle_seconds": 0,
}
# After each delivery that was not answered with 2xx, by the virtual clock; then no more.
RETRY_SECONDS = (1, 5, 30, 300, 3_600, 6 * 3_600, 24 * 3_600)
POLL_SECONDS = 0.05
TIMEOUT_SECONDS = 10
AT_ONCE = 8
OWN_MACHINE = ("127.0.0.1", "localhost")


def settings(book: Book) -> Object:
    """Where events go, and how badly."""
    return {**DEFAULTS, **book.setting("webhooks", {})}


def configure(book: Book, changes: Object) -> Object:
    """
    Change where events go, and how badly.

    :raises ApiError: for a setting that there is not, or an address that is not this machine's.
    """
    for name in changes:
        if name not in DEFAULTS:
            raise invalid(f"Unknown webhook setting: {name}")
    url = changes.get("url")
    if url and urlsplit(url).hostname not in OWN_MACHINE:
        raise invalid("Webhooks go to 127.0.0.1 only.")
    book.set("webhooks", {**settings(book), **changes})
    return settings(book)


def schedule(book: Book, event: Object) -> None:
    """Plan the deliveries of an event: none, one or two, sooner or later."""
    how = settings(book)
    if not how["url"]:
        return
    ((sequence,),) = book.rows("SELECT seq FROM object WHERE id = ?", event["id"])
    dice = random.Random(f"{book.setting('seed', 0)}:{sequence}")  # noqa: S311 - repeatable
    if dice.random() < how["withhold"]:
        return
    for _ in range(2 if dice.random() < how["duplicate"] else 1):
        wait = how["delay_seconds"] + dice.random() * how["shuffle_seconds"]
        deliver(book, event, wait_seconds=wait)


def deliver(book: Book, event: Object, *, wait_seconds: float = 0, **forgery: Any) -> None:
    """Plan one delivery. A forgery may name `secret`, `age_seconds` and `tamper`."""
    book.rows(
        "INSERT INTO delivery (event, payload, due_at, forgery) VALUES (?, ?, ?, ?)",
        *(event["id"], json.dumps(book.shown(event)), book.clock + wait_seconds),
        json.dumps(forgery),
    )


def signature(payload: str, secret: str, at: int) -> str:
    """The `Stripe-Signature` header of a body."""
    mac = hmac.new(secret.encode(), f"{at}.{payload}".encode(), hashlib.sha256)
    return f"t={at},v1={mac.hexdigest()}"


class Courier:
    """Takes what is due to its address, from one thread of its own, until it is stopped."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def stop(self) -> None:
        """End it, after what is on its way."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            while not self._stopped.wait(POLL_SECONDS):
                with self._book.writing():
                    how = settings(self._book)
                    due = self._due() if how["url"] else []
                arrived = list(pool.map(partial(_send, how), due))
                if due:
                    with self._book.writing():
                        for (row, tries, *_), ok in zip(due, arrived, strict=True):
                            self._note(row, tries + 1, delivered=ok)

    def _due(self) -> list[Any]:
        return self._book.rows(
            "SELECT seq, tries, payload, forgery FROM delivery"
            " WHERE state = 'waiting' AND due_at <= ? ORDER BY due_at LIMIT ?",
            *(self._book.clock, AT_ONCE),
        )

    def _note(self, row: int, tries: int, *, delivered: bool) -> None:
        given_up = tries > len(RETRY_SECONDS)
        state = "delivered" if delivered else "given_up" if given_up else "waiting"
        wait = 0 if state != "waiting" else RETRY_SECONDS[tries - 1]
        self._book.rows(
            "UPDATE delivery SET state = ?, tries = ?, due_at = ? WHERE seq = ?",
            *(state, tries, self._book.clock + wait, row),
        )


def _send(how: Object, row: tuple[int, int, str, str]) -> bool:
    """Whether the receiver took it: nothing but a 2xx is a yes."""
    payload, forgery = row[2], json.loads(row[3])
    # The receiver compares with its own clock, which knows nothing of our virtual one.
    at = int(time.time()) - forgery.get("age_seconds", 0)
    signed = signature(payload, str(forgery.get("secret", how["secret"])), at)
    body = payload.replace('"', ' "', 1) if forgery.get("tamper") else payload
    address = urlsplit(how["url"])
    path = address.path + (f"?{address.query}" if address.query else "")
    connection = http.client.HTTPConnection(address.netloc, timeout=TIMEOUT_SECONDS)
    try:
        headers = {"Content-Type": "application/json", "Stripe-Signature": signed}
        connection.request("POST", path or "/", body.encode(), headers)
        return connection.getresponse().status // 100 == 2
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
