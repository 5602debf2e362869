"""Copy the list of the provider's objects, newest first; a restart goes on where the last one stopped."""

from collections.abc import Iterator, Sequence
from itertools import islice

from django.db import transaction

from billing import gateways
from billing.gateways import Foreign, Observation
from billing.models import ListedObject, Reconciliation
from billing.payments import guard

BATCH = 100


def list_objects(reconciliation: Reconciliation) -> Iterator[int]:
    """Copy what is not copied yet; yields the size of each batch."""
    objects = gateways.get(reconciliation.gateway).objects(
        since=reconciliation.since, until=reconciliation.listed_down_to
    )
    while reconciliation.listed_at is None:
        batch = list(islice(objects, BATCH))
        _copy(reconciliation, batch)
        yield len(batch)


@transaction.atomic(durable=True)
def _copy(reconciliation: Reconciliation, batch: Sequence[Observation | Foreign]) -> None:
    rows = [_row(reconciliation, seen) for seen in batch]
    # The object where the last slice stopped is listed again.
    ListedObject.objects.bulk_create(rows, ignore_conflicts=True)
    if rows:
        reconciliation.listed_down_to = min(row.made_at for row in rows)
    if len(rows) < BATCH:
        reconciliation.listed_at = reconciliation.as_of
    reconciliation.save(update_fields=["listed_down_to", "listed_at"])


def _row(reconciliation: Reconciliation, seen: Observation | Foreign) -> ListedObject:
    assert seen.made_at is not None, f"{seen.ref} was listed without its time"
    row = ListedObject(reconciliation=reconciliation, provider_ref=seen.ref, made_at=seen.made_at)
    if isinstance(seen, Foreign):
        row.status = ListedObject.FOREIGN
        return row
    row.attempt_id = guard.own_reference(seen.own_reference)
    row.account_ref = seen.account_ref
    row.status = seen.status
    row.currency = seen.currency
    row.amount_minor = seen.amount_minor
    return row


def counts(reconciliation: Reconciliation) -> dict[str, int]:
    """How many objects were listed, and how many of them are not ours."""
    listed = reconciliation.objects_listed
    return {
        "listed": listed.count(),
        "foreign": listed.filter(status=ListedObject.FOREIGN).count(),
    }
