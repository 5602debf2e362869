"""
One worker's rows of one kind, on their way: claimed a few at a time, at rest as they come back.

    claim ─▶ recheck ─▶ call ─▶ write down ─▶ at rest
                ▲                    │
                └──── it goes on ────┘

One thread has the database, and does all of it but the calls. Between batches, never in a thread of its own,
it extends its claims: a worker that is stuck loses them. Of a row whose claim is lost nothing more is sent.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from time import monotonic
from typing import Any

from django.db import Error, transaction

from notifications import bisect, lanes
from notifications.dispatcher import claims
from notifications.dispatcher.claims import Claimed, Throttled
from notifications.dispatcher.kind import Answer, Kind, NotBegun, Row, Unreachable
from notifications.dispatcher.window import Window

logger = logging.getLogger(__name__)

# More are claimed once there is room for a batch, or so long after the last time; and when nothing is in hand.
CLAIM_EVERY_SECONDS = 0.2


class ClaimLost(Exception):
    """Another worker has taken a row over: it is no longer ours to send."""


class Work:
    """One worker's. `claim` claims so many rows, and those that may kill their worker where it is told so."""

    def __init__(
        self,
        kind: Kind,
        *,
        claim: Callable[[int, bool], Claimed],
        clock: Callable[[], datetime],
        on_rest: Callable[[Row], None] = lambda _row: None,
    ) -> None:
        self._kind = kind
        self._claim = claim
        self._clock = clock
        self._on_rest = on_rest
        self._window = Window(kind)
        self._held: dict[Any, Row] = {}
        self._to_recheck: deque[Row] = deque()
        # Claimed together, and by what grant, until all of it is at rest.
        self._open: list[Claimed] = []
        self._called: set[Any] = set()
        # By provider: how many answers its lane is not told of yet.
        self._answered: Counter[str] = Counter()
        self._throttled: Throttled | None = None
        self._taken = 0
        self._holds_suspect = self._is_more = False
        self._claim_at = self._beat_at = 0.0

    def work(self, *, until: Callable[[], bool], stopping: Callable[[], bool]) -> int:
        """
        Work until nothing is due or on its way. Returns how many rows it took.

        Once `until` says so no more are claimed, and what is in hand comes to rest. Once `stopping` does,
        nothing more is sent either: what is out comes back, the rest is given back uncharged.

        :raises Throttled: if it took none, since none may begin now.
        """
        try:
            while True:
                if stopping():
                    self._give_back_unsent()
                elif not until():
                    self._feed()
                if not self._held:
                    break
                self._beat()
                self._recheck()
                self._write_down(self._window.answers())
                self._report_to_lanes()
        except Exception:
            self._let_go()
            raise
        finally:
            self._window.close()
        if self._throttled and not self._taken:
            raise self._throttled
        return self._taken

    # --- what comes in

    def _feed(self) -> None:
        """Take more rows, where there is room."""
        room = 2 * self._kind.batch - len(self._held)
        if self._held and (self._holds_suspect or self._is_near or not self._is_time(room)):
            return
        self._throttled, self._is_more = None, False
        self._claim_at = monotonic() + CLAIM_EVERY_SECONDS
        wanted = min(room, self._kind.batch)
        try:
            claimed = self._claim(wanted, not self._held)
        except Throttled as throttled:
            self._throttled = throttled
            return
        if claimed.rows:
            self._is_more = len(claimed.rows) == wanted
            self._take_in(claimed)

    @property
    def _is_near(self) -> bool:
        """
        Whether one thread is enough: the answers of its provider take no time.

        Then a batch is rechecked, sent and written down, and not two at once: Python runs one thread at a time, and one
        that comes back from the network would wait for whoever prepares the next.
        """
        return self._kind.threads() <= 1

    def _is_time(self, room: int) -> bool:
        return (self._is_more and room >= self._kind.batch) or (
            room > 0 and monotonic() >= self._claim_at
        )

    def _take_in(self, claimed: Claimed) -> None:
        self._beat_at = self._beat_at or self._next_beat()
        self._open.append(claimed)
        # With it nothing else: whose death it was must be known.
        self._holds_suspect = any(row.deaths >= claims.SUSPECTED_AFTER for row in claimed.rows)
        self._held |= {row.pk: row for row in claimed.rows}
        self._taken += len(claimed.rows)
        down = {} if self._window else self._out_of_reach(claimed.rows)
        self._to_recheck.extend(row for row in claimed.rows if self._kind.lane_of(row) not in down)
        if down:
            lanes_of = [(row, self._kind.lane_of(row)) for row in claimed.rows]
            self._write_down([(row, down[lane]) for row, lane in lanes_of if lane in down])
            self._report_to_lanes()

    def _out_of_reach(self, rows: Sequence[Row]) -> dict[str, Unreachable]:
        """The providers of rows that are not there. Where calls are out, these tell."""
        down = {}
        for provider in sorted({self._kind.lane_of(row) for row in rows}):
            try:
                self._kind.reach(provider)
            except Unreachable as error:
                down[provider] = error
        return down

    # --- while they are ours

    def _beat(self) -> None:
        """Extend the claims, and let go of what has become somebody else's."""
        if monotonic() < self._beat_at:
            return
        lost = self._held.keys() - claims.extend(self._kind, self._held.values())
        self._beat_at = self._next_beat()
        if lost:
            self._window.leave(lost)
            self._lose(pk for pk in lost if self._held[pk] in self._to_recheck)

    def _next_beat(self) -> float:
        """Four times in a claim: three may fail before it runs out."""
        return monotonic() + self._kind.lease.total_seconds() / 4

    def _lose(self, keys: Iterable[Any]) -> None:
        for pk in list(keys):
            logger.warning("%s %s: the claim was lost, another worker has it", self._kind.name, pk)
            with suppress(ValueError):
                self._to_recheck.remove(self._held[pk])
            del self._held[pk]

    # --- what goes out

    def _recheck(self) -> None:
        """However often it is sent: never without looking, just before, whether it is still to be."""
        room = max(self._kind.batch - self._window.waiting, 0)
        taken = [self._to_recheck.popleft() for _ in range(min(room, len(self._to_recheck)))]
        for batch in self._kind.together(taken):
            before = monotonic() + self._kind.begin_within.total_seconds()
            calls: dict[Any, Any] = {}

            def recheck(rows: Sequence[Row], calls: dict[Any, Any] = calls) -> None:
                calls.update(self._rechecked(rows))

            what = f"{self._kind.name}s"
            for row, error in bisect.failures(recheck, batch, what=what):
                if isinstance(error, ClaimLost):
                    self._lose([row.pk])
                else:
                    self._fail(row, error)
            for row in batch:
                if (call := calls.get(row.pk)) is not None:
                    self._window.begin(row, call, before=before)
                elif row.pk in calls:
                    self._rest(row)

    @transaction.atomic(durable=True)
    def _rechecked(self, rows: Sequence[Row]) -> dict[Any, Any]:
        """
        The next call of each.

        :raises ClaimLost: if one is another worker's by now; what the recheck wrote is taken back.
        """
        said = list(zip(rows, self._kind.recheck(rows, as_of=self._clock()), strict=True))
        go_on = [row for row, call in said if call is not None]
        at_rest = [row for row, call in said if call is None]
        ours = claims.renew(self._kind, go_on) + claims.release(self._kind, at_rest)
        if ours < len(rows):
            raise ClaimLost(f"{len(rows) - ours} of {len(rows)}")
        return {row.pk: call for row, call in said}

    # --- what has come back

    def _write_down(self, answers: Sequence[tuple[Row, Answer]]) -> None:
        if down := next((a for _, a in answers if isinstance(a, Unreachable)), None):
            answers = [*answers, *((row, down) for row in self._window.recall())]
        self._hear(answers)
        self._hand_back([row for row, answer in answers if isinstance(answer, NotBegun)])
        answers = [(row, answer) for row, answer in answers if not isinstance(answer, NotBegun)]
        gone_on: set[Any] = set()

        def write_down(some: Sequence[tuple[Row, Answer]]) -> None:
            gone_on.update(self._written(some))

        failed = {}
        for (row, _), error in bisect.failures(write_down, answers, what="answers"):
            failed[row.pk] = error
            self._fail(row, error)
        for row, _ in answers:
            if row.pk in gone_on:
                self._to_recheck.append(row)
            elif row.pk not in failed:
                self._rest(row)

    @transaction.atomic(durable=True)
    def _written(self, answers: Sequence[tuple[Row, Answer]]) -> set[Any]:
        """Write down what is ours to write; the keys of the rows that go on."""
        if not self._kind.always_applies:
            ours = claims.held(self._kind, [row for row, _ in answers])
            for row in (row for row, _ in answers if row.pk not in ours):
                self._note_lost(row)
            answers = [(row, answer) for row, answer in answers if row.pk in ours]
        gone_on = {row.pk for row in self._kind.write_down(answers, as_of=self._clock())}
        at_rest = [row for row, _ in answers if row.pk not in gone_on]
        released = claims.release(self._kind, at_rest)
        if released < len(at_rest):
            logger.warning(
                "%s: %s answers were written down after the claim was lost",
                self._kind.name,
                len(at_rest) - released,
            )
        return gone_on

    def _note_lost(self, row: Row) -> None:
        logger.warning("%s %s: the claim was lost, another worker has it", self._kind.name, row.pk)
        # No end of ours, so nobody is told of one.
        self._held.pop(row.pk, None)

    @transaction.atomic(durable=True)
    def _write_failure(self, row: Row, error: Exception) -> None:
        if claims.held(self._kind, [row]):
            self._kind.fail(row, error, as_of=self._clock())
            claims.release(self._kind, [row])
        else:
            self._note_lost(row)

    def _fail(self, row: Row, error: Exception) -> None:
        self._write_failure(row, error)
        self._rest(row)

    def _rest(self, row: Row) -> None:
        if self._held.pop(row.pk, None) is not None:
            self._on_rest(row)

    # --- lanes

    def _hear(self, answers: Sequence[tuple[Row, Answer]]) -> None:
        """Note how each provider was, as far as somebody spoke to it; what is amiss is told to its lane at once."""
        of_lane: dict[str, list[Answer]] = {}
        for row, answer in answers:
            of_lane.setdefault(self._kind.lane_of(row), []).append(answer)
            if not isinstance(answer, NotBegun | Unreachable):
                self._called.add(row.pk)
        for provider, theirs in of_lane.items():
            # One that is not there was asked once, however many waited for it.
            asked_once = [answer for answer in theirs if isinstance(answer, Unreachable)][:1]
            heard = [
                self._kind.heard(answer)
                for answer in theirs
                if not isinstance(answer, NotBegun | Unreachable)
            ] + [self._kind.heard(answer) for answer in asked_once]
            answered = sum(each.answered is True for each in heard)
            unanswered = sum(each.answered is False for each in heard)
            pauses = [h.slow_down_seconds for h in heard if h.slow_down_seconds is not None]
            if not unanswered and not pauses:
                self._answered[provider] += answered
                continue
            self._tell_lanes()
            lanes.note_answers(
                provider,
                answered=answered,
                unanswered=unanswered,
                throttled_for=max(pauses, default=None),
            )

    def _tell_lanes(self) -> None:
        for provider, answered in self._answered.items():
            lanes.note_answers(provider, answered=answered)
        self._answered.clear()

    def _report_to_lanes(self) -> None:
        """Tell the lanes of what was claimed together and is all at rest."""
        through = [c for c in self._open if not any(row.pk in self._held for row in c.rows)]
        if through:
            self._tell_lanes()
        for claimed in through:
            self._open.remove(claimed)
            if claimed.granted is not None:
                lanes.end_probe(claimed.granted)
                done = sum(self._kind.is_done(row) for row in claimed.rows)
                lanes.note_done(claimed.provider, done)
                called = sum(row.pk in self._called for row in claimed.rows)
                lanes.give_back(claimed.granted, unused=len(claimed.rows) - called)
            self._called -= {row.pk for row in claimed.rows}

    # --- before the end

    def _give_back_unsent(self) -> None:
        unsent = [*self._to_recheck, *self._window.recall()]
        self._to_recheck.clear()
        self._hand_back(unsent)
        self._report_to_lanes()

    def _hand_back(self, unsent: Sequence[Row]) -> None:
        if lost := len(unsent) - claims.hand_back(self._kind, unsent):
            logger.warning(
                "%s %ss were not sent: the claim was lost, another worker has them",
                lost,
                self._kind.name,
            )
        for row in unsent:
            self._held.pop(row.pk, None)

    def _let_go(self) -> None:
        """After trouble: nothing more is sent, and what is ours is free at once, where the database hears us."""
        unsent = [*self._to_recheck, *self._window.recall()]
        self._window.close()
        sent = [row for row in self._held.values() if row not in unsent]
        claims.let_go(self._kind, unsent=unsent, sent=sent)
        self._held.clear()
        with suppress(Error):
            self._report_to_lanes()
