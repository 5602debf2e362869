"""
What customers are told about their money, and whether it is still true just before it is sent.

There is one module for each kind: its letter, and beside it the recheck, which runs just before
the message is sent. `letters` and `rechecks` have what they share.

Each function writes a message in the caller's transaction, under the account's lock. It returns the
message, or None if the customer was told of this fact before. Every message states the balance, and
the instant at which it was true.

An account without an email address stops no money: the message that could not be written is noted on
the account's timeline. Only `invoices_issued` raises, because its step does nothing else.
"""

from billing.messages.access import (
    EMAIL_CHANGE,
    EMAIL_CHANGED,
    INVITATION,
    PASSWORD_RESET,
    email_change,
    email_changed,
    invitation,
    password_reset,
    recheck_invitations,
    recheck_persons,
)
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
from billing.messages.hold_lifted import HOLD_LIFTED, hold_lifted, recheck_hold_lifted
from billing.messages.hold_placed import HOLD_PLACED, hold_placed, recheck_hold_placed
from billing.messages.invoice_issued import INVOICE, Bill, invoices_issued, recheck_invoices
from billing.messages.payment_failed import PAYMENT_FAILED, payment_failed, recheck_payment_failed
from billing.messages.payment_reversed import (
    PAYMENT_REVERSED,
    payment_reversed,
    recheck_payment_reversed,
)
from billing.messages.receipt import RECEIPT, Receipt, payments_received
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
    "email_change",
    "email_changed",
    "hold_lifted",
    "hold_placed",
    "invitation",
    "invoices_issued",
    "password_reset",
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
    catalog.register(PAYMENT_FAILED, recheck=recheck_payment_failed)
    catalog.register(CONFIRMATION_NEEDED, recheck=recheck_confirmation_needed)
    catalog.register(CHARGE_ANNOUNCED, recheck=recheck_charge_announced)
    catalog.register(PAYMENT_REVERSED, recheck=recheck_payment_reversed)
    catalog.register(REFUND_SENT)
    catalog.register(REFUND_RETURNED, recheck=recheck_refund_returned)
    catalog.register(HOLD_PLACED, recheck=recheck_hold_placed)
    catalog.register(HOLD_LIFTED, recheck=recheck_hold_lifted)
    catalog.register(INVITATION, recheck=recheck_invitations)
    catalog.register(PASSWORD_RESET, recheck=recheck_persons)
    catalog.register(EMAIL_CHANGE, recheck=recheck_persons)
    catalog.register(EMAIL_CHANGED)
    catalog.keep_personal(INVITATION, PASSWORD_RESET, EMAIL_CHANGE, EMAIL_CHANGED)
