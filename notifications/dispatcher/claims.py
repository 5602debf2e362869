"""
Claims: which rows are a worker's, for how long, and what becomes of those whose worker dies.

All by the database's clock, and by the token of the claim: whoever slept over its end finds another's. A row
is claimed by one statement with the token of its lane: a claim that fails costs nothing, and what was granted
and not claimed goes back at once.
"""

import uuid
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import Error, connection, transaction
from django.db.models import BooleanField, Case, F, IntegerField, Q, QuerySet, Value, When
from django.db.models.expressions import RawSQL
from django.db.models.functions import Now

from notifications import lanes
from notifications.dispatcher import kind as kinds
from notifications.dispatcher.kind import Kind, Row
from notifications.lanes import Grant

# A row whose worker died twice with it in hand is suspected: it is tried when nothing else is due, and alone.
# So the third death of one is its own, and it is parked.
SUSPECTED_AFTER = 2
DEATHS_MAX = 3
# From this priority on a person waits for a row.
URGENT = 10

FREE = Q(lease_until=None) | Q(lease_until__lte=Now())
# With the one that nobody has noticed yet: its claim has run out.
DEATHS = F("deaths") + Case(
    When(lease_token=None, then=Value(0)), default=Value(1), output_field=IntegerField()
)


class Throttled(Exception):
    """Rows are due, and no lane lets any begin. Says when to look again; None: not by itself."""

    def __init__(self, refused: Sequence[Grant]) -> None:
        soonest = min(refused, key=lambda grant: grant.wait_seconds if grant.again_at else 3600)
        super().__init__(soonest.because)
        self.again_at = soonest.again_at
        self.wait_seconds = soonest.wait_seconds


@dataclass(frozen=True)
class Claimed:
    """Rows of one lane that are ours for a while, and what was granted for them, unless others have asked."""

    rows: Sequence[Row]
    provider: str = ""
    granted: Grant | None = None


# Whose turn it was last in this process, by kind.
_last_turn: dict[str, str] = {}


def claim(
    kind: Kind,
    queue: str,
    *,
    limit: int,
    suspects: bool,
    as_of: datetime,
    at_least: int | None = None,
) -> Claimed:
    """
    Claim due rows of one lane, as many as it grants; lanes take turns.

    What a person waits for (`URGENT`) is claimed first, and waits for no rate. `at_least`: of this priority.

    `suspects`: also one that may kill its worker, if nothing else is due. Only for who has nothing in hand.

    :raises Throttled: if rows are due, and no lane of theirs lets any begin.
    """
    due = claimable(kind, queue, as_of=as_of, at_least=at_least)
    refused: list[Grant] = []
    providers = _in_turn(kind, due)
    # Mostly nothing is: then it is not asked a second time what of it is urgent.
    urgent = due.filter(priority__gte=URGENT)
    in_line = [(urgent, name, True) for name in (_in_turn(kind, urgent) if providers else [])]
    in_line += [(due, name, False) for name in providers]
    for rows, provider, is_urgent in in_line:
        claimed = _claim(
            kind,
            rows,
            provider,
            limit=limit,
            suspects=suspects,
            is_urgent=is_urgent,
            as_of=as_of,
        )
        if claimed.rows:
            _last_turn[kind.name] = provider
            return claimed
        if claimed.granted and not claimed.granted.count:
            refused.append(claimed.granted)
    if refused:
        raise Throttled(refused)
    return Claimed([])


def claimable(
    kind: Kind, queue: str | None = None, *, as_of: datetime, at_least: int | None = None
) -> QuerySet[Row]:
    """Rows that are due and free, of any queue or of this one; what is parked is neither."""
    due = kind.due(as_of=as_of).filter(FREE, parked_at=None)
    if at_least is not None:
        due = due.filter(priority__gte=at_least)
    return due if queue is None else due.filter(queue=queue)


