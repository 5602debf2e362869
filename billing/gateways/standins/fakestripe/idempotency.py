"""Idempotency keys as Stripe keeps them: the first reply is the reply, whatever it was."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from billing.gateways.standins.fakestripe.book import Book
from billing.gateways.standins.fakestripe.errors import ApiError, Object, invalid, key_in_use

LIFETIME_SECONDS = 24 * 3_600
MAX_LENGTH = 255


class KeysInUse:
    """The keys of the requests that run at this moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: set[str] = set()

    @contextmanager
    def held(self, key: str) -> Iterator[None]:
        """
        Keep others with the same key out. No key, no keeping out.

        :raises ApiError: 409 if one is in already, 400 if the key is too long.
        """
        if len(key) > MAX_LENGTH:
            raise invalid(f"Idempotency keys are at most {MAX_LENGTH} characters long.")
        with self._lock:
            if key in self._keys:
                raise key_in_use()
            if key:
                self._keys.add(key)
        try:
            yield
        finally:
            with self._lock:
                self._keys.discard(key)


def stored(book: Book, key: str, endpoint: str, params: Object) -> tuple[int, Object, str] | None:
    """
    The reply of the first request with this key: its status, body and request id.

    :raises ApiError: if the first request was another one.
    """
    oldest = book.now - LIFETIME_SECONDS
    book.rows("DELETE FROM idempotency WHERE began_at < ?", oldest)
    found = book.rows("SELECT * FROM idempotency WHERE key = ?", key)
    if not found:
        return None
    _, fingerprint, first_endpoint, status, body, request_id, _ = found[0]
    if first_endpoint != endpoint:
        raise _mismatch(f"for the same endpoint they were first used for ('{first_endpoint}')", key)
    if fingerprint != _fingerprint(params):
        raise _mismatch("with the same parameters they were first used with", key)
    return status, json.loads(body), request_id


def store(
    book: Book,
    key: str,
    endpoint: str,
    params: Object,
    *,
    status: int,
    body: Object,
    request_id: str,
) -> None:
    """Make a reply the reply to this key."""
    book.rows(
        "INSERT INTO idempotency VALUES (?, ?, ?, ?, ?, ?, ?)",
        *(key, _fingerprint(params), endpoint, status, json.dumps(body), request_id, book.now),
    )


def _fingerprint(params: Object) -> str:
    return hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()


def _mismatch(rule: str, key: str) -> ApiError:
    return ApiError(
        400,
        f"Keys for idempotent requests can only be used {rule}. Try using a key other than"
        f" '{key}' if you meant to execute a different request.",
        kind="idempotency_error",
    )
