"""
What a step is given, and what it says: the contract between the runner and billing/close/steps/.

A step only decides. The runner claims, locks, writes outcomes and decisions down, and readies what
follows, all in one transaction.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol, Self, runtime_checkable

from accounts.models import Account, Hold
from billing.models import CloseRun, Decision, PaymentAttempt, Step
from billing.step_kinds import Through


@dataclass(frozen=True)
class Chunk:
    """Some steps of one kind and one run, claimed together."""

    run: CloseRun
    steps: list[Step]
    # By id; locked where the step touches only our database.
    accounts: dict[int, Account]
    as_of: datetime

    def account_of(self, step: Step) -> Account:
        """The account of a step; the run's report has none."""
        assert step.account_id is not None, f"{step} is not about an account"
        return self.accounts[step.account_id]


@dataclass
class Outcome:
    """The end, or the postponement, of one step."""

    step: Step
    state: str
    because: str
    saw: dict[str, Any] = field(default_factory=dict)
    # The world was not what the step before had left.
    world_changed: bool = False
    # What the steps that follow should find.
    expect: dict[str, Any] = field(default_factory=dict)
    # For a postponement: when to look again.
    run_at: datetime | None = None
    attempt: PaymentAttempt | None = None
    hold: Hold | None = None

    @property
    def is_end(self) -> bool:
        return self.state not in Step.OPEN

    @property
    def did(self) -> Decision.Did:
        """The Decision's word for it."""
        return Decision.Did(self.state) if self.is_end else Decision.Did.WAITED

    @property
    def is_decision(self) -> bool:
        """Every end is; so is the first time a step waits because the world has changed."""
        return self.is_end or (self.world_changed and self.step.because != self.because)


def done(step: Step, because: str, **facts: Any) -> Outcome:
    """It was done."""
    return Outcome(step, Step.State.DONE, because, **facts)


def skipped(step: Step, because: str, **facts: Any) -> Outcome:
    """There was nothing to do, which is a normal end."""
    return Outcome(step, Step.State.SKIPPED, because, **facts)


def blocked(step: Step, because: str, **facts: Any) -> Outcome:
    """It cannot go on before a person acts; what follows is blocked too."""
    return Outcome(step, Step.State.BLOCKED, because, **facts)


def unknown(step: Step, because: str, *, run_at: datetime, **facts: Any) -> Outcome:
    """The world has not said how it ended: ask it again at `run_at`, before anything else."""
    return Outcome(step, Step.State.UNKNOWN, because, run_at=run_at, **facts)


def later(step: Step, because: str, *, run_at: datetime, **facts: Any) -> Outcome:
    """Not yet: look again at `run_at`. Not counted as an attempt."""
    return Outcome(step, Step.State.READY, because, run_at=run_at, **facts)


# How soon to look again at a payment that another process, or the customer, is working on.
LOOK_AGAIN_AFTER = timedelta(seconds=2)
# Where it may take the bank, or the customer, days: look when the provider is asked again.
TAKES_TIME = (PaymentAttempt.State.PROCESSING, PaymentAttempt.State.REQUIRES_ACTION)
# Where its provider gave no answer it may take a day: by then an event, or somebody who asked, may have told.
LOOK_AGAIN_AT_UNKNOWN_AFTER = timedelta(minutes=1)


def wait_for(attempt: PaymentAttempt, step: Step, *, as_of: datetime) -> Outcome:
    """A payment is on its way: what is due cannot be known before it comes to its end."""
    return later(
        step,
        "a payment is on its way",
        run_at=_look_again_at(attempt, as_of=as_of),
        saw={"in_flight_minor": attempt.amount_minor, "currency": attempt.currency},
        world_changed=attempt.run_id != step.run_id,
        attempt=attempt,
    )


def _look_again_at(attempt: PaymentAttempt, *, as_of: datetime) -> datetime:
    soon = as_of + LOOK_AGAIN_AFTER
    asked_at = max(soon, attempt.next_action_at or soon)
    if attempt.state in TAKES_TIME or attempt.charge_date is not None:
        return asked_at
    if attempt.unknown_since is not None:
        return min(asked_at, as_of + LOOK_AGAIN_AT_UNKNOWN_AFTER)
    return soon


class StepModule(Protocol):
    """One step of the close: a module with these names, and those of one of the two below."""

    # What it is: billing/step_kinds.py says what each name means.
    kind: str
    title: str
    follows: str | None
    queue: str
    # False: the runner opens the transaction and locks the accounts; a kill rolls all back.
    # True: the runner leases the steps, commits, and calls with nothing open.
    touches_the_world: bool
    is_per_run: bool
    through: Through
    counts_for_time_left: bool


class ChunkModule(StepModule, Protocol):
    """One whose steps are decided a chunk at a time."""

    # How many it takes at once.
    batch: int

    @staticmethod
    def perform(chunk: Chunk) -> Iterable[Outcome]:
        """Decide each step of the chunk. One left out is an error of the module."""
        ...


@runtime_checkable
class FlowModule(StepModule, Protocol):
    """One whose steps are on their way for a while, any number at once: see stint.py."""

    @staticmethod
    def open_flow(*, clock: Callable[[], datetime]) -> "Flow":
        """Open one flow of steps, closed when its `with` ends."""
        ...


class Flow(Protocol):
    """Steps on their way; all of it is called by one thread."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    @property
    def room(self) -> int:
        """How many more it would take now."""
        ...

    def begin(self, chunk: Chunk) -> None:
        """
        Begin the steps of a chunk.

        :raises Exception: whatever goes wrong with one of them. Then none was begun.
        """
        ...

    def turn(self) -> Sequence[Outcome]:
        """Take them a little further; returns how those end that are through."""
        ...

    def failed(self) -> dict[int, Exception]:
        """The steps that cannot be gone on with, by id, and why, since this was last asked."""
        ...

    def leave(self, steps: Collection[int]) -> None:
        """Send nothing more for these: they are somebody else's."""
        ...

    def stop(self) -> None:
        """From now on nothing is sent; what is out comes back, and all the rest ends as it stands."""
        ...
