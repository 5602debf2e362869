"""
Which steps a worker has in hand in one transaction, known even if it dies with them.

Its claim is rolled back with everything it did, and the next worker would take the same steps, and die. So
what it claims is noted beside its transaction, and the note is erased in it: one that is left over, while
nobody holds the steps, is of a worker that died.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta

from django.db import Error, connection, transaction
from django.db.models import F, Value
from django.db.models.functions import Least, Now

from billing.close.engine import claiming
from billing.models import ClaimMarker, Step

# A worker notes right after it claims; a marker that is younger may be of one that has just committed.
LOOKED_AT_AFTER = timedelta(seconds=10)


def note(step_ids: Sequence[int]) -> None:
    """Note, committed by itself, what the caller's transaction has claimed."""
    if len(connection.atomic_blocks) > 1:
        # Within somebody else's transaction nobody would erase it: a test's, or a rehearsal's.
        return
    beside = connection.copy()
    try:
        with beside.cursor() as cursor:
            cursor.execute(NOTE, [list(step_ids)])
    finally:
        beside.close()


NOTE = "INSERT INTO billing_claimmarker (step_ids) VALUES (%s::bigint[])"


def erase(step_ids: Sequence[int]) -> None:
    """Erase the note: in the transaction that does the work, or after it was rolled back."""
    ClaimMarker.objects.filter(step_ids=list(step_ids)).delete()


def erase_if_heard(step_ids: Sequence[int]) -> None:
    """
    Erase the note after trouble of the database, which is no step's fault.

    Where the database does not hear us the note stays: it may have died of the step as well.
    """
    connection.close_if_unusable_or_obsolete()
    with suppress(Error):
        erase(step_ids)


def count_deaths(mark_dead: Callable[[Sequence[Step]], None]) -> int:
    """
    Count a death for each step that a worker died with, and `mark_dead` those that are dead of it.

    Only one that was alone can be known to be at fault; of the others none is counted more than twice.
    Returns how many steps were counted.
    """
    old = ClaimMarker.objects.filter(noted_at__lt=Now() - LOOKED_AT_AFTER).order_by("pk")
    return sum(_count_deaths(marker, mark_dead) for marker in old)


@transaction.atomic(durable=True)
def _count_deaths(marker: ClaimMarker, mark_dead: Callable[[Sequence[Step]], None]) -> int:
    if not ClaimMarker.objects.select_for_update(skip_locked=True).filter(pk=marker.pk):
        # Erased since we looked: its worker has committed, or another sweeper has counted it.
        return 0
    open_steps = Step.objects.filter(pk__in=marker.step_ids, state__in=Step.CLAIMABLE)
    free = list(
        open_steps.select_for_update(skip_locked=True, of=("self",))
        .select_related("run")
        .order_by("pk")
    )
    if len(free) < open_steps.count():
        # Somebody holds them: its worker lives, or the next is at work.
        return 0
    marker.delete()
    most = claiming.DEATHS_MAX if len(marker.step_ids) == 1 else claiming.DEATHS_MAX - 1
    counted = Least(F("deaths") + 1, Value(most))
    Step.objects.filter(pk__in=[step.pk for step in free]).update(deaths=counted)
    for step in free:
        step.deaths = min(step.deaths + 1, most)
    mark_dead([step for step in free if step.deaths >= claiming.DEATHS_MAX])
    return len(free)
