"""Whose fault an error is: the database's own trouble is not that of what somebody did with it."""

from django.db import DatabaseError, InterfaceError, OperationalError

# The database itself is in trouble: let the worker die and be restarted.
THE_DATABASES = (OperationalError, InterfaceError)


def is_the_databases_fault(error: BaseException) -> bool:
    """
    Whether an error tells of the database's trouble, and not of what somebody did with it.

    A bare DatabaseError is one without an SQLSTATE: a server that was killed in the middle of a
    statement has no time to send one.
    """
    return isinstance(error, THE_DATABASES) or type(error) is DatabaseError
