"""Workers at once: threads with a database connection each, and a look at who waits for whom."""

import threading
import time
from collections.abc import Callable
from typing import Any

from django.db import connection

PATIENCE_SECONDS = 10


def at_once(*acts: Callable[[], Any]) -> list[Any]:
    """Run the acts in a thread each, started together. Returns what each returned, or raised."""
    together = threading.Barrier(len(acts))
    results: list[Any] = [None] * len(acts)

    def run(place: int, act: Callable[[], Any]) -> None:
        try:
            together.wait(PATIENCE_SECONDS)
            results[place] = act()
        except BaseException as raised:  # noqa: BLE001 - handed to the test
            results[place] = raised
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS * 2)
        assert not thread.is_alive(), "two workers wait for each other, or for nothing"
    return results


class Aside:
    """One act in a thread of its own, while the test goes on."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.result: Any = None
        self._thread = threading.Thread(target=self._run, args=(act,))
        self._thread.start()

    def _run(self, act: Callable[[], Any]) -> None:
        try:
            self.result = act()
        except BaseException as raised:  # noqa: BLE001 - handed to the test
            self.result = raised
        finally:
            connection.close()

    @property
    def is_at_work(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> Any:
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive(), "it never came back"
        return self.result


# pg_locks and not pg_stat_activity: that one shows a transaction the same picture for ever.
WAITING_FOR_US = """
SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))
"""
WAITING = """
SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
 WHERE NOT granted AND datname = current_database()
"""


def wait_until_somebody_waits(*, for_us: bool = True) -> None:
    """Return once another connection waits for a lock of ours, or of anybody's."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    with connection.cursor() as cursor:
        while time.monotonic() < deadline:
            cursor.execute(WAITING_FOR_US if for_us else WAITING)
            if cursor.fetchone()[0]:
                return
            time.sleep(0.005)
    raise AssertionError("nobody waits")
