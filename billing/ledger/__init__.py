"""
The ledger: what happened to whose money, and what each account owes.

Double entry, append-only: an entry's postings sum to zero, a correction is another entry.
docs/accounting.md teaches it. `events` says what each business event books, `posting` is the only
writer, `standing` reads what an account owes, `settlement` spreads money over invoices.
"""

from billing.ledger.events import (
    Event,
    Kind,
    Leg,
    credit_applied,
    credit_expired,
    credit_granted,
    dispute_opened,
    dispute_won,
    invoice_issued,
    payment_received,
    payment_reversed,
    refund_reserved,
    refund_returned,
    refund_sent,
    refund_taken_of_credit,
    refund_undone,
)
from billing.ledger.open_invoices import OpenInvoice, open_invoices
from billing.ledger.posting import post
from billing.ledger.settlement import written_off
from billing.ledger.standing import (
    Standing,
    balance,
    overdue_invoices,
    past_due_invoices,
    standing,
    standings,
)

__all__ = [
    "Event",
    "Kind",
    "Leg",
    "OpenInvoice",
    "Standing",
    "balance",
    "credit_applied",
    "credit_expired",
    "credit_granted",
    "dispute_opened",
    "dispute_won",
    "invoice_issued",
    "open_invoices",
    "overdue_invoices",
    "past_due_invoices",
    "payment_received",
    "payment_reversed",
    "post",
    "refund_reserved",
    "refund_returned",
    "refund_sent",
    "refund_taken_of_credit",
    "refund_undone",
    "standing",
    "standings",
    "written_off",
]
