"""A worker's stint on charges: kept by its heartbeat, fenced when it sleeps, ended when it is told to."""

from datetime import timedelta

import pytest
from django.db import OperationalError
from django.db.models.functions import Now

from accounts.models import Account
from billing.close import pipeline
from billing.close.engine import claiming, leases, runner, stint
from billing.close.health import sweeper
from billing.close.steps import charge
from billing.models import Payment, PaymentAttempt, Step
from billing.payments.charges import rechecking, reserving, time_limits
from notifications import lanes
from notifications.lanes import Grant
from notifications.models import Lane
from tests.closing import in_a_thread_of_the_provider, start_close, step_of, work
from tests.factories import AS_OF, account_using
from tests.provider import Provider

pytestmark = pytest.mark.django_db(transaction=True)

State = PaymentAttempt.State


@pytest.fixture
def accounts(provider) -> list[Account]:
    """Three that are invoiced, and ready to be charged."""
    made = [account_using("12.00") for _ in range(3)]
    start_close()
    work("INVOICE")
    return made


@pytest.fixture
def always_beats(monkeypatch) -> None:
    monkeypatch.setattr(leases, "renew_every", lambda: timedelta(0))


def work_once() -> int:
    return runner.work_once(pipeline.BY_KIND["CHARGE"], as_of=AS_OF)


def work_on() -> int:
    """As long as anything is ready, as a drain does."""
    module = pipeline.BY_KIND["CHARGE"]
    return runner._work(module, clock=lambda: AS_OF, until=lambda _: False, stopping=lambda: False)


def steps() -> set[tuple[str, int]]:
    return set(Step.objects.filter(kind="CHARGE").values_list("state", "attempts"))


def attempts() -> set[str]:
    return set(PaymentAttempt.objects.values_list("state", flat=True))


def overslept() -> None:
    """The worker has slept for longer than its lease, and the sweeper has come by."""
    Step.objects.filter(state="RUNNING").update(lease_until=Now() - timedelta(seconds=1))
    sweeper.free_expired_leases(as_of=AS_OF)


def leased_until() -> set[object]:
    return set(Step.objects.filter(state="RUNNING").values_list("lease_until", flat=True))


class TestClaiming:
    @pytest.fixture(autouse=True)
    def _at_every_turn(self, monkeypatch):
        monkeypatch.setattr(stint, "CLAIM_EVERY_SECONDS", 0)

    def throttled_after(self, monkeypatch, times: int) -> None:
        real, left = claiming.lease, iter(range(times))

        def lease(module, *, limit, **facts):
            if next(left, None) is None:
                raise claiming.Throttled([Grant(provider="sandbox", count=0, because="the rate")])
            return real(module, limit=1, **facts)

        monkeypatch.setattr(claiming, "lease", lease)

    def test_ends_what_is_in_hand_where_no_more_may_begin(self, accounts, monkeypatch):
        self.throttled_after(monkeypatch, 2)

        assert work_on() == 2

        assert steps() == {("DONE", 1), ("READY", 0)}

    def test_takes_nothing_where_none_may_begin(self, accounts, provider, monkeypatch):
        self.throttled_after(monkeypatch, 0)

        assert work_once() == 0

        assert steps() == {("READY", 0)}
        assert provider.calls["prepare"] == 0

    def test_takes_no_more_than_there_are_places(self, accounts, settings):
        settings.CALLS_AT_ONCE = 1

        assert work_on() == 3

        assert steps() == {("DONE", 1)}
        assert Payment.objects.count() == 3

    def test_takes_nothing_beside_one_that_may_kill_its_worker(self, accounts, provider):
        suspect, others = step_of(accounts[0], "CHARGE"), Step.objects.filter(kind="CHARGE")
        others = others.exclude(pk=suspect.pk)
        others.update(state="WAITING")
        Step.objects.filter(pk=suspect.pk).update(deaths=1)
        in_hand = []

        def others_are_ready() -> None:
            others.filter(state="WAITING").update(state="READY")

        def look() -> None:
            in_hand.append(set(Step.objects.filter(state="RUNNING").values_list("pk", flat=True)))

        provider.before("prepare", in_a_thread_of_the_provider(others_are_ready))
        provider.before("submit", in_a_thread_of_the_provider(look))

        assert work_on() == 3

        assert in_hand == [{suspect.pk}]
        assert steps() == {("DONE", 1)}

    def test_of_what_cannot_be_begun_lets_another_probe(self, accounts, monkeypatch):
        lanes.note_answers("sandbox", unanswered=5)
        Lane.objects.update(probe_at=Now() - timedelta(seconds=1))

        def poison(_chunk):
            raise ValueError("poison")

        monkeypatch.setattr(charge, "_answered_before", poison)

        assert work_once() == 1

        assert lanes.grant("sandbox", wanted=1).is_probe


