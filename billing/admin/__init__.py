"""
The admin for support and finance. Money is looked at here, and moved only by the acts' own pages.

Django imports this package; importing its modules registers them.
"""

from billing.admin import (
    account,
    books,
    catalog,
    close,
    dunning,
    lanes,
    payments,
    reconciliation,
    timeline,
    transfers,
    unpaid,
    usage,
    waiting,
)

__all__ = [
    "account",
    "books",
    "catalog",
    "close",
    "dunning",
    "lanes",
    "payments",
    "reconciliation",
    "timeline",
    "transfers",
    "unpaid",
    "usage",
    "waiting",
]
