"""Refunds: up to what the charge took, and not always at once or for good."""

from billing.gateways.standins.fakestripe import balance, currencies, events, payment_methods
from billing.gateways.standins.fakestripe.book import Book
from billing.gateways.standins.fakestripe.errors import Object, invalid, refused
from billing.gateways.standins.fakestripe.params import LISTING, choice, integer, metadata, text
from billing.gateways.standins.fakestripe.routes import route

# How long the bank takes, by the virtual clock, to settle a refund or to send it back.
SETTLING_SECONDS = 3_600
REASONS = ("duplicate", "fraudulent", "requested_by_customer")


@route(
    "POST",
    "/v1/refunds",
    {
        "payment_intent": text,
        "charge": text,
        "amount": integer,
        "reason": choice(*REASONS),
        "metadata": metadata,
    },
)
def create(book: Book, params: Object) -> Object:
    """Give back a charge, or a part of it."""
    charge = _charge(book, params)
    rest = charge["amount_captured"] - charge["amount_refunded"]
    amount = params.get("amount", rest)
    _refuse_unrefundable(charge, amount, rest)
    return _new(book, charge, amount, params)


@route("GET", "/v1/refunds/{id}")
def retrieve(book: Book, params: Object, ref: str) -> Object:
    """One refund."""
    return book.get("refund", ref, param="refund")


@route("GET", "/v1/refunds", {**LISTING, "payment_intent": text, "charge": text})
def listed(book: Book, params: Object) -> Object:
    """Refunds, newest first."""
    equal = {name: params.get(name) for name in ("payment_intent", "charge")}
    return {"page": book.page("refund", params, **equal)}


def settle_due(book: Book) -> None:
    """Let the banks settle or send back what their time has come for."""
    for refund in book.select("refund", "json_extract(body, '$._settles_at') <= ?", book.now):
        settle(book, refund["id"], fails=refund["_fails"])


def settle(book: Book, ref: str, *, fails: bool) -> Object:
    """End a refund: the customer has it, or it comes back to our balance."""
    refund = book.get("refund", ref) | {"_settles_at": None}
    if refund["status"] == "failed":
        raise refused(f"{ref} has failed already.")
    if fails:
        return _fail(book, refund)
    refund = book.save(refund | {"status": "succeeded", "pending_reason": None})
    _tell(book, refund, "refund.updated")
    return refund


def _charge(book: Book, params: Object) -> Object:
    if "charge" in params:
        return book.get("charge", params["charge"], param="charge", status=404)
    if "payment_intent" not in params:
        raise invalid("One of the following params should be provided: payment_intent or charge.")
    intent = book.get("payment_intent", params["payment_intent"], param="payment_intent")
    if intent["status"] != "succeeded":
        raise refused(
            f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund."
        )
    return book.get("charge", intent["latest_charge"])


def _refuse_unrefundable(charge: Object, amount: int, rest: int) -> None:
    if charge["disputed"]:
        raise refused(f"Charge {charge['id']} has been charged back.", code="charge_disputed")
    if charge["refunded"]:
        raise refused(
            f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded"
        )
    if amount < 1:
        raise invalid("Invalid positive integer", param="amount", code="parameter_invalid_integer")
    currencies.check_decimals(amount, charge["currency"])
    if amount > rest:
        raise refused(
            f"Refund amount ({amount} {charge['currency']}) is greater than unrefunded amount on"
            f" charge ({rest} {charge['currency']})",
            param="amount",
        )


def _new(book: Book, charge: Object, amount: int, params: Object) -> Object:
    card = payment_methods.card_of(book.get("payment_method", charge["payment_method"]))
    pends = card.refunds in ("succeed_later", "pend_then_fail")
    settles_later = card.refunds != "at_once"
    refund = book.add(
        "re",
        "refund",
        amount=amount,
        charge=charge["id"],
        currency=charge["currency"],
        failure_reason=None,
        metadata=params.get("metadata", {}),
        payment_intent=charge["payment_intent"],
        pending_reason="processing" if pends else None,
        reason=params.get("reason"),
        status="pending" if pends else "succeeded",
        _settles_at=book.now + SETTLING_SECONDS if settles_later else None,
        _fails=card.refunds in ("fail_later", "pend_then_fail"),
    )
    entry = balance.enter(book, "refund", refund, -amount)
    refund = book.save(refund | {"balance_transaction": entry["id"]})
    charge = _give_back(book, charge, amount)
    _tell(book, refund, "refund.created")
    events.record(book, "charge.refunded", charge)
    return refund


def _fail(book: Book, refund: Object) -> Object:
    entry = balance.enter(book, "refund_failure", refund, refund["amount"])
    refund = book.save(
        refund
        | {
            "status": "failed",
            "failure_reason": "expired_or_canceled_card",
            "failure_balance_transaction": entry["id"],
        }
    )
    _give_back(book, book.get("charge", refund["charge"]), -refund["amount"])
    _tell(book, refund, "refund.updated")
    events.record(book, "refund.failed", refund)
    return refund


def _give_back(book: Book, charge: Object, amount: int) -> Object:
    returned = charge["amount_refunded"] + amount
    return book.save(
        charge | {"amount_refunded": returned, "refunded": returned == charge["amount_captured"]}
    )


def _tell(book: Book, refund: Object, kind: str) -> None:
    events.record(book, kind, refund)
    if kind == "refund.updated":
        events.record(book, "charge.refund.updated", refund)
