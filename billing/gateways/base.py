"""
What a payment gateway must offer, in our words. Knows no model of ours.

A charge is two-step: `prepare` makes an object at the provider that carries no money, `submit` may
move money once, `cancel` makes sure it never will. That single-use object is the fence that a
repeat, a lost reply or a paused process cannot jump (docs/payments.md).
"""

import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Literal, Protocol

from billing.charge_protocol import Status


@dataclass(frozen=True)
class AttemptSpec:
    """A charge to prepare. `amount_minor` is in ISO 4217 minor units; the gateway converts."""

    own_reference: str
    account_ref: str
    token: str
    amount_minor: int
    currency: str
    # Whom the provider keeps the card under; empty where it keeps no customers.
    customer_ref: str = ""
    # The day we have told the customer of; None where it is charged at once.
    charge_date: date | None = None


@dataclass(frozen=True)
class Observation:
    """What the provider says of one of its objects, at the moment it was asked."""

    ref: str
    own_reference: str
    status: Status
    amount_minor: int
    currency: str
    decline_code: str = ""
    # What the bank or its network advises after a decline; see declines.py.
    advice_code: str = ""
    # What it takes to write the attempt down anew, should our database have lost it.
    account_ref: str = ""
    token: str = ""
    customer_ref: str = ""
    made_at: datetime | None = None


@dataclass(frozen=True)
class Foreign:
    """An object of another installation, or of nobody's. What it means is not ours to say."""

    ref: str
    made_at: datetime


@dataclass(frozen=True)
class SettlementLine:
    """
    One movement of a payout: what moved, what the provider kept of it, and what came of it.

    Amounts are negative where money went back. `amount_minor` is what moved in the `currency` it was
    charged in; gross, fee and net are in the `settled_currency` of the payout.
    """

    payout_ref: str
    paid_out_at: datetime
    about: Literal["CHARGE", "REFUND", "DISPUTE", "OTHER"]
    # The charge, refund or dispute itself.
    source_ref: str
    # The object of `prepare` that it goes back to; empty where there is none, as for a fee.
    charge_ref: str
    # What we wrote on a charge; empty where another installation did, or nobody.
    own_reference: str
    amount_minor: int
    currency: str
    gross_minor: int
    fee_minor: int
    net_minor: int
    settled_currency: str
    exchange_rate: Decimal | None


class DisputeStatus(StrEnum):
    """How far a dispute is at the provider."""

    INQUIRY = "INQUIRY"  # the bank only asks
    OPEN = "OPEN"
    WON = "WON"
    LOST = "LOST"


@dataclass(frozen=True)
class DisputeSeen:
    """What the provider says of a dispute, at the moment it was asked. Amounts are in minor units."""

    ref: str
    # The object of `prepare` whose money is asked for; empty where it is none of ours.
    charge_ref: str
    amount_minor: int
    currency: str
    # What it kept for it, in the same currency; 0 where it keeps its fees in another.
    fee_minor: int
    status: DisputeStatus
    # Whether the money was taken from us, even if it came back since.
    is_withdrawn: bool
    # Whether nothing more will come of it.
    is_over: bool
    reason: str
    evidence_due_at: datetime | None
    made_at: datetime


@dataclass(frozen=True)
class Method:
    """
    A card or mandate as its provider knows it now; no `customer_ref`: it may not be charged any more.

    A card has an expiry; a mandate a status instead, in our words: PENDING, ACTIVE, CANCELLED, EXPIRED.
    """

    token: str
    customer_ref: str
    brand: str
    last_four: str
    expiry_month: int | None = None
    expiry_year: int | None = None
    mandate_status: str = ""


@dataclass(frozen=True)
class CardSetup:
    """Where its holder enters a card: on the provider's own page. Empty where there is none."""

    ref: str
    url: str


@dataclass(frozen=True)
class FinishedSetup:
    """A card that its holder has entered; no `method` as long as they have not."""

    account_ref: str
    method: Method | None


class RefundStatus(StrEnum):
    """Where a refund stands at the provider."""

    PENDING = "PENDING"
    SUCCEEDED = "SUCCEEDED"
    REFUSED = "REFUSED"  # it never left, and never will
    RETURNED = "RETURNED"  # the customer's bank sent it back


