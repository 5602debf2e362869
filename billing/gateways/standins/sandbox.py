"""
A provider that moves no money and keeps its own book, outside our database and its transactions.

The book is an SQLite file, so several of our processes share it and a kill of any of them leaves
it whole. What a card does stands in its token; see CARDS.
"""

import sqlite3
import time
import uuid
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from billing.charge_protocol import Status
from billing.gateways.base import (
    AttemptSpec,
    Capabilities,
    CardSetup,
    DisputeSeen,
    EventHint,
    FinishedSetup,
    Foreign,
    Method,
    Misconfigured,
    NotAuthentic,
    Observation,
    OutcomeUnknown,
    RefundRefused,
    RefundSeen,
    RefundSpec,
    RefundStatus,
    SettlementLine,
)


@dataclass(frozen=True)
class Card:
    """A sandbox card: how it looks, and what it does when it is charged."""

    token: str
    brand: str
    last_four: str
    title: str
    decline_code: str = ""
    answers_slowly: bool = False
    loses_reply: bool = False


CARDS = {
    card.token: card
    for card in (
        Card("sandbox_visa", "Visa", "4242", "Pays"),
        Card("sandbox_mastercard", "Mastercard", "4444", "Pays"),
        Card(
            "sandbox_insufficient",
            "Visa",
            "9995",
            "Declines: insufficient funds",
            "insufficient_funds",
        ),
        Card("sandbox_declined", "Visa", "0002", "Declines", "card_declined"),
        Card("sandbox_expired", "Visa", "0069", "Declines: expired", "expired_card"),
        Card(
            "sandbox_stolen",
            "Visa",
            "9979",
            "Declines: stolen, and is never charged again",
            "stolen_card",
        ),
        Card("sandbox_slow", "Visa", "0077", "Pays, answers slowly", answers_slowly=True),
        Card("sandbox_lost_reply", "Visa", "0119", "Pays, but its reply is lost", loses_reply=True),
    )
}

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS charge (
    ref TEXT PRIMARY KEY,
    own_reference TEXT NOT NULL,
    account_ref TEXT NOT NULL,
    token TEXT NOT NULL,
    currency TEXT NOT NULL,
    amount_minor INTEGER NOT NULL CHECK (amount_minor > 0),
    status TEXT NOT NULL,
    decline_code TEXT NOT NULL DEFAULT ''
)""",
    # Beside the charges, so that books from before there was a time need no change.
    "CREATE TABLE IF NOT EXISTS made (ref TEXT PRIMARY KEY, made_at REAL NOT NULL)",
    "CREATE INDEX IF NOT EXISTS charge_own_reference ON charge (own_reference)",
    "CREATE TABLE IF NOT EXISTS idempotency_key (key TEXT PRIMARY KEY, ref TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS refund (
    ref TEXT PRIMARY KEY,
    payment_ref TEXT NOT NULL REFERENCES charge (ref),
    own_reference TEXT NOT NULL,
    status TEXT NOT NULL,
    amount_minor INTEGER NOT NULL CHECK (amount_minor > 0),
    currency TEXT NOT NULL,
    because TEXT NOT NULL DEFAULT ''
)""",
)
CHARGES = """
SELECT ref, own_reference, status, amount_minor, currency, decline_code, account_ref, token,
       coalesce(made_at, 0) AS made_at
  FROM charge LEFT JOIN made USING (ref)
"""
REFUNDS = """
SELECT ref, payment_ref, own_reference, status, amount_minor, currency, because FROM refund
"""
LEFT_TO_REFUND = """
SELECT amount_minor - (SELECT coalesce(sum(amount_minor), 0) FROM refund
                        WHERE payment_ref = charge.ref AND status IN ('PENDING', 'SUCCEEDED'))
  FROM charge WHERE ref = ? AND status = 'SUCCEEDED'
"""
# What `newest` shows at once.
PAGE = 100


