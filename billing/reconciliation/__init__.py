"""
Compare a provider's book with ours, and book what we have lost.

    list      copy what the provider has made since an instant, newest first
    book      book the successes of attempts that we know
    find      write down again the attempts that our database has lost, from what the provider kept, and
              book them like any other
    cancel    cancel objects that nobody will ever submit
    compare   note the remaining differences as breaks: a person looks at them, or they resolve themselves
    payouts   compare what the provider paid out, line by line, with what we booked
    aftermath apply refunds and disputes as if their events had just arrived

Every part may stop anywhere, and continue in any process: what was done is not done twice. No
transaction is open while a provider is asked.
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
