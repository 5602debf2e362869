"""What a request says: form-encoded nested parameters, read and checked against what is known."""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from billing.gateways.standins.fakestripe.errors import Object, invalid

# Reads one value as its type, or refuses it; the first argument is its name, for the refusal.
Kind = Callable[[str, Any], Any]
Accepts = Mapping[str, Kind]

# Parameters that older versions of the API had, and the code that says so.
REMOVED = {"payment_method_types": "payment_method_types_no_longer_supported"}
TRUTH = {"true": True, "false": False}
METADATA_KEYS, METADATA_KEY_LENGTH, METADATA_VALUE_LENGTH = 50, 40, 500
PAGE_LIMIT = 100


def decode(encoded: str) -> Object:
    """
    Read `a[b]=1&c[0]=2` as `{"a": {"b": "1"}, "c": ["2"]}`.

    :raises ApiError: if a name is used as a value and as a map at once.
    """
    tree: Object = {}
    for name, value in parse_qsl(encoded, keep_blank_values=True):
        *parents, leaf = name.replace("]", "").split("[")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
            if not isinstance(branch, dict):
                raise invalid(f"Invalid parameter: {name}", param=name)
        branch[leaf or str(len(branch))] = value
    listed: Object = _lists(tree) if tree else {}
    return listed


def _lists(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    if all(name.isdecimal() for name in tree):
        return [_lists(tree[name]) for name in sorted(tree, key=int)]
    return {name: _lists(value) for name, value in tree.items()}


def check(params: Object, accepts: Accepts, needs: tuple[str, ...]) -> Object:
    """
    Return the parameters by their types.

    :raises ApiError: for one that is unknown, missing or not of its type.
    """
    for name in params:
        if name not in accepts:
            raise invalid(
                f"Received unknown parameter: {name}",
                param=name,
                code=REMOVED.get(name, "parameter_unknown"),
            )
    for name in needs:
        if params.get(name, "") == "":
            raise invalid(f"Missing required param: {name}.", param=name, code="parameter_missing")
    return {name: accepts[name](name, value) for name, value in params.items()}


def text(name: str, value: Any) -> str:
    """Words."""
    if not isinstance(value, str):
        raise invalid(f"Invalid string: {name}", param=name)
    return value


def integer(name: str, value: Any) -> int:
    """A whole number."""
    try:
        return int(text(name, value))
    except ValueError:
        raise invalid(
            f"Invalid integer: {value}", param=name, code="parameter_invalid_integer"
        ) from None


def boolean(name: str, value: Any) -> bool:
    """`true` or `false`."""
    if value not in ("true", "false"):
        raise invalid(f"Invalid boolean: {value}", param=name)
    return TRUTH[value]


def mapping(name: str, value: Any) -> Object:
    """Named values; empty where it says to clear them."""
    if value == "":
        return {}
    if not isinstance(value, dict):
        raise invalid("Invalid hash", param=name)
    return value


def sequence(name: str, value: Any) -> list[Any]:
    """Several values."""
    if not isinstance(value, list):
        raise invalid("Invalid array", param=name)
    return value


def metadata(name: str, value: Any) -> Object:
    """The caller's own words, within Stripe's limits."""
    pairs = mapping(name, value)
    if len(pairs) > METADATA_KEYS or any(
        len(key) > METADATA_KEY_LENGTH or len(text(name, word)) > METADATA_VALUE_LENGTH
        for key, word in pairs.items()
    ):
        raise invalid("Metadata has too many keys or too long words.", param=name)
    return pairs


def page_limit(name: str, value: Any) -> int:
    """How many objects a page may have."""
    limit = integer(name, value)
    if not 1 <= limit <= PAGE_LIMIT:
        raise invalid(f"Invalid limit: 1 to {PAGE_LIMIT}", param=name)
    return limit


def span(name: str, value: Any) -> Object:
    """A range of seconds: `created[gte]=…`; a bare number is that second."""
    if isinstance(value, str):
        second = integer(name, value)
        return {"gte": second, "lte": second}
    bounds = mapping(name, value)
    for bound in bounds:
        if bound not in ("gt", "gte", "lt", "lte"):
            raise invalid(
                f"Received unknown parameter: {name}[{bound}]", param=name, code="parameter_unknown"
            )
    return {bound: integer(name, second) for bound, second in bounds.items()}


def choice(*words: str) -> Kind:
    """One of these words."""

    def check_word(name: str, value: Any) -> str:
        if value not in words:
            raise invalid(f"Invalid {name}: must be one of {', '.join(words)}", param=name)
        return text(name, value)

    return check_word


PAGING: Accepts = {"limit": page_limit, "starting_after": text, "ending_before": text}
LISTING: Accepts = {**PAGING, "created": span}
