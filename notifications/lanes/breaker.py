"""
A lane's circuit breaker: changes to the row in hand, which its caller has locked.

Closed → open after so many calls in a row without an answer → one probe at a time, ever further apart →
closed again on the first answer. A probe is a piece of the work that waits; who is granted it calls as ever.
"""

from datetime import datetime, timedelta

from notifications.lanes import bucket
from notifications.models import Lane

OPENS_AFTER = 5
FIRST_PAUSE_SECONDS = 30
LONGEST_PAUSE_SECONDS = 300
# A probe whose worker was killed: the longest it may take, two calls of thirty seconds.
PROBE_WINDOW = timedelta(seconds=60)
# One that opens again this soon was not back yet: its pauses go on from where they were.
NOT_BACK_YET = timedelta(minutes=10)


def may_probe(lane: Lane, at: datetime) -> bool:
    """Whether the open breaker lets one piece of work through now."""
    return lane.probe_at is not None and at >= lane.probe_at


def begin_probe(lane: Lane, at: datetime) -> None:
    """Let one through; the next not before its answer, or the end of its time."""
    lane.is_probing, lane.probe_at = True, at + PROBE_WINDOW


def withdraw_probe(lane: Lane, at: datetime) -> None:
    """Let another one probe: nothing was called."""
    lane.is_probing, lane.probe_at = False, at


def note_answer(lane: Lane, at: datetime) -> None:
    """The provider has answered, whatever it said."""
    lane.unanswered = 0
    if lane.opened_at is None:
        return
    lane.opened_at = lane.probe_at = None
    lane.is_probing = False
    lane.closed_at = at
    bucket.come_back(lane, at)


def note_silence(lane: Lane, calls: int, at: datetime) -> None:
    """So many calls had no answer, and no other call had one meanwhile."""
    lane.unanswered += calls
    if lane.opened_at is None:
        if lane.unanswered >= OPENS_AFTER:
            lane.opened_at = at
            was_back = lane.closed_at is None or at - lane.closed_at >= NOT_BACK_YET
            _pause(lane, FIRST_PAUSE_SECONDS if was_back else _longer(lane), at)
    elif lane.is_probing:
        _pause(lane, _longer(lane), at)


def _longer(lane: Lane) -> int:
    return min(max(2 * lane.probe_pause_seconds, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)


def _pause(lane: Lane, seconds: int, at: datetime) -> None:
    lane.is_probing = False
    lane.probe_pause_seconds = seconds
    lane.probe_at = at + timedelta(seconds=seconds)
