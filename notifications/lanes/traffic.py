"""
Ask before calling a provider, and say afterwards how it answered.

    grant        how many pieces of waiting work may be begun now: ask it before claiming them, in the
                 transaction that claims, so that a claim that fails costs nothing
    give_back    what was granted and not begun
                 what a person waits for, such as their own payment, is urgent: the bucket goes into debt
                 for it, and the waiting work waits
    note_answers how the calls went: this opens and closes the breaker, and slows the lane down
    note_done    how much work came to its end: what "time left" is made of
    pause, resume   by hand, with who and why
    sights, speed   what people see

A piece of work is a charge, a mail, a refund, a question about one of them: one token, whatever calls it
takes. Throttled is not a failure: what is not granted stays where it is, uncounted, and nothing is charged
an attempt. All times are the database's (lane_clock.py).
"""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection, transaction

from notifications.lanes import breaker, bucket, lane_clock
from notifications.models import Lane, LaneTally

TALLY_SECONDS = 10
TALLIES_KEPT = timedelta(days=1)
# Long enough to even out a batch, short enough to see a change.
SPEED_WINDOW = timedelta(minutes=2)

PAUSED = "paused by {by}: {because}"
NO_ANSWER = "{provider} does not answer"
SLOW_DOWN = "{provider} has asked us to slow down"
BUSY = "as many are in flight as may be"
RATE = "the rate of {provider} is used up"


@dataclass(frozen=True, kw_only=True)
class Grant:
    """How many pieces of work may be begun; and if none, why, and when to ask again (None: when one ends)."""

    provider: str
    count: int
    because: str = ""
    again_at: datetime | None = None
    # By the database's clock, from when the grant was made until `again_at`.
    wait_seconds: float = 0.0
    # The one piece by which an open breaker asks whether the provider is back.
    is_probe: bool = False
    # It took no tokens.
    is_free: bool = False


class AlreadyPaused(Exception):
    """Somebody has paused it before: who and why stand."""


class NotPaused(Exception):
    """It goes on already."""


# --- before the call


def grant(
    provider: str,
    *,
    wanted: int,
    in_flight: Callable[[], int] | None = None,
    is_read: bool = False,
    is_urgent: bool = False,
    at_least: int = 0,
) -> Grant:
    """
    Say how many of `wanted` pieces of waiting work may be begun now, and take their tokens.

    Call it in the transaction that claims them, and claim no more: the lane's row stays locked until then,
    so that what `in_flight` counts (the leases of this lane that are alive) is true. Without a limit and
    with nothing amiss no row is locked. `is_read`: the work asks and moves nothing, as after a webhook; it
    takes tokens only while the lane is slowed, since providers count what is written. `is_urgent`: a person
    waits for it, so that it is kept waiting neither for the rate nor for the cap: its tokens are owed, and the
    waiting work waits for that. `at_least`: so many
    however small the burst is, where somebody asks but once a minute; what that is more is owed, and the rate
    over a minute stays what it is.
    """
    lane = _lane(provider)
    if _is_free(lane):
        return Grant(provider=provider, count=wanted, is_free=True)
    with transaction.atomic():
        lane, at = _locked(lane)
        granted = _granted(
            lane,
            wanted,
            in_flight,
            at,
            is_read=is_read,
            is_urgent=is_urgent,
            at_least=at_least,
        )
        lane.save()
    return granted


def _is_free(lane: Lane) -> bool:
    """Nothing to look at, so nothing to lock."""
    return (
        lane.rate is None
        and lane.cap is None
        and lane.slowed_rate is None
        and lane.opened_at is None
        and lane.paused_at is None
        and lane.throttled_until is None
    )


