"""
Leases of steps that touch the world: extended while their worker lives, and a fence when it does not.

All by the database's clock. A worker that stalls past its lease finds a different token.
"""

import uuid
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import timedelta

from django.conf import settings
from django.db import Error, connection
from django.db.models import F
from django.db.models.functions import Now

from billing.models import Step

State = Step.State


def renew(tokens: Collection[uuid.UUID]) -> set[int]:
    """Extend the leases with these tokens; returns the ids of the steps that are still held."""
    with connection.cursor() as cursor:
        cursor.execute(RENEW, {"tokens": list(tokens), "lease": settings.STEP_LEASE_SECONDS})
        return {pk for (pk,) in cursor.fetchall()}


# One that has run out is not extended, even where nobody has noticed: its worker has slept.
RENEW = """
UPDATE billing_step
   SET lease_until = now() + %(lease)s * interval '1 second'
 WHERE lease_token = ANY(%(tokens)s::uuid[]) AND state = 'RUNNING' AND lease_until > now()
RETURNING id
"""


def held(steps: Sequence[Step]) -> set[int]:
    """Lock those of the steps whose lease stands, in the caller's transaction; returns their ids."""
    tokens = {step.pk: step.lease_token for step in steps}
    rows = (
        Step.objects.select_for_update()
        .filter(pk__in=tokens, state=State.RUNNING)
        .order_by("pk")
        .values_list("pk", "lease_token")
    )
    return {pk for pk, token in rows if token == tokens[pk]}


def note_fenced(steps: Collection[int]) -> None:
    """Count, on each step, that what a worker wrote after its lease was refused."""
    Step.objects.filter(pk__in=steps).update(fenced=F("fenced") + 1)


def give_back(steps: Sequence[Step]) -> None:
    """End leases early and uncharged, if the database still hears us; else they run out."""
    connection.close_if_unusable_or_obsolete()
    with suppress(Error):
        Step.objects.filter(
            pk__in=[step.pk for step in steps],
            state=State.RUNNING,
            lease_token__in={step.lease_token for step in steps},
        ).update(
            state=State.UNKNOWN,
            run_at=Now(),
            lease_token=None,
            lease_until=None,
            attempts=F("attempts") - 1,
        )


def renew_every() -> timedelta:
    """Four times in a lease: three may fail before it runs out."""
    return timedelta(seconds=settings.STEP_LEASE_SECONDS / 4)
