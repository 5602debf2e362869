"""Which steps are taken next, and how many: in line, fair between runs, no faster than their lanes."""

import time
from contextlib import suppress
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper
from django.db.models.functions import Now
from django_q.models import OrmQ

from accounts.models import Account, PaymentMethod
from billing.close import pipeline
from billing.close.engine import claiming, runner
from billing.close.health import sweeper
from billing.close.step import skipped
from billing.models import CloseRun, PaymentAttempt, Step
from notifications import lanes
from notifications.models import Lane, LaneTally
from tests.billing.close.test_runner import (
    Module,
    charging,
    does_all,
    fails_on,
    let_leases_run_out,
    raising,
)
from tests.closing import start_close
from tests.factories import AS_OF, AccountFactory, CardFactory, EntityFactory, MandateFactory
from tests.provider import Killed
from tests.workers import at_once


@pytest.fixture(autouse=True)
def _first_turn(monkeypatch):
    monkeypatch.setattr(claiming, "_last_turn", {})


def lane(provider: str = "sandbox", **facts: object) -> None:
    """As slow that nothing comes while a test runs, unless it says otherwise."""
    lanes.grant(provider, wanted=0)
    Lane.objects.filter(provider=provider).update(**{"rate": 0.011, "burst": 50, **facts})


def tokens(provider: str = "sandbox") -> int:
    return round(Lane.objects.get(provider=provider).tokens)


def charges(*, cards: int = 0, none: int = 0, **facts: object) -> CloseRun:
    """A run whose charge steps are ready: of so many accounts with a card, and so many without."""
    n = CloseRun.objects.count()
    entity = EntityFactory(slug=f"entity-{n}", invoice_prefix=f"E{n}")
    for n in range(cards + none):
        account = AccountFactory(entity=entity)
        if n < cards:
            CardFactory(account=account)
    run = start_close(entity=entity)
    run.steps.filter(kind="CHARGE").update(**{"state": "READY", **facts})
    return run


def take(limit: int = 50) -> list[Step]:
    return claiming.lease(pipeline.BY_KIND["CHARGE"], limit=limit).steps


def explained(cursor: CursorWrapper, query: str, parameters: dict[str, object]) -> str:
    cursor.execute(f"EXPLAIN {query}", parameters)
    return "\n".join(line for (line,) in cursor.fetchall())


def states_of(run: CloseRun) -> set[str]:
    return set(run.steps.filter(kind="INVOICE").values_list("state", flat=True))


def take_until_throttled(*, times: int) -> None:
    with suppress(claiming.Throttled):
        for _ in range(times):
            take(3)


