"""
What goes wrong, for which request: by rules that a test sets, or by odds and a seed.

The same seed and the same sequence of requests always meet the same faults.
"""

import json
import random
import re
from dataclasses import dataclass
from typing import Any

from billing.gateways.standins.fakestripe.book import Book
from billing.gateways.standins.fakestripe.errors import (
    ApiError,
    Object,
    internal,
    invalid,
    key_in_use,
    rate_limited,
)
from billing.gateways.standins.fakestripe.errors import unavailable as provider_unavailable

KINDS = (
    "drop_before",
    "execute_then_drop",
    "execute_then_500",
    "500_before",
    "delay",
    "409",
    "429",
    "outage",
)
SLOW_SECONDS = 3.0


@dataclass(frozen=True)
class Fault:
    """One request's bad luck."""

    kind: str = ""
    seconds: float = 0
    # A delay before holds the idempotency key, as a slow execution does; one after does not.
    when: str = "before"
    # Whether a 500 came after the execution had begun: then it is kept under the key.
    began: bool = False
    retry_after: float = 1

    @property
    def wait_before(self) -> float:
        """How long the execution is held up."""
        return self.seconds if self.when == "before" else 0

    @property
    def wait_after(self) -> float:
        """How long the reply is held up."""
        return self.seconds if self.when == "after" else 0

    @property
    def drops_reply(self) -> bool:
        """Whether the caller hears nothing."""
        return self.kind in ("drop_before", "execute_then_drop")

    def error(self) -> ApiError | None:
        """What is answered instead of carrying the request out."""
        match self.kind:
            case "drop_before" | "outage":
                return provider_unavailable()
            case "409":
                return key_in_use()
            case "429":
                return rate_limited(self.retry_after)
            case "500_before":
                return internal()
            case _:
                return None


def add(book: Book, rule: Object) -> None:
    """
    Plan a fault; see `docs/fakestripe.md` for a rule's fields.

    :raises ApiError: if the rule cannot be understood.
    """
    match = rule.get("match", {})
    known = {"match", "times", "skip", "fault", "seconds", "when", "began", "retry_after", "until"}
    if (
        rule.get("fault") not in KINDS
        or set(rule) - known
        or set(match) - {"method", "path", "metadata"}
    ):
        raise invalid(f"Not a fault rule: {json.dumps(rule)}; faults are {', '.join(KINDS)}")
    if rule["fault"] == "outage" and "until" not in rule:
        rule["until"] = book.clock + rule.pop("seconds")
    book.rows("INSERT INTO fault (rule) VALUES (?)", json.dumps(rule))


def clear(book: Book) -> None:
    """End all faults, planned and by odds."""
    book.rows("DELETE FROM fault")
    book.set("odds", {})


def rules(book: Book) -> list[Object]:
    """The faults that wait for their request."""
    return [json.loads(rule) for (rule,) in book.rows("SELECT rule FROM fault ORDER BY seq")]


def read_odds(said: str) -> Object:
    """
    Read `drop_before=0.08,500=0.05,slow=0.1:3`.

    :raises ValueError: if it says anything else.
    """
    odds: Object = {}
    for word in filter(None, said.split(",")):
        kind, _, chance = word.partition("=")
        chance, _, seconds = chance.partition(":")
        if kind not in (*KINDS, "500", "slow"):
            raise ValueError(f"unknown fault {kind!r}")
        odds[kind] = [float(chance), float(seconds or SLOW_SECONDS)]
    return odds


def choose(book: Book, sequence: int, method: str, path: str, params: Object) -> Fault:
    """The fault of this request: the first rule that fits it, else what the dice say."""
    for row, said in book.rows("SELECT seq, rule FROM fault ORDER BY seq"):
        rule = json.loads(said)
        if rule.get("until", book.clock + 1) <= book.clock:
            book.rows("DELETE FROM fault WHERE seq = ?", row)
        elif _fits(book, rule.get("match", {}), method, path, params) and _takes(book, row, rule):
            names = ("seconds", "when", "began", "retry_after")
            said_of_it = {name: rule[name] for name in names if name in rule}
            return Fault(rule["fault"], **said_of_it)
    return _by_odds(book, sequence)


def _fits(book: Book, match: Object, method: str, path: str, params: Object) -> bool:
    return (
        match.get("method", method) == method
        and re.search(match.get("path", ""), path) is not None
        and all(
            any(words.get(name) == word for words in _metadata(book, path, params))
            for name, word in match.get("metadata", {}).items()
        )
    )


def _metadata(book: Book, path: str, params: Object) -> list[Object]:
    """The metadata that a request says, and that of the objects it is about."""
    named = [*path.split("/"), params.get("payment_intent", ""), params.get("charge", "")]
    about = [entry for ref in named if (entry := book.peek(ref))]
    return [params.get("metadata") or {}, *(entry.get("metadata") or {} for entry in about)]


def _takes(book: Book, row: int, rule: Object) -> bool:
    """Whether the rule strikes now; it counts down what it skips and how often it strikes."""
    if rule["fault"] == "outage":
        return True
    strikes = not rule.get("skip")
    counted = "times" if strikes else "skip"
    rule[counted] = rule.get(counted, 1) - 1
    if rule.get("times", 1):
        book.rows("UPDATE fault SET rule = ? WHERE seq = ?", json.dumps(rule), row)
    else:
        book.rows("DELETE FROM fault WHERE seq = ?", row)
    return strikes


def _by_odds(book: Book, sequence: int) -> Fault:
    odds: dict[str, list[float]] = book.setting("odds", {})
    if not odds:
        return Fault()
    dice = random.Random(f"{book.setting('seed', 0)}:{sequence}")  # noqa: S311 - repeatable
    drawn = dice.random()
    for kind, (chance, seconds) in odds.items():
        if drawn < chance:
            return _drawn(kind, seconds, dice)
        drawn -= chance
    return Fault()


def _drawn(kind: str, seconds: float, dice: random.Random) -> Fault:
    match kind:
        case "slow" | "delay":
            return Fault("delay", seconds=seconds, when=dice.choice(["before", "after"]))
        case "500":
            kind = dice.choice(["execute_then_500", "500_before"])
            return Fault(kind, began=dice.random() < 0.5)
        case _:
            details: dict[str, Any] = {"began": True} if kind == "500_before" else {}
            return Fault(kind, **details)
