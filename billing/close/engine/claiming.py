"""
Which steps are taken next, by whom, and how many: in line, fair between runs, no faster than their lanes.

A step stands in line by its time, ten minutes earlier for each step of priority: so one that waits gains on
those that come later, and none waits for ever (`Turn`). Runs, and in them the lanes of providers, take
turns: a run of half a million steps leaves room for one of three. A mail takes the mail server's lane. What
goes through the account's card takes the lane of that card as it is now: `Step.provider` is where it was last
seen, and is corrected here (`MOVE`); out of a lane that is shut, from which nobody claims, by the sweeper.
"""

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from billing import gateways, step_kinds
from billing.close.step import StepModule
from billing.models import CloseRun, PaymentAttempt, Step
from billing.step_kinds import Through
from notifications import dispatcher, lanes
from notifications.lanes import Grant


class Throttled(Exception):
    """Steps are ready, and none may begin now. Says when to look again; None: when another one ends."""

    def __init__(self, refused: Sequence[Grant]) -> None:
        soonest = min(refused, key=lambda grant: grant.wait_seconds if grant.again_at else 3600)
        super().__init__(soonest.because)
        self.again_at: datetime | None = soonest.again_at
        self.wait_seconds = soonest.wait_seconds


@dataclass(frozen=True)
class Leased:
    """Steps of one run and lane that are ours for a while, and what was granted for them."""

    steps: list[Step]
    granted: Grant | None = None


@dataclass(frozen=True, order=True)
class Line:
    """Where ready steps of a kind stand: a run's, and in it a provider's."""

    run_id: int
    provider: str


# A step whose worker died with it in hand is suspected: it is tried only when nothing else is ready, with a
# few others, and after the second time alone. So the third death of one is its own, and it is dead.
DEATHS_MAX = 3
SUSPECTS_TOGETHER = 16

# Whose turn it was last in this process, by kind.
_last_turn: dict[str, Line] = {}


def ready(module: StepModule, *, limit: int, only: Sequence[int] | None = None) -> list[Step]:
    """
    Lock ready steps of one run, or those of `only` that still are, in the caller's transaction.

    Steps that another worker holds are passed over.
    """
    for line in turns(module.kind):
        steps = _take(module.kind, line, limit=limit, only=only)
        if steps:
            _last_turn[module.kind] = line
            return steps
    return []


def lease(module: StepModule, *, limit: int, suspects: bool = True) -> Leased:
    """
    Lease ready steps of one run and lane, as many as its lane grants.

    `suspects`: also those that may kill their worker, if nothing else is ready. Only for one that has
    nothing else in hand.

    A step counts an attempt when it is leased, so that one that kills its worker runs out of them.

    :raises Throttled: if steps are ready, and no lane of theirs lets any begin.
    """
    moved = True
    while moved:
        moved = False
        refused: list[Grant] = []
        for line in turns(module.kind):
            leased, elsewhere = _lease(module, line, limit=limit, suspects=suspects)
            if leased.steps:
                _last_turn[module.kind] = line
                return leased
            if elsewhere:
                # All that were taken: then many have moved, and the lane they went to may not let them begin.
                go_where_the_cards_are(module.kind, line)
                moved = True
            if leased.granted and not leased.granted.count:
                refused.append(leased.granted)
    if refused:
        raise Throttled(refused)
    return Leased([])


def leave_shut_lanes() -> int:
    """Requeue charges from closed lanes to their account's current provider."""
    return sum(
        len(go_where_the_cards_are(each.kind, line))
        for each in step_kinds.through(Through.CARD)
        for line in turns(each.kind)
        if line.provider and lanes.why_shut(line.provider)
    )


def go_where_the_cards_are(kind: str, line: Line, *, only: Sequence[int] | None = None) -> set[int]:
    """
    Move those steps of a line, or those of `only`, whose card is another provider's now. Returns which.

    Where something of the account's is in flight at a provider, that is the one: there it is asked about.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            MOVE,
            {
                "run": line.run_id,
                "kind": kind,
                "provider": line.provider,
                "only": None if only is None else list(only),
                "set_up": gateways.names(),
                "in_flight": list(PaymentAttempt.IN_FLIGHT),
            },
        )
        return {pk for (pk,) in cursor.fetchall()}


def report_to_lane(leased: Leased) -> None:
    """Tell the lane what became of its grant, after the work: what has ended, and what called nobody."""
    if leased.granted is None:
        return
    lanes.end_probe(leased.granted)
    ours = Step.objects.filter(pk__in=[step.pk for step in leased.steps])
    states = Counter(ours.values_list("state", flat=True))
    lanes.note_done(leased.granted.provider, states[Step.State.DONE] + states[Step.State.BLOCKED])
    # Where nothing was due, nobody was called.
    lanes.give_back(leased.granted, unused=states[Step.State.SKIPPED])


def turns(kind: str) -> list[Line]:
    """The lines in which steps of this kind are due, the one after the last turn's first."""
    with connection.cursor() as cursor:
        cursor.execute(LINES, {"kind": kind})
        lines = sorted(Line(run_id, provider) for run_id, provider in cursor.fetchall())
    last = _last_turn.get(kind)
    return lines if last is None else sorted(lines, key=lambda line: line <= last)


