"""The clock of lanes is the database's: one for all hosts, however theirs go."""

from datetime import datetime

from django.db import connection


def now() -> datetime:
    """This instant by the database's clock, which goes on while a transaction is open."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        at: datetime = cursor.fetchone()[0]
    return at
