"""
The progress of a close run: steps by kind and state, money by currency, what waits or is stuck, and why.

`of` counts now. Pages call `current`: of a large run it returns the last count with its time, and says
whether to count again, which pages do after they have answered.
"""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import Count, F, Max, Min, Q, QuerySet, Sum, Value
from django.db.models.functions import Coalesce, Left, Now, NullIf

from billing import step_kinds
from billing.models import CloseRun, Decision, DunningCase, PaymentAttempt, RunProgress, Step
from billing.money import to_major
from billing.reports import finance, hosts, pace
from billing.step_kinds import Through
from billing.workers import heartbeats
from notifications import lanes

logger = logging.getLogger(__name__)
State = Step.State
STUCK = (State.BLOCKED, State.DEAD)
# So many reasons are listed; the rest is in the list of steps.
REASONS = 50

# A run that is counted as quickly as this is counted for every page…
QUICK_MS = 50
# …others again after ten times as long as counting took: a tenth of one core at most…
REST = 10
# …and numbers older than this are not shown: the page waits for new ones.
TOO_OLD = timedelta(seconds=30)
# Raise it when `of` returns something new: the counts kept by the release before lack it.
SHAPE = 1
EXPIRED = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Sight:
    """What the run's page shows, as plain values, and whether to count again after that."""

    seen: dict[str, Any]
    is_due: bool = False


def current(run: CloseRun, *, as_of: datetime, at_most: timedelta = TOO_OLD) -> Sight:
    """Return the run's numbers with their time: those of a moment ago if they are kept, else counted now."""
    kept = RunProgress.objects.filter(run=run).first()
    if kept is None or kept.took_ms <= QUICK_MS:
        return Sight(refresh(run, as_of=as_of))
    if kept.seen.get("shape") != SHAPE or kept.seen["state"] != run.state:
        return Sight(refresh(run, as_of=as_of))
    age = as_of - kept.counted_at
    if age > at_most:
        return Sight(refresh(run, as_of=as_of))
    # The database keeps no order of keys, and people read the steps in theirs.
    counted = kept.seen["steps"]
    in_order = {kind: counted.get(kind, {}) for kind in step_kinds.in_order(counted)}
    is_due = age > REST * timedelta(milliseconds=kept.took_ms)
    return Sight({**kept.seen, "steps": in_order}, is_due)


@transaction.atomic(durable=True)
def refresh(run: CloseRun, *, as_of: datetime) -> dict[str, Any]:
    """Count a run's numbers and keep them; if another process is counting, return the ones before."""
    kept = RunProgress.objects.select_for_update(skip_locked=True).filter(run=run).first()
    if kept is None:
        standing = RunProgress.objects.filter(run=run).first()
        if standing is not None:
            seen: dict[str, Any] = standing.seen
            return seen
        kept = RunProgress(run=run)
    began = time.monotonic()
    seen = of(run, as_of=as_of)
    samples = pace.kept(_samples(kept), pace.Sample(as_of, _ended(seen["steps"])))
    seen |= _speed(run, seen, samples)
    kept.seen, kept.counted_at = seen, as_of
    kept.samples = [{"at": each.at.isoformat(), "ended": dict(each.ended)} for each in samples]
    kept.took_ms = round(1000 * (time.monotonic() - began))
    if kept._state.adding:
        # Two may count a run for the first time: one of them keeps it.
        RunProgress.objects.bulk_create([kept], ignore_conflicts=True)
    else:
        kept.save()
    return seen


def expire(run_ids: Iterable[int]) -> None:
    """Make the next page of these runs count again: somebody has just changed them."""
    RunProgress.objects.filter(run__in=run_ids).update(counted_at=EXPIRED)


def refresh_running(*, as_of: datetime) -> int:
    """
    Count every running run, so that its speed is known when somebody looks; and once what has ended since.

    :raises Exception: what could not be counted of one of them, after the others.
    """
    moves = Q(state=CloseRun.State.RUNNING) | Q(finished_at__gt=F("progress__counted_at"))
    counted = list(CloseRun.objects.filter(moves).select_related("entity"))
    errors = []
    for run in counted:
        try:
            refresh(run, as_of=as_of)
        except Exception as error:
            logger.exception("%s could not be counted", run)
            errors.append(error)
    if errors:
        raise errors[0]
    return len(counted)


def _samples(kept: RunProgress) -> list[pace.Sample]:
    return [pace.Sample(datetime.fromisoformat(each["at"]), each["ended"]) for each in kept.samples]


