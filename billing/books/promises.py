"""
What the books promise: one file each, and one for each state that waits (billing/waiting/states.py).

The first line of a file is the promise, the comment below it what to do when it is broken, and the
rest is the query that lists what breaks it. A bare "--" ends what is shown to people; what stands
below it is for whoever changes the query.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path

from billing import waiting
from billing.waiting import Wait

FOLDER = Path(__file__).parent / "sql"


@dataclass(frozen=True)
class Promise:
    """One thing that is always true of the books, and the query for what breaks it."""

    name: str  # of its view
    sentence: str
    advice: str
    query: str


class UnknownPromise(LookupError):
    """There is no promise of this name."""


def promises(only: Sequence[str] = ()) -> list[Promise]:
    """
    The promises of these names; all, in the order of their names, where none is given.

    :raises UnknownPromise: if there is none of a name.
    """
    known = {promise.name: promise for promise in _read()}
    if unknown := [name for name in only if name not in known]:
        raise UnknownPromise(f"no check {unknown[0]!r}; there are {', '.join(known)}")
    return [known[name] for name in only or known]


@cache
def _read() -> list[Promise]:
    said = [_parse(path) for path in FOLDER.glob("*.sql")]
    return sorted((*said, *map(_of_wait, waiting.WAITS)), key=lambda promise: promise.name)


def _of_wait(wait: Wait) -> Promise:
    return Promise(
        name=f"book_wait_{wait.kind}",
        sentence=f"No row waits for longer than its state may: {wait.title.lower()}.",
        advice=wait.advice,
        query=waiting.overdue_sql(wait, as_of="(SELECT as_of FROM books_clock)"),
    )


def _parse(path: Path) -> Promise:
    lines = path.read_text(encoding="utf-8").splitlines()
    head = list(takewhile(lambda line: line.startswith("--"), lines))
    sentence, *advice = [line.removeprefix("--").strip() for line in head]
    return Promise(
        name=f"book_{path.stem}",
        sentence=sentence,
        advice=" ".join(takewhile(bool, advice)),
        query="\n".join(lines[len(head) :]),
    )
