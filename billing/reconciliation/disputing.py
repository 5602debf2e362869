"""Disputes whose event was lost, and those that our database has lost: found in the provider's own list."""

import logging
from collections.abc import Iterator
from datetime import datetime
from itertools import islice

from django.db.models import Min

from billing import disputes, gateways
from billing.gateways import DisputeSeen, Misconfigured
from billing.models import Dispute, Reconciliation

logger = logging.getLogger(__name__)

BATCH = 100


def apply_disputes(reconciliation: Reconciliation, *, as_of: datetime) -> Iterator[int]:
    """
    This will apply every dispute since the one that is open longest; yields after each batch.

    A key that may not see disputes is noted, and everything else is as finished as it would be.
    """
    listed = gateways.get(reconciliation.gateway).disputes(since=_since(reconciliation))
    ours = 0
    try:
        while batch := list(islice(listed, BATCH)):
            ours += sum(_apply(reconciliation, seen, as_of=as_of) for seen in batch)
            yield 0
    except Misconfigured as error:
        said = f"{reconciliation.error} Disputes are not listed: {error}"
        reconciliation.error = said.strip()[:300]
    if ours:
        reconciliation.counts["disputes"] = ours
    reconciliation.save(update_fields=["counts", "error"])


def _since(reconciliation: Reconciliation) -> datetime | None:
    """How far back: a bank takes months to decide, so as far as what is not decided."""
    if reconciliation.since is None:
        return None
    open_since: datetime | None = Dispute.objects.filter(
        gateway=reconciliation.gateway, closed_at=None
    ).aggregate(at=Min("opened_at"))["at"]
    return min(reconciliation.since, open_since or reconciliation.since)


def _apply(reconciliation: Reconciliation, seen: DisputeSeen, *, as_of: datetime) -> bool:
    """Whether it is ours. One that cannot be written down stops no other."""
    try:
        return disputes.apply_provider_state(reconciliation.gateway, seen, as_of=as_of) is not None
    except Exception:
        logger.exception("the dispute %s cannot be written down", seen.ref)
        return True
