"""Disputes: the customer asked the bank for the money, and the bank took it."""

from billing.gateways.standins.fakestripe import balance, events
from billing.gateways.standins.fakestripe.book import Book
from billing.gateways.standins.fakestripe.errors import Object, refused
from billing.gateways.standins.fakestripe.params import LISTING, text
from billing.gateways.standins.fakestripe.routes import route

DISPUTE_FEE = 1_500
# How long one may answer with evidence.
EVIDENCE_SECONDS = 9 * 86_400


@route("GET", "/v1/disputes/{id}")
def retrieve(book: Book, params: Object, ref: str) -> Object:
    """One dispute."""
    return book.get("dispute", ref, param="dispute")


@route("GET", "/v1/disputes", {**LISTING, "charge": text, "payment_intent": text})
def listed(book: Book, params: Object) -> Object:
    """Disputes, newest first."""
    equal = {name: params.get(name) for name in ("charge", "payment_intent")}
    return {"page": book.page("dispute", params, **equal)}


@route("POST", "/v1/disputes/{id}/close")
def close(book: Book, params: Object, ref: str) -> Object:
    """Accept the dispute as lost."""
    return decide(book, ref, won=False)


def open_dispute(
    book: Book, charge: Object, *, reason: str = "general", amount: int | None = None
) -> Object:
    """Take a charge's money back, and return the charge."""
    if charge["disputed"] or not charge["paid"]:
        raise refused(f"{charge['id']} cannot be disputed.")
    amount = amount or charge["amount_captured"] - charge["amount_refunded"]
    dispute = book.add(
        "du",
        "dispute",
        amount=amount,
        charge=charge["id"],
        currency=charge["currency"],
        evidence={},
        evidence_details={"due_by": book.now + EVIDENCE_SECONDS, "submission_count": 0},
        is_charge_refundable=False,
        metadata={},
        payment_intent=charge["payment_intent"],
        reason=reason,
        status="needs_response",
    )
    entry = balance.enter(book, "adjustment", dispute, -amount, fee=DISPUTE_FEE)
    dispute = book.save({**dispute, "balance_transactions": [book.shown(entry)]})
    for kind in ("charge.dispute.created", "charge.dispute.funds_withdrawn"):
        events.record(book, kind, dispute)
    return book.save({**charge, "disputed": True})


def decide(book: Book, ref: str, *, won: bool) -> Object:
    """End a dispute; a won one brings the money back, though not the fee."""
    dispute = book.get("dispute", ref, param="dispute")
    if dispute["status"] != "needs_response":
        raise refused("This dispute is already closed.")
    dispute["status"] = "won" if won else "lost"
    if won:
        entry = balance.enter(book, "adjustment", dispute, dispute["amount"])
        dispute["balance_transactions"].append(book.shown(entry))
        events.record(book, "charge.dispute.funds_reinstated", dispute)
    events.record(book, "charge.dispute.closed", book.save(dispute))
    return dispute
