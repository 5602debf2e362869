"""Cards on file, and whether one may be used for a customer's payment."""

from billing.gateways.standins.fakestripe import cards, customers, events
from billing.gateways.standins.fakestripe.book import Book
from billing.gateways.standins.fakestripe.cards import Card
from billing.gateways.standins.fakestripe.errors import Object, declined, invalid, missing, refused
from billing.gateways.standins.fakestripe.params import (
    PAGING,
    choice,
    integer,
    mapping,
    metadata,
    text,
)
from billing.gateways.standins.fakestripe.routes import route

USED_UP = (
    "The provided PaymentMethod was previously used with a PaymentIntent without Customer"
    " attachment, shared with a connected account without Customer attachment, or was detached"
    " from a Customer. It may not be used again. To use a PaymentMethod multiple times, you must"
    " attach it to a Customer first."
)
MONTHS = range(1, 13)


@route(
    "POST",
    "/v1/payment_methods",
    {
        "type": choice("card"),
        "card": mapping,
        "billing_details": mapping,
        "metadata": metadata,
        "allow_redisplay": text,
    },
    needs=("type", "card"),
)
def create(book: Book, params: Object) -> Object:
    """Make a payment method of a test card's number or token."""
    said = params.pop("card")
    if "token" in said:
        return make(book, _by_token(said["token"], "tok_", param="card[token]"), **params)
    return make(book, _by_number(said), **_expiry(book, said), **params)


@route("GET", "/v1/payment_methods", {**PAGING, "customer": text, "type": choice("card")})
def listed(book: Book, params: Object) -> Object:
    """The payment methods of a customer; without one, nobody's."""
    if "customer" not in params:
        return {"page": ([], False)}
    return of_customer(book, params, params["customer"])


@route("GET", "/v1/customers/{id}/payment_methods", {**PAGING, "type": choice("card")})
def of_customer(book: Book, params: Object, customer: str) -> Object:
    """The payment methods of a customer."""
    customers.living(book, customer, status=404)
    return {"page": book.page("payment_method", params, customer=customer)}


@route("GET", "/v1/payment_methods/{id}")
def retrieve(book: Book, params: Object, ref: str) -> Object:
    """One payment method; a test token answers with a new one of its card."""
    return found(book, ref, param="payment_method", status=404)


@route("POST", "/v1/payment_methods/{id}/attach", {"customer": text}, needs=("customer",))
def attach(book: Book, params: Object, ref: str) -> Object:
    """Save a card for a customer, if its bank lets it be saved."""
    customers.living(book, params["customer"])
    method = found(book, ref, param="payment_method", status=404)
    if method["customer"] not in (None, params["customer"]):
        raise invalid("The payment method you provided has already been attached to a customer.")
    if method.get("_used_up"):
        raise invalid(USED_UP)
    card = card_of(method)
    if card.decline and not card.can_be_saved:
        raise declined(card.decline.error())
    return keep(book, method, params["customer"])


@route("POST", "/v1/payment_methods/{id}/detach")
def detach(book: Book, params: Object, ref: str) -> Object:
    """Take a card from its customer: it can never be used again."""
    method = book.get("payment_method", ref, param="payment_method")
    if method["customer"] is None:
        raise refused("The payment method you provided is not attached to a customer.")
    method = book.save({**method, "customer": None, "_used_up": True})
    events.record(book, "payment_method.detached", method)
    return method


def make(book: Book, card: Card, **fields: object) -> Object:
    """Make a payment method of a test card."""
    shown = {
        "brand": card.brand,
        "last4": card.number[-4:],
        "exp_month": fields.pop("exp_month", 12),
        "exp_year": fields.pop("exp_year", 2034),
        "country": "US",
        "funding": "credit",
        "fingerprint": f"fingerprint{card.number[-8:]}",
        "three_d_secure_usage": {"supported": True},
    }
    blank = {"billing_details": {}, "metadata": {}, "allow_redisplay": "unspecified"}
    return book.add(
        "pm",
        "payment_method",
        **{**blank, "type": "card", "customer": None, "card": shown, "_card": card.name, **fields},
    )


def keep(book: Book, method: Object, customer: str) -> Object:
    """Attach a payment method, unless it is attached already."""
    is_new = method["customer"] is None
    method = book.save({**method, "customer": customer})
    if is_new:
        events.record(book, "payment_method.attached", method)
    return method


def found(book: Book, ref: str, *, param: str, status: int = 400) -> Object:
    """The payment method of this id; of a test token, a new one."""
    if ref.startswith("pm_card_"):
        return make(book, _by_token(ref, "pm_card_", param=param))
    return book.get("payment_method", ref, param=param, status=status)


def usable(book: Book, ref: str, customer: str | None) -> Object:
    """
    The payment method, if it may pay for this customer.

    :raises ApiError: if it was detached, used up, or belongs to somebody else.
    """
    method = found(book, ref, param="payment_method")
    if method.get("_used_up"):
        raise invalid(USED_UP, param="payment_method")
    if method["customer"] is not None and method["customer"] != customer:
        whose = f"the customer {customer}" if customer else "no customer"
        raise invalid(
            f"The payment method {ref} belongs to another Customer, and was given with {whose}."
            " Please include the Customer it is attached to.",
            param="payment_method",
        )
    return method


def card_of(method: Object) -> Card:
    """The test card behind a payment method."""
    return cards.BY_NAME[method["_card"]]


def _by_token(token: str, prefix: str, *, param: str) -> Card:
    card = cards.named(token.removeprefix(prefix))
    if card is None or not token.startswith(prefix):
        raise missing("PaymentMethod" if prefix == "pm_card_" else "token", token, param=param)
    return card


def _by_number(said: Object) -> Card:
    number = said.get("number", "").replace(" ", "")
    if not number:
        raise invalid(
            "Missing required param: card[number].", param="card[number]", code="parameter_missing"
        )
    if number not in cards.BY_NUMBER:
        error = cards.Decline("card_declined", "test_mode_live_card", "", "").error()
        raise declined({**error, "message": "Only test cards are taken here."})
    return cards.BY_NUMBER[number]


def _expiry(book: Book, said: Object) -> Object:
    month, year = (
        integer(f"card[{name}]", said.get(name, "")) for name in ("exp_month", "exp_year")
    )
    if month not in MONTHS:
        error = cards.Decline("invalid_expiry_month", "", "", "").error()
        raise declined({**error, "message": "Your card's expiration month is invalid."})
    return {"exp_month": month, "exp_year": year}
