"""
Takes django-q2's pages out of the admin.

Its schedule form runs any importable function, and its "resubmit" runs an old task again for whoever
may look at it. Our own pages show the steps instead.
"""

import contextlib

from django.contrib import admin
from django.contrib.admin.exceptions import NotRegistered


def unregister() -> None:
    """
    Unregister every model of django_q.

    Imports django_q.admin first: it registers on import and is imported only once, so whenever the
    admin discovers it later, nothing comes back.
    """
    from django_q import admin as _registers_on_import  # noqa: F401
    from django_q.models import Failure, OrmQ, Schedule, Success

    for model in (Failure, OrmQ, Schedule, Success):
        with contextlib.suppress(NotRegistered):
            admin.site.unregister(model)
