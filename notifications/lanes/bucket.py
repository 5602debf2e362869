"""A lane's token bucket: arithmetic on the row in hand, which its caller has locked."""

import math
from datetime import datetime, timedelta

from notifications.models import Lane

# A grant is half a second's work: short enough to share, long enough not to be asked for each piece.
GRANT_SECONDS = 0.5
GRANT_MAX = 50
# Who asks once a minute may owe what comes in half of one: the rest is for the others.
OWED_SECONDS = 30

# After an outage, work begins again at so many a second.
RETURN_RATE = 5.0
# A slowed lane grows back by a sixtieth of its rate each second, and no faster than this: from 5 a
# second to 100 takes three minutes.
GROWTH_PER_SECOND = 0.5
GROWTH_SECONDS = 60
# A lane without a limit has one while it is slowed: twice what it came down to, or this.
UNLIMITED_FROM = 100.0
# A whole volley that was in flight is told "slow down" at once: that is one reason to slow down.
ONE_VOLLEY = timedelta(seconds=1)
SLOWEST = 0.1


def rate_at(lane: Lane, at: datetime) -> float | None:
    """How many a second may be begun at an instant; None: as many as come."""
    if lane.slowed_rate is None or lane.slowed_at is None:
        return lane.rate
    ceiling = _ceiling(lane, lane.slowed_rate)
    growth = min(GROWTH_PER_SECOND, ceiling / GROWTH_SECONDS)
    grown = lane.slowed_rate + growth * max((at - lane.slowed_at).total_seconds(), 0)
    if grown >= ceiling:
        return lane.rate
    return grown


def _ceiling(lane: Lane, slowed_rate: float) -> float:
    return lane.rate if lane.rate is not None else max(UNLIMITED_FROM, 2 * slowed_rate)


def refill(lane: Lane, at: datetime) -> None:
    """Put in what has come since the last time: the rate, over that time, up to the burst."""
    rate = rate_at(lane, at)
    seconds = max((at - lane.refilled_at).total_seconds(), 0)
    if rate is not None:
        # It grows evenly, so the mean of both ends is what came between; never more than it.
        began_at = min(rate_at(lane, lane.refilled_at) or rate, rate)
        # People may have lowered the burst meanwhile.
        lane.tokens = min(lane.tokens + seconds * (began_at + rate) / 2, _room(lane, rate))
    # Not before the end of a pause that the provider asked for.
    lane.refilled_at = max(lane.refilled_at, at)
    if rate == lane.rate:
        lane.slowed_rate = lane.slowed_at = None


def _room(lane: Lane, rate: float) -> float:
    """A slowed lane saves no more than a second's work."""
    return lane.burst if lane.slowed_rate is None else min(lane.burst, max(rate, 1))


def most_now(lane: Lane, *, wanted: int, at: datetime) -> int:
    """How many of `wanted` may be begun now; the bucket was refilled at `at`."""
    rate = rate_at(lane, at)
    if rate is None:
        return wanted
    share = min(max(math.ceil(rate * GRANT_SECONDS), 1), GRANT_MAX)
    return max(min(wanted, share, math.floor(lane.tokens)), 0)


def most_owing(lane: Lane, *, wanted: int, at: datetime) -> int:
    """How many of `wanted` may be begun and be owed: no more is, than comes in half a minute."""
    rate = rate_at(lane, at)
    if rate is None:
        return wanted
    may_owe = rate * OWED_SECONDS + min(lane.tokens, 0)
    return max(min(wanted, math.floor(may_owe)), 0)


def next_at(lane: Lane, at: datetime) -> datetime:
    """When there will be enough for a grant again, or for one piece where that takes longer."""
    rate = rate_at(lane, at) or math.inf
    missing = max(min(rate * GRANT_SECONDS, GRANT_MAX, lane.burst), 1) - lane.tokens
    return at + timedelta(seconds=max(missing / rate, 0.001))


def slow_down(lane: Lane, *, measured: float, until: datetime, at: datetime) -> None:
    """Halve the rate, once for a whole volley, and let nothing begin before `until`."""
    lane.throttled_until = max(lane.throttled_until or until, until)
    refill(lane, at)
    if lane.slowed_at is None or at - lane.slowed_at >= ONE_VOLLEY:
        rate = rate_at(lane, at)
        _slow(lane, (max(measured, RETURN_RATE) if rate is None else rate) / 2, at)
    # It grows back from when work begins again.
    lane.slowed_at = lane.throttled_until
    lane.tokens = min(lane.tokens, 0)
    lane.refilled_at = lane.throttled_until


def come_back(lane: Lane, at: datetime) -> None:
    """Let work begin slowly, with nothing saved up, as after an outage."""
    lane.tokens = min(lane.tokens, 0)
    lane.refilled_at = at
    _slow(lane, min(RETURN_RATE, lane.rate or RETURN_RATE), at)


def _slow(lane: Lane, rate: float, at: datetime) -> None:
    slowest = SLOWEST if lane.rate is None else min(SLOWEST, lane.rate / 2)
    lane.slowed_rate, lane.slowed_at = max(rate, slowest), at