def _in_turn(kind: Kind, due: QuerySet[Row]) -> list[str]:
    """The lane after the last turn's first."""
    last = _last_turn.get(kind.name, "")
    return sorted(kind.lanes(due), key=lambda provider: (provider <= last, provider))


@transaction.atomic(durable=True)
def _claim(
    kind: Kind,
    due: QuerySet[Row],
    provider: str,
    *,
    limit: int,
    suspects: bool,
    is_urgent: bool,
    as_of: datetime,
) -> Claimed:
    """The lane's row stays locked until its rows are claimed, so that the cap counts what is true."""
    granted = lanes.grant(
        provider, wanted=limit, in_flight=lambda: in_flight(provider), is_urgent=is_urgent
    )
    theirs = kind.of_lane(due, provider)
    rows = _take(kind, theirs, limit=granted.count, suspects=suspects, as_of=as_of)
    lanes.give_back(granted, unused=granted.count - len(rows))
    return Claimed(rows, provider, granted)


@transaction.atomic(durable=True)
def claim_these(
    kind: Kind, ids: Collection[Any], *, limit: int, suspects: bool, as_of: datetime
) -> Claimed:
    """Claim those of the given rows that are due. Whoever names them has asked their lane."""
    due = claimable(kind, as_of=as_of).filter(_has_key(kind, ids))
    return Claimed(_take(kind, due, limit=limit, suspects=suspects, as_of=as_of))


def _take(
    kind: Kind, due: QuerySet[Row], *, limit: int, suspects: bool, as_of: datetime
) -> list[Row]:
    due = due.annotate(died=DEATHS)
    sound = _first(kind, due.filter(died__lt=SUSPECTED_AFTER), limit)
    rows = _written(kind, sound, as_of=as_of)
    if rows or not suspects or not limit:
        return rows
    suspected = due.filter(died__gte=SUSPECTED_AFTER)
    _park(kind, suspected)
    return _written(kind, _first(kind, suspected, 1), as_of=as_of)


def _first(kind: Kind, due: QuerySet[Row], limit: int) -> list[Any]:
    """Lock the first in line, passing over what others hold; their keys."""
    in_line = due.order_by("-priority", *kind.order)
    locked = in_line.select_for_update(skip_locked=True, of=("self",), no_key=True)
    return list(locked.values_list("pk", flat=True)[:limit])


def _written(kind: Kind, ids: Sequence[Any], *, as_of: datetime) -> list[Row]:
    if not ids:
        return []
    theirs = kind.model._default_manager.filter(_has_key(kind, ids))
    theirs.update(
        lease_token=uuid.uuid4(),
        lease_until=Now() + kind.lease,
        claims=F("claims") + 1,
        deaths=DEATHS,
        **kind.claimed(as_of=as_of),
    )
    rows = {row.pk: row for row in theirs}
    return [rows[pk] for pk in ids]


def _park(kind: Kind, due: QuerySet[Row]) -> None:
    killers = due.filter(died__gte=DEATHS_MAX)
    locked = killers.select_for_update(skip_locked=True, of=("self",), no_key=True)
    ids = list(locked.values_list("pk", flat=True))
    if ids:
        kind.model._default_manager.filter(pk__in=ids).update(
            parked_at=Now(), deaths=DEATHS, lease_token=None, lease_until=None
        )


def in_flight(provider: str) -> int:
    """How many rows of a lane are claimed, of all kinds. A claim that has run out does not count: its worker is dead."""
    return sum(
        kind.of_lane(kind.model._default_manager.filter(lease_until__gt=Now()), provider).count()
        + kind.in_flight_besides(provider)
        for kind in kinds.registered()
    )


def order(kind: Kind, pk: Any, **changes: Any) -> bool:
    """
    Free a parked row, as a person ordered: it is tried once more, alone. Says whether it was parked.

    `changes`: columns of the kind's own that are set with it, in the caller's transaction.
    """
    parked = kind.model._default_manager.filter(pk=pk, parked_at__isnull=False)
    return bool(parked.update(parked_at=None, deaths=SUSPECTED_AFTER, **changes))


