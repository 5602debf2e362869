"""
A direct-debit provider of our own: it moves no money, forgets nothing, and days pass when it is told so.

It is the other party, in the words of such providers: a payer's bank lets a mandate be charged, a
payment waits until it is submitted, succeeds or fails days later, and may be charged back weeks after
that. A second request with the same key is refused with the id of what the first one made. It tells
of everything in signed deliveries of many events. Its book is an SQLite file, which survives every
kill. How a mandate behaves stands in its id: "debit_pays.acme"; see BEHAVIOURS.

    python -m billing.gateways.standins.fakedebit .data/debit-book.sqlite3 3

lets three days pass in that book, and prints what happened in them.
"""

import hashlib
import hmac
import json
import sqlite3
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True)
class Behaviour:
    """What becomes of a payment by such a mandate, in days at the bank."""

    title: str
    last_four: str
    decided_after: int = 2
    # Why the payer's bank refuses; empty: it pays.
    fails_with: str = ""
    # Days from success to the day the payer's bank takes the money back; 0: never.
    charged_back_after: int = 0
    loses_reply: bool = False


BEHAVIOURS = {
    "debit_pays": Behaviour("Pays after 2 days", "3000"),
    "debit_insufficient": Behaviour(
        "Fails after 3 days: insufficient funds", "3001", 3, fails_with="insufficient_funds"
    ),
    "debit_charged_back": Behaviour(
        "Pays after 2 days, is charged back 10 days later", "3002", charged_back_after=10
    ),
    "debit_withdrawn": Behaviour(
        "Fails after 1 day: the mandate is withdrawn", "3003", 1, fails_with="mandate_cancelled"
    ),
    "debit_lost_reply": Behaviour(
        "Pays after 2 days, but its reply is lost", "3004", loses_reply=True
    ),
}

