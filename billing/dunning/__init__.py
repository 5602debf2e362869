"""
What happens to accounts that do not pay: cases of declined cards, and holds.

A declined automatic charge opens a case; `retries` works on it, and holds the account at its end. Accounts that
have no card to try again are held by the close, or by the sweep (billing/payments/unpaid.py). What comes before
any hold says billing/messages/outlook.py. All of it ends as soon as what is owed is paid.
"""

from billing.dunning.cases import (
    REFUSED_AT_THE_BANK,
    close_case,
    is_news,
    is_tried_at_once,
    note_failure,
    open_case,
    try_again_soon,
    try_another_card,
    try_later,
    wait_for_a_card,
)
from billing.dunning.holding import (
    NotHeld,
    is_forgiven,
    lift_hold_by_hand,
    lift_settled_holds,
    look_at_waiting_payments,
    place_hold,
    place_hold_by_hand,
)

__all__ = [
    "REFUSED_AT_THE_BANK",
    "NotHeld",
    "close_case",
    "is_forgiven",
    "is_news",
    "is_tried_at_once",
    "lift_hold_by_hand",
    "lift_settled_holds",
    "look_at_waiting_payments",
    "note_failure",
    "open_case",
    "place_hold",
    "place_hold_by_hand",
    "try_again_soon",
    "try_another_card",
    "try_later",
    "wait_for_a_card",
]
