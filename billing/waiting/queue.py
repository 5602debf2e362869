"""The queue "Needs a person": what waits for too long, oldest first, and who looks after it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection

from billing.models import WaitingLimit, WaitingOwner
from billing.waiting.states import LIMITS, WAITS, Wait

# More than anybody works on; the metric counts all.
SHOWN_AT_MOST = 500


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A row that has waited for longer than its state may."""

    wait: Wait
    ref: str
    account_id: int | None
    since: datetime
    stands: str
    because: str
    # Empty: nobody does.
    owner: str


# An owner who has taken it here goes before one whom the row itself names.
QUEUE = """
SELECT w.kind, w.ref, w.account_id, w.since, w.stands, w.because, coalesce(o.owner, w.owner)
  FROM ({waiting}) w
  LEFT JOIN billing_waitingowner o ON o.kind = w.kind AND o.ref = w.ref
"""
ONE = """
SELECT '{kind}'::text AS kind, w.ref, w.account_id, w.since, w.stands::text, w.because::text, w.owner::text
  FROM ({query}) w WHERE w.since < %s
"""


def needing_a_person(*, as_of: datetime, at_most: int = SHOWN_AT_MOST) -> list[Waiting]:
    """List what waits for longer than its state may, the oldest first."""
    waiting, parameters = _all(as_of)
    query = f"{QUEUE.format(waiting=waiting)} ORDER BY w.since, w.kind, w.ref LIMIT %s"
    by_kind = {wait.kind: wait for wait in WAITS}
    with connection.cursor() as cursor:
        cursor.execute(query, [*parameters, at_most])
        return [
            Waiting(
                wait=by_kind[kind],
                ref=ref,
                account_id=account_id,
                since=since,
                stands=stands,
                because=because,
                owner=owner,
            )
            for kind, ref, account_id, since, stands, because, owner in cursor.fetchall()
        ]


def counted(*, as_of: datetime) -> list[tuple[str, bool, int, datetime | None]]:
    """Count it, by kind and by whether somebody looks after it, with the oldest of each; every kind is there."""
    waiting, parameters = _all(as_of)
    query = f"""
        SELECT kind, owner <> '' AS is_owned, count(*), min(since)
          FROM ({QUEUE.format(waiting=waiting)}) q (kind, ref, account_id, since, stands, because, owner)
         GROUP BY kind, is_owned"""
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        found = {(kind, is_owned): (n, oldest) for kind, is_owned, n, oldest in cursor.fetchall()}
    return [
        (wait.kind, is_owned, *found.get((wait.kind, is_owned), (0, None)))
        for wait in WAITS
        for is_owned in (False, True)
    ]


def _all(as_of: datetime) -> tuple[str, list[datetime]]:
    lasts = LIMITS | dict(WaitingLimit.objects.values_list("kind", "seconds"))
    each = " UNION ALL ".join(ONE.format(kind=wait.kind, query=wait.query) for wait in WAITS)
    return each, [as_of - timedelta(seconds=lasts[wait.kind]) for wait in WAITS]


class UnknownWait(LookupError):
    """No state that waits has this name."""


def take(*, kind: str, refs: Sequence[str], owner: str, as_of: datetime) -> None:
    """
    Put a person's name on rows that wait: theirs to look after, until a colleague takes them.

    :raises UnknownWait: if there is no such kind.
    """
    if kind not in LIMITS:
        raise UnknownWait(kind)
    WaitingOwner.objects.bulk_create(
        [WaitingOwner(kind=kind, ref=ref, owner=owner, taken_at=as_of) for ref in refs],
        update_conflicts=True,
        unique_fields=["kind", "ref"],
        update_fields=["owner", "taken_at"],
    )
