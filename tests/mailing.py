"""One batch of mail, as a worker of the queue "email" delivers it, in this process."""

import uuid
from collections import Counter
from collections.abc import Collection
from datetime import datetime

from notifications import delivery
from notifications.delivery import MESSAGES, Delivered
from notifications.dispatcher import claims
from notifications.dispatcher.loop import Work


def deliver(
    *, as_of: datetime, limit: int = 100, message_ids: Collection[uuid.UUID] | None = None
) -> Delivered:
    """Deliver up to `limit` due messages, as many as the lane lets begin; or those of the given ones that are due."""
    if message_ids is not None:
        return delivery.deliver(as_of=as_of, message_ids=message_ids)
    claimed: list[int] = []
    states: Counter[str] = Counter()

    def claim(room: int, suspects: bool) -> claims.Claimed:
        claimed.append(1)
        return claims.claim(MESSAGES, "email", limit=min(room, limit), suspects=suspects)

    work = Work(
        MESSAGES,
        claim=claim,
        clock=lambda: as_of,
        on_rest=lambda message: states.update([message.state]),
    )
    work.work(until=lambda: bool(claimed), stopping=lambda: False)
    return Delivered(
        sent=states["SENT"], cancelled=states["CANCELLED"], failed=states["QUEUED"] + states["DEAD"]
    )
