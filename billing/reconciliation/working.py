"""Start a reconciliation, work on it for a while, and open paused gateways when it is done."""

import logging
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.db.models import Max, Min, Q
from django.db.models.functions import Now

from billing import gateways
from billing.models import GatewayGuard, PaymentAttempt, Reconciliation, ReconciliationBreak
from billing.payments import guard, throttle
from billing.reconciliation import aftermath, breaks, finding, listing, payouts
from billing.workers import doorbell, halting

logger = logging.getLogger(__name__)
State = Reconciliation.State

# How far each one looks back behind the one before, at least: for what came late, or was listed too early.
OVERLAP = timedelta(days=3)
# When the nightly one is due, UTC.
NIGHTLY_HOUR = 3
# The longest one batch takes: a hundred objects are read or cancelled, sixteen at a time.
LEASE = timedelta(minutes=4)

FREE = Q(lease_until=None) | Q(lease_until__lt=Now())


class BeingWorkedOn(Exception):
    """Another process is working on it; within minutes it is done, or free."""


# --- starting


def start(
    *, gateway: str, started_by: str, as_of: datetime, since: datetime | None = None
) -> Reconciliation:
    """
    Begin to reconcile a gateway, or return the one that runs.

    Without `since` it looks back three days behind the last one, or as far as payments may still be
    reversed, and to the oldest open break; the first one looks at everything. Workers of the queue
    "default" work on it.
    """
    return _begin(gateway, since or _since(gateway), started_by=started_by, as_of=as_of)


def _begin(
    gateway: str, since: datetime | None, *, started_by: str, as_of: datetime
) -> Reconciliation:
    try:
        with transaction.atomic():
            begun = Reconciliation.objects.create(
                gateway=gateway, since=since, started_by=started_by, as_of=as_of
            )
            doorbell.ring("default")
    except IntegrityError:
        return Reconciliation.objects.filter(gateway=gateway).latest("pk")
    return begun


def start_due(*, as_of: datetime) -> list[Reconciliation]:
    """Start tonight's reconciliations that have not been started yet; none under a halt."""
    if halting.halt():
        return []
    due_at = as_of.replace(hour=NIGHTLY_HOUR, minute=0, second=0, microsecond=0)
    if due_at > as_of:
        due_at -= timedelta(days=1)
    return [
        start(gateway=name, started_by="nightly", as_of=as_of)
        for name in gateways.names()
        if PaymentAttempt.objects.filter(gateway=name).exists()
        and not Reconciliation.objects.filter(gateway=name, as_of__gte=due_at).exists()
    ]


def _since(gateway: str) -> datetime | None:
    last: datetime | None = Reconciliation.objects.filter(
        gateway=gateway, state=State.FINISHED
    ).aggregate(at=Max("as_of"))["at"]
    if last is None:
        return None
    oldest_break: datetime | None = ReconciliationBreak.objects.filter(
        gateway=gateway, state=ReconciliationBreak.State.OPEN
    ).aggregate(at=Min("object_at"))["at"]
    # An event announces a payment that is reversed; if the event was lost, it is found here.
    reversible = timedelta(days=gateways.get(gateway).capabilities.reversible_days)
    return min(last - max(OVERLAP, reversible), oldest_break or last)


# --- working


def work(
    reconciliation: Reconciliation,
    *,
    as_of: datetime,
    until: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int], None] = lambda _: None,
) -> bool:
    """
    Work on one, batch by batch, until it is finished or `until` says stop. Returns whether it is finished.

    Calls `on_progress` with the size of each batch. An error of a provider is raised, and noted on the row;
    the next call goes on from there.

    :raises BeingWorkedOn: if another process is working on it.
    """
    _lease(reconciliation)
    try:
        for done in _batches(reconciliation, as_of=as_of):
            on_progress(done)
            throttle.note([(reconciliation.gateway, done)])
            _extend(reconciliation)
            if until():
                return False
    except Exception as error:
        throttle.note([(reconciliation.gateway, error)])
        Reconciliation.objects.filter(pk=reconciliation.pk).update(
            error=f"{type(error).__name__}: {error}"[:300]
        )
        raise
    else:
        _finish(reconciliation, as_of=as_of)
        return True
    finally:
        Reconciliation.objects.filter(pk=reconciliation.pk).update(lease_until=None)


