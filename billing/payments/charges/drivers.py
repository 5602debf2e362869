"""One driver at a time: a step that works on an attempt moves its time ahead first, and the dispatcher claims it."""

from collections.abc import Sequence
from datetime import datetime

from django.db import transaction
from django.db.models import F, QuerySet

from billing.models import PaymentAttempt
from billing.payments.charges import time_limits
from notifications.dispatcher import FREE


@transaction.atomic(durable=True)
def claim(attempts: Sequence[PaymentAttempt], *, as_of: datetime) -> list[PaymentAttempt]:
    """Move the sweeper's time ahead, so that one driver at a time works on an attempt."""
    claimed = list(_unlocked(attempts).filter(FREE, next_action_at__lte=as_of, parked_at=None))
    return _moved_ahead(claimed, as_of=as_of)


@transaction.atomic(durable=True)
def claim_at_once(attempts: Sequence[PaymentAttempt], *, as_of: datetime) -> list[PaymentAttempt]:
    """Claim all that have not come to their end, whether or not their time has come."""
    return _moved_ahead(
        list(_unlocked(attempts).filter(state__in=PaymentAttempt.IN_FLIGHT)), as_of=as_of
    )


def _unlocked(attempts: Sequence[PaymentAttempt]) -> QuerySet[PaymentAttempt]:
    return (
        PaymentAttempt.objects.select_for_update(skip_locked=True, of=("self",))
        .filter(pk__in=[attempt.pk for attempt in attempts])
        .select_related("account", "payment_method")
        .order_by("pk")
    )


def _moved_ahead(claimed: list[PaymentAttempt], *, as_of: datetime) -> list[PaymentAttempt]:
    PaymentAttempt.objects.filter(pk__in=[attempt.pk for attempt in claimed]).update(
        next_action_at=as_of + time_limits.DRIVE_WINDOW, claims=F("claims") + 1
    )
    return claimed


def hand_back(attempts: Sequence[PaymentAttempt], *, as_of: datetime) -> None:
    """Let the next driver claim these attempts at once; nothing of them is on its way."""
    PaymentAttempt.objects.filter(
        pk__in=[attempt.pk for attempt in attempts], state__in=PaymentAttempt.IN_FLIGHT
    ).update(next_action_at=as_of)
    for attempt in attempts:
        attempt.next_action_at = as_of
