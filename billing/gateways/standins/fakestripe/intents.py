"""
PaymentIntents: the single-use object. It succeeds at most once, and never after it was canceled.

Every state change happens under the book's one lock, so a confirm and a cancel that race are put
in order: the second finds what the first left.
"""

import secrets

from billing.gateways.standins.fakestripe import (
    banks,
    charges,
    currencies,
    customers,
    events,
    payment_methods,
    searching,
)
from billing.gateways.standins.fakestripe.book import Book
from billing.gateways.standins.fakestripe.cards import (
    AUTHENTICATION_REQUIRED,
    FAILED_AUTHENTICATION,
)
from billing.gateways.standins.fakestripe.errors import Object, declined, invalid, refused
from billing.gateways.standins.fakestripe.params import (
    LISTING,
    boolean,
    choice,
    integer,
    mapping,
    metadata,
    sequence,
    text,
)
from billing.gateways.standins.fakestripe.routes import route

CONFIRMATION = {
    "payment_method": text,
    # The name of the pinned version; the one above is what versions before it called it.
    "allowed_payment_method_types": sequence,
    # true, or the words one_off and recurring.
    "off_session": choice("true", "false", "one_off", "recurring"),
    "error_on_requires_action": boolean,
    "return_url": text,
    "setup_future_usage": choice("off_session", "on_session"),
    "receipt_email": text,
    "mandate": text,
}
CREATION = {
    **CONFIRMATION,
    "amount": integer,
    "currency": text,
    "customer": text,
    "confirm": boolean,
    "description": text,
    "statement_descriptor_suffix": text,
    "automatic_payment_methods": mapping,
    "allowed_payment_method_types": sequence,
    "confirmation_method": choice("automatic", "manual"),
    "metadata": metadata,
}
SHOWN = (
    "customer",
    "description",
    "receipt_email",
    "setup_future_usage",
    "statement_descriptor_suffix",
)
REASONS = ("duplicate", "fraudulent", "requested_by_customer", "abandoned")
FINAL = ("succeeded", "canceled")


@route("POST", "/v1/payment_intents", CREATION, needs=("amount", "currency"))
def create(book: Book, params: Object) -> Object:
    """Make an intent, and confirm it where that is asked."""
    currency = currencies.check_currency(params["currency"])
    currencies.check_amount(params["amount"], currency)
    confirm_now = params.get("confirm", False)
    for name in ("off_session", "error_on_requires_action"):
        if name in params and not confirm_now:
            raise invalid(f"The parameter `{name}` can only be used with confirm=true.", param=name)
    if "automatic_payment_methods" in params and "allowed_payment_method_types" in params:
        raise invalid(
            "You may only specify one of these parameters: automatic_payment_methods,"
            " allowed_payment_method_types."
        )
    if params.get("customer"):
        customers.living(book, params["customer"])
    method = _method(book, params.get("payment_method"), params.get("customer"))
    if method is None and confirm_now:
        raise _lacks_method()
    intent = _new(book, params, currency, method)
    events.record(book, "payment_intent.created", intent)
    return _confirm(book, intent, params) if confirm_now else intent


@route("GET", "/v1/payment_intents", {**LISTING, "customer": text})
def listed(book: Book, params: Object) -> Object:
    """Intents, newest first; never stale."""
    return {"page": book.page("payment_intent", params, customer=params.get("customer"))}


@route("GET", "/v1/payment_intents/search", searching.QUERY, needs=("query",))
def search(book: Book, params: Object) -> Object:
    """Intents by a query, as they were a while ago: the index lags."""
    return searching.search(book, "payment_intent", params)


@route("GET", "/v1/payment_intents/{id}", {"client_secret": text})
def retrieve(book: Book, params: Object, ref: str) -> Object:
    """One intent, as it is now."""
    return book.get("payment_intent", ref, param="intent")


@route("POST", "/v1/payment_intents/{id}/confirm", CONFIRMATION)
def confirm(book: Book, params: Object, ref: str) -> Object:
    """Let the intent move its money, once for ever."""
    intent = book.get("payment_intent", ref, param="intent")
    _refuse_final(book, intent, "confirm")
    if "payment_method" in params:
        method = _method(book, params["payment_method"], intent["customer"])
        intent["payment_method"] = method and method["id"]
    return _confirm(book, intent, params)


@route("POST", "/v1/payment_intents/{id}/cancel", {"cancellation_reason": choice(*REASONS)})
def cancel(book: Book, params: Object, ref: str) -> Object:
    """Make sure that the intent never moves money."""
    intent = book.get("payment_intent", ref, param="intent")
    _refuse_final(book, intent, "cancel")
    intent |= {
        "status": "canceled",
        "canceled_at": book.now,
        "cancellation_reason": params.get("cancellation_reason"),
        "next_action": None,
    }
    events.record(book, "payment_intent.canceled", book.save(intent))
    return intent


def authenticate(book: Book, ref: str, *, succeeds: bool) -> Object:
    """
    Do what the customer does at the bank's page: pass 3-D Secure, or fail it. After an
    off-session refusal the customer comes back first, with the card that was refused.
    """
    intent = book.get("payment_intent", ref)
    error = intent["last_payment_error"] or {}
    if intent["status"] == "requires_action":
        method = book.get("payment_method", intent["payment_method"])
    elif error.get("code") == "authentication_required" and intent["status"] not in FINAL:
        method = payment_methods.usable(book, error["payment_method"]["id"], intent["customer"])
        intent["payment_method"] = method["id"]
    else:
        raise refused(f"{ref} waits for no authentication: it is {intent['status']}.")
    if not succeeds:
        return _fail(book, intent, method, dict(FAILED_AUTHENTICATION))
    return _charge(book, intent, method)