def work_all(*, as_of: datetime, until: Callable[[], bool]) -> bool:
    """
    Work on every running one that no other process works on, until `until` says stop.

    Returns whether it was stopped before all were done. One that fails is tried again a minute later.
    """
    for reconciliation in waiting():
        if until():
            return True
        if not throttle.may_ask(reconciliation.gateway):
            continue
        try:
            if not work(reconciliation, as_of=as_of, until=until):
                return True
        except BeingWorkedOn:
            continue
        except Exception:
            # Its row says what is wrong, and the others go on.
            logger.exception("reconciling %s is put off", reconciliation)
    return False


def waiting() -> list[Reconciliation]:
    """The running ones that no process is working on."""
    return list(Reconciliation.objects.filter(FREE, state=State.RUNNING).order_by("pk"))


def _batches(reconciliation: Reconciliation, *, as_of: datetime) -> Iterator[int]:
    """Run the parts, which yield after every batch; see the package's docstring."""
    yield from listing.list_objects(reconciliation)
    yield from finding.book_known(reconciliation, as_of=as_of)
    yield from finding.find_lost(reconciliation, as_of=as_of)
    # A second object of an attempt that was just restored from its first.
    yield from finding.book_known(reconciliation, as_of=as_of)
    yield from finding.cancel_orphans(reconciliation, as_of=as_of)
    yield from breaks.compare(reconciliation, as_of=as_of)
    if reconciliation.compares_payouts:
        yield from payouts.compare(reconciliation, as_of=as_of)
    yield from aftermath.apply(reconciliation, as_of=as_of)


def _lease(reconciliation: Reconciliation) -> None:
    mine = Reconciliation.objects.filter(FREE, pk=reconciliation.pk, state=State.RUNNING)
    if not mine.update(lease_until=Now() + LEASE, error=""):
        raise BeingWorkedOn(str(reconciliation))
    reconciliation.refresh_from_db()


def _extend(reconciliation: Reconciliation) -> None:
    Reconciliation.objects.filter(pk=reconciliation.pk).update(lease_until=Now() + LEASE)


@transaction.atomic(durable=True)
def _finish(reconciliation: Reconciliation, *, as_of: datetime) -> None:
    breaks.resolve_what_is_gone(reconciliation, as_of=as_of)
    reconciliation.counts |= listing.counts(reconciliation) | {
        "breaks": reconciliation.breaks.filter(state=ReconciliationBreak.State.OPEN).count()
    }
    reconciliation.objects_listed.all().delete()
    reconciliation.state = State.FINISHED
    reconciliation.finished_at = as_of
    reconciliation.save(update_fields=["counts", "state", "finished_at"])


# --- after a restore


def reopen_paused(*, as_of: datetime, until: Callable[[], bool] = lambda: False) -> int:
    """
    List the provider of each paused gateway, and open all gateways once all are listed. Returns how many.

    They open together: an account that paid through one of them may have a card at another.
    """
    waiting = [paused for paused in guard.paused() if paused.gateway in gateways.names()]
    for paused in waiting:
        _list_after_a_restore(paused, as_of=as_of, until=until)
    if not all(_is_listed(paused) for paused in waiting):
        return 0
    return sum(guard.reopen(paused) for paused in waiting)


def _list_after_a_restore(
    paused: GatewayGuard, *, as_of: datetime, until: Callable[[], bool]
) -> None:
    if _is_listed(paused) or not throttle.may_ask(paused.gateway):
        return
    running = _begin(
        paused.gateway,
        paused.list_from,
        started_by=Reconciliation.AFTER_A_RESTORE,
        as_of=as_of,
    )
    try:
        work(running, as_of=as_of, until=until)
    except BeingWorkedOn:
        # The process that works on it, or the next sweep, sees whether it is done.
        return
    except Exception:
        logger.exception("reconciling %s is put off", running)


def _is_listed(paused: GatewayGuard) -> bool:
    """
    Whether one that began after the pause has listed far enough back, and restored all that was lost.

    What could not be restored is tried again with the next list, until it can be or a person accepts its break.
    """
    far_enough = Q(since=None)
    if paused.list_from is not None:
        far_enough |= Q(since__lte=paused.list_from)
    return (
        Reconciliation.objects.filter(far_enough, gateway=paused.gateway, state=State.FINISHED)
        .filter(started_at__gte=paused.paused_at)
        .exclude(counts__has_key=finding.STILL_LOST)
        .exists()
    )
