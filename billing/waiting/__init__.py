"""
What waits, and since when: every state that waits has an age at which somebody is told.

`states.py` is the one table: what waits, where it stands, and after how long it is too long. From it come the queue
"Needs a person" in the admin, a metric, and a promise of check_books for each of its rows. Limits are data: a row of
WaitingLimit says another one than the table.
"""

from billing.waiting.queue import (
    SHOWN_AT_MOST,
    UnknownWait,
    Waiting,
    counted,
    needing_a_person,
    take,
)
from billing.waiting.states import LIMITS, WAITS, Wait, overdue_sql

__all__ = [
    "LIMITS",
    "SHOWN_AT_MOST",
    "WAITS",
    "UnknownWait",
    "Wait",
    "Waiting",
    "counted",
    "needing_a_person",
    "overdue_sql",
    "take",
]