def _new(book: Book, params: Object, currency: str, method: Object | None) -> Object:
    kinds = params.get("allowed_payment_method_types") or params.get("payment_method_types")
    redirects = params.get("automatic_payment_methods", {}).get("allow_redirects", "always")
    intent = book.add(
        "pi",
        "payment_intent",
        amount=params["amount"],
        amount_capturable=0,
        amount_received=0,
        automatic_payment_methods=None
        if kinds
        else {"enabled": True, "allow_redirects": redirects},
        canceled_at=None,
        cancellation_reason=None,
        capture_method="automatic_async",
        confirmation_method=params.get("confirmation_method", "automatic"),
        currency=currency,
        last_payment_error=None,
        latest_charge=None,
        next_action=None,
        payment_method=method and method["id"],
        payment_method_options={},
        allowed_payment_method_types=kinds,
        payment_method_types=["card"],
        processing=None,
        shipping=None,
        status="requires_confirmation" if method else "requires_payment_method",
        metadata=params.get("metadata", {}),
        **{name: params.get(name) for name in SHOWN},
    )
    intent["client_secret"] = f"{intent['id']}_secret_{secrets.token_hex(12)}"
    return book.save(intent)


def _method(book: Book, ref: str | None, customer: str | None) -> Object | None:
    return payment_methods.usable(book, ref, customer) if ref else None


def _lacks_method() -> Exception:
    return refused(
        "You cannot confirm this PaymentIntent because it's missing a payment method. You can"
        " either update the PaymentIntent with a payment method and then confirm it again, or"
        " confirm it again directly with a payment method or ConfirmationToken.",
        code="payment_intent_unexpected_state",
    )


def _refuse_final(book: Book, intent: Object, verb: str) -> None:
    if intent["status"] not in FINAL:
        return
    raise refused(
        f"You cannot {verb} this PaymentIntent because it has a status of {intent['status']}.",
        code="payment_intent_unexpected_state",
        payment_intent=book.shown(intent),
    )


def _confirm(book: Book, intent: Object, params: Object) -> Object:
    if intent["payment_method"] is None:
        raise _lacks_method()
    method = payment_methods.usable(book, intent["payment_method"], intent["customer"])
    off_session = params.get("off_session", "false") != "false"
    _need_return_url(intent, params, off_session=off_session)
    intent["setup_future_usage"] = params.get("setup_future_usage", intent["setup_future_usage"])
    card = payment_methods.card_of(method)
    if not card.wants_customer(off_session=off_session, set_up=method.get("_set_up", False)):
        return _settled(book, _charge(book, intent, method))
    if off_session or params.get("error_on_requires_action"):
        return _settled(book, _fail(book, intent, method, AUTHENTICATION_REQUIRED.error()))
    intent |= {
        "status": "requires_action",
        "next_action": banks.next_action(book, intent["id"], params.get("return_url")),
    }
    events.record(book, "payment_intent.requires_action", book.save(intent))
    return intent


def _need_return_url(intent: Object, params: Object, *, off_session: bool) -> None:
    """Methods that may redirect want somewhere to come back to, unless nobody is there."""
    automatic = intent["automatic_payment_methods"]
    may_redirect = automatic is not None and automatic["allow_redirects"] == "always"
    if may_redirect and not off_session and "return_url" not in params:
        raise invalid(
            "This PaymentIntent is configured to accept payment methods enabled in your Dashboard."
            " Because some of these payment methods might redirect your customer off of your page,"
            " you must provide a `return_url`. If you don't want to accept redirect-based payment"
            " methods, set `automatic_payment_methods[enabled]` to `true` and"
            " `automatic_payment_methods[allow_redirects]` to `never`.",
            param="return_url",
        )


def _settled(book: Book, intent: Object) -> Object:
    """The intent, if its charge succeeded; its decline, raised, if not."""
    if intent["status"] == "succeeded":
        return intent
    raise declined(
        intent["last_payment_error"],
        charge=intent["latest_charge"],
        payment_intent=book.shown(intent),
    )


def _charge(book: Book, intent: Object, method: Object) -> Object:
    card = payment_methods.card_of(method)
    if card.decline:
        return _fail(book, intent, method, card.decline.error())
    charge = charges.succeed(book, intent, method)
    intent |= {
        "status": "succeeded",
        "amount_received": intent["amount"],
        "latest_charge": charge["id"],
        "next_action": None,
        "last_payment_error": None,
    }
    _remember_card(book, intent, method)
    events.record(book, "payment_intent.succeeded", book.save(intent))
    return intent


def _remember_card(book: Book, intent: Object, method: Object) -> None:
    """A card is saved where that was asked; one that nobody saved pays once."""
    if intent["customer"] and intent["setup_future_usage"]:
        payment_methods.keep(book, {**method, "_set_up": True}, intent["customer"])
    elif method["customer"] is None:
        book.save({**method, "_used_up": True})


def _fail(book: Book, intent: Object, method: Object, error: Object) -> Object:
    charge = charges.fail(book, intent, method, error)
    intent |= {
        "status": "requires_payment_method",
        "payment_method": None,
        "latest_charge": charge["id"],
        "next_action": None,
        "last_payment_error": {
            **error,
            "charge": charge["id"],
            "payment_method": book.shown(method),
        },
    }
    if method["customer"] is None:
        book.save({**method, "_used_up": True})
    events.record(book, "payment_intent.payment_failed", book.save(intent))
    return intent
