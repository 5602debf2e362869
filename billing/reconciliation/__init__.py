"""
Hold a provider's book against ours, and book what we have lost.

    list      what the provider has made since a moment, newest first, beside our rows
    book      successes of attempts we know, whatever came in between
    find      attempts that our database has lost: written down anew from what the provider kept, then
              booked like any other
    cancel    objects that nobody will ever submit
    compare   what is left are breaks: rows that a person looks at, or that resolve themselves
    payouts   what the provider paid out, line by line, against what we booked
    aftermath refunds and disputes, applied as if their events had just come

Every part may stop anywhere, in any process, and be done again: what was done is no longer to do.
Nothing is open while a provider is asked.
"""

from billing.reconciliation.breaks import AlreadyEnded, accept, take_over
from billing.reconciliation.working import (
    BeingWorkedOn,
    reopen_paused,
    start,
    start_due,
    waiting,
    work,
    work_all,
)

__all__ = [
    "AlreadyEnded",
    "BeingWorkedOn",
    "accept",
    "reopen_paused",
    "start",
    "start_due",
    "take_over",
    "waiting",
    "work",
    "work_all",
]
