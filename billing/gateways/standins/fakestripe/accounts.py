"""The account behind the key."""

from billing.gateways.standins.fakestripe.book import Book
from billing.gateways.standins.fakestripe.errors import Object
from billing.gateways.standins.fakestripe.routes import route


@route("GET", "/v1/account")
def retrieve(book: Book, params: Object) -> Object:
    """Whose book this is."""
    return {
        "id": book.setting("account"),
        "object": "account",
        "charges_enabled": True,
        "country": "US",
        "default_currency": "usd",
        "details_submitted": True,
        "email": None,
        "metadata": {},
        "payouts_enabled": True,
        "type": "standard",
    }
