"""Search, which answers from an index that lags behind the book."""

import re

from billing.gateways.standins.fakestripe.book import Book
from billing.gateways.standins.fakestripe.errors import Object, invalid
from billing.gateways.standins.fakestripe.params import page_limit, text

# "Under a minute" in fair weather, says Stripe; here never less, so that nobody leans on it.
LAG_SECONDS = 60
QUERY = {"query": text, "limit": page_limit, "page": text}
CLAUSE = re.compile(
    r"(?:metadata\[['\"](?P<key>[^'\"]+)['\"]\]|(?P<field>\w+)):['\"](?P<value>[^'\"]*)['\"]"
)


def search(book: Book, kind: str, params: Object) -> Object:
    """Objects that have not changed for a while and meet every clause."""
    clauses = [CLAUSE.fullmatch(clause) for clause in params["query"].split(" AND ")]
    if None in clauses:
        raise invalid("We were unable to parse your search query.", param="query")
    indexed = book.select(kind, "changed_at <= ?", book.now - LAG_SECONDS)
    found = [
        entry for entry in reversed(indexed) if all(_meets(entry, one) for one in clauses if one)
    ]
    limit = params.get("limit", 10)
    return {
        "object": "search_result",
        "page": (found[:limit], len(found) > limit),
        "more": {"next_page": None},
    }


def _meets(entry: Object, clause: re.Match[str]) -> bool:
    if clause["key"]:
        return bool(entry["metadata"].get(clause["key"]) == clause["value"])
    return str(entry.get(clause["field"])) == clause["value"]