# --- while a claim lasts


def extend(kind: Kind, rows: Iterable[Row]) -> set[Any]:
    """
    Extend the claims on rows; returns the keys of those that are still ours.

    One that has run out is not extended, even where nobody has noticed: its worker has slept.
    """
    ours = _ours(kind, rows).filter(lease_until__gt=Now())
    ours.update(lease_until=Now() + kind.lease)
    return set(ours.values_list("pk", flat=True))


def renew(kind: Kind, rows: Sequence[Row]) -> int:
    """
    Lock the rows that are still ours, in the recheck's transaction, though a claim has run out; says how many.

    Those whose claim has lost a quarter of its time have all of it again; the others are not written.
    """
    if not rows:
        return 0
    meta = kind.model._meta
    with connection.cursor() as cursor:
        cursor.execute(
            RENEW.format(table=meta.db_table, key=meta.pk.column),
            {
                "ids": [row.pk for row in rows],
                "tokens": list({row.lease_token for row in rows}),
                "lease": kind.lease.total_seconds(),
                "enough": kind.lease.total_seconds() * 3 / 4,
            },
        )
        return int(cursor.fetchone()[0])


RENEW = """
WITH ours AS MATERIALIZED (
    SELECT {key} AS key, lease_until FROM {table}
     WHERE {key} = ANY(%(ids)s) AND lease_token = ANY(%(tokens)s)
       FOR NO KEY UPDATE
), extended AS (
    UPDATE {table} r SET lease_until = statement_timestamp() + %(lease)s * interval '1 second'
      FROM ours
     WHERE r.{key} = ours.key AND ours.lease_until < statement_timestamp() + %(enough)s * interval '1 second'
)
SELECT count(*) FROM ours
"""


def held(kind: Kind, rows: Iterable[Row]) -> set[Any]:
    """Lock those of the rows that are still ours, in the caller's transaction; their keys."""
    locked = _ours(kind, rows).select_for_update(no_key=True).order_by("pk")
    return set(locked.values_list("pk", flat=True))


def release(kind: Kind, rows: Sequence[Row]) -> int:
    """End claims, in the transaction that writes down what became of the rows; says how many were ours."""
    if not rows:
        return 0
    return _ours(kind, rows).update(lease_token=None, lease_until=None, deaths=0)


def hand_back(kind: Kind, unsent: Sequence[Row]) -> int:
    """Free rows of which nothing was sent, as if they had not been claimed; says how many were ours."""
    free = {"lease_token": None, "lease_until": None, **kind.freed, **kind.unsent}
    return _ours(kind, unsent).update(**free, claims=F("claims") - 1) if unsent else 0


def let_go(kind: Kind, *, unsent: Sequence[Row], sent: Sequence[Row]) -> None:
    """
    Free rows after trouble, if the database still hears us; else their claims run out.

    Of what was sent nobody knows the answer: that it was stays counted.
    """
    connection.close_if_unusable_or_obsolete()
    with suppress(Error):
        if sent:
            _ours(kind, sent).update(lease_token=None, lease_until=None, **kind.freed)
        hand_back(kind, unsent)


def _ours(kind: Kind, rows: Iterable[Row]) -> QuerySet[Row]:
    """Those whose claim has our token."""
    tokens = {row.pk: row.lease_token for row in rows}
    return kind.model._default_manager.filter(
        _has_key(kind, tokens), lease_token__in=set(tokens.values())
    )


def _has_key(kind: Kind, ids: Iterable[Any]) -> RawSQL:
    """The same as `pk__in`, in one parameter: Django looks at each value of a list, and here are hundreds."""
    column = f'"{kind.model._meta.db_table}"."{kind.model._meta.pk.column}"'
    return RawSQL(f"{column} = ANY(%s)", [list(ids)], output_field=BooleanField())  # noqa: S611 - names of ours
