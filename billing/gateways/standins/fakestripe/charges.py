"""Charges: what an intent's attempts left behind."""

from billing.gateways.standins.fakestripe import balance, disputes, events, payment_methods
from billing.gateways.standins.fakestripe.book import Book
from billing.gateways.standins.fakestripe.errors import Object
from billing.gateways.standins.fakestripe.params import LISTING, text
from billing.gateways.standins.fakestripe.routes import route


@route("GET", "/v1/charges/{id}")
def retrieve(book: Book, params: Object, ref: str) -> Object:
    """One charge."""
    return book.get("charge", ref, param="charge")


@route("GET", "/v1/charges", {**LISTING, "customer": text, "payment_intent": text})
def listed(book: Book, params: Object) -> Object:
    """Charges, newest first."""
    customer, intent = params.get("customer"), params.get("payment_intent")
    return {"page": book.page("charge", params, customer=customer, payment_intent=intent)}


def succeed(book: Book, intent: Object, method: Object) -> Object:
    """Take an intent's money, and dispute it at once where the card does that."""
    card = payment_methods.card_of(method)
    charge = _new(book, intent, method, status="succeeded", amount_captured=intent["amount"])
    entry = balance.enter(
        book,
        "charge",
        charge,
        intent["amount"],
        fee=balance.fee(intent["amount"]),
        at_once=card.available_at_once,
    )
    charge = book.save({**charge, "balance_transaction": entry["id"]})
    events.record(book, "charge.succeeded", charge)
    if card.is_disputed:
        charge = disputes.open_dispute(book, charge, reason="fraudulent")
    return charge


def fail(book: Book, intent: Object, method: Object, error: Object) -> Object:
    """Note a charge that the bank refused."""
    charge = _new(
        book,
        intent,
        method,
        status="failed",
        failure_code=error["code"],
        failure_message=error["message"],
    )
    events.record(book, "charge.failed", charge)
    return charge


def _new(book: Book, intent: Object, method: Object, *, status: str, **fields: object) -> Object:
    paid = status == "succeeded"
    shape = {
        "amount": intent["amount"],
        "amount_captured": 0,
        "amount_refunded": 0,
        "balance_transaction": None,
        "billing_details": method["billing_details"],
        "captured": paid,
        "currency": intent["currency"],
        "customer": intent["customer"],
        "description": intent["description"],
        "disputed": False,
        "failure_code": None,
        "failure_message": None,
        "metadata": intent["metadata"],
        "outcome": {
            "network_status": "approved_by_network" if paid else "declined_by_network",
            "type": "authorized" if paid else "issuer_declined",
        },
        "paid": paid,
        "payment_intent": intent["id"],
        "payment_method": method["id"],
        "payment_method_details": {"type": "card", "card": method["card"]},
        "receipt_email": intent["receipt_email"],
        "refunded": False,
        "status": status,
    }
    return book.add("ch", "charge", **{**shape, **fields})