def _granted(
    lane: Lane,
    wanted: int,
    in_flight: Callable[[], int] | None,
    at: datetime,
    *,
    is_read: bool,
    is_urgent: bool,
    at_least: int,
) -> Grant:
    if because := _paused(lane):
        return Grant(provider=lane.provider, count=0, because=because)
    if lane.opened_at is not None:
        return _probe(lane, at)
    if lane.throttled_until is not None and at < lane.throttled_until:
        return _wait(lane, SLOW_DOWN, lane.throttled_until, at)
    lane.throttled_until = None
    bucket.refill(lane, at)
    if is_read and lane.slowed_rate is None:
        return Grant(provider=lane.provider, count=wanted, is_free=True)
    if is_urgent:
        _spend(lane, wanted, at)
        return Grant(provider=lane.provider, count=wanted)
    room = wanted
    if lane.cap is not None and in_flight is not None:
        room = min(wanted, lane.cap - in_flight())
    if room <= 0:
        return Grant(provider=lane.provider, count=0, because=BUSY)
    count = bucket.most_now(lane, wanted=room, at=at)
    count = max(count, bucket.most_owing(lane, wanted=min(room, at_least), at=at))
    if not count:
        return _wait(lane, RATE, bucket.next_at(lane, at), at)
    _spend(lane, count, at)
    return Grant(provider=lane.provider, count=count)


def _paused(lane: Lane) -> str:
    if lane.paused_at is None:
        return ""
    return PAUSED.format(by=lane.paused_by, because=lane.paused_because)


def _probe(lane: Lane, at: datetime) -> Grant:
    assert lane.probe_at is not None, f"{lane}: an open breaker says when it probes"
    if not breaker.may_probe(lane, at):
        return _wait(lane, NO_ANSWER, lane.probe_at, at)
    breaker.begin_probe(lane, at)
    return Grant(provider=lane.provider, count=1, again_at=lane.probe_at, is_probe=True)


def _wait(lane: Lane, because: str, until: datetime, at: datetime) -> Grant:
    return Grant(
        provider=lane.provider,
        count=0,
        because=because.format(provider=lane.provider),
        again_at=until,
        wait_seconds=(until - at).total_seconds(),
    )


def _spend(lane: Lane, count: int, at: datetime) -> None:
    if bucket.rate_at(lane, at) is not None:
        lane.tokens -= count


def give_back(granted: Grant, *, unused: int) -> None:
    """Return what was granted and not begun, in the transaction that was to claim it."""
    if not unused or granted.is_free:
        return
    lane = _lane(granted.provider)
    if _is_free(lane):
        return
    with transaction.atomic():
        lane, at = _locked(lane)
        if granted.is_probe:
            _withdraw(granted, lane, at)
        elif bucket.rate_at(lane, at) is not None:
            lane.tokens += unused
        lane.save()


def end_probe(granted: Grant) -> None:
    """Let another probe be made, if this was one and its work came to no call. Call it after the work."""
    if granted.is_probe:
        with transaction.atomic():
            lane, at = _locked(_lane(granted.provider))
            _withdraw(granted, lane, at)
            lane.save()


def _withdraw(granted: Grant, lane: Lane, at: datetime) -> None:
    """Unless it was answered, or another one is out by now."""
    if lane.is_probing and lane.probe_at == granted.again_at:
        breaker.withdraw_probe(lane, at)


def why_shut(provider: str) -> str:
    """Why nothing is begun at all now: it does not answer, or is paused by hand; empty where it is neither."""
    return _why_shut(_lane(provider))


def _why_shut(lane: Lane) -> str:
    if because := _paused(lane):
        return because
    return NO_ANSWER.format(provider=lane.provider) if lane.opened_at is not None else ""


def shut_among(providers: Collection[str]) -> set[str]:
    """Those of these whose lane begins nothing now; only read, so it may be asked with locks held."""
    lanes = Lane.objects.filter(provider__in=providers)
    return {
        lane.provider
        for lane in lanes
        if lane.credential == _fingerprint(lane.provider) and _why_shut(lane)
    }


# --- after the call


