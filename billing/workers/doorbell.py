"""
The doorbell: wakes a worker of a lane, and carries nothing.

What there is to do stands in our own rows. A doorbell that is lost costs at most a minute, until the
sweeper rings again; one too many costs a look at an empty lane.
"""

from datetime import datetime, timedelta

from django.db import transaction
from django.db.models.functions import Now
from django_q.brokers import get_broker
from django_q.models import OrmQ
from django_q.tasks import async_task

# What a worker can drain. Lanes part slow providers from one another: cards down must not stop mail.
LANES = ("default", "charge", "email")

DRAIN = "billing.tasks.drain"


class UnknownLane(ValueError):
    """No cluster would ever answer a doorbell of this lane."""

    def __init__(self, lane: str) -> None:
        super().__init__(f"Unknown lane {lane!r}. The lanes are: {', '.join(LANES)}.")


def ring(lane: str, *, times: int = 1) -> None:
    """
    Leave at least `times` doorbells of `lane` waiting when the caller's transaction commits.

    Part of that transaction: a rollback takes the doorbell back too. Raises `UnknownLane`.
    """
    if lane not in LANES:
        raise UnknownLane(lane)
    with transaction.atomic(savepoint=False):
        for _ in range(times - _keep_waiting(lane, at_most=times)):
            async_task(DRAIN, lane, broker=get_broker(lane))


def ring_at(lane: str, at: datetime) -> None:
    """
    Leave a doorbell of `lane` that nobody hears before `at`; several within a second are one.

    Raises `UnknownLane`.
    """
    if lane not in LANES:
        raise UnknownLane(lane)
    planned = OrmQ.objects.filter(key=lane, lock__gte=at, lock__lt=at + timedelta(seconds=1))
    if not planned.exists():
        async_task(DRAIN, lane, broker=_Later(lane, at))


class _Later:
    """What async_task asks of a broker; a queue row's `lock` is the moment from which it is heard."""

    def __init__(self, lane: str, at: datetime) -> None:
        self.list_key = lane
        self._at = at

    def enqueue(self, package: str) -> int:
        row = OrmQ.objects.create(key=self.list_key, payload=package, lock=self._at)
        return int(row.pk)


def _keep_waiting(lane: str, *, at_most: int) -> int:
    """
    Hold back doorbells nobody has answered yet until we commit, and say how many.

    The lock is what makes it right to lean on them: a worker that answered one before our commit
    would not see our rows, go home, and leave them to the sweeper.
    """
    waiting = OrmQ.objects.filter(key=lane, lock__lte=Now()).order_by("lock")
    held = waiting.select_for_update(skip_locked=True).values_list("pk")[:at_most]
    return len(held)
