"""Customers."""

from billing.gateways.standins.fakestripe import events
from billing.gateways.standins.fakestripe.book import Book
from billing.gateways.standins.fakestripe.errors import Object, missing
from billing.gateways.standins.fakestripe.params import LISTING, mapping, metadata, text
from billing.gateways.standins.fakestripe.routes import route

FIELDS = {
    "name": text,
    "email": text,
    "description": text,
    "phone": text,
    "address": mapping,
    "invoice_settings": mapping,
    "metadata": metadata,
}


@route("POST", "/v1/customers", FIELDS)
def create(book: Book, params: Object) -> Object:
    """Make a customer."""
    blank = dict.fromkeys(("name", "email", "description", "phone", "address"))
    customer = book.add(
        "cus",
        "customer",
        **{**blank, "balance": 0, "metadata": {}, "delinquent": False, "_deleted": False, **params},
    )
    events.record(book, "customer.created", customer)
    return customer


@route("GET", "/v1/customers", {**LISTING, "email": text})
def listed(book: Book, params: Object) -> Object:
    """Customers who were not deleted, newest first."""
    return {"page": book.page("customer", params, email=params.get("email"), _deleted=False)}


@route("GET", "/v1/customers/{id}")
def retrieve(book: Book, params: Object, ref: str) -> Object:
    """One customer; of a deleted one, that it is deleted."""
    customer = book.get("customer", ref)
    if customer["_deleted"]:
        return {"id": ref, "object": "customer", "deleted": True}
    return customer


@route("POST", "/v1/customers/{id}", FIELDS)
def update(book: Book, params: Object, ref: str) -> Object:
    """Change what is said of a customer."""
    customer = living(book, ref, status=404)
    customer["metadata"] |= params.pop("metadata", {})
    return book.save({**customer, **params})


@route("DELETE", "/v1/customers/{id}")
def delete(book: Book, params: Object, ref: str) -> Object:
    """Delete a customer, whose payment methods go too."""
    customer = living(book, ref, status=404)
    for method in book.select("payment_method", "json_extract(body, '$.customer') = ?", ref):
        book.save({**method, "customer": None, "_used_up": True})
    book.save({**customer, "_deleted": True})
    events.record(book, "customer.deleted", customer)
    return {"id": ref, "object": "customer", "deleted": True}


def living(book: Book, ref: str, *, status: int = 400) -> Object:
    """
    The customer, if there is one and it was not deleted.

    :raises ApiError: otherwise; 400 where it is a parameter, 404 where it is in the path.
    """
    param = "customer" if status == 400 else "id"
    customer = book.get("customer", ref, param=param, status=status)
    if customer["_deleted"]:
        raise missing("customer", ref, param=param, status=status)
    return customer
