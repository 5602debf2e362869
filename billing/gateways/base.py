"""
What a payment gateway must offer, in our words. Knows no model of ours.

A charge is two-step: `prepare` makes an object at the provider that carries no money, `submit` may
move money once, `cancel` makes sure it never will. That single-use object is the fence that a
repeat, a lost reply or a paused process cannot jump (docs/payments.md).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Literal, Protocol


class Status(StrEnum):
    """Where a charge stands at the provider."""

    UNSUBMITTED = "UNSUBMITTED"
    NEEDS_CUSTOMER = "NEEDS_CUSTOMER"
    PROCESSING = "PROCESSING"
    SUCCEEDED = "SUCCEEDED"
    DECLINED = "DECLINED"  # refused, and could be submitted again: cancel it
    CANCELED = "CANCELED"


@dataclass(frozen=True)
class AttemptSpec:
    """A charge to prepare. `amount_minor` is in ISO 4217 minor units; the gateway converts."""

    own_reference: str
    account_ref: str
    token: str
    amount_minor: int
    currency: str


@dataclass(frozen=True)
class Observation:
    """What the provider says of one of its objects, at the moment it was asked."""

    ref: str
    own_reference: str
    status: Status
    amount_minor: int
    currency: str
    decline_code: str = ""


@dataclass(frozen=True)
class Capabilities:
    """How a provider behaves where providers differ."""

    prepare: Literal["two_step", "single_shot"]
    settles: Literal["sync", "async"]
    # How long the provider remembers an idempotency key. The protocol does not lean on it.
    key_lifetime: timedelta | None
    # The least it will charge, in minor units, by currency; 1 where not listed.
    minimum_minor: dict[str, int]


class OutcomeUnknown(Exception):
    """The provider may or may not have done it: ask it before anything else. Never a failure."""


class NotSent(Exception):
    """The request never left us: nothing can have happened at the provider."""


class RateLimited(Exception):
    """The provider asks us to come back later; neither an attempt nor a failure."""

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(f"retry after {retry_after_seconds} s")
        self.retry_after_seconds = retry_after_seconds


class Misconfigured(Exception):
    """Our key, account or request is wrong: repeating it cannot help, an operator must act."""


class Gateway(Protocol):
    """A payment provider. Any exception but the four above is taken as OutcomeUnknown."""

    name: str
    capabilities: Capabilities

    def prepare(self, spec: AttemptSpec, *, key: str) -> Observation:
        """This will make the provider's object; no money can move by it yet."""
        ...

    def submit(self, ref: str, *, key: str) -> Observation:
        """This will let the provider move the money, at most once for this object, for ever."""
        ...

    def read(self, ref: str) -> Observation:
        """What the provider says now: authoritative, and never stale."""
        ...

    def find(self, own_reference: str) -> list[Observation]:
        """The objects that carry our reference, from a consistent list and not from a search."""
        ...

    def cancel(self, ref: str, *, key: str) -> Observation:
        """This will make sure the object never moves money, or say that it already has."""
        ...

    def book(self) -> Iterator[Observation]:
        """Every object in the provider's own book, for reconciliation."""
        ...
