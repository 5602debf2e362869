"""What a run's numbers mean: the share collected, the speed, the time left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from typing import Any

from billing import step_kinds

# Long enough to average over chunks, short enough to see a provider slow down.
WINDOW = timedelta(minutes=3)
# Two samples closer than this measure single chunks, not the speed.
APART = timedelta(seconds=10)
# Kept so much longer than the window, to have a sample from just before it.
KEPT = 2 * WINDOW


def share_collected(currency: Mapping[str, Any]) -> str | None:
    """
    The share of the amount to pay that is paid, in percent with one decimal; None if there was none.

    Takes a row of the finance answer. Rounded down: 100 means all of it.
    """
    collected, outstanding = Decimal(currency["collected"]), Decimal(currency["outstanding"])
    if not collected + outstanding:
        return None
    share = 100 * collected / (collected + outstanding)
    return str(share.quantize(Decimal("0.1"), rounding=ROUND_DOWN))


@dataclass(frozen=True)
class Sample:
    """How many steps of each kind had ended at a moment."""

    at: datetime
    ended: Mapping[str, int]


def kept(samples: Sequence[Sample], newest: Sample) -> list[Sample]:
    """The samples to keep with a new one: those of the last minutes, none too close to the one before."""
    recent = [sample for sample in samples if newest.at - KEPT <= sample.at < newest.at]
    if len(recent) > 1 and recent[-1].at - recent[-2].at < APART:
        recent.pop()
    return [*recent, newest]


def per_second(samples: Sequence[Sample], *, started_at: datetime) -> dict[str, float]:
    """
    How many steps of each kind ended per second in the last minutes, or since the first of the kind did.

    Leaves out a kind of which no step ended, and one that has only a single sample yet.
    """
    if not samples:
        return {}
    newest, rates = samples[-1], {}
    for kind, ended in newest.ended.items():
        first = _first(samples, kind, started_at)
        if first is not None and ended > first.ended.get(kind, 0):
            grown = ended - first.ended.get(kind, 0)
            rates[kind] = grown / (newest.at - first.at).total_seconds()
    return rates


def _first(samples: Sequence[Sample], kind: str, started_at: datetime) -> Sample | None:
    """The sample to compare the newest with: within the window, and not from before the kind began."""
    newest = samples[-1]
    recent = [sample for sample in samples if sample.at >= newest.at - WINDOW]
    not_begun = [sample for sample in recent if not sample.ended.get(kind)]
    first = not_begun[-1] if not_begun else recent[0]
    if newest.at - first.at >= APART:
        return first
    if _begins_at_once(kind) and started_at < newest.at <= started_at + WINDOW:
        return Sample(started_at, {})
    return None


def _begins_at_once(kind: str) -> bool:
    described = step_kinds.find(kind)
    return described is not None and described.follows is None and not described.is_per_run


@dataclass(frozen=True)
class Left:
    """How long the rest takes; `at_least` if the speed of some kind of step is not known yet."""

    seconds: int
    at_least: bool = False


def time_left(
    *,
    steps: Mapping[str, Mapping[str, int]],
    later: Mapping[str, int],
    rates: Mapping[str, float],
    limits: Mapping[str, float],
) -> Left | None:
    """
    How long the work that is ready takes, at the speed measured and never above the lanes' limits.

    `steps`: by kind and state. `later`: by kind, how many wait for a later time; they are not counted. The
    kinds run in parallel, so the slowest decides. None if nothing moves, or no speed is known.
    """
    seconds, known, at_least = 0.0, False, False
    for kind, count in _moving(steps, later).items():
        if not count:
            continue
        bounds = [speeds[kind] for speeds in (rates, limits) if kind in speeds]
        if bounds:
            known, seconds = True, max(seconds, count / min(bounds))
        at_least = at_least or kind not in rates
    return Left(round(seconds), at_least=at_least) if known else None


def _moving(steps: Mapping[str, Mapping[str, int]], later: Mapping[str, int]) -> dict[str, int]:
    """How many of each kind can be worked on now, or as soon as the steps before them are done."""
    moving: dict[str, int] = {}
    for each in step_kinds.of_accounts():
        of_kind = steps.get(each.kind, {})
        in_hand = sum(of_kind.get(state, 0) for state in ("READY", "RUNNING", "UNKNOWN"))
        coming = of_kind.get("WAITING", 0)
        if each.follows is not None:
            coming = min(coming, moving[each.follows])
        moving[each.kind] = max(in_hand - later.get(each.kind, 0), 0) + coming
    return {
        each.kind: moving[each.kind]
        for each in step_kinds.of_accounts()
        if each.counts_for_time_left
    }


def in_words(seen: Mapping[str, Any]) -> str:
    """ "about 3 min 20 s", "at least 5 s", or nothing if it is not known. Takes what progress tells."""
    seconds = seen["seconds_left"]
    if seconds is None:
        return ""
    return f"{'at least' if seen['left_is_at_least'] else 'about'} {duration(seconds)}"


def speed_in_words(per_second: float | None) -> str:
    """ "24 a second", "90 a minute", or nothing where none ended."""
    if not per_second:
        return ""
    if per_second >= SLOW:
        return f"{per_second:,.0f} a second"
    return f"{per_second * 60:,.0f} a minute"


# Below this, a number per second has too few digits to show a change.
SLOW = 10


MINUTE = 60
HOUR = 60 * MINUTE


def duration(seconds: float) -> str:
    """Write a time for people: "4 s", "3 min 20 s", "2 h 5 min"."""
    whole = int(seconds + 0.5)
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE} s"
    return f"{whole // HOUR} h {whole % HOUR // MINUTE} min"