class TestHeartbeat:
    def test_that_fails_for_a_fault_of_ours_is_seen(self, accounts, always_beats, monkeypatch):
        def fails(tokens):
            raise RuntimeError("a defect")

        monkeypatch.setattr(leases, "renew", fails)

        with pytest.raises(RuntimeError, match="a defect"):
            work_once()

    def test_extends_the_leases_while_calls_are_on_their_way(
        self, accounts, provider, always_beats
    ):
        seen: list[set[object]] = []
        for call in ("prepare", "submit"):
            provider.before(call, in_a_thread_of_the_provider(lambda: seen.append(leased_until())))

        work_once()

        assert steps() == {("DONE", 1)}
        assert min(seen[1]) > max(seen[0])

    def test_finds_out_what_is_lost_and_sends_nothing_more_of_it(
        self, accounts, provider: Provider, always_beats
    ):
        provider.after("prepare", in_a_thread_of_the_provider(overslept))

        work_once()

        assert (provider.calls["prepare"], provider.calls["submit"]) == (3, 0)
        assert steps() == {("UNKNOWN", 0)}
        assert set(Step.objects.filter(kind="CHARGE").values_list("fenced", "deaths")) == {(1, 1)}

    def test_is_for_leases_that_stand(self, accounts):
        held = Step.objects.filter(kind="CHARGE").order_by("pk")
        token = "00000000-0000-0000-0000-000000000001"
        held.update(state="RUNNING", lease_token=token, lease_until=Now() + timedelta(seconds=5))
        first, second, third = held
        held.filter(pk=second.pk).update(lease_until=Now() - timedelta(seconds=1))
        held.filter(pk=third.pk).update(lease_token="00000000-0000-0000-0000-000000000002")

        assert leases.renew([token]) == {first.pk}


class TestAWorkerThatSlept:
    def test_sends_nothing_after_its_time(self, accounts, provider, monkeypatch):
        monkeypatch.setattr(time_limits, "SEND_WITHIN", timedelta(seconds=-1))

        work_once()

        assert provider.calls["prepare"] == 0
        assert attempts() == {State.RESERVED}
        assert steps() == {("UNKNOWN", 0)}

    def test_not_even_what_is_prepared(self, accounts, provider, monkeypatch):
        def slept() -> None:
            for attempt in list(flow._send_before):
                flow._send_before[attempt] = 0

        module = pipeline.BY_KIND["CHARGE"]
        opened = module.open_flow(clock=lambda: AS_OF)
        flow = opened._collector
        monkeypatch.setattr(module, "open_flow", lambda *, clock: opened)
        for _ in accounts:
            provider.after("prepare", slept)

        work_once()

        assert provider.calls["submit"] == 0
        assert attempts() == {State.PREPARED}

    def test_writes_nothing_of_what_another_has_ended(self, provider):
        account_using("12.00")
        start_close()
        work("INVOICE")

        def the_others_are_faster() -> None:
            overslept()
            PaymentAttempt.objects.update(next_action_at=AS_OF)
            work_once()

        provider.after("submit", in_a_thread_of_the_provider(the_others_are_faster))

        work_once()

        assert steps() == {("DONE", 1)}
        assert Payment.objects.count() == 1
        assert Step.objects.get(kind="CHARGE").fenced == 1


