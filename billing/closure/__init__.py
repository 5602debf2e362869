"""
Close an account, and open it again.

Closing issues the invoice for what is used and not invoiced, and does with debt and credit what the act says. After
it no close takes the account and nothing is charged by itself. Usage that comes later is listed, not lost: a person
invoices it, or opens the account again.

    previewing.py  what closing would invoice, and leave due or as credit: the act itself, rolled back
    closing.py     the act        reopening.py  the way back        charging.py  the one charge that was decided
"""

from billing.closure.charging import charge_due
from billing.closure.closing import (
    AlreadyClosed,
    CannotClose,
    ChangedMeanwhile,
    PaymentOnItsWay,
    Wanted,
    close_account,
    invoice_later_usage,
)
from billing.closure.previewing import Preview, preview
from billing.closure.reopening import NotClosed, reopen_account

__all__ = [
    "AlreadyClosed",
    "CannotClose",
    "ChangedMeanwhile",
    "NotClosed",
    "PaymentOnItsWay",
    "Preview",
    "Wanted",
    "charge_due",
    "close_account",
    "invoice_later_usage",
    "preview",
    "reopen_account",
]