def note_answers(
    provider: str, *, answered: int = 0, unanswered: int = 0, throttled_for: float | None = None
) -> None:
    """
    Note how calls went. Call it with no transaction open, after each batch of them.

    `answered`: the provider said something, a decline as much as a yes. `unanswered`: timeouts, resets, 5xx;
    five in a row open the breaker, so give a batch in which some were answered as what it was. `throttled_for`:
    it said "slow down" (429), for so many seconds.
    """
    if not (answered or unanswered or throttled_for is not None):
        return
    lane = _lane(provider)
    _tally(
        lane,
        answered=answered,
        unanswered=unanswered,
        throttled=int(throttled_for is not None),
    )
    if _is_well(lane) and not unanswered and throttled_for is None:
        return
    with transaction.atomic():
        lane, at = _locked(lane)
        if answered or throttled_for is not None:
            breaker.note_answer(lane, at)
        else:
            breaker.note_silence(lane, unanswered, at)
        if throttled_for is not None:
            until = at + timedelta(seconds=throttled_for)
            bucket.slow_down(lane, measured=_measured(lane, at), until=until, at=at)
        lane.save()


def _is_well(lane: Lane) -> bool:
    return lane.opened_at is None and not lane.unanswered


def note_done(provider: str, count: int) -> None:
    """Note that so many pieces of work came to their end."""
    if count:
        _tally(_lane(provider), done=count)


TALLY = """
INSERT INTO notifications_lanetally AS t (lane_id, starts_at, answered, unanswered, throttled, done)
VALUES (%(lane)s, %(starts_at)s, %(answered)s, %(unanswered)s, %(throttled)s, %(done)s)
ON CONFLICT (lane_id, starts_at) DO UPDATE
   SET answered = t.answered + excluded.answered, unanswered = t.unanswered + excluded.unanswered,
       throttled = t.throttled + excluded.throttled, done = t.done + excluded.done
"""


def _tally(
    lane: Lane, *, answered: int = 0, unanswered: int = 0, throttled: int = 0, done: int = 0
) -> None:
    at = lane_clock.now()
    with connection.cursor() as cursor:
        cursor.execute(
            TALLY,
            {
                "lane": lane.pk,
                "starts_at": _tally_of(at),
                "answered": answered,
                "unanswered": unanswered,
                "throttled": throttled,
                "done": done,
            },
        )