# As long as the provider remembers a key.
KEYS_ARE_KEPT_DAYS = 30
# As many events as one delivery carries.
LARGEST_DELIVERY = 250

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS mandate (id TEXT PRIMARY KEY, status TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS payment (
    id TEXT PRIMARY KEY,
    mandate TEXT NOT NULL,
    reference TEXT NOT NULL,
    account TEXT NOT NULL,
    currency TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0),
    charge_date TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'pending_submission',
    cause TEXT NOT NULL DEFAULT '',
    changed_on INTEGER NOT NULL,
    created_at REAL NOT NULL
)""",
    "CREATE INDEX IF NOT EXISTS payment_reference ON payment (reference)",
    "CREATE TABLE IF NOT EXISTS key (key TEXT PRIMARY KEY, payment TEXT NOT NULL, made_on INTEGER NOT NULL)",
    """CREATE TABLE IF NOT EXISTS event (
    id INTEGER PRIMARY KEY,
    uid TEXT NOT NULL UNIQUE DEFAULT (hex(randomblob(12))),
    resource_type TEXT NOT NULL,
    action TEXT NOT NULL,
    link TEXT NOT NULL,
    is_delivered INTEGER NOT NULL DEFAULT 0
)""",
    "CREATE TABLE IF NOT EXISTS clock (day INTEGER NOT NULL)",
)


class Conflict(Exception):
    """409: this key has made something already, and `existing_id` is what."""

    def __init__(self, existing_id: str) -> None:
        super().__init__(f"idempotent_creation_conflict: {existing_id}")
        self.existing_id = existing_id


class NotFound(Exception):
    """404: there is none of this id."""


class NotCancellable(Exception):
    """422: it is at the bank already, or has come to its end."""


class ReplyLost(Exception):
    """It was carried out, and nobody is told."""


class DirectDebit:
    """The provider, one call a transaction of its book; every process opens the same file."""

    def __init__(self, book: Path) -> None:
        self._path = book

    # --- mandates

    def mandate(self, mandate_id: str) -> Object:
        """
        A mandate; one of a known behaviour is there from the first time it is named.

        :raises NotFound: if there is no such behaviour.
        """
        with self._open() as book:
            return _mandate(book, mandate_id)

    def end_mandate(self, mandate_id: str, *, status: str = "cancelled") -> Object:
        """
        Cancel a mandate, or let it be "expired"; payments that wait for it are cancelled.

        :raises NotFound: if there is no such behaviour.
        """
        with self._open() as book:
            _mandate(book, mandate_id)
            _end_mandate(book, mandate_id, status)
            return _mandate(book, mandate_id)

    # --- payments

    def create_payment(
        self,
        *,
        key: str,
        mandate: str,
        reference: str,
        account: str,
        currency: str,
        amount: int,
        charge_date: str,
    ) -> Object:
        """
        Make a payment that waits to be submitted, in minor units.

        :raises Conflict: if the key has made one in the last 30 days.
        :raises NotFound: if there is no such mandate.
        """
        with self._open() as book:
            today = _today(book)
            book.execute("DELETE FROM key WHERE made_on < ?", [today - KEYS_ARE_KEPT_DAYS])
            known = book.execute("SELECT payment FROM key WHERE key = ?", [key]).fetchone()
            if known:
                raise Conflict(known["payment"])
            _mandate(book, mandate)
            made = f"PM{uuid.uuid4().hex}"
            book.execute(
                "INSERT INTO payment (id, mandate, reference, account, currency, amount, charge_date,"
                " changed_on, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    made,
                    mandate,
                    reference,
                    account,
                    currency,
                    amount,
                    charge_date,
                    today,
                    time.time(),
                ],
            )
            book.execute("INSERT INTO key VALUES (?, ?, ?)", [key, made, today])
            _tell(book, "payments", "created", made)
            return _payment(book, made)

    def submit_payment(self, payment_id: str) -> Object:
        """
        Hand a payment to the bank; from here on nobody can stop it. A second time changes nothing.

        :raises NotFound: if there is none of this id.
        :raises ReplyLost: after it was handed over, where the mandate loses replies.
        """
        with self._open() as book:
            payment = _payment(book, payment_id)
            if payment["status"] != "pending_submission":
                return payment
            mandate = _mandate(book, payment["mandate"])
            if mandate["status"] in {"cancelled", "expired"}:
                _move(book, payment_id, "failed", cause=f"mandate_{mandate['status']}")
            else:
                _move(book, payment_id, "submitted")
            submitted = _payment(book, payment_id)
        if _behaviour(payment["mandate"]).loses_reply:
            raise ReplyLost(payment_id)
        return submitted

    def cancel_payment(self, payment_id: str) -> Object:
        """
        Make sure that a payment which waits, or has failed, never moves money. Twice is once.

        :raises NotCancellable: if it is at the bank, or has succeeded.
        :raises NotFound: if there is none of this id.
        """
        with self._open() as book:
            status = _payment(book, payment_id)["status"]
            if status in {"submitted", "confirmed", "charged_back"}:
                raise NotCancellable(f"{payment_id} is {status}")
            if status != "cancelled":
                _move(book, payment_id, "cancelled")
            return _payment(book, payment_id)

    def payment(self, payment_id: str) -> Object:
        """
        A payment as it stands.

        :raises NotFound: if there is none of this id.
        """
        with self._open() as book:
            return _payment(book, payment_id)

    def payments(self, *, reference: str | None = None) -> list[Object]:
        """All payments, or those with this reference, in the order they were made."""
        with self._open() as book:
            rows = book.execute(
                "SELECT * FROM payment WHERE ? IS NULL OR reference = ? ORDER BY rowid",
                [reference, reference],
            )
            return [dict(row) for row in rows]

    # --- time

    def advance(self, days: int) -> list[Object]:
        """Let days pass: banks decide, mandates become active. Returns what happened, as events."""
        with self._open() as book:
            (before,) = book.execute("SELECT coalesce(max(id), 0) FROM event").fetchone()
            for _ in range(days):
                book.execute("UPDATE clock SET day = day + 1")
                _pass_a_day(book)
            rows = book.execute("SELECT * FROM event WHERE id > ? ORDER BY id", [before])
            return [_event(row) for row in rows]

    # --- telling

    def deliveries(
        self, *, secret: str, largest: int = LARGEST_DELIVERY
    ) -> list[tuple[dict[str, str], bytes]]:
        """Headers and body of each delivery that tells what was not told yet; told once."""
        with self._open() as book:
            rows = book.execute("SELECT * FROM event WHERE NOT is_delivered ORDER BY id").fetchall()
            book.execute("UPDATE event SET is_delivered = 1")
        events = [_event(row) for row in rows]
        batches = [events[start : start + largest] for start in range(0, len(events), largest)]
        bodies = [json.dumps({"events": batch}).encode() for batch in batches]
        return [({"Webhook-Signature": signature(body, secret)}, body) for body in bodies]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=30, isolation_level=None)
        connection.row_factory = sqlite3.Row
        try:
            with suppress(sqlite3.OperationalError):
                # Lasts as long as the file; locked while another process of ours sets it first.
                connection.execute("PRAGMA journal_mode = WAL")
            with connection:
                # Taken before the first look: two calls with one key must not both find nothing.
                connection.execute("BEGIN IMMEDIATE")
                for statement in SCHEMA:
                    connection.execute(statement)
                connection.execute(
                    "INSERT INTO clock SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM clock)"
                )
                yield connection
        finally:
            connection.close()


def signature(body: bytes, secret: str) -> str:
    """What the provider signs a delivery with."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