class TestToldToStop:
    def drain(self, *, after: int) -> None:
        """A drain that is told after it has looked so often."""
        looks = iter(range(1000))
        runner.drain(
            "charge",
            clock=lambda: AS_OF,
            until=lambda: False,
            stopping=lambda: next(looks) >= after,
        )

    def test_sends_nothing_more_and_gives_the_rest_back_as_it_stands(self, accounts, provider):
        # Before it claims, before it turns; and in the turn that prepares it is told.
        self.drain(after=2)

        assert (provider.calls["prepare"], provider.calls["submit"]) == (3, 0)
        assert attempts() == {State.PREPARED}
        assert steps() == {("UNKNOWN", 0)}

    def test_what_it_left_is_taken_on_at_once_by_the_next(self, accounts, provider):
        self.drain(after=2)

        self.drain(after=1000)

        assert steps() == {("DONE", 1)}
        assert Payment.objects.count() == 3
        assert provider.calls["submit"] == 3

    def test_claims_nothing(self, accounts, provider):
        self.drain(after=0)

        assert steps() == {("READY", 0)}


class TestOneAccountsTrouble:
    """Found by halving, charged to it alone, and nobody else's."""

    def assert_only_the_first_failed(self, accounts: list[Account]) -> None:
        poison, *others = (step_of(account, "CHARGE") for account in accounts)
        assert (poison.state, poison.attempts) == ("READY", 1)
        assert poison.last_error == "ValueError: poison"
        assert {(step.state, step.attempts) for step in others} == {("DONE", 1)}
        assert Payment.objects.count() == 2

    def test_while_it_is_reserved(self, accounts, monkeypatch):
        real = reserving._reserved

        def reserved(request, account, *facts):
            if account == accounts[0]:
                raise ValueError("poison")
            return real(request, account, *facts)

        monkeypatch.setattr(reserving, "_reserved", reserved)

        work_once()

        self.assert_only_the_first_failed(accounts)

    def test_while_it_is_rechecked(self, accounts, monkeypatch):
        real = rechecking._no_longer

        def no_longer(attempt, *facts):
            if attempt.account_id == accounts[0].pk:
                raise ValueError("poison")
            return real(attempt, *facts)

        monkeypatch.setattr(rechecking, "_no_longer", no_longer)

        work_once()

        self.assert_only_the_first_failed(accounts)

    def test_while_its_outcome_is_written(self, accounts, monkeypatch):
        real = runner.write_down

        def write_down(module, outcomes, **facts):
            if accounts[0].pk in {outcome.step.account_id for outcome in outcomes}:
                raise ValueError("poison")
            real(module, outcomes, **facts)

        monkeypatch.setattr(runner, "write_down", write_down)

        work_once()

        poison, *others = (step_of(account, "CHARGE") for account in accounts)
        assert (poison.state, poison.last_error) == ("READY", "ValueError: poison")
        assert {step.state for step in others} == {"DONE"}
        # What was taken is booked, and found when the step is tried again.
        assert Payment.objects.count() == 3

    @pytest.mark.parametrize(
        ("module", "name"),
        [(reserving, "_reserved"), (rechecking, "recheck"), (runner, "write_down")],
    )
    def test_the_databases_own_is_nobodys(self, accounts, monkeypatch, module, name):
        def gone(*_facts, **_more):
            raise OperationalError("server closed the connection unexpectedly")

        monkeypatch.setattr(module, name, gone)

        with pytest.raises(OperationalError):
            work_once()

        assert steps() == {("UNKNOWN", 0)}