@pytest.mark.django_db(transaction=True)
class TestALease:
    def test_takes_what_the_lane_grants_and_leaves_the_rest_as_it_was(self):
        lane(tokens=3, rate=0.011)
        Lane.objects.update(rate=6)
        run = charges(cards=5)

        taken = take()

        assert len(taken) == 3
        rest = run.steps.filter(kind="CHARGE", state="READY")
        assert list(rest.values_list("attempts", flat=True)) == [0, 0]

    def test_says_when_to_look_again_where_nothing_may_begin(self):
        lane(tokens=0)
        charges(cards=2)

        with pytest.raises(claiming.Throttled, match="the rate of sandbox is used up") as refused:
            take()

        assert refused.value.wait_seconds > 60
        assert runner.work_once(charging(does_all), as_of=AS_OF) == 0
        assert set(Step.objects.filter(kind="CHARGE").values_list("state", "attempts")) == {
            ("READY", 0)
        }

    def test_takes_no_token_for_who_has_no_card(self):
        lane(tokens=0)
        run = charges(cards=1, none=4)

        taken = take()

        assert len(taken) == 4
        assert {step.provider for step in taken} == {""}
        assert run.steps.get(kind="CHARGE", state="READY").provider == "sandbox"

    def test_goes_by_the_card_as_it_is_now(self, debit):
        lane(tokens=50)
        lane("debit", tokens=50)
        run = charges(cards=2, none=1)
        removed, replaced, added = run.steps.filter(kind="CHARGE").order_by("pk")
        removed.account.payment_methods.update(state="REMOVED", removed_at=AS_OF)
        replaced.account.payment_methods.update(is_default=False)
        MandateFactory(account=replaced.account)
        CardFactory(account=added.account)

        taken = [step for _ in range(3) for step in take()]

        assert {step.pk: step.provider for step in taken} == {
            removed.pk: "",
            replaced.pk: "debit",
            added.pk: "sandbox",
        }
        assert (tokens(), tokens("debit")) == (49, 49)

    def test_goes_by_the_card_as_it_is_now_out_of_a_lane_that_is_shut_too(self, debit):
        lane(paused_at=AS_OF, paused_by="ops@example.com", paused_because="they mend it")
        run = charges(cards=4)
        removed, replaced, kept, sent = run.steps.filter(kind="CHARGE").order_by("pk")
        removed.account.payment_methods.update(state="REMOVED", removed_at=AS_OF)
        for step in (replaced, sent):
            step.account.payment_methods.update(is_default=False)
            MandateFactory(account=step.account)
        # What is at the provider of the lane already is asked about there.
        PaymentAttempt.objects.create(
            account=sent.account,
            payment_method=sent.account.payment_methods.get(gateway="sandbox"),
            gateway="sandbox",
            amount_minor=1,
            next_action_at=AS_OF + timedelta(hours=1),
        )
        OrmQ.objects.all().delete()

        assert sweeper.sweep(as_of=AS_OF)["moved"] == 2

        assert OrmQ.objects.filter(key="charge").exists()
        assert {step.pk: step.provider for _ in range(2) for step in take()} == {
            removed.pk: "",
            replaced.pk: "debit",
        }
        waiting = run.steps.filter(kind="CHARGE", state="READY", provider="sandbox")
        assert set(waiting) == {kept, sent}

    def test_of_more_that_have_moved_than_python_has_room_for_says_when_to_look_again(self, debit):
        lane("debit", tokens=0)
        owners = Account.objects.bulk_create(
            AccountFactory.build_batch(1100, entity=EntityFactory(slug="many", invoice_prefix="M"))
        )
        run = start_close(entity=owners[0].entity)
        PaymentMethod.objects.bulk_create(MandateFactory.build(account=owner) for owner in owners)
        run.steps.filter(kind="CHARGE").update(state="READY", provider="sandbox")

        with pytest.raises(claiming.Throttled, match="the rate of debit is used up"):
            take(limit=1)

        assert set(run.steps.filter(kind="CHARGE").values_list("provider")) == {("debit",)}

    def test_takes_no_lane_for_a_gateway_that_is_not_set_up(self):
        run = charges(cards=1)
        run.steps.get(kind="CHARGE").account.payment_methods.update(gateway="elsewhere")

        [step] = take()

        assert step.provider == ""

    def test_begins_no_more_than_the_cap_leaves(self):
        lane(rate=None, cap=5)
        charges(cards=8)

        assert len(take(3)) == 3
        assert len(take(3)) == 2
        with pytest.raises(claiming.Throttled, match="as many are in flight") as refused:
            take(3)
        assert refused.value.again_at is None

    def test_counts_no_lease_that_has_run_out(self):
        lane(rate=None, cap=3)
        charges(cards=6)
        take(3)

        let_leases_run_out()

        assert len(take(3)) == 3

    def test_costs_nothing_where_it_fails_before_it_is_written(self, monkeypatch):
        lane(tokens=50, rate=8)
        charges(cards=4)
        monkeypatch.setattr(claiming, "_write_leases", lambda steps: 1 / 0)

        with pytest.raises(ZeroDivisionError):
            take()

        assert tokens() == 50

    def test_gives_back_the_tokens_of_those_for_whom_nobody_was_called(self):
        lane(tokens=6, rate=6)
        Lane.objects.update(burst=6)
        charges(cards=3)

        def nothing_is_due(chunk):
            return [skipped(step, "nothing is due") for step in chunk.steps]

        charging(nothing_is_due).work()

        assert tokens() == 6

    def test_of_a_killed_worker_costs_its_own_grant_alone(self):
        lane(tokens=3, rate=4)
        Lane.objects.update(burst=3)
        run = charges(cards=3)
        with pytest.raises(Killed):
            charging(raising(Killed()), batch=2).work()
        Lane.objects.update(rate=0.011)

        assert len(take()) == 1
        assert run.steps.filter(kind="CHARGE", state="RUNNING").count() == 3


@pytest.mark.django_db(transaction=True)
@pytest.mark.concurrency
class TestRacers:
    def test_begin_no_more_than_the_cap_together(self):
        lane(rate=None, cap=7)
        charges(cards=20)

        at_once(*[lambda: take_until_throttled(times=2)] * 3)

        assert Step.objects.filter(state="RUNNING").count() == 7

    def test_begin_no_more_than_there_are_tokens_together(self):
        lane(rate=0.011, burst=9, tokens=9)
        charges(cards=20)

        at_once(*[lambda: take_until_throttled(times=9)] * 3)

        assert Step.objects.filter(state="RUNNING").count() == 9