# --- inside one transaction of the book


def _today(book: sqlite3.Connection) -> int:
    return int(book.execute("SELECT day FROM clock").fetchone()[0])


def _behaviour(mandate_id: str) -> Behaviour:
    name = mandate_id.partition(".")[0]
    if name not in BEHAVIOURS:
        raise NotFound(f"no mandate {mandate_id!r}: use one of {', '.join(BEHAVIOURS)}")
    return BEHAVIOURS[name]


def _mandate(book: sqlite3.Connection, mandate_id: str) -> Object:
    behaviour = _behaviour(mandate_id)
    book.execute(
        "INSERT INTO mandate VALUES (?, 'pending_submission') ON CONFLICT DO NOTHING", [mandate_id]
    )
    row = book.execute("SELECT * FROM mandate WHERE id = ?", [mandate_id]).fetchone()
    return {**row, "last_four": behaviour.last_four}


def _end_mandate(book: sqlite3.Connection, mandate_id: str, status: str) -> None:
    book.execute("UPDATE mandate SET status = ? WHERE id = ?", [status, mandate_id])
    _tell(book, "mandates", status, mandate_id)
    for payment in _standing(book, "pending_submission"):
        if payment["mandate"] == mandate_id:
            _move(book, payment["id"], "cancelled")


def _payment(book: sqlite3.Connection, payment_id: str) -> Object:
    row = book.execute("SELECT * FROM payment WHERE id = ?", [payment_id]).fetchone()
    if row is None:
        raise NotFound(f"no payment {payment_id!r}")
    return dict(row)


def _standing(book: sqlite3.Connection, status: str) -> list[Object]:
    rows = book.execute("SELECT * FROM payment WHERE status = ? ORDER BY rowid", [status])
    return [dict(row) for row in rows]


def _move(book: sqlite3.Connection, payment_id: str, status: str, *, cause: str = "") -> None:
    book.execute(
        "UPDATE payment SET status = ?, cause = ?, changed_on = ? WHERE id = ?",
        [status, cause, _today(book), payment_id],
    )
    _tell(book, "payments", status, payment_id)


def _pass_a_day(book: sqlite3.Connection) -> None:
    today = _today(book)
    for row in book.execute(
        "SELECT id FROM mandate WHERE status = 'pending_submission'"
    ).fetchall():
        book.execute("UPDATE mandate SET status = 'active' WHERE id = ?", [row["id"]])
        _tell(book, "mandates", "active", row["id"])
    for payment in _standing(book, "submitted"):
        behaviour = _behaviour(payment["mandate"])
        if today < payment["changed_on"] + behaviour.decided_after:
            continue
        _move(
            book,
            payment["id"],
            "failed" if behaviour.fails_with else "confirmed",
            cause=behaviour.fails_with,
        )
        if behaviour.fails_with == "mandate_cancelled":
            _end_mandate(book, payment["mandate"], "cancelled")
    for payment in _standing(book, "confirmed"):
        after = _behaviour(payment["mandate"]).charged_back_after
        if after and today >= payment["changed_on"] + after:
            _move(book, payment["id"], "charged_back", cause="refund_requested")


def _tell(book: sqlite3.Connection, resource_type: str, action: str, link: str) -> None:
    book.execute(
        "INSERT INTO event (resource_type, action, link) VALUES (?, ?, ?)",
        [resource_type, action, link],
    )


def _event(row: sqlite3.Row) -> Object:
    return {
        "id": f"EV{row['uid']}",
        "resource_type": row["resource_type"],
        "action": row["action"],
        "links": {row["resource_type"].removesuffix("s"): row["link"]},
    }


if __name__ == "__main__":  # pragma: no cover - a process of its own, and tested as one
    book, days = sys.argv[1:]
    for event in DirectDebit(Path(book)).advance(int(days)):
        sys.stdout.write(json.dumps(event) + "\n")
