"""
A worker's stint on steps that are on their way for a while: leased a few at a time, ended as they come back.

Between batches, never in a thread of its own, it extends its leases: a worker that is stuck loses them.
One whose lease is gone sends nothing more, and what it would write is refused.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from time import monotonic

from accounts.models import Account
from billing.close.engine import claiming, leases
from billing.close.engine.claiming import Leased
from billing.close.step import Chunk, Flow, Outcome
from billing.models import Step
from notifications import bisect
from notifications.faults import is_the_databases_fault

logger = logging.getLogger(__name__)

# More are claimed once so many would be taken, or when nothing is on its way: a claim costs much the same
# for one as for fifty.
CLAIM_EVERY_SECONDS = 0.2


class Stint:
    """
    One worker's. `lease` claims so many steps, `finish` writes outcomes down, `fail` charges an attempt.
    """

    def __init__(
        self,
        flow: Flow,
        *,
        lease: Callable[[int, bool], Leased],
        finish: Callable[[Sequence[Outcome]], None],
        fail: Callable[[Step, Exception], None],
        clock: Callable[[], datetime],
    ) -> None:
        self._flow = flow
        self._lease = lease
        self._finish = finish
        self._fail = fail
        self._clock = clock
        self._held: dict[int, Step] = {}
        # What was leased together, and by what grant, until all of it is through.
        self._open: list[Leased] = []
        self._throttled: claiming.Throttled | None = None
        self._lost: set[int] = set()
        self._claimed = 0
        self._holds_suspects = False
        self._claim_at = self._beat_at = 0.0

    def work(self, *, until: Callable[[int], bool], stopping: Callable[[], bool]) -> int:
        """
        Work until nothing is ready or on its way. Returns how many steps it took.

        Once `until` says so, told how many that are, no more are claimed, and what is on its way comes to
        its end. Once `stopping` does, nothing more is sent either: the rest is given back as it stands.

        :raises claiming.Throttled: if it took none, since none may begin now.
        """
        with self._flow:
            try:
                while True:
                    if stopping():
                        self._flow.stop()
                    elif not until(self._claimed):
                        self._claim()
                    if not self._held:
                        break
                    self._beat()
                    self._turn()
            except Exception as error:
                if is_the_databases_fault(error):
                    leases.give_back(list(self._held.values()))
                raise
        if self._throttled and not self._claimed:
            raise self._throttled
        return self._claimed

    def _claim(self) -> None:
        if self._held and (monotonic() < self._claim_at or self._holds_suspects):
            return
        if not self._flow.room:
            return
        self._claim_at = monotonic() + CLAIM_EVERY_SECONDS
        self._throttled = None
        try:
            leased = self._lease(self._flow.room, not self._held)
        except claiming.Throttled as throttled:
            self._throttled = throttled
            return
        if not leased.steps:
            return
        self._beat_at = self._beat_at or monotonic() + leases.renew_every().total_seconds()
        self._open.append(leased)
        # With those nothing else: whose death it was must be known.
        self._holds_suspects = any(step.deaths for step in leased.steps)
        self._held |= {step.pk: step for step in leased.steps}
        self._claimed += len(leased.steps)
        self._begin(leased.steps)
        # Where none of them could be begun, there is no turn.
        self._report_to_lanes()

    def _begin(self, steps: Sequence[Step]) -> None:
        """Begin them; one that cannot be begun is charged an attempt, and no other."""
        for step, error in bisect.failures(self._begin_together, steps, what="steps"):
            self._give_up(step, error)

    def _begin_together(self, steps: Sequence[Step]) -> None:
        ids = [step.account_id for step in steps if step.account_id is not None]
        accounts = Account.objects.in_bulk(ids)
        self._flow.begin(Chunk(steps[0].run, list(steps), accounts, self._clock()))

    def _beat(self) -> None:
        """Extend the leases, and let go of what has become somebody else's."""
        if monotonic() < self._beat_at:
            return
        tokens = {step.lease_token for step in self._held.values() if step.lease_token}
        lost = self._held.keys() - leases.renew(tokens) - self._lost
        self._beat_at = monotonic() + leases.renew_every().total_seconds()
        if lost:
            logger.warning("%s steps were lost: this worker slept, or was stuck", len(lost))
            self._lost |= lost
            self._flow.leave(lost)

    def _turn(self) -> None:
        outcomes = list(self._flow.turn())
        for pk, error in self._flow.failed().items():
            self._give_up(self._held[pk], error)
        self._end(outcomes)
        self._report_to_lanes()

    def _report_to_lanes(self) -> None:
        """Tell the lanes of what was leased together and is all through."""
        through = [leased for leased in self._open if not self._holds_any(leased)]
        for leased in through:
            claiming.report_to_lane(leased)
            self._open.remove(leased)

    def _holds_any(self, leased: Leased) -> bool:
        return any(step.pk in self._held for step in leased.steps)

    def _end(self, outcomes: Sequence[Outcome]) -> None:
        for outcome, error in bisect.failures(self._finish, outcomes, what="outcomes"):
            self._give_up(outcome.step, error)
        for outcome in outcomes:
            self._held.pop(outcome.step.pk, None)

    def _give_up(self, step: Step, error: Exception) -> None:
        self._fail(step, error)
        del self._held[step.pk]
