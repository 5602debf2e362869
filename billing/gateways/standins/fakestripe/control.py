"""What tests and demos do to the provider from outside: its clock, its faults, its customers' moods."""

import json
from collections.abc import Callable
from typing import Any

from billing.gateways.standins.fakestripe import (
    balance,
    cards,
    disputes,
    events,
    faults,
    intents,
    refunds,
    setup_intents,
    webhooks,
)
from billing.gateways.standins.fakestripe.book import Book
from billing.gateways.standins.fakestripe.errors import ApiError, Object, invalid, missing

KINDS = (
    "customer",
    "payment_method",
    "setup_intent",
    "checkout.session",
    "payment_intent",
    "charge",
    "refund",
    "dispute",
    "balance_transaction",
    "payout",
    "event",
)


def dump(book: Book, said: Any) -> Object:
    """The whole book: every object, oldest first, and every request that came."""
    return {
        "account": book.setting("account"),
        "now": book.now,
        **{
            f"{kind.replace('.', '_')}s": [book.shown(entry) for entry in book.select(kind)]
            for kind in KINDS
        },
        "requests": [
            {"sequence": sequence, **json.loads(body)}
            for sequence, body in book.rows("SELECT seq, body FROM request ORDER BY seq")
        ],
        "deliveries": [
            dict(zip(("event", "due_at", "tries", "state"), row, strict=True))
            for row in book.rows("SELECT event, due_at, tries, state FROM delivery ORDER BY seq")
        ],
    }


def clock(book: Book, said: Any) -> Object:
    """`{"advance_seconds": 90000}`: time passes, keys are forgotten, refunds settle."""
    book.set("clock_offset", book.setting("clock_offset", 0) + said.get("advance_seconds", 0))
    refunds.settle_due(book)
    return {"now": book.now}


def plan_faults(book: Book, said: Any) -> Object:
    """A list of rules, or `{"rules": […], "odds": "drop_before=0.1,…", "clear": true}`."""
    orders: Object = {"rules": said} if isinstance(said, list) else said
    if orders.get("clear"):
        faults.clear(book)
    for rule in orders.get("rules", []):
        faults.add(book, rule)
    if "odds" in orders:
        book.set("odds", faults.read_odds(orders["odds"]))
    return {"rules": faults.rules(book), "odds": book.setting("odds", {})}


def steer_webhooks(book: Book, said: Any) -> Object:
    """Settings; or `{"resend": evt}`, `{"forge": {…}}` see `_forge`."""
    if "resend" in said:
        webhooks.deliver(book, book.get("event", said["resend"]))
        return webhooks.settings(book)
    if "forge" in said:
        _forge(book, dict(said["forge"]))
        return webhooks.settings(book)
    return webhooks.configure(book, said)


def dispute(book: Book, said: Any) -> Object:
    """`{"charge": ch}` or `{"payment_intent": pi}` opens one; `{"dispute": du, "status": "won"}` ends it."""
    if "dispute" in said:
        return disputes.decide(book, said["dispute"], won=said["status"] == "won")
    ref = said.get("charge") or book.get("payment_intent", said["payment_intent"])["latest_charge"]
    charge = book.get("charge", ref)
    disputes.open_dispute(
        book, charge, reason=said.get("reason", "general"), amount=said.get("amount")
    )
    opened: Object = book.select("dispute", "json_extract(body, '$.charge') = ?", ref)[-1]
    return opened


def pay_out(book: Book, said: Any) -> Object:
    """`{"currency": "usd"}`: pay out what is available."""
    return balance.pay_out(book, said.get("currency", "usd"))


def authenticate(book: Book, said: Any) -> Object:
    """`{"intent": pi or seti, "succeeds": true}`: what the customer does at the bank's page."""
    ref, succeeds = said["intent"], said.get("succeeds", True)
    if ref.startswith("seti_"):
        return setup_intents.authenticate(book, ref, succeeds=succeeds)
    return intents.authenticate(book, ref, succeeds=succeeds)


def settle_refund(book: Book, said: Any) -> Object:
    """`{"refund": re, "status": "failed"}`: the bank is done with it."""
    return refunds.settle(book, said["refund"], fails=said["status"] == "failed")


def change_card(book: Book, said: Any) -> Object:
    """`{"payment_method": pm, "becomes": "chargeDeclinedExpiredCard"}`: the bank thinks anew."""
    card = cards.named(said["becomes"])
    if card is None:
        raise missing("test card", said["becomes"], param="becomes")
    method = book.get("payment_method", said["payment_method"])
    method = book.save({**method, "_card": card.name})
    events.record(book, "payment_method.automatically_updated", method)
    return method


def _forge(book: Book, forgery: Object) -> None:
    """A delivery of something that never happened; badly signed, unless it says how else it is bad."""
    subject = book.peek(forgery.pop("of", ""))
    event = {
        "id": forgery.pop("id", "evt_forged"),
        "object": "event",
        "api_version": events.API_VERSION,
        "created": book.now,
        "data": {"object": book.shown(subject) if subject else forgery.pop("object", {})},
        "livemode": forgery.pop("livemode", False),
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": forgery.pop("type", "payment_intent.succeeded"),
    }
    webhooks.deliver(book, event, **(forgery or {"secret": "whsec_forged"}))


ACTS: dict[tuple[str, str], Callable[[Book, Any], Object]] = {
    ("GET", "/dump"): dump,
    ("POST", "/_control/clock"): clock,
    ("POST", "/_control/faults"): plan_faults,
    ("POST", "/_control/webhooks"): steer_webhooks,
    ("POST", "/_control/disputes"): dispute,
    ("POST", "/_control/payouts"): pay_out,
    ("POST", "/_control/authentication"): authenticate,
    ("POST", "/_control/refunds"): settle_refund,
    ("POST", "/_control/cards"): change_card,
}


def answer(book: Book, method: str, path: str, body: bytes) -> tuple[int, Object]:
    """Do what a test asks: the status and the JSON of the answer."""
    act = ACTS.get((method, path))
    if act is None:
        return 404, ApiError(404, f"No such control: {method} {path}").body
    try:
        with book.writing():
            book.request = {"id": None, "idempotency_key": None}
            shown = act(book, json.loads(body or b"{}"))
            return 200, book.shown(shown) if "object" in shown else shown
    except ApiError as error:
        return error.status, error.body
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return 400, invalid(f"Cannot be understood: {error!r}").body
