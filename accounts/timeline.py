"""The account's append-only timeline: what happened, who did it, in words for support."""

from typing import Any

from accounts.models import TimelineEvent


def event(
    *, account_id: int, kind: str, summary: str, actor: str = "system", **details: Any
) -> TimelineEvent:
    """This will make, not yet save, one event. Acts over many accounts save theirs with `record`."""
    return TimelineEvent(
        account_id=account_id, kind=kind, summary=summary[:500], actor=actor, details=details
    )


def record(*events: TimelineEvent) -> None:
    """This will append the events in the caller's transaction."""
    TimelineEvent.objects.bulk_create(events)
