"""Events: what happened, told as a snapshot of the object it happened to."""

from billing.gateways.standins.fakestripe import webhooks
from billing.gateways.standins.fakestripe.book import Book
from billing.gateways.standins.fakestripe.errors import Object
from billing.gateways.standins.fakestripe.params import LISTING, sequence, text
from billing.gateways.standins.fakestripe.routes import route

# The version of the API whose shapes this provider imitates.
API_VERSION = "2026-10-28.endive"


def record(book: Book, kind: str, entry: Object) -> None:
    """Note an event, and its deliveries, in the transaction that causes it."""
    event = book.add(
        "evt",
        "event",
        api_version=API_VERSION,
        data={"object": book.shown(entry)},
        pending_webhooks=1 if webhooks.settings(book)["url"] else 0,
        request=book.request,
        type=kind,
    )
    webhooks.schedule(book, event)


@route("GET", "/v1/events/{id}")
def retrieve(book: Book, params: Object, ref: str) -> Object:
    """One event."""
    return book.get("event", ref)


@route("GET", "/v1/events", {**LISTING, "type": text, "types": sequence})
def listed(book: Book, params: Object) -> Object:
    """Events, newest first, of one type or of several."""
    kinds = params.get("types") or [kind for kind in [params.get("type")] if kind]
    return {"page": book.page("event", params, type=kinds or None)}
