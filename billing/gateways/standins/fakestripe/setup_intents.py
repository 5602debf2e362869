"""SetupIntents: a card is saved with the bank's consent to later payments."""

import secrets

from billing.gateways.standins.fakestripe import banks, customers, events, payment_methods
from billing.gateways.standins.fakestripe.book import Book
from billing.gateways.standins.fakestripe.cards import FAILED_AUTHENTICATION
from billing.gateways.standins.fakestripe.errors import Object, declined, refused
from billing.gateways.standins.fakestripe.params import (
    LISTING,
    boolean,
    choice,
    mapping,
    metadata,
    sequence,
    text,
)
from billing.gateways.standins.fakestripe.routes import route

CONFIRMATION = {"payment_method": text, "return_url": text}
FINAL = ("succeeded", "canceled")


@route(
    "POST",
    "/v1/setup_intents",
    {
        **CONFIRMATION,
        "customer": text,
        "confirm": boolean,
        "usage": choice("off_session", "on_session"),
        "allowed_payment_method_types": sequence,
        "automatic_payment_methods": mapping,
        "description": text,
        "metadata": metadata,
    },
)
def create(book: Book, params: Object) -> Object:
    """Begin to save a card, and confirm it where that is asked."""
    customer = params.get("customer")
    if customer:
        customers.living(book, customer)
    ref = params.get("payment_method")
    method = payment_methods.usable(book, ref, customer) if ref else None
    intent = book.add(
        "seti",
        "setup_intent",
        automatic_payment_methods=params.get("automatic_payment_methods"),
        cancellation_reason=None,
        customer=customer,
        description=params.get("description"),
        last_setup_error=None,
        metadata=params.get("metadata", {}),
        next_action=None,
        payment_method=method and method["id"],
        payment_method_types=params.get("allowed_payment_method_types")
        or params.get("allowed_payment_method_types", ["card"]),
        status="requires_confirmation" if method else "requires_payment_method",
        usage=params.get("usage", "off_session"),
    )
    intent["client_secret"] = f"{intent['id']}_secret_{secrets.token_hex(12)}"
    events.record(book, "setup_intent.created", book.save(intent))
    return _confirm(book, intent, params.get("return_url")) if params.get("confirm") else intent


@route("GET", "/v1/setup_intents", {**LISTING, "customer": text, "payment_method": text})
def listed(book: Book, params: Object) -> Object:
    """SetupIntents, newest first."""
    equal = {name: params.get(name) for name in ("customer", "payment_method")}
    return {"page": book.page("setup_intent", params, **equal)}


@route("GET", "/v1/setup_intents/{id}", {"client_secret": text})
def retrieve(book: Book, params: Object, ref: str) -> Object:
    """One SetupIntent."""
    return book.get("setup_intent", ref, param="intent")


@route("POST", "/v1/setup_intents/{id}/confirm", CONFIRMATION)
def confirm(book: Book, params: Object, ref: str) -> Object:
    """Save the card, if its bank agrees."""
    intent = book.get("setup_intent", ref, param="intent")
    _refuse_final(book, intent, "confirm")
    if "payment_method" in params:
        method = payment_methods.usable(book, params["payment_method"], intent["customer"])
        intent["payment_method"] = method["id"]
    return _confirm(book, intent, params.get("return_url"))


@route("POST", "/v1/setup_intents/{id}/cancel", {"cancellation_reason": text})
def cancel(book: Book, params: Object, ref: str) -> Object:
    """End it without a saved card."""
    intent = book.get("setup_intent", ref, param="intent")
    _refuse_final(book, intent, "cancel")
    intent |= {"status": "canceled", "next_action": None, **params}
    events.record(book, "setup_intent.canceled", book.save(intent))
    return intent


def authenticate(book: Book, ref: str, *, succeeds: bool) -> Object:
    """Do what the customer does at the bank's page."""
    intent = book.get("setup_intent", ref)
    if intent["status"] != "requires_action":
        raise refused(f"{ref} waits for no authentication: it is {intent['status']}.")
    method = book.get("payment_method", intent["payment_method"])
    if succeeds:
        return _save_card(book, intent, method)
    code = "setup_intent_authentication_failure"
    return _fail(book, intent, method, {**FAILED_AUTHENTICATION, "code": code})


def _refuse_final(book: Book, intent: Object, verb: str) -> None:
    if intent["status"] in FINAL:
        raise refused(
            f"You cannot {verb} this SetupIntent because it has a status of {intent['status']}.",
            code="setup_intent_unexpected_state",
            setup_intent=book.shown(intent),
        )


def _confirm(book: Book, intent: Object, return_url: str | None) -> Object:
    if intent["payment_method"] is None:
        raise refused(
            "You cannot confirm this SetupIntent because it's missing a payment method.",
            code="setup_intent_unexpected_state",
        )
    method = payment_methods.usable(book, intent["payment_method"], intent["customer"])
    card = payment_methods.card_of(method)
    if card.decline and not card.can_be_saved:
        intent = _fail(book, intent, method, card.decline.error())
        raise declined(intent["last_setup_error"], setup_intent=book.shown(intent))
    if not card.authenticates:
        return _save_card(book, intent, method)
    intent |= {
        "status": "requires_action",
        "next_action": banks.next_action(book, intent["id"], return_url),
    }
    events.record(book, "setup_intent.requires_action", book.save(intent))
    return intent


def _save_card(book: Book, intent: Object, method: Object) -> Object:
    method |= {"_set_up": True}
    if intent["customer"]:
        payment_methods.keep(book, method, intent["customer"])
    intent |= {"status": "succeeded", "next_action": None, "last_setup_error": None}
    events.record(book, "setup_intent.succeeded", book.save(intent))
    return intent


def _fail(book: Book, intent: Object, method: Object, error: Object) -> Object:
    intent |= {
        "status": "requires_payment_method",
        "payment_method": None,
        "next_action": None,
        "last_setup_error": {**error, "payment_method": book.shown(method)},
    }
    events.record(book, "setup_intent.setup_failed", book.save(intent))
    return intent
