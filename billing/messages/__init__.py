"""
What customers are told about their money, and whether it is still true just before it is sent.

There is one module for each kind: its letter, and beside it the recheck, which runs just before
the message is sent. `letters` and `rechecks` have what they share, `prospects` how a debt is paid next.

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
from billing.messages.card_gone import CARD_GONE, card_gone, recheck_card_gone
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
from billing.messages.hold_warning import hold_warning, recheck_hold_warning
from billing.messages.invoice_issued import INVOICE, Bill, invoices_issued, recheck_invoices
from billing.messages.outlook import HOLD_WARNING, Outlook, last_days_to_pay, outlooks
from billing.messages.payment_failed import PAYMENT_FAILED, payment_failed, recheck_payment_failed
from billing.messages.payment_reminder import (
    PAYMENT_REMINDER,
    payment_reminder,
    recheck_payment_reminder,
)
from billing.messages.payment_reversed import (
    PAYMENT_REVERSED,
    payment_reversed,
    recheck_payment_reversed,
)
from billing.messages.receipt import RECEIPT, Receipt, payments_received, recheck_receipts
from billing.messages.refund import (
    REFUND_RETURNED,
    REFUND_SENT,
    recheck_refund_returned,
    recheck_refund_sent,
    refund_returned,
    refund_sent,
)
from notifications import catalog

__all__ = [
    "INVOICE",
    "Bill",
    "Outlook",
    "Receipt",
    "card_gone",
    "charge_announced",
    "confirmation_needed",
    "decline_in_words",
    "email_change",
    "email_changed",
    "hold_lifted",
    "hold_placed",
    "hold_warning",
    "invitation",
    "invoices_issued",
    "last_days_to_pay",
    "outlooks",
    "password_reset",
    "payment_failed",
    "payment_reminder",
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
    catalog.register(RECEIPT, recheck=recheck_receipts)
    catalog.register(PAYMENT_FAILED, recheck=recheck_payment_failed)
    catalog.register(CONFIRMATION_NEEDED, recheck=recheck_confirmation_needed)
    catalog.register(CARD_GONE, recheck=recheck_card_gone)
    catalog.register(CHARGE_ANNOUNCED, recheck=recheck_charge_announced)
    catalog.register(PAYMENT_REVERSED, recheck=recheck_payment_reversed)
    catalog.register(REFUND_SENT, recheck=recheck_refund_sent)
    catalog.register(REFUND_RETURNED, recheck=recheck_refund_returned)
    catalog.register(PAYMENT_REMINDER, recheck=recheck_payment_reminder)
    catalog.register(HOLD_WARNING, recheck=recheck_hold_warning)
    catalog.register(HOLD_PLACED, recheck=recheck_hold_placed)
    catalog.register(HOLD_LIFTED, recheck=recheck_hold_lifted)
    catalog.register(INVITATION, recheck=recheck_invitations)
    catalog.register(PASSWORD_RESET, recheck=recheck_persons)
    catalog.register(EMAIL_CHANGE, recheck=recheck_persons)
    catalog.register(EMAIL_CHANGED)
    catalog.keep_personal(INVITATION, PASSWORD_RESET, EMAIL_CHANGE, EMAIL_CHANGED)