class SandboxGateway:
    """Speaks the Gateway protocol; see the module."""

    name = "sandbox"
    capabilities = Capabilities(takes_refunds=True)

    def __init__(self, book: Path, *, latency_seconds: float = 0, slow_seconds: float = 2) -> None:
        self._book = book
        self._latency_seconds = latency_seconds
        self._slow_seconds = slow_seconds

    def chargeable_minor(self, amount_minor: int, currency: str) -> int:
        """All of it, in any currency."""
        return amount_minor

    def prepare(self, spec: AttemptSpec, *, key: str) -> Observation:
        """
        Note a charge that is not submitted yet.

        :raises Misconfigured: if the token is no sandbox card.
        """
        self._card(spec.token)
        with self._open() as book:
            known = book.execute("SELECT ref FROM idempotency_key WHERE key = ?", [key]).fetchone()
            if known:
                return self._observe(book, known[0])
            ref = f"sb_{uuid.uuid4().hex}"
            book.execute(
                "INSERT INTO charge (ref, own_reference, account_ref, token, currency, amount_minor, status)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    ref,
                    spec.own_reference,
                    spec.account_ref,
                    spec.token,
                    spec.currency,
                    spec.amount_minor,
                    Status.UNSUBMITTED,
                ],
            )
            # Whole microseconds, as a datetime has: who lists since this very moment finds it.
            made_at = round(time.time(), 6)
            book.execute("INSERT INTO made (ref, made_at) VALUES (?, ?)", [ref, made_at])
            book.execute("INSERT INTO idempotency_key (key, ref) VALUES (?, ?)", [key, ref])
            return self._observe(book, ref)

    def submit(self, ref: str, *, key: str) -> Observation:
        """
        Move the (pretended) money, or decline. A second submit changes nothing.

        :raises OutcomeUnknown: after it moved, where the card loses replies.
        """
        with self._open() as book:
            self._observe(book, ref)  # or say that there is none
            (token,) = book.execute("SELECT token FROM charge WHERE ref = ?", [ref]).fetchone()
        card = self._card(token)
        if card.answers_slowly:
            time.sleep(self._slow_seconds)
        with self._open() as book:
            submitted = book.execute(
                "UPDATE charge SET status = ?, decline_code = ? WHERE ref = ? AND status = ?",
                [
                    Status.DECLINED if card.decline_code else Status.SUCCEEDED,
                    card.decline_code,
                    ref,
                    Status.UNSUBMITTED,
                ],
            ).rowcount
            observation = self._observe(book, ref)
        if card.loses_reply and submitted:
            raise OutcomeUnknown("the reply was lost on its way")
        return observation

    def read(self, ref: str) -> Observation:
        """What the book says of a charge."""
        with self._open() as book:
            return self._observe(book, ref)

    def find(self, spec: AttemptSpec, *, since: datetime) -> list[Observation]:
        """The charges that carry our reference; the book is never so long that `since` would matter."""
        with self._open() as book:
            rows = book.execute(
                f"{CHARGES} WHERE own_reference = ? ORDER BY charge.rowid",
                [spec.own_reference],
            ).fetchall()
        return [_observation(row) for row in rows]

    def cancel(self, ref: str, *, key: str) -> Observation:
        """Close a charge for ever, unless it has succeeded."""
        with self._open() as book:
            book.execute(
                "UPDATE charge SET status = ? WHERE ref = ? AND status <> ?",
                [Status.CANCELED, ref, Status.SUCCEEDED],
            )
            return self._observe(book, ref)

    def refund(self, spec: RefundSpec, *, key: str) -> RefundSeen:
        """
        Note money that went back, at once.

        :raises RefundRefused: if less is left of the charge.
        """
        with self._open() as book:
            known = book.execute("SELECT ref FROM idempotency_key WHERE key = ?", [key]).fetchone()
            if known:
                return self._refund(book, known[0])
            left = book.execute(LEFT_TO_REFUND, [spec.payment_ref]).fetchone()
            if left is None or spec.amount_minor > left[0]:
                raise RefundRefused(f"{spec.payment_ref} has less than that left to refund")
            ref = f"sb_re_{uuid.uuid4().hex}"
            book.execute(
                "INSERT INTO refund (ref, payment_ref, own_reference, status, amount_minor, currency)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                [
                    ref,
                    spec.payment_ref,
                    spec.own_reference,
                    RefundStatus.SUCCEEDED,
                    spec.amount_minor,
                    spec.currency,
                ],
            )
            book.execute("INSERT INTO idempotency_key (key, ref) VALUES (?, ?)", [key, ref])
            return self._refund(book, ref)

    def read_refund(self, ref: str) -> RefundSeen:
        """What the book says of a refund."""
        with self._open() as book:
            return self._refund(book, ref)

    def find_refunds(self, payment_ref: str) -> list[RefundSeen]:
        """The refunds of a charge, in the order they were made."""
        with self._open() as book:
            rows = book.execute(
                f"{REFUNDS} WHERE payment_ref = ? ORDER BY rowid", [payment_ref]
            ).fetchall()
        return [_refund_seen(row) for row in rows]

    def refunds(self, *, since: datetime | None = None) -> Iterator[RefundSeen]:
        """All of them; the book is never so long that `since` would matter."""
        with self._open() as book:
            rows = book.execute(f"{REFUNDS} ORDER BY rowid").fetchall()
        return (_refund_seen(row) for row in rows)

    def book(self) -> Iterator[Observation]:
        """Every charge, in the order they were made."""
        with self._open() as book:
            rows = book.execute(f"{CHARGES} ORDER BY charge.rowid").fetchall()
        return (_observation(row) for row in rows)

    def objects(
        self, *, since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[Observation | Foreign]:
        """The charges of a time, newest first. None is foreign: a book has one owner."""
        begins = since.timestamp() if since else 0
        ends = until.timestamp() if until else float("inf")
        with self._open() as book:
            rows = book.execute(
                f"{CHARGES} WHERE coalesce(made_at, 0) BETWEEN ? AND ? ORDER BY charge.rowid DESC",
                [begins, ends],
            ).fetchall()
        return (_observation(row) for row in rows)

    def newest(self) -> list[Observation]:
        """The charges made last."""
        with self._open() as book:
            rows = book.execute(f"{CHARGES} ORDER BY charge.rowid DESC LIMIT {PAGE}").fetchall()
        return [_observation(row) for row in rows]

    def settlements(
        self, *, since: datetime | None = None, but: Container[str] = ()
    ) -> Iterator[SettlementLine]:
        """Pretended money is never paid out."""
        return iter(())

    def read_dispute(self, ref: str) -> DisputeSeen:
        """
        Nobody disputes pretended money.

        :raises Misconfigured: always.
        """
        raise Misconfigured(f"the sandbox knows no dispute {ref!r}")

    def disputes(self, *, since: datetime | None = None) -> Iterator[DisputeSeen]:
        """There are none."""
        return iter(())

    def ensure_customer(self, *, account_ref: str, email: str, name: str) -> str:
        """Cards of the sandbox belong to nobody; the account itself will do."""
        return account_ref

    def begin_authentication(self, ref: str, *, return_url: str) -> str:
        """No bank asks anybody here."""
        return return_url

    def begin_setup(
        self, *, account_ref: str, customer_ref: str, currency: str, return_url: str
    ) -> CardSetup:
        """There is nothing to enter: sandbox cards are chosen from a list on our own page."""
        return CardSetup(ref=account_ref, url="")

    def read_setup(self, ref: str) -> FinishedSetup:
        """Nothing comes of a setup in which nothing is entered."""
        return FinishedSetup(account_ref=ref, method=None)

    def test_methods(self, account_ref: str) -> Mapping[str, str]:
        """Return every sandbox card; they are the same for all accounts."""
        return {
            card.token: f"{card.brand} ···· {card.last_four}: {card.title}"
            for card in CARDS.values()
        }

    def read_method(self, token: str) -> Method:
        """
        How a card looks. None of them ever expires.

        :raises Misconfigured: if the token is no sandbox card.
        """
        card = self._card(token)
        return Method(token, "sandbox", card.brand, card.last_four, 12, 9999)

    def detach(self, token: str) -> Method:
        """Every account has the same cards, so that one cannot be taken away: nothing happens."""
        return self.read_method(token)

    def parse_webhook(self, headers: Mapping[str, str], body: bytes) -> list[EventHint]:
        """
        Refuse: the sandbox tells nothing unasked.

        :raises NotAuthentic: always.
        """
        raise NotAuthentic("the sandbox sends no events")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """One call to the provider: its own connection, its own transaction, its own time on the wire."""
        time.sleep(self._latency_seconds)
        self._book.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._book, timeout=30, isolation_level=None)
        try:
            with suppress(sqlite3.OperationalError):
                # Lasts as long as the file; locked while another process of ours sets it first.
                connection.execute("PRAGMA journal_mode = WAL")
            with connection:
                # Taken before the first look: two calls with one key must not both find nothing.
                connection.execute("BEGIN IMMEDIATE")
                for statement in SCHEMA:
                    connection.execute(statement)
                yield connection
        finally:
            connection.close()

    @staticmethod
    def _observe(book: sqlite3.Connection, ref: str) -> Observation:
        row = book.execute(f"{CHARGES} WHERE ref = ?", [ref]).fetchone()
        if row is None:
            raise Misconfigured(f"the sandbox book has no charge {ref!r}")
        return _observation(row)

    @staticmethod
    def _refund(book: sqlite3.Connection, ref: str) -> RefundSeen:
        row = book.execute(f"{REFUNDS} WHERE ref = ?", [ref]).fetchone()
        if row is None:
            raise Misconfigured(f"the sandbox book has no refund {ref!r}")
        return _refund_seen(row)

    @staticmethod
    def _card(token: str) -> Card:
        try:
            return CARDS[token]
        except KeyError:
            raise Misconfigured(
                f"{token!r} is not a sandbox card: use one of {', '.join(CARDS)}"
            ) from None


def _observation(row: tuple[Any, ...]) -> Observation:
    ref, own_reference, status, amount_minor, currency, decline_code, account_ref, token, at = row
    return Observation(
        ref,
        own_reference,
        Status(status),
        amount_minor,
        currency,
        decline_code,
        account_ref=account_ref,
        token=token,
        made_at=datetime.fromtimestamp(at, UTC),
    )


def _refund_seen(row: tuple[Any, ...]) -> RefundSeen:
    ref, payment_ref, own_reference, status, amount_minor, currency, because = row
    return RefundSeen(
        ref, payment_ref, own_reference, RefundStatus(status), amount_minor, currency, because
    )
