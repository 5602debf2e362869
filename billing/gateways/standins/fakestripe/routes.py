"""Which function answers which request."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from billing.gateways.standins.fakestripe import params
from billing.gateways.standins.fakestripe.book import Book
from billing.gateways.standins.fakestripe.errors import ApiError, Object, invalid

# Takes the book, the checked parameters and the ids in the path; returns the object to show.
Handler = Callable[..., Object]


@dataclass(frozen=True)
class Route:
    """An endpoint: its path, the parameters it knows, and who answers."""

    method: str
    path: str
    handler: Handler
    accepts: params.Accepts = field(default_factory=dict)
    needs: tuple[str, ...] = ()

    def match(self, path: str) -> tuple[str, ...] | None:
        """The ids in a path of this form, or none where it is of another."""
        found = re.fullmatch(self.path.replace("{id}", r"(\w+_\w+)"), path)
        return found.groups() if found else None

    def answer(self, book: Book, said: Object, ids: tuple[str, ...]) -> Object:
        """Carry the request out."""
        checked = params.check(said, {**self.accepts, "expand": params.sequence}, self.needs)
        wanted = checked.pop("expand", [])
        body = self.handler(book, checked, *ids)
        body = _page(book, body, self.path) if "page" in body else book.shown(body)
        for path in wanted:
            _expand(book, body, path, path.split("."))
        return body


ROUTES: list[Route] = []


def route(
    method: str, path: str, accepts: params.Accepts | None = None, needs: tuple[str, ...] = ()
) -> Callable[[Handler], Handler]:
    """Register the function below it as the one that answers."""

    def register(handler: Handler) -> Handler:
        ROUTES.append(Route(method, path, handler, accepts or {}, needs))
        return handler

    return register


def find(method: str, path: str) -> tuple[Route, tuple[str, ...]]:
    """
    The route of a request, and the ids in its path.

    :raises ApiError: if there is none.
    """
    for candidate in ROUTES:
        ids = candidate.match(path)
        if candidate.method == method and ids is not None:
            return candidate, ids
    raise ApiError(404, f"Unrecognized request URL ({method}: {path}).")


def _page(book: Book, found: Object, path: str) -> Object:
    entries, has_more = found["page"]
    return {
        "object": found.get("object", "list"),
        "url": path,
        "has_more": has_more,
        "data": [book.shown(entry) for entry in entries],
        **found.get("more", {}),
    }


def _expand(book: Book, entry: Any, path: str, steps: list[str]) -> None:
    if not steps or entry is None:
        return
    if isinstance(entry, list):
        for one in entry:
            _expand(book, one, path, steps)
        return
    if not isinstance(entry, dict) or steps[0] not in entry:
        raise invalid(f"This property cannot be expanded ({path}).", param="expand[]")
    value = entry[steps[0]]
    if isinstance(value, str):
        found = book.peek(value)
        if found is None:
            raise invalid(f"This property cannot be expanded ({path}).", param="expand[]")
        value = entry[steps[0]] = book.shown(found)
    _expand(book, value, path, steps[1:])
