"""
Parcels, as docs/dispatcher.md takes a kind apart.

The carrier is a file that outlives us: a line for each parcel that it was handed. A parcel that may have been
handed over before is looked for in it first.
"""

import os
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.db.models import F, QuerySet
from django.db.models.functions import Now

from notifications.dispatcher import Heard, Unreachable
from tests.notifications.parcels.models import Parcel

name = "parcel"
model = Parcel
order = ("due_at", "pk")
batch = 10
lease = timedelta(seconds=float(os.environ.get("PARCEL_LEASE_SECONDS", "60")))
begin_within = timedelta(seconds=10)
always_applies = True
freed: dict[str, Any] = {"state": "WAITING"}
unsent: dict[str, Any] = {}

# What the carrier was handed, in a file; how long it takes; and in how many hands.
BOOK = Path(os.environ.get("PARCEL_BOOK", "/nonexistent"))
SECONDS_EACH = float(os.environ.get("PARCEL_SECONDS_EACH", "0"))
THREADS = 4


def due(*, as_of: Any) -> QuerySet[Parcel]:
    return Parcel.objects.filter(state__in=["WAITING", "ON_ITS_WAY"], due_at__lte=Now())


def lanes(rows: QuerySet[Parcel]) -> list[str]:
    return list(rows.order_by("carrier").values_list("carrier", flat=True).distinct())


def of_lane(rows: QuerySet[Parcel], provider: str) -> QuerySet[Parcel]:
    return rows.filter(carrier=provider)


def claimed(*, as_of: Any) -> dict[str, Any]:
    return {"state": "ON_ITS_WAY"}


def in_flight_besides(provider: str) -> int:
    return 0


def lane_of(parcel: Parcel) -> str:
    return parcel.carrier


def threads() -> int:
    return THREADS


def reach(provider: str) -> None:
    if not BOOK.parent.exists():
        raise Unreachable(f"{provider} is not there")


def together(rows: Sequence[Parcel]) -> list[Sequence[Parcel]]:
    return [rows] if rows else []


def recheck(rows: Sequence[Parcel], *, as_of: Any) -> list[str | None]:
    """What it says now of each: one that is no longer wanted rests."""
    ids = [parcel.pk for parcel in rows]
    Parcel.objects.filter(pk__in=ids).update(rechecks=F("rechecks") + 1)
    unwanted = Parcel.objects.filter(pk__in=ids, because="not wanted")
    gone = set(unwanted.values_list("pk", flat=True))
    unwanted.update(state="KEPT")
    return [None if parcel.pk in gone else f"parcel {parcel.pk}" for parcel in rows]


def call(parcel: Parcel, what: str) -> str:
    time.sleep(SECONDS_EACH)
    if parcel.claims > 1 and what in handed_over():
        return "found"
    with BOOK.open("a") as book:
        book.write(f"{what}\n")
    return "taken"


def handed_over() -> list[str]:
    return BOOK.read_text().splitlines() if BOOK.exists() else []


def heard(answer: object) -> Heard:
    return Heard(answered=not isinstance(answer, Exception))


def write_down(answers: Sequence[tuple[Parcel, Any]], *, as_of: Any) -> list[Parcel]:
    for parcel, answer in answers:
        if isinstance(answer, Exception):
            fail(parcel, answer, as_of=as_of)
        else:
            parcel.state = "TAKEN"
            Parcel.objects.filter(pk=parcel.pk).update(state="TAKEN", because=answer)
    return []


def fail(parcel: Parcel, error: Exception, *, as_of: Any) -> None:
    later = Now() + timedelta(hours=1)
    Parcel.objects.filter(pk=parcel.pk).update(
        state="WAITING", because=repr(error)[:300], due_at=later
    )


def is_done(parcel: Parcel) -> bool:
    return parcel.state == "TAKEN"


def hang_up() -> None:
    """It keeps nothing open."""
