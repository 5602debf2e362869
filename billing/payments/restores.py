"""
Say what a restore has lost that no provider can tell: usage that came in, and which mails went out.

Each sweep leaves a sign of life with the identity of its database (guard.py). One that finds another identity is
in a restored, moved or failed-over database, and the last sign of life says until when that knows everything. A
copy of the disk has the same identity: where a gateway closes for charges that this database does not know, it is
the last time that nobody swept for long.
"""

import logging
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Max, Q
from django.db.models.functions import Now

from billing.models import GatewayGuard, PaymentAttempt, Restore, Sweep
from billing.payments import guard

logger = logging.getLogger(__name__)

# Sweeps come each minute; a restore takes longer than a few of them.
SILENCE = timedelta(minutes=5)


@transaction.atomic(durable=True)
def look() -> int:
    """Notice that this database has gone back in time. Returns how many times it has, since the last look."""
    last = Sweep.objects.select_for_update().annotate(now=Now()).first()
    if last is None:
        return 0
    identity = guard.identity()
    noticed = []
    if last.database_identity not in {"", identity}:
        noticed.append(Restore(known_until=last.ended_at, because=guard.ANOTHER_DATABASE))
    elif last.now - last.ended_at > SILENCE:
        last.silent_from, last.silent_until = last.ended_at, last.now
    if not noticed and (paused := _paused_for_unknown_charges()) is not None:
        noticed.append(
            Restore(known_until=_known_until(last, paused), because=paused.paused_because)
        )
    for restore in noticed:
        _note(restore, noticed_at=last.now)
    last.database_identity = identity
    last.save(update_fields=["database_identity", "silent_from", "silent_until"])
    return len(noticed)


def not_dealt_with() -> list[Restore]:
    """Those after which nobody has looked."""
    return list(Restore.objects.filter(dealt_with_at=None).order_by("noticed_at"))


@transaction.atomic(durable=True)
def deal_with(*, restore_id: int, actor: str, as_of: datetime) -> bool:
    """Note that a person has dealt with it. False if somebody had."""
    restore = Restore.objects.select_for_update().get(pk=restore_id)
    if restore.dealt_with_at is not None:
        return False
    restore.dealt_with_at, restore.dealt_with_by = as_of, actor
    restore.save(update_fields=["dealt_with_at", "dealt_with_by"])
    return True


def _note(restore: Restore, *, noticed_at: datetime) -> None:
    restore.noticed_at = noticed_at
    restore.save()
    logger.error(
        "%s may be missing or repeated: %s. Send the usage again; mails may be sent twice",
        restore,
        restore.because,
    )


def _paused_for_unknown_charges() -> GatewayGuard | None:
    """The first gateway that has closed because charges are not known here, if nobody was told of it."""
    latest = Restore.objects.aggregate(at=Max("noticed_at"))["at"]
    is_news = Q() if latest is None else Q(paused_at__gt=latest)
    return (
        GatewayGuard.objects.filter(is_news, paused_at__isnull=False)
        .exclude(paused_because=guard.ANOTHER_DATABASE)
        .order_by("paused_at")
        .first()
    )


def _known_until(last: Sweep, paused: GatewayGuard) -> datetime:
    if last.silent_from is not None:
        silent_from: datetime = last.silent_from
        return silent_from
    newest = PaymentAttempt.objects.filter(gateway=paused.gateway).aggregate(at=Max("created_at"))
    known_until: datetime = newest["at"] or last.ended_at
    return known_until
