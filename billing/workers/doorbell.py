"""
The doorbell: wakes a worker of a queue, and carries nothing.

What there is to do stands in our own rows. A doorbell that is lost costs at most a minute, until the
sweeper rings again; one too many costs a look at an empty queue.
"""

from datetime import datetime, timedelta

from django.db import transaction
from django.db.models.functions import Now
from django_q.brokers import get_broker
from django_q.models import OrmQ
from django_q.tasks import async_task

from billing import step_kinds

# Queues part slow providers from one another: cards down must not stop mail. Beside the steps of the close,
# "default" is for reconciliations, "charge" for providers' events, "email" for the outbox (billing/tasks.py).
DEFAULT = "default"
CHARGE = "charge"
EMAIL = "email"
# Where django-q lays fired schedules: every cluster answers it, whatever queues it serves.
SCHEDULES = "schedules"

DRAIN = "billing.tasks.drain"


def queues() -> tuple[str, ...]:
    """What a worker can drain: our own queues, and those of installed steps."""
    return tuple(dict.fromkeys((DEFAULT, CHARGE, EMAIL, *step_kinds.queues())))


class UnknownQueue(ValueError):
    """No cluster would ever answer a doorbell of this queue."""

    def __init__(self, queue: str) -> None:
        super().__init__(f"Unknown queue {queue!r}. The queues are: {', '.join(queues())}.")


def ring(queue: str, *, times: int = 1) -> None:
    """
    Leave at least `times` doorbells of `queue` waiting when the caller's transaction commits.

    Part of that transaction: a rollback takes the doorbell back too. Raises `UnknownQueue`.
    """
    if queue not in queues():
        raise UnknownQueue(queue)
    with transaction.atomic(savepoint=False):
        for _ in range(times - _keep_waiting(queue, at_most=times)):
            async_task(DRAIN, queue, broker=get_broker(queue))


def ring_at(queue: str, at: datetime) -> None:
    """
    Leave a doorbell of `queue` that nobody hears before `at`; several within a second are one.

    Raises `UnknownQueue`.
    """
    if queue not in queues():
        raise UnknownQueue(queue)
    planned = OrmQ.objects.filter(key=queue, lock__gte=at, lock__lt=at + timedelta(seconds=1))
    if not planned.exists():
        async_task(DRAIN, queue, broker=_Later(queue, at))


class _Later:
    """What async_task asks of a broker; a queue row's `lock` is the moment from which it is heard."""

    def __init__(self, queue: str, at: datetime) -> None:
        self.list_key = queue
        self._at = at

    def enqueue(self, package: str) -> int:
        row = OrmQ.objects.create(key=self.list_key, payload=package, lock=self._at)
        return int(row.pk)


def _keep_waiting(queue: str, *, at_most: int) -> int:
    """
    Hold back doorbells nobody has answered yet until we commit, and say how many.

    The lock is what makes it right to lean on them: a worker that answered one before our commit
    would not see our rows, go home, and leave them to the sweeper.
    """
    waiting = OrmQ.objects.filter(key=queue, lock__lte=Now()).order_by("lock")
    held = waiting.select_for_update(skip_locked=True).values_list("pk")[:at_most]
    return len(held)