def _ended(by_kind: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    return {
        kind: sum(count for state, count in states.items() if state not in Step.OPEN)
        for kind, states in by_kind.items()
    }


def _speed(
    run: CloseRun, seen: Mapping[str, Any], samples: Sequence[pace.Sample]
) -> dict[str, Any]:
    """How many steps of each kind end per second, and how long the rest takes at that speed."""
    measured = pace.per_second(samples, started_at=run.started_at)
    limits = _limits(seen["lanes"])
    # Nobody knows when a closed lane opens: its speed of a minute ago says nothing.
    shut = {kind for kind, limit in limits.items() if not limit}
    rates = {kind: rate for kind, rate in measured.items() if kind not in shut}
    limits = {kind: limit for kind, limit in limits.items() if limit}
    later: Counter[str] = Counter()
    for row in seen["waiting"]:
        # Work that a lane holds back does not wait for a later time: it moves at the lane's speed.
        if row["state"] == State.READY and "provider" not in row:
            later[row["kind"]] += row["steps"]
    left = pace.time_left(steps=seen["steps"], later=later, rates=rates, limits=limits)
    return {
        "per_second": {kind: round(rate, 2) for kind, rate in rates.items()},
        "seconds_left": left.seconds if left else None,
        "left_is_at_least": bool(left and left.at_least),
    }


def steps(run: CloseRun) -> dict[str, dict[str, int]]:
    """
    The run's steps, by kind and state, in the order of the pipeline; states without any are left out.

    Also those of a kind that is not installed here, after the others.
    """
    rows = run.steps.values_list("kind", "state").annotate(Count("id")).order_by("kind", "state")
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for kind, state, count in rows:
        found[kind][state] = count
    return {kind: found.get(kind, {}) for kind in step_kinds.in_order(found)}


@dataclass(frozen=True)
class Counts:
    """How many steps a run has, and how many have ended."""

    ended: int
    everything: int


def counts(run: CloseRun) -> Counts:
    """Count all steps of a run, and those that have ended."""
    return _totals(steps(run))


def _totals(by_kind: Mapping[str, Mapping[str, int]]) -> Counts:
    totals: Counter[str] = Counter()
    for states in by_kind.values():
        totals.update(states)
    return Counts(
        ended=sum(count for state, count in totals.items() if state not in Step.OPEN),
        everything=totals.total(),
    )


# --- everything the page shows


def of(run: CloseRun, *, as_of: datetime) -> dict[str, Any]:
    """Everything the run's page shows, as plain values."""
    by_kind = steps(run)
    so_far = _totals(by_kind)
    first = next_at(run)
    seen_lanes = how_lanes_stand()
    return {
        "shape": SHAPE,
        "run": run.pk,
        "month": f"{run.month:%Y-%m}",
        "state": run.state,
        "as_of": as_of.isoformat(),
        "steps": by_kind,
        "steps_all": so_far.everything,
        "steps_ended": so_far.ended,
        "next_at": first.isoformat() if first else None,
        "stuck": stuck(run),
        "waiting": waiting(run) + throttled(run, seen_lanes),
        "charges": charges(run),
        "held": held(run),
        "final": final(run),
        "lanes": seen_lanes,
        "hosts": hosts.worked(run),
        "clusters": live_clusters(),
        "trouble": trouble(run),
        "world_changed": run.decisions.filter(world_changed=True).count(),
        "answer": finance.answer(run, as_of=as_of),
    }


def stuck(run: CloseRun) -> list[dict[str, Any]]:
    """What a person has to look at: each reason, and how many accounts it blocks."""
    rows = (
        run.steps.filter(state__in=STUCK)
        .values("kind", "state", "because")
        .annotate(accounts=Count("account"))
        .order_by("kind", "-accounts", "because")[:REASONS]
    )
    return [{**row} for row in rows]


def waiting(run: CloseRun) -> list[dict[str, Any]]:
    """
    What waits for a later time or for an answer: each reason, how many steps, from when until when.

    They are throttled, their provider is down, they are on their way, not due yet, or will be retried: none
    has ended.
    """
    rows = (
        run.steps.filter(Q(state=State.UNKNOWN) | Q(state=State.READY, run_at__gt=Now()))
        .values("kind", "state", why=WHY)
        .annotate(steps=Count("pk"), first_at=Min("run_at"), last_at=Max("run_at"))
        .order_by("kind", "-steps", "why")[:REASONS]
    )
    return [
        {
            "kind": row["kind"],
            "state": row["state"],
            "because": row["why"],
            "steps": row["steps"],
            "first_at": row["first_at"].isoformat(),
            "last_at": row["last_at"].isoformat(),
        }
        for row in rows
    ]


def throttled(run: CloseRun, seen: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is due and may not begin, because its provider's lane is closed, slowed down or used up."""
    because = {lane["provider"]: why for lane in seen if (why := _holds_back(lane))}
    if not because:
        return []
    rows = (
        run.steps.filter(state__in=Step.CLAIMABLE, run_at__lte=Now(), provider__in=because)
        .values("kind", "state", "provider")
        .annotate(steps=Count("pk"), first_at=Min("run_at"), last_at=Max("run_at"))
        .order_by("kind", "provider", "state")
    )
    return [
        {
            "kind": row["kind"],
            "state": row["state"],
            "because": because[row["provider"]],
            "steps": row["steps"],
            "first_at": row["first_at"].isoformat(),
            "last_at": row["last_at"].isoformat(),
            "provider": row["provider"],
        }
        for row in rows
    ]


# At this share of what a lane may do per second, it is the lane that limits the work.
USED_UP = 0.9


def _holds_back(lane: Mapping[str, Any]) -> str:
    if (lane["saturation"] or 0) >= USED_UP:
        used_up = f"{lane['provider']} takes no more than {lane['rate']:g} a second"
    else:
        used_up = ""
    return str(lane["shut"] or lane["slowed"] or used_up)


# A failed step has the reason in its error, until it gives up.
WHY = Coalesce(NullIf("because", Value("")), Left("last_error", 200))


def with_reason(found: QuerySet[Step], because: str) -> QuerySet[Step]:
    """Those of the steps that are stuck or waiting for this reason."""
    return found.annotate(why=WHY).filter(why=because)


def charges(run: CloseRun) -> list[dict[str, Any]]:
    """
    The charges of a run, by currency: how many and how much, in major units as strings.

    `to_charge` is what the charge steps that have not ended are to charge; the others are this run's
    attempts. Retries by dunning are not counted here.
    """
    with connection.cursor() as cursor:
        cursor.execute(CHARGES, {"run": run.pk})
        rows = cursor.fetchall()
    found: dict[str, dict[str, Any]] = {}
    for currency, part, count, amount_minor in rows:
        found.setdefault(currency, {"currency": currency})[part] = {
            "count": count,
            "amount": str(to_major(amount_minor, currency)),
        }
    return [found[currency] for currency in sorted(found)]


PARTS = ("to_charge", "charged", "on_its_way", "review", "declined")
CHARGES = """
SELECT a.currency, 'to_charge', count(*), coalesce(sum((s.expected->>'due_minor')::bigint), 0)::bigint
  FROM billing_step s JOIN accounts_account a ON a.id = s.account_id
 WHERE s.run_id = %(run)s AND s.kind = 'CHARGE' AND s.state IN ('READY', 'RUNNING', 'UNKNOWN')
 GROUP BY a.currency
UNION ALL
SELECT currency, CASE state WHEN 'SUCCEEDED' THEN 'charged' WHEN 'FAILED' THEN 'declined'
                            WHEN 'REVIEW' THEN 'review' ELSE 'on_its_way' END AS part,
       count(*), sum(amount_minor)::bigint
  FROM billing_paymentattempt
 WHERE run_id = %(run)s AND kind = 'AUTO' AND state <> 'RELEASED'
 GROUP BY currency, part
"""


def held(run: CloseRun) -> list[dict[str, Any]]:
    """Which of the run's accounts are held now: by reason and currency, how many, and what they owe."""
    with connection.cursor() as cursor:
        cursor.execute(HELD, {"run": run.pk})
        return [
            {
                "reason": reason,
                "currency": currency,
                "accounts": accounts,
                "placed_by_run": placed,
                "owed": str(to_major(owed_minor, currency)),
            }
            for reason, currency, accounts, placed, owed_minor in cursor.fetchall()
        ]


# Starts from the open holds, which are few beside the steps.
HELD = """
WITH held AS (
    SELECT h.id, h.account_id, h.reason, a.currency,
           EXISTS (SELECT FROM billing_decision d
                    WHERE d.hold_id = h.id AND d.run_id = %(run)s AND d.act = 'HOLD' AND d.did = 'DONE') AS by_run
      FROM accounts_hold h JOIN accounts_account a ON a.id = h.account_id
     WHERE h.lifted_at IS NULL
       AND EXISTS (SELECT FROM billing_step s
                    WHERE s.run_id = %(run)s AND s.account_id = h.account_id AND s.kind = 'HOLD')
), owed AS (
    SELECT i.account_id, sum(greatest(i.total_minor, 0) - coalesce(x.paid, 0)) AS minor
      FROM billing_invoice i
      LEFT JOIN LATERAL (SELECT sum(amount_minor) AS paid FROM billing_allocation
                          WHERE invoice_id = i.id) x ON true
     WHERE i.account_id IN (SELECT account_id FROM held) AND i.state = 'ISSUED' AND i.settled_at IS NULL
     GROUP BY i.account_id
)
SELECT h.reason, h.currency, count(*), count(*) FILTER (WHERE h.by_run), coalesce(sum(o.minor), 0)::bigint
  FROM held h LEFT JOIN owed o ON o.account_id = h.account_id
 GROUP BY h.reason, h.currency ORDER BY h.reason DESC, h.currency
"""


def final(run: CloseRun) -> list[dict[str, Any]]:
    """What the run's money still waits for, and until when at the latest; empty if it is final."""
    later = run.steps.filter(state=State.READY, run_at__gt=Now()).aggregate(
        count=Count("pk"), until=Max("run_at")
    )
    flying = PaymentAttempt.objects.filter(run=run, state__in=PaymentAttempt.IN_FLIGHT).aggregate(
        count=Count("pk"), day=Max("charge_date")
    )
    tried_again = DunningCase.objects.filter(
        closed_at=None, account__steps__run=run, account__steps__kind=step_kinds.HOLD
    )
    dunned = tried_again.aggregate(count=Count("pk"), until=Max("ends_at"))
    found = [
        {"what": "steps", "count": later["count"], "until": _iso(later["until"])},
        {"what": "payments", "count": flying["count"], "until": _iso(flying["day"])},
        {"what": "dunning", "count": dunned["count"], "until": _iso(dunned["until"])},
    ]
    return [row for row in found if row["count"]]


# The lane of the mail; all others are payment providers.
MAIL = "smtp"


def how_lanes_stand() -> list[dict[str, Any]]:
    """The speed of each provider, its limit, and why nothing begins."""
    alive = Step.objects.filter(state=State.RUNNING, lease_until__gt=Now()).order_by("provider")
    in_flight = dict(alive.values_list("provider").annotate(Count("pk")))
    return [
        {
            "provider": sight.lane.provider,
            "per_second": round(sight.speed.per_second, 2),
            "rate": sight.speed.rate_now,
            "in_flight": in_flight.get(sight.lane.provider, 0),
            "cap": sight.lane.cap,
            "saturation": sight.saturation,
            "shut": sight.why_shut,
            "slowed": sight.slowed_because,
        }
        for sight in lanes.sights()
    ]


def live_clusters() -> list[dict[str, Any]]:
    """The clusters that are alive by their last heartbeat, by host."""
    return [
        {"host": each.host, "pid": each.pid, "lanes": list(each.queues), "workers": each.workers}
        for each in heartbeats.seen()
        if each.is_alive
    ]


def trouble(run: CloseRun) -> dict[str, int]:
    """
    Count outcomes refused because the lease had expired, workers that died while working on a step, and open
    steps on which a worker has died.
    """
    suspect = Q(deaths__gt=0, state__in=Step.OPEN)
    found = run.steps.filter(Q(fenced__gt=0) | Q(deaths__gt=0)).aggregate(
        # Must come first: below, `deaths` becomes the name of the sum.
        suspects=Count("pk", filter=suspect),
        fenced=Coalesce(Sum("fenced"), 0),
        deaths=Coalesce(Sum("deaths"), 0),
    )
    return {name: found[name] for name in ("fenced", "deaths", "suspects")}


def _limits(seen: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The most steps of a kind that the lanes let through per second; 0 if they are closed."""
    found = {}
    for kind in step_kinds.through(Through.CARD, Through.MAIL_SERVER):
        is_mail = kind.through is Through.MAIL_SERVER
        of_kind = [lane for lane in seen if (lane["provider"] == MAIL) == is_mail]
        rates = [0.0 if lane["shut"] else lane["rate"] for lane in of_kind]
        if rates and None not in rates:
            found[kind.kind] = sum(rates)
    return found


def _iso(moment: Any) -> str | None:
    return moment.isoformat() if moment else None


def changes(run: CloseRun) -> list[Decision]:
    """The decisions where the world had changed, in the order they were made."""
    return list(run.decisions.filter(world_changed=True).select_related("account").order_by("pk"))


def next_at(run: CloseRun) -> datetime | None:
    """When the next step may be worked on; None if all are leased, or none is open."""
    if run.steps.filter(state=State.RUNNING).exists():
        return None
    first: datetime | None = run.steps.filter(state__in=Step.CLAIMABLE).aggregate(
        first=Min("run_at")
    )["first"]
    return first
