"""
The books, checked against themselves and against the providers' own.

Every promise is one file of SQL under `sql/`; each is a view that lists what breaks it, so an empty
view is a promise kept. `check` looks at all of them in one snapshot; docs/books.md lists them.
"""

from billing.books.checking import BookUnreadable, Finding, ViewsMissing, check
from billing.books.promises import Promise, UnknownPromise, promises

__all__ = [
    "BookUnreadable",
    "Finding",
    "Promise",
    "UnknownPromise",
    "ViewsMissing",
    "check",
    "promises",
]
