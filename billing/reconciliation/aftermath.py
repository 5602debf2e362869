"""Find refunds and disputes in the provider's lists whose event was lost, or that our database has lost."""

import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from typing import TypeVar

from django.db.models import Min

from billing import gateways
from billing.gateways import DisputeSeen, Misconfigured, RefundSeen, Unreadable
from billing.models import (
    Dispute,
    ListedObject,
    Payment,
    Reconciliation,
    ReconciliationBreak,
)
from billing.payments import disputes, refunds
from billing.reconciliation import breaks

logger = logging.getLogger(__name__)

BATCH = 100
Seen = TypeVar("Seen", RefundSeen, DisputeSeen)


def apply(reconciliation: Reconciliation, *, as_of: datetime) -> Iterator[int]:
    """
    Apply every refund in its time span, and every dispute since the oldest open one.

    Yields after each batch. If our key may not list them, that is noted, and the reconciliation can finish
    all the same.
    """
    gateway, since = gateways.get(reconciliation.gateway), reconciliation.since

    def refund_is_ours(seen: RefundSeen) -> bool:
        return refunds.learn(reconciliation.gateway, seen, as_of=as_of)

    def dispute_is_ours(seen: DisputeSeen) -> bool:
        return disputes.apply_provider_state(reconciliation.gateway, seen, as_of=as_of) is not None

    def is_a_break(seen: Unreadable) -> bool:
        return _noted(reconciliation, seen, as_of=as_of)

    yield from _each(
        reconciliation, "refunds", gateway.refunds(since=since), refund_is_ours, is_a_break
    )
    listed = gateway.disputes(since=_undecided_since(reconciliation))
    yield from _each(reconciliation, "disputes", listed, dispute_is_ours, is_a_break)


def _each(
    reconciliation: Reconciliation,
    name: str,
    listed: Iterator[Seen | Unreadable],
    is_ours: Callable[[Seen], bool],
    is_a_break: Callable[[Unreadable], bool],
) -> Iterator[int]:
    ours = 0
    try:
        while batch := list(islice(listed, BATCH)):
            ours += sum(
                is_a_break(seen) if isinstance(seen, Unreadable) else _applied(seen, is_ours)
                for seen in batch
            )
            yield 0
    except Misconfigured as error:
        said = f"{reconciliation.error} {name.capitalize()} are not listed: {error}"
        reconciliation.error = said.strip()[:300]
    if ours:
        reconciliation.counts[name] = ours
    reconciliation.save(update_fields=["counts", "error"])


def _undecided_since(reconciliation: Reconciliation) -> datetime | None:
    """How far back to list disputes: to the oldest undecided one, because banks take months to decide."""
    if reconciliation.since is None:
        return None
    open_since: datetime | None = Dispute.objects.filter(
        gateway=reconciliation.gateway, closed_at=None
    ).aggregate(at=Min("opened_at"))["at"]
    return min(reconciliation.since, open_since or reconciliation.since)


def _applied(seen: Seen, is_ours: Callable[[Seen], bool]) -> bool:
    """Apply one, and return whether it is ours. One that cannot be written down stops no other."""
    try:
        return is_ours(seen)
    except Exception:
        logger.exception("%s cannot be written down", seen.ref)
        return True


def _noted(reconciliation: Reconciliation, seen: Unreadable, *, as_of: datetime) -> bool:
    """Note an unreadable one as a break if it is about a payment of ours, and return whether it is."""
    payment = (
        Payment.objects.filter(gateway=reconciliation.gateway, provider_ref=seen.charge_ref)
        .select_related("account", "attempt")
        .first()
    )
    if payment is None:
        logger.info("%s is passed over: %s", seen.ref, seen.because)
        return False
    listed = ListedObject(
        provider_ref=seen.ref,
        made_at=seen.made_at,
        currency=payment.currency,
        amount_minor=payment.amount_minor,
    )
    breaks.note(
        reconciliation,
        ReconciliationBreak.Kind.NOT_BOOKED,
        listed,
        f"It is about the payment by {payment}, and cannot be read: {seen.because}",
        as_of=as_of,
        account=payment.account,
        attempt=payment.attempt,
    )
    return True
