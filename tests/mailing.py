"""One batch of mail, as a worker of the queue "email" delivers it, in this process."""

import uuid
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from notifications import delivery
from notifications.delivery import MESSAGES
from notifications.dispatcher import claims
from notifications.dispatcher.loop import Work
from notifications.models import Message


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """How many messages of one batch went which way. Failed ones wait for their next try, or are dead."""

    sent: int = 0
    cancelled: int = 0
    failed: int = 0


def deliver(
    *, as_of: datetime, limit: int = 100, message_ids: Collection[uuid.UUID] | None = None
) -> Delivered:
    """Deliver up to `limit` due messages, as many as the lane lets begin; or those of the given ones that are due."""
    if message_ids is not None:
        return _counted(delivery.deliver(as_of=as_of, message_ids=message_ids))
    claimed: list[int] = []
    rested: list[Message] = []

    def claim(room: int, suspects: bool) -> claims.Claimed:
        claimed.append(1)
        return claims.claim(MESSAGES, "email", limit=min(room, limit), suspects=suspects)

    work = Work(
        MESSAGES,
        claim=claim,
        clock=lambda: as_of,
        on_rest=rested.append,
    )
    work.work(until=lambda: bool(claimed), stopping=lambda: False)
    return _counted(rested)


def _counted(rested: Iterable[Message]) -> Delivered:
    states = Counter(message.state for message in rested)
    return Delivered(
        sent=states["SENT"], cancelled=states["CANCELLED"], failed=states["QUEUED"] + states["DEAD"]
    )
