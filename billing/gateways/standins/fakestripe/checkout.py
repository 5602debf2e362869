"""Checkout Sessions in setup mode: a page of the provider's own, where a customer enters a card."""

from billing.gateways.standins.fakestripe import customers, events, payment_methods, setup_intents
from billing.gateways.standins.fakestripe.book import Book
from billing.gateways.standins.fakestripe.errors import Object, invalid, refused
from billing.gateways.standins.fakestripe.params import (
    LISTING,
    choice,
    mapping,
    metadata,
    sequence,
    text,
)
from billing.gateways.standins.fakestripe.routes import route

OPENS_FOR_SECONDS = 24 * 60 * 60


@route(
    "POST",
    "/v1/checkout/sessions",
    {
        "mode": choice("setup"),
        "customer": text,
        "currency": text,
        "allowed_payment_method_types": sequence,
        "setup_intent_data": mapping,
        "client_reference_id": text,
        "success_url": text,
        "cancel_url": text,
        "metadata": metadata,
    },
    needs=("mode", "success_url"),
)
def create(book: Book, params: Object) -> Object:
    """Open a session, with the SetupIntent that its page completes."""
    if "currency" not in params and "allowed_payment_method_types" not in params:
        raise invalid("Missing required param: currency.", param="currency")
    if params.get("customer"):
        customers.living(book, params["customer"])
    kinds = params.get("allowed_payment_method_types", ["card"])
    wanted = {
        "customer": params.get("customer"),
        "metadata": params.get("setup_intent_data", {}).get("metadata", {}),
        "allowed_payment_method_types": kinds,
    }
    intent = setup_intents.create(book, wanted)
    session = book.add(
        "cs_test",
        "checkout.session",
        mode="setup",
        customer=params.get("customer"),
        currency=params.get("currency"),
        allowed_payment_method_types=kinds,
        client_reference_id=params.get("client_reference_id"),
        expires_at=book.now + OPENS_FOR_SECONDS,
        metadata=params.get("metadata", {}),
        payment_status="no_payment_required",
        setup_intent=intent["id"],
        status="open",
        success_url=params["success_url"],
        cancel_url=params.get("cancel_url"),
    )
    session["url"] = f"{book.setting('hosted_at')}/hosted/checkout/{session['id']}"
    return book.save(session)


@route("GET", "/v1/checkout/sessions", {**LISTING, "customer": text})
def listed(book: Book, params: Object) -> Object:
    """Sessions, newest first."""
    return {"page": book.page("checkout.session", params, customer=params.get("customer"))}


@route("GET", "/v1/checkout/sessions/{id}")
def retrieve(book: Book, params: Object, ref: str) -> Object:
    """One session."""
    return book.get("checkout.session", ref, param="session")


def enter_card(book: Book, ref: str, token: str) -> Object:
    """
    Do what the customer does on the page: enter a card. Returns the SetupIntent, which may
    wait for the bank.
    """
    session = book.get("checkout.session", ref)
    if session["status"] != "open":
        raise refused(f"{ref} is {session['status']}.")
    method = payment_methods.found(book, token, param="payment_method")
    return setup_intents.confirm(book, {"payment_method": method["id"]}, session["setup_intent"])


def complete(book: Book, ref: str) -> str:
    """Close a session whose card is saved, and say where its customer goes next."""
    session = book.get("checkout.session", ref)
    session |= {"status": "complete", "url": None}
    events.record(book, "checkout.session.completed", book.save(session))
    return str(session["success_url"]).replace("{CHECKOUT_SESSION_ID}", ref)
