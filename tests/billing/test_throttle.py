"""Calls to payment providers go through their lanes, whoever makes them."""

from datetime import timedelta

import pytest

from billing import reconciliation
from billing.gateways import Misconfigured, NotSent, OutcomeUnknown, RateLimited, RefundRefused
from billing.gateways.standins.sandbox import SandboxGateway
from billing.models import DunningCase, GatewayGuard, PaymentAttempt, ProviderEvent, Reconciliation
from billing.payments import charges, guard, inbound, throttle
from notifications import dispatcher, lanes
from notifications.models import Lane, LaneTally
from tests import charging
from tests.billing.builders import bill, collect, due, owing
from tests.closing import decision_on, start_close, step_of, work, work_once
from tests.factories import AS_OF, EntityFactory, account_using

pytestmark = pytest.mark.django_db(transaction=True)


def lane(provider: str = "sandbox", **facts: object) -> Lane:
    lanes.grant(provider, wanted=0)
    Lane.objects.filter(provider=provider).update(**facts)
    return Lane.objects.get(provider=provider)


def pause(provider: str = "sandbox") -> None:
    lanes.pause(lane(provider).pk, by="ops@example.com", because="they mend it")


def unfinished(*gateways_of: str) -> None:
    """Attempts whose time has come, through these gateways."""
    for name in gateways_of:
        attempt = collect(owing())
        PaymentAttempt.objects.filter(pk=attempt.pk).update(gateway=name, next_action_at=AS_OF)


def tallied(provider: str = "sandbox") -> tuple[int, int, int]:
    rows = LaneTally.objects.filter(lane__provider=provider)
    return (
        sum(row.answered for row in rows),
        sum(row.unanswered for row in rows),
        sum(row.throttled for row in rows),
    )


class TestLetBegin:
    def due(self):
        return PaymentAttempt.objects.filter(next_action_at__lte=AS_OF).order_by("created_at")

    def test_takes_as_many_of_each_gateway_as_its_lane_grants(self):
        unfinished("sandbox", "sandbox", "sandbox", "other", "other")
        lane("sandbox", rate=0.011, tokens=50)
        lane("other", rate=0.011, tokens=0)

        begun = throttle.let_begin(self.due(), limit=50)

        assert [attempt.gateway for attempt in begun] == ["sandbox"]

    @pytest.mark.parametrize(
        ("rate", "begun"),
        [(25, 10), (1, 10), (0.1, 3), (0.011, 1)],
    )
    def test_takes_more_than_a_burst_of_one_and_owes_what_the_rate_soon_pays(self, rate, begun):
        unfinished(*["sandbox"] * 12)
        lane("sandbox", rate=rate, burst=1, tokens=1)

        assert len(throttle.let_begin(self.due(), limit=50)) == begun
        assert Lane.objects.get(provider="sandbox").tokens <= 1 - begun + rate

    def test_owes_no_more_than_that_however_often_it_is_asked(self):
        unfinished(*["sandbox"] * 4)
        lane("sandbox", rate=0.1, burst=1, tokens=-3)

        assert throttle.let_begin(self.due(), limit=50) == []

    def test_takes_no_more_than_the_limit_of_any(self):
        unfinished("sandbox", "sandbox", "other", "other")

        begun = throttle.let_begin(self.due(), limit=1)

        assert [attempt.gateway for attempt in begun] == ["other", "sandbox"]

    def test_gives_back_what_nothing_was_there_for(self):
        unfinished("sandbox")
        lane("sandbox", rate=8, burst=20, tokens=20)

        throttle.let_begin(self.due(), limit=50)

        assert 19 <= Lane.objects.get(provider="sandbox").tokens <= 20

    def test_asks_no_lane_where_nobody_is_called(self):
        unfinished("")

        assert len(throttle.let_begin(self.due(), limit=50)) == 1
        assert not Lane.objects.filter(provider="").exists()


class TestReads:
    def test_take_tokens_only_while_the_lane_is_slowed(self):
        lane(rate=0.011, tokens=0)
        assert throttle.may_ask("sandbox")

        lanes.note_answers("sandbox", throttled_for=0)

        assert not throttle.may_ask("sandbox")

    def test_take_none_that_could_be_given_back(self):
        lane(rate=0.011, burst=50, tokens=10)

        lanes.give_back(lanes.grant("sandbox", wanted=5, is_read=True), unused=5)

        assert round(Lane.objects.get().tokens) == 10

    def test_are_not_made_while_the_lane_is_shut(self):
        pause()
        ProviderEvent.objects.create(
            gateway="sandbox", event_id="1", type="x", about="CHARGE", object_ref="1", body="{}",
            is_live=False, received_at=AS_OF, next_try_at=AS_OF,
        )  # fmt: skip
        one = reconciliation.start(gateway="sandbox", started_by="test", as_of=AS_OF)

        assert inbound.process_due(as_of=AS_OF) == 0
        assert not reconciliation.work_all(as_of=AS_OF, until=lambda: False)

        assert ProviderEvent.objects.get().tries == 0
        one.refresh_from_db()
        assert (one.state, one.error) == (Reconciliation.State.RUNNING, "")

    def test_open_no_gateway_while_the_lane_is_shut(self):
        collect(owing())
        GatewayGuard.objects.update(paused_at=AS_OF, paused_because="restored")
        pause()

        assert reconciliation.reopen_paused(as_of=AS_OF) == 0
        assert not Reconciliation.objects.exists()

    def test_of_the_guard_are_not_made_while_the_lane_is_shut(self, provider):
        collect(owing())
        GatewayGuard.objects.update(checked_at=AS_OF)
        pause()

        assert guard.watch_all() == {}
        assert provider.calls["newest"] == 1