# What is due now. Nobody is more than ten steps of priority, so 100 minutes, behind their time: the bound
# lets the index pass by what waits for a later day.
IN_LINE = "run_at AT TIME ZONE 'UTC' - priority * INTERVAL '10 minutes'"
DUE = f"""
       state IN ('READY', 'UNKNOWN') AND run_at <= statement_timestamp()
   AND {IN_LINE} <= statement_timestamp() AT TIME ZONE 'UTC' + INTERVAL '100 minutes'
"""
# From one provider's first step to the next one's, by the index: not past all those between. Nor are all that
# are due looked at, as they would be to see whether one EXISTS: with the LIMIT each line is looked into once.
LINES = f"""
SELECT r.id, p.provider
  FROM billing_closerun r
 CROSS JOIN LATERAL (
       WITH RECURSIVE each (provider) AS (
           SELECT min(provider) FROM billing_step
            WHERE run_id = r.id AND kind = %(kind)s AND state IN ('READY', 'UNKNOWN')
           UNION ALL
           SELECT (SELECT min(s.provider) FROM billing_step s
                    WHERE s.run_id = r.id AND s.kind = %(kind)s AND s.state IN ('READY', 'UNKNOWN')
                      AND s.provider > each.provider)
             FROM each WHERE each.provider IS NOT NULL)
       SELECT provider FROM each WHERE provider IS NOT NULL) p
 CROSS JOIN LATERAL (
       SELECT FROM billing_step
        WHERE run_id = r.id AND kind = %(kind)s AND provider = p.provider AND {DUE}
        LIMIT 1) due
 WHERE r.state = '{CloseRun.State.RUNNING}'
"""
TAKE = f"""
SELECT * FROM billing_step
 WHERE run_id = %(run)s AND kind = %(kind)s AND provider = %(provider)s AND {DUE}
   AND (%(only)s::bigint[] IS NULL OR id = ANY (%(only)s))
   AND deaths BETWEEN %(least)s AND %(most)s
 ORDER BY {IN_LINE}, id
 LIMIT %(limit)s
   FOR UPDATE SKIP LOCKED
"""
# The card is PaymentMethod.objects.default_of, in SQL. What is not set up is called by nobody, and takes no lane.
# What another worker holds is passed over.
MOVE = """
UPDATE billing_step s
   SET provider = moved.provider
  FROM (SELECT waiting.id, lane.provider
          FROM billing_step waiting
         CROSS JOIN LATERAL (
               SELECT coalesce(
                   (SELECT sent.gateway FROM billing_paymentattempt sent
                     WHERE sent.account_id = waiting.account_id AND sent.state = ANY(%(in_flight)s)
                       AND sent.gateway = ANY(%(set_up)s)
                     ORDER BY sent.created_at LIMIT 1),
                   (SELECT card.gateway FROM accounts_paymentmethod card
                     WHERE card.account_id = waiting.account_id AND card.is_default
                       AND card.state = 'ACTIVE' AND card.gateway = ANY(%(set_up)s)),
                   '') AS provider) lane
         WHERE waiting.run_id = %(run)s AND waiting.kind = %(kind)s AND waiting.provider = %(provider)s
           AND (%(only)s::bigint[] IS NULL OR waiting.id = ANY (%(only)s))
           AND waiting.state IN ('READY', 'UNKNOWN') AND lane.provider <> waiting.provider
           FOR UPDATE OF waiting SKIP LOCKED) moved
 WHERE s.id = moved.id
RETURNING s.id
"""


def _take(
    kind: str,
    line: Line,
    *,
    limit: int,
    only: Sequence[int] | None = None,
    suspects: bool = True,
) -> list[Step]:
    # By deaths: how many are taken together.
    rounds = [(0, 0, limit)]
    if suspects:
        rounds += [(2, DEATHS_MAX, min(limit, 1)), (1, 1, min(limit, SUSPECTS_TOGETHER))]
    for least, most, at_most in rounds:
        parameters = {
            "run": line.run_id,
            "kind": kind,
            "provider": line.provider,
            "limit": at_most,
            "only": None if only is None else list(only),
            "least": least,
            "most": most,
        }
        steps = list(Step.objects.raw(TAKE, parameters))
        if steps:
            run = CloseRun.objects.get(pk=line.run_id)
            for step in steps:
                step.run = run
            return steps
    return []


def _granted(provider: str, limit: int) -> Grant | None:
    """What the provider's lane lets begin; None where no provider is called."""
    if not provider:
        return None
    return lanes.grant(provider, wanted=limit, in_flight=lambda: dispatcher.in_flight(provider))


@transaction.atomic(durable=True)
def _lease(module: StepModule, line: Line, *, limit: int, suspects: bool) -> tuple[Leased, int]:
    """What is leased from one line, and how many were found to stand in the wrong one."""
    granted = _granted(line.provider, limit)
    count = granted.count if granted else limit
    found = _take(module.kind, line, limit=count, suspects=suspects)
    elsewhere: set[int] = set()
    if found and module.through is Through.CARD:
        in_hand = [step.pk for step in found]
        elsewhere = go_where_the_cards_are(module.kind, line, only=in_hand)
    steps = [step for step in found if step.pk not in elsewhere]
    _write_leases(steps)
    if granted:
        lanes.give_back(granted, unused=granted.count - len(steps))
    return Leased(steps, granted), len(found) - len(steps)


def _write_leases(steps: Sequence[Step]) -> None:
    token = uuid.uuid4()
    Step.objects.filter(pk__in=[step.pk for step in steps]).update(
        state=Step.State.RUNNING,
        lease_token=token,
        lease_until=Now() + timedelta(seconds=settings.STEP_LEASE_SECONDS),
        attempts=F("attempts") + 1,
    )
    for step in steps:
        step.lease_token = token