def _tally_of(at: datetime) -> datetime:
    return at.replace(second=at.second // TALLY_SECONDS * TALLY_SECONDS, microsecond=0)


def forget_old_tallies() -> int:
    """Delete the tallies of more than a day ago."""
    old = LaneTally.objects.filter(starts_at__lt=lane_clock.now() - TALLIES_KEPT)
    return old.delete()[0]


# --- by hand


@transaction.atomic
def pause(lane_id: int, *, by: str, because: str) -> None:
    """
    Let nothing new begin in a lane until somebody resumes it. What is in flight comes to its end.

    :raises AlreadyPaused: if it is; who and why stay as they are.
    """
    lane, at = _locked(Lane(pk=lane_id))
    if lane.paused_at is not None:
        raise AlreadyPaused(f"{lane} is {_paused(lane)}")
    lane.paused_at, lane.paused_by, lane.paused_because = at, by, because[:300]
    lane.save()


@transaction.atomic
def resume(lane_id: int) -> None:
    """
    Let work begin again. An open breaker stays open until a probe is answered.

    :raises NotPaused: if it goes on already.
    """
    lane, _ = _locked(Lane(pk=lane_id))
    if lane.paused_at is None:
        raise NotPaused(f"{lane} is not paused")
    lane.paused_at, lane.paused_by, lane.paused_because = None, "", ""
    lane.save()


# --- what people see


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a lane is: what it did of late, and what it may do now and at best (None: no limit)."""

    per_second: float
    rate_now: float | None
    rate: float | None


@dataclass(frozen=True, kw_only=True)
class Sight:
    """A lane as people see it."""

    lane: Lane
    speed: Speed
    # Of what it may do, 0 to 1; None where there is no limit.
    saturation: float | None
    tokens: float
    why_shut: str
    # Ends by itself; empty where it does not.
    slowed_because: str


def speed(provider: str) -> Speed:
    """How many pieces of work a second came to their end in the last two minutes, and the limits."""
    return _speed(_lane(provider), lane_clock.now())


def sight(lane: Lane) -> Sight:
    """A lane as it stands now."""
    return _sight(lane, lane_clock.now())


def sights() -> list[Sight]:
    """
    The lane of each provider that was ever used, as it stands now: through the credential that is set up, or
    was last.
    """
    at = lane_clock.now()
    by_age = Lane.objects.order_by("provider", "pk")
    of_each = {lane.provider: lane for lane in sorted(by_age, key=_is_set_up)}
    return [_sight(lane, at) for _, lane in sorted(of_each.items())]


def _is_set_up(lane: Lane) -> bool:
    return lane.credential == _fingerprint(lane.provider)


def _sight(lane: Lane, at: datetime) -> Sight:
    how_fast = _speed(lane, at)
    bucket.refill(lane, at)
    limit = how_fast.rate_now
    return Sight(
        lane=lane,
        speed=how_fast,
        saturation=min(how_fast.per_second / limit, 1.0) if limit else None,
        tokens=lane.tokens,
        why_shut=_why_shut(lane),
        slowed_because=_slowed_because(lane, at),
    )


def _slowed_because(lane: Lane, at: datetime) -> str:
    if lane.throttled_until is not None and at < lane.throttled_until:
        return SLOW_DOWN.format(provider=lane.provider)
    return "its rate grows back" if lane.slowed_rate is not None else ""


def _speed(lane: Lane, at: datetime) -> Speed:
    return Speed(
        per_second=_per_second(lane, at, lambda tally: tally.done),
        rate_now=bucket.rate_at(lane, at),
        rate=lane.rate,
    )


def _measured(lane: Lane, at: datetime) -> float:
    """Calls answered per second, of late: what a lane without a limit has come to."""
    return _per_second(lane, at, lambda tally: tally.answered)


def _per_second(lane: Lane, at: datetime, counted: Callable[[LaneTally], int]) -> float:
    """Over the window, or since its first tally where that is younger."""
    tallies = list(
        lane.tallies.filter(starts_at__gte=_tally_of(at - SPEED_WINDOW)).order_by("starts_at")
    )
    total = sum(map(counted, tallies))
    if not total:
        return 0.0
    seconds = (at - tallies[0].starts_at).total_seconds()
    return total / max(seconds, 1.0)


# --- rows


def _lane(provider: str) -> Lane:
    """The lane of a provider, through the credential that is set up now; made when first asked for."""
    names = {"provider": provider, "credential": _fingerprint(provider)}
    return Lane.objects.filter(**names).first() or _made(names)


def _fingerprint(provider: str) -> str:
    credential = settings.LANES.get(provider, {}).get("credential", "")
    return hashlib.sha256(f"{provider}|{credential}".encode()).hexdigest()[:16]


KEPT_WITH_A_NEW_KEY = ("rate", "burst", "cap", "paused_at", "paused_by", "paused_because")


def _made(names: dict[str, str]) -> Lane:
    """With what the settings say; after a change of key with what people had set for the one before."""
    before = Lane.objects.filter(provider=names["provider"]).order_by("-pk").first()
    if before is not None:
        limits = {name: getattr(before, name) for name in KEPT_WITH_A_NEW_KEY}
    else:
        limits = settings.LANES.get(names["provider"], {}).get("limits", {})
    at = lane_clock.now()
    lane = Lane(**names, **limits, refilled_at=at)
    # Full: nothing was begun before.
    lane.tokens = lane.burst
    Lane.objects.bulk_create([lane], ignore_conflicts=True)
    return Lane.objects.get(**names)


def _locked(lane: Lane) -> tuple[Lane, datetime]:
    """The row, ours until the transaction ends, and the time, read after the wait for it."""
    locked = Lane.objects.select_for_update(no_key=True).get(pk=lane.pk)
    return locked, lane_clock.now()
