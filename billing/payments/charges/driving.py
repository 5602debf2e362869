"""
The phases of a charge: each attempt goes through those that are before it, many attempts at once.

Calls go out in a sliding window. What has come back meanwhile is written down together, and the places
that are free then are filled again: first with what is nearest its end. So a provider that answers slowly
holds up no more than the calls that wait for it, and the database has one thread and few transactions.
"""

import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Self

from billing import charge_protocol, gateways
from billing.charge_protocol import State
from billing.gateways import Observation
from billing.models import PaymentAttempt
from billing.payments import throttle
from billing.payments.charges import (
    calls,
    drivers,
    preparing,
    rechecking,
    settling,
    time_limits,
    writing,
)
from billing.payments.charges.calls import Answer, Call, TooLate
from notifications import bisect

logger = logging.getLogger(__name__)


class Phases:
    """
    Attempts on their way through the phases. `turn` takes them a little further.

    Each is driven for no longer than the sweeper leaves it alone: what could be sent only after that
    stays where it is, for whoever drives it on.
    """

    def __init__(self, *, clock: Callable[[], datetime]) -> None:
        self.clock = clock
        self._window = calls.Window()
        self._to_send: dict[Call, deque[PaymentAttempt]] = {call: deque() for call in Call}
        self._to_recheck: deque[PaymentAttempt] = deque()
        # By account and call that is out: which call it is.
        self._out: dict[PaymentAttempt, Call] = {}
        self._fresh: set[PaymentAttempt] = set()
        self._send_before: dict[PaymentAttempt, float] = {}
        self._at_rest: list[PaymentAttempt] = []
        self._is_stopping = False
        # Of attempts at rest: why they could not be taken on, where that is a fault of ours.
        self.errors: dict[PaymentAttempt, Exception] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait for the calls that are out, and begin no others."""
        self._window.close()

    @property
    def room(self) -> int:
        """How many more attempts it would take on now: one waits for the database while another is at the provider."""
        return max(0, self._window.size * 2 - len(self))

    def __len__(self) -> int:
        """How many attempts are on their way."""
        return len(self._send_before) + len(self._at_rest)

    def enter(self, attempts: Iterable[PaymentAttempt], *, fresh: bool) -> None:
        """
        Take attempts on from where they stand. Their account and card must be loaded.

        `fresh`: nobody has driven them before, so there is nothing to ask the provider first.
        """
        for attempt in attempts:
            self._send_before[attempt] = monotonic() + time_limits.SEND_WITHIN.total_seconds()
            if fresh:
                self._fresh.add(attempt)
            if attempt.state in charge_protocol.ASKED_FIRST:
                self._to_send[Call.ASK].append(attempt)
            elif attempt.state in charge_protocol.TO_PREPARE:
                self._to_send[Call.PREPARE].append(attempt)
            elif attempt.state in charge_protocol.RECHECKED:
                self._to_recheck.append(attempt)
            else:
                self._cancel_or_rest(attempt)

    def stop(self) -> None:
        """From now on nothing is sent: what is out comes back, the rest is left to the next driver at once."""
        self._is_stopping = True

    def leave(self, attempt_ids: Iterable[uuid.UUID]) -> None:
        """Send nothing more of these: somebody else may be at work on them."""
        gone = set(attempt_ids)
        for attempt in self._send_before:
            if attempt.pk in gone:
                self._send_before[attempt] = 0

    def turn(self) -> list[PaymentAttempt]:
        """
        Send what there is room for, wait for answers, and write them down.

        Returns, as they are now, the attempts that have come as far as they will; empty once all have.
        """
        if self._is_stopping:
            self._hand_over()
        else:
            self._recheck()
            self._send()
        answers = self._window.answers()
        if not self._is_stopping:
            # What waits to be prepared has the places that are free while the database works.
            self._send()
        self._write_down(answers)
        at_rest, self._at_rest = self._at_rest, []
        return at_rest

    # --- what goes out

    def _recheck(self) -> None:
        """However often it is sent: never without looking, just before, whether it is still due."""
        room = self._window.room - len(self._to_send[Call.CANCEL])
        taken = _taken_from(self._to_recheck, room)
        batch = [attempt for attempt in taken if monotonic() <= self._send_before[attempt]]
        looked_at: list[PaymentAttempt] = []

        def recheck(attempts: Sequence[PaymentAttempt]) -> None:
            looked_at.extend(rechecking.recheck(attempts, as_of=self.clock()))

        failed = dict(bisect.failures(recheck, batch, what="attempts"))
        self._fail(failed)
        for attempt in looked_at:
            if attempt.state in charge_protocol.TO_SUBMIT:
                self._to_send[Call.SUBMIT].append(attempt)
            else:
                self._cancel_or_rest(attempt)
        for attempt in (each for each in taken if each not in {*looked_at, *failed}):
            # Its gateway has closed meanwhile, or it is too late to send it: it waits as it is.
            self._rest(attempt)

    def _send(self) -> None:
        for call, waiting in self._to_send.items():
            for attempt in _taken_from(waiting, self._window.room):
                self._out[attempt] = call
                self._window.begin(
                    attempt,
                    partial(calls.make, call, is_fresh=attempt in self._fresh),
                    before=self._send_before[attempt],
                )

    # --- what has come back

    def _write_down(self, answers: Mapping[PaymentAttempt, Answer]) -> None:
        throttle.note((attempt.gateway, answer) for attempt, answer in answers.items())
        prepared, settled, gone = {}, {}, []
        for attempt, answer in answers.items():
            if isinstance(answer, TooLate):
                # As it is, for whoever drives it now.
                del self._out[attempt]
                self._rest(attempt)
            elif isinstance(answer, gateways.MethodGone) and self._out[attempt] is Call.PREPARE:
                gone.append(attempt)
            elif isinstance(answer, Exception):
                self._note_unknown(attempt, answer)
            elif self._out[attempt] is Call.PREPARE:
                prepared[attempt] = answer
            else:
                settled[attempt] = answer
        self._store(prepared)
        self._settle(settled)
        self._end_without_card(gone)

    def _store(self, prepared: Mapping[PaymentAttempt, Observation]) -> None:
        def store(attempts: Sequence[PaymentAttempt]) -> None:
            preparing.store({attempt: prepared[attempt] for attempt in attempts})

        failed = dict(bisect.failures(store, list(prepared), what="attempts"))
        self._fail(failed)
        for attempt in (each for each in prepared if each not in failed):
            del self._out[attempt]
            if attempt.state == State.PREPARED:
                self._to_recheck.append(attempt)
            else:
                self._cancel_or_rest(attempt)

    def _settle(self, said: Mapping[PaymentAttempt, Observation]) -> None:
        """All in one transaction; or each in its own, so that one that fails stops no other's money."""

        def settle(attempts: Sequence[PaymentAttempt]) -> None:
            now = settling.apply_provider_state(
                {a.pk: said[a] for a in attempts}, as_of=self.clock()
            )
            for attempt in attempts:
                writing.refresh(attempt, now[attempt.pk])

        failed = dict(bisect.failures(settle, list(said), what="attempts"))
        for attempt, error in failed.items():
            logger.error("what the provider says cannot be written down", exc_info=error)
            self._note_unknown(attempt, error)
        for attempt in (each for each in said if each not in failed):
            if nothing := calls.nothing_changed(self._out[attempt], attempt, said[attempt]):
                self._note_unknown(attempt, nothing)
                continue
            call = self._out.pop(attempt)
            if call is Call.ASK and attempt.state in charge_protocol.RECHECKED:
                self._to_recheck.append(attempt)
            elif call is Call.CANCEL:
                self._rest(attempt)
            else:
                self._cancel_or_rest(attempt)

    def _end_without_card(self, gone: Sequence[PaymentAttempt]) -> None:
        def end(attempts: Sequence[PaymentAttempt]) -> None:
            now = settling.card_is_gone([a.pk for a in attempts], as_of=self.clock())
            for attempt in attempts:
                writing.refresh(attempt, now[attempt.pk])

        failed = dict(bisect.failures(end, gone, what="attempts"))
        self._fail(failed)
        for attempt in (each for each in gone if each not in failed):
            del self._out[attempt]
            self._rest(attempt)

    def _note_unknown(self, attempt: PaymentAttempt, error: Exception) -> None:
        self._out.pop(attempt)
        calls.note_unknown(attempt, error, as_of=self.clock())
        writing.refresh(attempt, PaymentAttempt.objects.get(pk=attempt.pk))
        self._rest(attempt)

    # --- what goes no further

    def _cancel_or_rest(self, attempt: PaymentAttempt) -> None:
        if attempt.state in charge_protocol.TO_CANCEL:
            self._to_send[Call.CANCEL].append(attempt)
        else:
            self._rest(attempt)

    def _fail(self, failed: Mapping[PaymentAttempt, Exception]) -> None:
        for attempt, error in failed.items():
            self._out.pop(attempt, None)
            self.errors[attempt] = error
            self._rest(attempt)

    def _hand_over(self) -> None:
        """Hand back what waits to be sent, so that the next driver need not wait for the sweeper's time."""
        waiting = [*self._to_recheck, *(a for queue in self._to_send.values() for a in queue)]
        drivers.hand_back(waiting, as_of=self.clock())
        for queue in (self._to_recheck, *self._to_send.values()):
            queue.clear()
        for attempt in waiting:
            self._rest(attempt)

    def _rest(self, attempt: PaymentAttempt) -> None:
        del self._send_before[attempt]
        self._fresh.discard(attempt)
        self._at_rest.append(attempt)


def _taken_from(waiting: deque[PaymentAttempt], at_most: int) -> list[PaymentAttempt]:
    return [waiting.popleft() for _ in range(min(len(waiting), max(0, at_most)))]
