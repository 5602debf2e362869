"""
What customers are told about their money, and whether it is still true just before it is sent.

One module a kind: its letter, and beside it the recheck. What they share is in `letters` and `rechecks`.

Leaves: each writes a message in the caller's transaction, under the account's lock, and returns
it, or None if the fact is told already. Each states the balance, and the instant it was true at.

An account without an email address stops no money: what nobody could be told of stands on its
timeline. Only `invoices_issued` raises, because sending it is all its step does.
"""

from billing.messages.charge_announced import (
    CHARGE_ANNOUNCED,
    charge_announced,
    recheck_charge_announced,
)
from billing.messages.confirmation_needed import (
    CONFIRMATION_NEEDED,
    confirmation_needed,
    recheck_confirmation_needed,
    was_asked_to_confirm,
)
from billing.messages.decline_words import decline_in_words
from billing.messages.hold import (
    HOLD_LIFTED,
    HOLD_PLACED,
    hold_lifted,
    hold_placed,
    recheck_hold_lifted,
    recheck_hold_placed,
)
from billing.messages.invoice import INVOICE, Bill, invoices_issued, recheck_invoices
from billing.messages.payment_failed import PAYMENT_FAILED, payment_failed, recheck_payment_failed
from billing.messages.payment_reversed import (
    PAYMENT_REVERSED,
    payment_reversed,
    recheck_payment_reversed,
)
from billing.messages.receipt import RECEIPT, Receipt, payments_received
from billing.messages.rechecks import one_by_one
from billing.messages.refund import (
    REFUND_RETURNED,
    REFUND_SENT,
    recheck_refund_returned,
    refund_returned,
    refund_sent,
)
from notifications import catalog

__all__ = [
    "INVOICE",
    "Bill",
    "Receipt",
    "charge_announced",
    "confirmation_needed",
    "decline_in_words",
    "hold_lifted",
    "hold_placed",
    "invoices_issued",
    "payment_failed",
    "payment_reversed",
    "payments_received",
    "refund_returned",
    "refund_sent",
    "register",
    "was_asked_to_confirm",
]


def register() -> None:
    """Make our kinds known to the outbox, each with its recheck."""
    catalog.register(INVOICE, recheck=recheck_invoices)
    catalog.register(RECEIPT)
    catalog.register(PAYMENT_FAILED, recheck=one_by_one(recheck_payment_failed))
    catalog.register(CONFIRMATION_NEEDED, recheck=one_by_one(recheck_confirmation_needed))
    catalog.register(CHARGE_ANNOUNCED, recheck=one_by_one(recheck_charge_announced))
    catalog.register(PAYMENT_REVERSED, recheck=one_by_one(recheck_payment_reversed))
    catalog.register(REFUND_SENT)
    catalog.register(REFUND_RETURNED, recheck=one_by_one(recheck_refund_returned))
    catalog.register(HOLD_PLACED, recheck=one_by_one(recheck_hold_placed))
    catalog.register(HOLD_LIFTED, recheck=one_by_one(recheck_hold_lifted))
