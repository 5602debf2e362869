"""
Calls that are out: each in a thread that only waits. The database is left to the one thread that holds the window.
"""

import threading
from collections import deque
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, NamedTuple

from notifications.dispatcher.kind import Answer, Kind, NotBegun, Row

# Where no answer comes, how long until whoever waits looks up: whether its claims stand, or it shall stop.
LOOK_UP_SECONDS = 1.0
# After the first answer, how long to wait for others that are written down with it. A kill repeats as much.
GATHER_SECONDS = 0.1


class Call(NamedTuple):
    """One that waits for its turn."""

    row: Row
    what: Any
    # time.monotonic(): later it is not begun.
    before: float


class Window:
    """Calls of one kind, as many at once as it has threads for; refilled as answers come."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._waiting: SimpleQueue[Call | None] = SimpleQueue()
        self._back: deque[tuple[Row, Answer]] = deque()
        self._threads: list[threading.Thread] = []
        # Begun, and not yet taken by `answers`.
        self._out = 0
        self._first, self._enough = threading.Event(), threading.Event()
        self._left: set[Any] = set()

    def __len__(self) -> int:
        """How many are out, or wait for their turn."""
        return self._out

    @property
    def waiting(self) -> int:
        """How many wait for their turn, about."""
        return self._waiting.qsize()

    def begin(self, row: Row, what: Any, *, before: float) -> None:
        """Have a row's call made, unless `before` is over by its turn (time.monotonic())."""
        self._out += 1
        self._waiting.put(Call(row, what, before))

    def answers(self) -> list[tuple[Row, Answer]]:
        """
        What has come back: waits for the first answer, and a moment for others to be written down with it.

        Empty where no call is out, or none of them is answered for a second.
        """
        if not self._out:
            return []
        threads = self._kind.threads()
        if not threads:
            self._make_one()
        else:
            self._widen(threads)
            if self._first.wait(LOOK_UP_SECONDS):
                self._enough.wait(GATHER_SECONDS)
        self._first.clear()
        self._enough.clear()
        return self._taken()

    def recall(self) -> list[Row]:
        """Take back the rows whose call is not begun."""
        back: list[Row] = []
        try:
            while True:
                if (call := self._waiting.get_nowait()) is not None:
                    back.append(call.row)
        except Empty:
            self._out -= len(back)
            return back

    def leave(self, keys: set[Any]) -> None:
        """Begin no call of these rows: they are somebody else's."""
        self._left |= keys

    def close(self) -> list[tuple[Row, Answer]]:
        """Begin nothing more, and wait for the calls that are out; returns what came of them."""
        self.recall()
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        return self._taken()

    def _taken(self) -> list[tuple[Row, Answer]]:
        taken = [self._back.popleft() for _ in range(len(self._back))]
        self._out -= len(taken)
        for _row, answer in taken:
            if isinstance(answer, BaseException) and not isinstance(answer, Exception):
                # The process is told to end, which is no answer.
                raise answer
        return taken

    def _widen(self, threads: int) -> None:
        for _ in range(len(self._threads), min(threads, self._out)):
            thread = threading.Thread(target=self._work, name=f"{self._kind.name}-call")
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while (call := self._waiting.get()) is not None:
            try:
                answer = self._answer(call)
            except BaseException as error:  # noqa: BLE001 - a thread that ends would leave its row out for ever
                answer = error
            self._back.append((call.row, answer))
            self._first.set()
            if len(self._back) >= min(self._out, self._kind.batch):
                self._enough.set()

    def _make_one(self) -> None:
        call = self._waiting.get()
        assert call is not None, "only threads are told to end"
        self._back.append((call.row, self._answer(call)))

    def _answer(self, call: Call) -> Answer:
        # Here, and not when it was queued: a process may sleep anywhere.
        if monotonic() > call.before or call.row.pk in self._left:
            return NotBegun()
        try:
            return self._kind.call(call.row, call.what)
        except Exception as error:  # noqa: BLE001 - whatever a call raises is its answer
            return error
