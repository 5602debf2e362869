"""
The one clock that decides anything: the database's.

Hosts differ, by an hour where somebody set one wrong. A worker an hour ahead would take leases that others
hold, try declined cards again before their day, and close a month in which usage still comes in. So tasks,
views, the admin and commands read this clock, and hand the instant down as `as_of`.
"""

from datetime import datetime

from django.db import connection


def now() -> datetime:
    """This instant by the database's clock, which goes on while a transaction is open."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        at: datetime = cursor.fetchone()[0]
    return at