@dataclass(frozen=True)
class RefundSpec:
    """Money to pay back of a charge. `amount_minor` is in ISO 4217 minor units; the gateway converts."""

    own_reference: str
    account_ref: str
    payment_ref: str
    amount_minor: int
    currency: str


@dataclass(frozen=True)
class RefundSeen:
    """What the provider says of one refund, at the moment it was asked."""

    ref: str
    # The object of `prepare` whose money it is.
    payment_ref: str
    # What we wrote on it; empty where it was made on the provider's own pages.
    own_reference: str
    status: RefundStatus
    amount_minor: int
    currency: str
    because: str = ""


@dataclass(frozen=True)
class Unreadable:
    """A refund or dispute that cannot be said in our words: somebody else's, as a rule. Whose, our rows know."""

    ref: str
    # The object of `prepare` whose money it is about.
    charge_ref: str
    because: str
    made_at: datetime


class About(StrEnum):
    """What kind of object an event is about."""

    CHARGE = "CHARGE"
    METHOD = "METHOD"
    SETUP = "SETUP"
    DISPUTE = "DISPUTE"
    REFUND = "REFUND"
    OTHER = "OTHER"


@dataclass(frozen=True)
class EventHint:
    """Something happened to this object, says somebody with the right signature. Ask before believing."""

    event_id: str
    type: str
    about: About
    object_ref: str
    is_live: bool


@dataclass(frozen=True)
class Capabilities:
    """
    How a provider behaves where our own acts depend on it; each field has one reader.

    What its gateway can hide from us is not here: how it answers a key that was used (the same reply
    again, or a refusal that names what the first one made), how long it keeps keys, until when it
    cancels. `prepare`, `cancel` and `find` promise the same of all.
    """

    # The least it will charge, in minor units, by currency; 1 where not listed. payments.chargeable_minor
    minimum_minor: Mapping[str, int] = field(default_factory=dict)
    # Days before a charge that its customer is told of it; the charge waits for that day. payments, reserve
    notice_days: int = 0
    # Days the bank takes, as a rule, to say whether it pays; 0: it says so at once. payments.on_its_way
    typical_days: int = 0
    # Days after an object was made in which its money may still go back. reconciliation, how far it looks
    reversible_days: int = 0
    # Whether it pays back; else a person does, and says so. refunds.is_by_hand
    takes_refunds: bool = False


class RefundRefused(Exception):
    """The provider will not pay this back: nothing has left, and the same request never will."""


class OutcomeUnknown(Exception):
    """The provider may or may not have done it: ask it before anything else. Never a failure."""


class NotSent(Exception):
    """The request never left us: nothing can have happened at the provider."""


class RateLimited(Exception):
    """The provider asks us to come back later; neither an attempt nor a failure."""

    # Whoever says "at once", to everybody and each time, would be asked in a loop. And however late it says:
    # what is unknown is asked about each hour, and a header shuts the lane no longer.
    SOONEST_SECONDS, LATEST_SECONDS = 5.0, 3600.0

    def __init__(self, retry_after_seconds: float) -> None:
        said = retry_after_seconds if math.isfinite(retry_after_seconds) else 0
        self.retry_after_seconds = min(max(said, self.SOONEST_SECONDS), self.LATEST_SECONDS)
        super().__init__(f"retry after {self.retry_after_seconds:g} s")


class Misconfigured(Exception):
    """Our key, account or request is wrong: repeating it cannot help, an operator must act."""


class MethodGone(Misconfigured):
    """
    The provider has the card no more, or will never charge it again: repeating it cannot help, its holder must act.

    Only where that is sure of this one card. A wrong key, with which no card is known, is a wrong set-up.
    """


class NotAuthentic(Exception):
    """What came in as a webhook is not the provider's, is old, or belongs to the other mode."""


