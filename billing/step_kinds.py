"""
What each kind of step of the close is: read by all that stands below the steps' own code.

Filled when the project starts, from the setting CLOSE_STEPS, by billing/close/pipeline.py. A row may have a
kind that is not installed here, or not any more: it is listed under its bare name, and waits.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

# Our own, for whoever acts on just one of them.
INVOICE = "INVOICE"
CHARGE = "CHARGE"
EMAIL = "EMAIL"
HOLD = "HOLD"
REPORT = "REPORT"

# How long a kind may be, and a queue's name.
LENGTH = 50


class Through(StrEnum):
    """Whose lane a step takes."""

    NOBODY = "NOBODY"  # it calls no provider
    MAIL_SERVER = "MAIL_SERVER"
    CARD = "CARD"  # the provider of its account's card


@dataclass(frozen=True, kw_only=True)
class StepKind:
    """One kind of step, as its module describes it."""

    kind: str
    # What pages call it.
    title: str
    # The kind whose end readies this one; None where the run does.
    follows: str | None
    # The doorbell it is rung with, and so the clusters that work on it.
    queue: str
    # Whether it calls anybody outside of our database, and so is leased.
    touches_the_world: bool
    # Once a run, not once an account, when no step of an account is open: it ends the run.
    is_per_run: bool
    through: Through
    # Whether the pages' "time left" waits for it.
    counts_for_time_left: bool


# By kind, in their order.
_installed: dict[str, StepKind] = {}


def install(kinds: Sequence[StepKind]) -> None:
    """Have just these kinds, in this order."""
    _installed.clear()
    _installed.update({each.kind: each for each in kinds})


def installed() -> tuple[StepKind, ...]:
    """Every kind, in the order in which an account goes through them."""
    return tuple(_installed.values())


def find(kind: str) -> StepKind | None:
    """The description of a kind; None where it is not installed."""
    return _installed.get(kind)


def of_accounts() -> tuple[StepKind, ...]:
    """Those that each account has once."""
    return tuple(each for each in installed() if not each.is_per_run)


def of_runs() -> StepKind:
    """The one that each run has once, and ends with."""
    [per_run] = (each for each in installed() if each.is_per_run)
    return per_run


def through(*whom: Through) -> tuple[StepKind, ...]:
    """Those that take such a lane."""
    return tuple(each for each in installed() if each.through in whom)


def followers(kind: str) -> tuple[StepKind, ...]:
    """Those that wait for this kind."""
    return tuple(each for each in installed() if each.follows == kind)


def all_followers(kind: str) -> list[str]:
    """The kinds that wait for this one, directly or not."""
    direct = [each.kind for each in followers(kind)]
    return direct + [further for each in direct for further in all_followers(each)]


def queues() -> tuple[str, ...]:
    """The queues that steps are worked on in."""
    return tuple(dict.fromkeys(each.queue for each in installed()))


def title(kind: str) -> str:
    """What pages call a kind: its bare name where it is not installed."""
    found = find(kind)
    return found.title if found else kind


def in_a_sentence(kind: str) -> str:
    """As reasons name it: "its charge step was cancelled". They are stored, and titles may change."""
    return kind.lower().replace("_", " ")


def place(kind: str) -> tuple[int, str]:
    """To sort by: installed kinds in their order, then the others by name."""
    names = list(_installed)
    return (names.index(kind) if kind in _installed else len(names), kind)


def in_order(kinds: Iterable[str] = ()) -> list[str]:
    """Every installed kind and these, in their order."""
    return sorted({*_installed, *kinds}, key=place)
