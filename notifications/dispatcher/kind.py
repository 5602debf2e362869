"""What a kind of row says of itself, and which kinds there are."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any, Protocol, TypeAlias, cast

from django.conf import settings
from django.db.models import QuerySet

from notifications.models import Dispatched

Row: TypeAlias = Any
# What came of a call: what it returned, or what it raised.
Answer: TypeAlias = Any


class Unreachable(Exception):
    """The provider cannot be reached: what waits for it is not begun, and ends in the same way."""


class NotBegun(Exception):
    """Nothing was called: the time for that was over, or the claim was lost."""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What an answer says about its provider, for its lane."""

    # None: nobody was asked, or it is no fault of the provider.
    answered: bool | None
    # It said "slow down", for so long.
    slow_down_seconds: float | None = None


class Kind(Protocol):
    """
    One kind of row that leaves the database: a module with these names.

    A row of a kind comes round as often as it needs: it is rechecked, called for, and its answer written
    down, until nothing more is to be called for now; then its claim ends.
    """

    # In logs.
    name: str
    model: type[Dispatched]
    # In which order rows of one priority are taken.
    order: Sequence[Any]
    # How many are rechecked, and written down, together.
    batch: int
    # How long a claim lasts, unless extended: longer than `begin_within` and the longest call together.
    lease: timedelta
    # What was found true is sent within this time, or not at all.
    begin_within: timedelta
    # Whether what the provider said is written down by whoever heard it, though another has the claim by
    # then: so for money, which has moved. Else it is dropped, and the row is sent again.
    always_applies: bool
    # Columns of its own that the end of a claim without an answer sets; and what that takes back where nothing
    # was sent.
    freed: Mapping[str, Any]
    unsent: Mapping[str, Any]

    def due(self, *, as_of: datetime) -> QuerySet[Row]:
        """Rows that have come to no end, and whose time has come. The dispatcher looks whether they are free."""
        ...

    def claimed(self, *, as_of: datetime) -> Mapping[str, Any]:
        """Say which columns of its own a claim sets."""
        ...

    def in_flight_besides(self, provider: str) -> int:
        """Say how many calls to a provider are out, or about to be, that no claim of the dispatcher's counts."""
        ...

    def lanes(self, rows: QuerySet[Row]) -> Iterable[str]:
        """The providers for which there are any."""
        ...

    def of_lane(self, rows: QuerySet[Row], provider: str) -> QuerySet[Row]:
        """Those of the rows that are for this provider."""
        ...

    def lane_of(self, row: Row) -> str:
        """The provider that a row is for."""
        ...

    def threads(self) -> int:
        """In how many threads calls are made now; 0: one after the other, in the thread that has the database."""
        ...

    def reach(self, provider: str) -> None:
        """
        Look whether the provider is there, with nothing open, before rows are rechecked.

        :raises Unreachable: if it is not. The rows get this as their answer.
        """
        ...

    def together(self, rows: Sequence[Row]) -> Iterable[Sequence[Row]]:
        """Cut rows into those that are rechecked in one transaction; their locks are taken in one order."""
        ...

    def recheck(self, rows: Sequence[Row], *, as_of: datetime) -> Sequence[Any]:
        """
        Look at what is true now, in the dispatcher's transaction, and say what each row's next call is.

        None: nothing is to be called for, and the kind has written down why. A row whose `claims` is above 1
        may have been sent before: its call looks first.

        :raises Exception: whatever is wrong with one of them. Then all is rolled back, and tried in halves.
        """
        ...

    def call(self, row: Row, what: Any) -> Answer:
        """Call the provider, in a thread, with nothing open and without the database."""
        ...

    def heard(self, answer: Answer) -> Heard:
        """Say what an answer tells of its provider."""
        ...

    def write_down(
        self, answers: Sequence[tuple[Row, Answer]], *, as_of: datetime
    ) -> Collection[Row]:
        """
        Write down what came of calls, in the dispatcher's transaction. Returns the rows that go on at once.

        What was not begun any more is not among them: the dispatcher hands it back.

        :raises Exception: whatever is wrong with one of them. Then all is rolled back, and tried in halves.
        """
        ...

    def fail(self, row: Row, error: Exception, *, as_of: datetime) -> None:
        """Write down that a row's recheck, or writing down its answer, fails by itself: a defect of ours."""
        ...

    def is_done(self, row: Row) -> bool:
        """Whether a row that rests has come to a good end: what a lane's speed is made of."""
        ...

    def hang_up(self) -> None:
        """Close what calls have kept open."""
        ...


def registered() -> list[Kind]:
    """The kinds of this installation: the modules that `DISPATCHED_KINDS` names."""
    return [cast("Kind", import_module(path)) for path in settings.DISPATCHED_KINDS]
