"""
The provider's book: one SQLite file, on disk before any reply leaves.

Objects are kept as the JSON they are shown as; fields that begin with `_` are ours and never shown.
One writer at a time: what Stripe calls an object lock is here a lock on the whole book.
"""

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from billing.gateways.standins.fakestripe.errors import ApiError, Object, missing

SCHEMA = """
CREATE TABLE IF NOT EXISTS object (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    type TEXT NOT NULL,
    created INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_type ON object (type, seq);
CREATE INDEX IF NOT EXISTS by_customer ON object (type, json_extract(body, '$.customer'));
CREATE INDEX IF NOT EXISTS by_intent ON object (type, json_extract(body, '$.payment_intent'));
CREATE INDEX IF NOT EXISTS by_settling ON object (type, json_extract(body, '$._settles_at'))
    WHERE json_extract(body, '$._settles_at') IS NOT NULL;
CREATE TABLE IF NOT EXISTS idempotency (
    key TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, endpoint TEXT NOT NULL,
    status INTEGER NOT NULL, body TEXT NOT NULL, request_id TEXT NOT NULL, began_at INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS request (seq INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TRIGGER IF NOT EXISTS request_is_never_changed BEFORE UPDATE ON request
    BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER IF NOT EXISTS request_is_never_removed BEFORE DELETE ON request
    BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TABLE IF NOT EXISTS fault (seq INTEGER PRIMARY KEY AUTOINCREMENT, rule TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS delivery (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL, payload TEXT NOT NULL,
    due_at REAL NOT NULL, tries INTEGER NOT NULL DEFAULT 0, state TEXT NOT NULL DEFAULT 'waiting',
    forgery TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX IF NOT EXISTS by_due ON delivery (due_at) WHERE state = 'waiting';
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
COMPARISONS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


class Book:
    """Every method but `writing` and `close` is called inside `writing`."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, timeout=2, isolation_level=None, check_same_thread=False)
        # One process owns a book: a second one would not see which keys are in use. A kill frees it.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        # A reply must not outlive its book, not even through a power cut.
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
        # The request that is being carried out, said in the events it causes.
        self.request: Object = {"id": None, "idempotency_key": None}

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction of the book, and nobody else's meanwhile."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def undone_if_refused(self) -> Iterator[None]:
        """What a refused request wrote is undone, unless it had executed: a decline leaves its traces."""
        self._db.execute("SAVEPOINT call")
        try:
            yield
        except ApiError as error:
            if not error.executed:
                self._db.execute("ROLLBACK TO call")
            raise

    def rows(self, sql: str, *values: Any) -> list[Any]:
        """What a statement returns."""
        return self._db.execute(sql, values).fetchall()

    def setting(self, name: str, default: Any = None) -> Any:
        """A setting of this book, which survives kills."""
        found = self.rows("SELECT value FROM setting WHERE name = ?", name)
        return json.loads(found[0][0]) if found else default

    def set(self, name: str, value: Any) -> None:
        """Keep a setting."""
        self.rows("INSERT OR REPLACE INTO setting VALUES (?, ?)", name, json.dumps(value))

    @property
    def clock(self) -> float:
        """The virtual time: the real one, and what the control API has added."""
        return time.time() + float(self.setting("clock_offset", 0))

    @property
    def now(self) -> int:
        """The virtual time in whole seconds, as Stripe says it."""
        return int(self.clock)

    def add(self, prefix: str, kind: str, **fields: Any) -> Object:
        """Store a new object."""
        ref = f"{prefix}_{secrets.token_hex(12)}"
        entry: Object = {
            "id": ref,
            "object": kind,
            "created": self.now,
            "livemode": False,
            **fields,
        }
        self.rows(
            "INSERT INTO object (id, type, created, changed_at, body) VALUES (?, ?, ?, ?, ?)",
            *(ref, kind, entry["created"], self.now, json.dumps(entry)),
        )
        return entry

    def save(self, entry: Object) -> Object:
        """Store an object as it is now."""
        self.rows(
            "UPDATE object SET body = ?, changed_at = ? WHERE id = ?",
            *(json.dumps(entry), self.now, entry["id"]),
        )
        return entry

    def peek(self, ref: str) -> Object | None:
        """The object of this id, or none."""
        found = self.rows("SELECT body FROM object WHERE id = ?", ref)
        return json.loads(found[0][0]) if found else None

    def get(self, kind: str, ref: str, *, param: str | None = "id", status: int = 404) -> Object:
        """
        The object of this kind and id.

        :raises ApiError: `resource_missing`.
        """
        entry = self.peek(ref)
        if entry is None or entry["object"] != kind:
            raise missing(kind, ref, param=param, status=status)
        return entry

    def select(self, kind: str, where: str = "1", *values: Any) -> list[Object]:
        """The objects of a kind that meet a condition, oldest first."""
        sql = f"SELECT body FROM object WHERE type = ? AND {where} ORDER BY seq"
        return [json.loads(body) for (body,) in self.rows(sql, kind, *values)]

    def page(self, kind: str, params: Object, **equal: Any) -> tuple[list[Object], bool]:
        """One page of a list, newest first, and whether there is more behind it."""
        where: list[str] = ["type = ?"]
        values: list[Any] = [kind]
        for name, value in equal.items():
            if isinstance(value, list):
                where.append(f"json_extract(body, '$.{name}') IN (SELECT value FROM json_each(?))")
                values.append(json.dumps(value))
            elif value is not None:
                where.append(f"json_extract(body, '$.{name}') = ?")
                values.append(value)
        for name, value in params.get("created", {}).items():
            where.append(f"created {COMPARISONS[name]} ?")
            values.append(value)
        backwards = "ending_before" in params
        cursor = params.get("ending_before") or params.get("starting_after")
        if cursor:
            self.get(kind, cursor, param="ending_before" if backwards else "starting_after")
            where.append(f"seq {'>' if backwards else '<'} (SELECT seq FROM object WHERE id = ?)")
            values.append(cursor)
        limit = params.get("limit", 10)
        sql = (
            f"SELECT body FROM object WHERE {' AND '.join(where)}"
            f" ORDER BY seq {'ASC' if backwards else 'DESC'} LIMIT {limit + 1}"
        )
        found = [json.loads(body) for (body,) in self.rows(sql, *values)]
        shown = found[:limit]
        return (shown[::-1] if backwards else shown), len(found) > limit

    def shown(self, entry: Object) -> Object:
        """An object as the API shows it."""
        shown = {name: value for name, value in entry.items() if not name.startswith("_")}
        if entry["object"] == "balance_transaction" and entry["available_on"] <= self.now:
            shown["status"] = "available"
        return shown

    def log(self, sequence: int, entry: Object) -> None:
        """Add a request to the log, which nothing changes any more."""
        self.rows("INSERT INTO request VALUES (?, ?)", sequence, json.dumps(entry))