@pytest.mark.django_db(transaction=True)
class TestTheLine:
    def test_two_runs_take_turns_however_many_steps_one_has(self):
        big, small = charges(cards=30), charges(cards=4)

        taken = [take(2)[0].run_id for _ in range(6)]

        assert taken == [big.pk, small.pk, big.pk, small.pk, big.pk, big.pk]

    def test_two_runs_take_turns_in_the_database_too(self):
        big, small = charges(none=9), charges(none=2)
        seen = []

        def perform(chunk):
            seen.append(chunk.run.pk)
            return does_all(chunk)

        module = Module(perform, batch=2)
        while module.work():
            pass

        assert seen == [big.pk, small.pk, *[big.pk] * 4]

    def test_a_chunk_that_is_halved_for_its_poison_stays_with_its_run(self):
        first, second = charges(none=2), charges(none=1)
        poison = first.steps.filter(kind="INVOICE").first()

        assert Module(fails_on(poison.account), batch=2).work() == 2

        assert states_of(first) == {"DONE", "READY"}
        assert states_of(second) == {"READY"}

    def test_two_lanes_of_a_run_take_turns(self, debit):
        run = charges(cards=6)
        for step in run.steps.filter(kind="CHARGE").order_by("pk")[:2]:
            step.account.payment_methods.update(is_default=False)
            MandateFactory(account=step.account)
        Step.objects.filter(account__payment_methods__gateway="debit", kind="CHARGE").update(
            provider="debit"
        )

        taken = [take(1)[0].provider for _ in range(4)]

        assert taken == ["debit", "sandbox", "debit", "sandbox"]

    def test_one_whose_lane_is_shut_does_not_stop_the_others(self, debit):
        self.test_two_lanes_of_a_run_take_turns(debit)
        lane("sandbox", tokens=0)
        Step.objects.filter(kind="CHARGE", provider="debit").update(
            state="READY", lease_token=None, lease_until=None
        )

        assert {step.provider for step in take()} == {"debit"}

    def test_ten_minutes_of_waiting_make_up_for_one_of_priority(self):
        run = charges(none=4)
        fresh, urgent, waited, late = run.steps.filter(kind="CHARGE").order_by("pk")
        now = Now()
        for step, minutes, priority in (
            (fresh, 1, 0), (urgent, 1, 1), (waited, 12, 0), (late, 30, -3),
        ):  # fmt: skip
            Step.objects.filter(pk=step.pk).update(
                run_at=now - timedelta(minutes=minutes), priority=priority
            )

        taken = [take(1)[0].pk for _ in range(4)]

        assert taken == [waited.pk, urgent.pk, fresh.pk, late.pk]

    def test_nobody_is_taken_before_their_time(self):
        run = charges(none=2)
        later = run.steps.filter(kind="CHARGE").first()
        Step.objects.filter(pk=later.pk).update(run_at=Now() + timedelta(minutes=5), priority=10)

        assert later.pk not in {step.pk for step in take()}
        assert take() == []

    def test_is_kept_by_an_index(self):
        run = charges(none=1)
        parameters = {
            "run": run.pk, "kind": "CHARGE", "provider": "", "limit": 5, "only": None, "least": 0, "most": 0,
        }  # fmt: skip

        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute("SET LOCAL enable_sort = off")
            taking = explained(cursor, claiming.TAKE, parameters)
            looking = explained(cursor, claiming.LINES, {"kind": "CHARGE"})

        assert "Index Scan using steps_to_claim" in taking
        assert "Sort" not in taking
        # Of each line one step is looked at: joined to the lines, it would be every step that is due.
        assert "Semi Join" not in looking


@pytest.mark.django_db(transaction=True)
class TestADrain:
    @pytest.fixture(autouse=True)
    def _module(self, monkeypatch):
        module = charging(does_all, batch=5)
        monkeypatch.setattr(pipeline, "STEPS", (module,))
        monkeypatch.setattr(pipeline, "BY_KIND", {"CHARGE": module})

    def drain(self) -> int:
        OrmQ.objects.all().delete()
        return runner.drain("charge", clock=lambda: AS_OF, until=lambda: False)

    def test_waits_for_a_bucket_that_fills_in_a_moment(self, monkeypatch):
        monkeypatch.setattr(runner, "WAIT_HERE_SECONDS", 1000)
        lane(tokens=5)
        charges(cards=12)
        waits = []

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            Lane.objects.update(tokens=5)

        monkeypatch.setattr(time, "sleep", sleep)

        assert self.drain() == 12
        assert [80 < wait < 100 for wait in waits] == [True, True]

    def test_leaves_and_lets_a_doorbell_ring_where_it_takes_longer(self):
        lane(tokens=0)
        charges(cards=1)

        assert self.drain() == 0
        assert OrmQ.objects.filter(key="charge", lock__gt=Now()).count() == 1

    def test_leaves_a_lane_that_somebody_has_paused(self):
        lane(tokens=50)
        charges(cards=1)
        lanes.pause(Lane.objects.get().pk, by="ops@example.com", because="they mend it")

        assert self.drain() == 0
        assert not OrmQ.objects.exists()

    def test_notes_what_came_to_its_end(self):
        lane(rate=None)
        charges(cards=7, none=2)

        assert self.drain() == 9
        assert sum(tally.done for tally in LaneTally.objects.all()) == 7
