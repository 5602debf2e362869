"""
What happens to accounts that do not pay: cases of declined cards, and holds.

A declined automatic charge opens a case; `retries` works on it, and holds the account at its end. The
close holds accounts that have no card to try again. Both end as soon as what is owed is paid.
"""

from billing.dunning.cases import (
    close_case,
    is_news,
    note_failure,
    open_case,
    try_again_soon,
    try_later,
    wait_for_a_card,
)
from billing.dunning.holding import (
    NotHeld,
    lift_hold_by_hand,
    lift_settled_holds,
    look_at_waiting_payments,
    place_hold,
    place_hold_by_hand,
)

__all__ = [
    "NotHeld",
    "close_case",
    "is_news",
    "lift_hold_by_hand",
    "lift_settled_holds",
    "look_at_waiting_payments",
    "note_failure",
    "open_case",
    "place_hold",
    "place_hold_by_hand",
    "try_again_soon",
    "try_later",
    "wait_for_a_card",
]