class Gateway(Protocol):
    """A payment provider. Any exception but the ones above is taken as OutcomeUnknown."""

    name: str
    capabilities: Capabilities

    def chargeable_minor(self, amount_minor: int, currency: str) -> int:
        """The most of an amount that can be charged: rounded down where the provider takes no finer one."""
        ...

    def prepare(self, spec: AttemptSpec, *, key: str) -> Observation:
        """
        Make the provider's object; no money can move by it yet.

        :raises MethodGone: if the provider has this card no more.
        """
        ...

    def submit(self, ref: str, *, key: str) -> Observation:
        """Let the provider move the money, at most once for this object, for ever."""
        ...

    def read(self, ref: str) -> Observation:
        """What the provider says now: authoritative, and never stale."""
        ...

    def find(self, spec: AttemptSpec, *, since: datetime) -> list[Observation]:
        """
        The objects made since then that carry this attempt's reference.

        From a consistent list and not from a search, which may lag behind.
        """
        ...

    def begin_authentication(self, ref: str, *, return_url: str) -> str:
        """
        Where the card's holder confirms the same object with their bank, and is sent back from.

        It is `return_url` itself where there is nothing to confirm, or no longer.

        :raises MethodGone: if the provider has the card no more.
        """
        ...

    def cancel(self, ref: str, *, key: str) -> Observation:
        """Make sure the object never moves money, or say that it already has."""
        ...

    def refund(self, spec: RefundSpec, *, key: str) -> RefundSeen:
        """
        Pay money back. Once for a key, as long as the provider remembers it: 12 hours at least.

        :raises RefundRefused: if it will not: more than is left of the charge, or one that is disputed.
        """
        ...

    def read_refund(self, ref: str) -> RefundSeen:
        """What the provider says of a refund now."""
        ...

    def find_refunds(self, payment_ref: str) -> list[RefundSeen]:
        """Every refund of a charge, whoever made it: from a consistent list, not from a search."""
        ...

    def refunds(self, *, since: datetime | None = None) -> Iterator[RefundSeen | Unreadable]:
        """The refunds made since then, of anybody's charges; None: no bound."""
        ...

    def book(self) -> Iterator[Observation]:
        """Every object of ours in the provider's own book, for check_books."""
        ...

    def objects(
        self, *, since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[Observation | Foreign]:
        """The objects made from `since` to `until`, both included, newest first; None: no bound."""
        ...

    def newest(self) -> list[Observation]:
        """The newest objects of ours, a page of them at the most: are they all known to us?"""
        ...

    def settlements(
        self, *, since: datetime | None = None, but: Container[str] = ()
    ) -> Iterator[SettlementLine]:
        """What the payouts since then consist of, payout by payout; `but` those of these refs."""
        ...

    def read_dispute(self, ref: str) -> DisputeSeen:
        """
        A dispute as it is now.

        :raises Misconfigured: if there is none of this ref.
        """
        ...

    def disputes(self, *, since: datetime | None = None) -> Iterator[DisputeSeen | Unreadable]:
        """The disputes opened since then, of anybody's charges, newest first; None: all."""
        ...

    def ensure_customer(self, *, account_ref: str, email: str, name: str) -> str:
        """Return whom the provider keeps this account's cards under, made if there is none."""
        ...

    def begin_setup(
        self, *, account_ref: str, customer_ref: str, currency: str, return_url: str
    ) -> CardSetup:
        """
        Let the account's holder enter a card on the provider's own page.

        It sends them back to `return_url`, with `setup`, the ref to read, where a card was entered.
        """
        ...

    def read_setup(self, ref: str) -> FinishedSetup:
        """The card that came of `begin_setup`, and for which account it was begun."""
        ...

    def test_methods(self, account_ref: str) -> Mapping[str, str]:
        """
        The cards or mandates that may be chosen for an account on our own page, by token: how each looks and behaves.

        Those of a stand-in; a real provider has none, and a page of its own to enter one.
        """
        ...

    def read_method(self, token: str) -> Method:
        """A card as the provider knows it now."""
        ...

    def detach(self, token: str) -> Method:
        """Make sure that nobody can charge the card any more."""
        ...

    def parse_webhook(self, headers: Mapping[str, str], body: bytes) -> list[EventHint]:
        """
        Say what the provider tells us has happened, once it is sure that it is the provider.

        :raises NotAuthentic: if it is not, or not any more.
        """
        ...
