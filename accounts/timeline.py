"""The account's append-only timeline: what happened, who did it, in words for support."""

import json
from typing import Any

from django.db import connection

from accounts.models import TimelineEvent


def event(
    *, account_id: int, kind: str, summary: str, actor: str = "system", **details: Any
) -> TimelineEvent:
    """Make, not yet save, one event. Acts over many accounts save theirs with `record`."""
    return TimelineEvent(
        account_id=account_id, kind=kind, summary=summary[:500], actor=actor, details=details
    )


def record(*events: TimelineEvent) -> None:
    """Append the events in the caller's transaction."""
    if not events:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            RECORD,
            {
                "accounts": [event.account_id for event in events],
                "kinds": [event.kind for event in events],
                "actors": [event.actor for event in events],
                "summaries": [event.summary for event in events],
                "details": [json.dumps(event.details) for event in events],
            },
        )


# In one statement of fixed length: a close writes several events for every account.
RECORD = """
INSERT INTO accounts_timelineevent (account_id, kind, actor, summary, details)
SELECT * FROM unnest(%(accounts)s::bigint[], %(kinds)s::text[], %(actors)s::text[], %(summaries)s::text[],
                     %(details)s::jsonb[])
"""