class TestAPersonWhoWaits:
    def test_pays_before_the_batch_which_waits_for_that(self):
        lane(rate=0.011, burst=5, tokens=0)

        charges.begin([charges.Request(owing().pk, "ON_SESSION")], as_of=AS_OF)

        dispatcher.run("charge", clock=lambda: AS_OF, until=lambda: False)

        assert PaymentAttempt.objects.get().state == "SUCCEEDED"
        assert Lane.objects.get().tokens < -0.9

    def test_is_told_while_nobody_may_call(self, provider):
        pause()
        account = owing()

        begun = charges.begin([charges.Request(account.pk, "ON_SESSION")], as_of=AS_OF)

        assert "they mend it" in begun.refused[account.pk].because
        assert sum(provider.calls.values()) == 0
        assert not PaymentAttempt.objects.exists()

    @pytest.mark.parametrize(
        ("kind", "run_id", "is_theirs"),
        [("ON_SESSION", None, True), ("AUTO", None, True), ("AUTO", 1, False), ("RETRY", None, False)],
    )  # fmt: skip
    def test_is_whoever_neither_close_nor_dunning_stands_for(self, kind, run_id, is_theirs):
        assert charges.Request(1, kind, run_id).is_a_persons == is_theirs


class TestWorkThatWaits:
    def test_of_dunning_stays_due(self, provider):
        account = account_using("9.00", card="sandbox_declined", entity=dunning_entity())
        bill(account)
        collect(account, kind="AUTO")
        DunningCase.objects.update(next_try_at=AS_OF)
        calls = sum(provider.calls.values())
        pause()

        assert charging.retry_due(as_of=AS_OF) == 0

        assert DunningCase.objects.get().next_try_at == AS_OF
        assert sum(provider.calls.values()) == calls

    def test_of_payments_and_refunds_stays_due(self, provider):
        unfinished("sandbox")
        calls = sum(provider.calls.values())
        pause()

        assert charging.drive_due(as_of=AS_OF) == 0
        assert charging.drive_refunds_due(as_of=AS_OF) == 0
        assert sum(provider.calls.values()) == calls


def dunning_entity():
    return EntityFactory(slug="dunning", invoice_prefix="DU", retry_days=[3, 7])


class TestNobodyIsHeld:
    def test_while_nobody_can_pay(self):
        with_a_card = account_using("9.00", card="sandbox_declined")
        without = account_using("9.00", card=None)
        start_close()
        work("INVOICE", "CHARGE")
        pause()

        work_once("HOLD")

        for account in (with_a_card, without):
            assert step_of(account, "HOLD").state == "READY"
            assert step_of(account, "HOLD").because == (
                "nobody can pay now: paused by ops@example.com: they mend it"
            )
            assert not account.holds.exists()

        lanes.resume(Lane.objects.get().pk)
        work("HOLD")

        assert decision_on(without, "HOLD").because == "overdue and not paid"

    def test_at_the_end_of_dunning_either(self):
        account = account_using("9.00", card="sandbox_declined", entity=dunning_entity())
        bill(account)
        collect(account, kind="AUTO")
        DunningCase.objects.update(next_try_at=None, ends_at=AS_OF)
        pause()

        charging.retry_due(as_of=AS_OF)

        assert not account.holds.exists()
        assert DunningCase.objects.get().ends_at == AS_OF + timedelta(hours=1)
        assert due(account) == 900


class TestWhatWasSaid:
    @pytest.mark.parametrize(
        ("said", "counts"),
        [
            (["an answer"], (1, 0, 0)),
            ([RefundRefused("no")], (1, 0, 0)),
            ([Misconfigured("no such key")], (1, 0, 0)),
            ([OutcomeUnknown("?"), NotSent("?"), ConnectionResetError()], (0, 3, 0)),
            ([RateLimited(3), RateLimited(5)], (0, 0, 1)),
            ([LookupError("a defect of ours")], (0, 0, 0)),
        ],
    )
    def test_is_counted_for_what_it_is(self, said, counts):
        throttle.note([("sandbox", answer) for answer in said])

        assert tallied() == counts

    def test_is_told_of_a_charge(self, provider):
        collect(owing())

        answered, unanswered, _ = tallied()
        assert (answered, unanswered) == (sum(provider.calls.values()), 0)

    def test_slows_down_as_long_as_was_asked(self, provider):
        provider.before("submit", RateLimited(500))
        collect(owing())

        assert lanes.grant("sandbox", wanted=1).wait_seconds > 400

    def test_of_the_guard_is_told_too(self, provider):
        provider.before("newest", OutcomeUnknown("?"))

        assert guard.watch(["sandbox"])

        assert tallied() == (0, 1, 0)

    def test_opens_the_breaker_for_all(self, monkeypatch):
        def down(*_args: object, **_facts: object) -> None:
            raise OutcomeUnknown("no answer")

        accounts = [owing() for _ in range(5)]
        collect(owing())
        monkeypatch.setattr(SandboxGateway, "prepare", down)
        for account in accounts:
            collect(account)

        with pytest.raises(charges.GatewayClosed, match="sandbox does not answer"):
            collect(owing())
