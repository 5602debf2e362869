"""
The provider itself: authenticate, meet a fault perhaps, look at the key, carry out, write, answer.

Whatever a caller hears was on disk before. What a caller does not hear may be on disk too.
"""

import base64
import binascii
import copy
import itertools
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from billing.gateways.standins.fakestripe import (
    accounts,
    checkout,
    idempotency,
    params,
    refunds,
    routes,
    setup_intents,
)
from billing.gateways.standins.fakestripe.book import Book
from billing.gateways.standins.fakestripe.errors import ApiError, Object, internal
from billing.gateways.standins.fakestripe.events import API_VERSION
from billing.gateways.standins.fakestripe.faults import Fault, choose

# Imported for the endpoints they register.
ENDPOINTS = (accounts, setup_intents, checkout)


@dataclass(frozen=True)
class Request:
    """What a caller asks."""

    method: str
    path: str
    encoded: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The idempotency key, which counts where something is made or changed."""
        return self.headers.get("Idempotency-Key", "") if self.method == "POST" else ""


@dataclass(frozen=True)
class Reply:
    """What a caller hears."""

    status: int
    body: Object
    headers: dict[str, str] = field(default_factory=dict)
    # Whether it is a first reply to be kept under its key.
    is_kept: bool = False


class Provider:
    """Answers the requests of any number of threads."""

    def __init__(self, book: Book, *, secret_key: str = "") -> None:
        self._book = book
        self._secret_key = secret_key
        self._in_use = idempotency.KeysInUse()
        with book.writing():
            if not book.setting("account"):
                book.set("account", f"acct_{secrets.token_hex(8)}")
            ((last,),) = book.rows("SELECT coalesce(max(seq), 0) FROM request")
        self._sequence = itertools.count(last + 1)

    def answer(self, request: Request) -> Reply | None:
        """Answer, or return nothing where the connection is to be cut."""
        request_id, sequence = f"req_{secrets.token_hex(7)}", next(self._sequence)
        said: Object = {}
        fault = Fault()
        try:
            self._authenticate(request)
            said = params.decode(request.encoded)
            with self._book.writing():
                fault = choose(self._book, sequence, request.method, request.path, said)
            with self._in_use.held(request.key):
                time.sleep(fault.wait_before)
                with self._book.writing():
                    reply = self._carry_out(request, said, fault, request_id)
                    self._log(sequence, request_id, request, said, fault, reply)
        except ApiError as error:
            reply = _refusal(error)
            with self._book.writing():
                self._log(sequence, request_id, request, said, fault, reply)
        time.sleep(fault.wait_after)
        if fault.drops_reply:
            return None
        return Reply(
            reply.status, reply.body, {**self._headers(request, request_id), **reply.headers}
        )

    def _authenticate(self, request: Request) -> None:
        scheme, _, said = request.headers.get("Authorization", "").partition(" ")
        key = _basic_user(said) if scheme == "Basic" else said
        if key.startswith(("sk_live_", "rk_live_")):
            raise _unauthorized("Live keys have no business here: this provider moves no money.")
        if self._secret_key and not secrets.compare_digest(key, self._secret_key):
            raise _unauthorized("Invalid API Key provided")
        if not key.startswith(("sk_test_", "rk_test_")):
            raise _unauthorized("Invalid API Key provided")

    def _carry_out(self, request: Request, said: Object, fault: Fault, request_id: str) -> Reply:
        """The reply: that of the fault, the one that the key remembers, or a first one."""
        instead = fault.error()
        if instead and not (fault.began and request.key):
            return _refusal(instead)
        endpoint = f"{request.method} {request.path}"
        if request.key and (known := idempotency.stored(self._book, request.key, endpoint, said)):
            status, body, first_id = known
            return Reply(
                status, body, {"Idempotent-Replayed": "true", "Original-Request": first_id}
            )
        reply = _refusal(instead) if instead else self._first(request, said, fault, request_id)
        if request.key and reply.is_kept:
            idempotency.store(
                self._book,
                request.key,
                endpoint,
                said,
                status=reply.status,
                body=reply.body,
                request_id=request_id,
            )
        return reply

    def _first(self, request: Request, said: Object, fault: Fault, request_id: str) -> Reply:
        self._book.request = {"id": request_id, "idempotency_key": request.key or None}
        refunds.settle_due(self._book)
        try:
            route, ids = routes.find(request.method, request.path)
            with self._book.undone_if_refused():
                body = route.answer(self._book, copy.deepcopy(said), ids)
            reply = Reply(200, body, is_kept=True)
        except ApiError as error:
            reply = _refusal(error)
        breaks = fault.kind == "execute_then_500" and reply.is_kept
        return _refusal(internal()) if breaks else reply

    def _log(
        self,
        sequence: int,
        request_id: str,
        request: Request,
        said: Object,
        fault: Fault,
        reply: Reply,
    ) -> None:
        self._book.log(
            sequence,
            {
                "id": request_id,
                "at": self._book.clock,
                "method": request.method,
                "path": request.path,
                "params": _without_number(said),
                "idempotency_key": request.key,
                "fault": fault.kind,
                "status": reply.status,
                "replayed": "Idempotent-Replayed" in reply.headers,
                "dropped": fault.drops_reply,
                "reply": reply.body.get("id") or reply.body.get("error", {}).get("code"),
            },
        )

    def _headers(self, request: Request, request_id: str) -> dict[str, str]:
        headers = {
            "Request-Id": request_id,
            "Stripe-Version": request.headers.get("Stripe-Version", API_VERSION),
        }
        return {**headers, "Idempotency-Key": request.key} if request.key else headers


def _refusal(error: ApiError) -> Reply:
    return Reply(error.status, error.body, error.headers, is_kept=error.executed)


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message)


def _basic_user(encoded: str) -> str:
    try:
        return base64.b64decode(encoded).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _without_number(said: Object) -> Object:
    """A log is read by many: no card number, be it a test card's, belongs in it."""
    card = said.get("card")
    if not isinstance(card, dict) or "number" not in card:
        return said
    return {**said, "card": {**card, "number": f"…{card['number'][-4:]}", "cvc": "…"}}
