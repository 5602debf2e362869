"""
Pay money back exactly once: reserve → look → send → settle.

    reserve   transaction: lock the account, what is left of the payment, write the refund down and book it
    look      no transaction: the provider's own list of this payment's refunds; what we lack is booked
    send      transaction: is it still right to send, and may it be? then, with nothing open, the request
    settle    transaction: what the provider says becomes ledger, mail, timeline

Unlike a charge a refund has no fence at the provider: the request itself moves money. So it is sent again
only under its own key, as long as the provider surely remembers that, and after that a person looks. What
the crash of each phase leaves, and the tests for it: docs/payments.md. A phase is a module:

    requesting.py  the act        driving.py   look and send                  reviewing.py  a person looks
    reserving.py   reserve        settling.py  settle                         noting.py     decision, timeline
    time_limits.py     how long       learning.py  what the provider tells of, whoever made it
"""

from billing.payments.refunds.driving import drive_due
from billing.payments.refunds.learning import learn, payment_is_coming
from billing.payments.refunds.requesting import refund, reserve_for_later
from billing.payments.refunds.reserving import (
    AlreadyRequested,
    CannotRefund,
    RefundInFlight,
    RefundsStopped,
    RefundTooFine,
    RefundTooMuch,
    is_by_hand,
    refundable_minor,
)
from billing.payments.refunds.reviewing import NotInReview, resolve_review
from billing.payments.refunds.settling import apply_provider_state

__all__ = [
    "AlreadyRequested",
    "CannotRefund",
    "NotInReview",
    "RefundInFlight",
    "RefundTooFine",
    "RefundTooMuch",
    "RefundsStopped",
    "apply_provider_state",
    "drive_due",
    "is_by_hand",
    "learn",
    "payment_is_coming",
    "refund",
    "refundable_minor",
    "reserve_for_later",
    "resolve_review",
]
