"""The charge step: what is due now, with the card there is now; and what it says where it cannot."""

from datetime import date, timedelta

import pytest
from django.conf import settings

from billing.close.step import Chunk
from billing.close.steps import charge
from billing.gateways import Capabilities, MethodGone, OutcomeUnknown, RateLimited, Status
from billing.models import GatewayGuard, Payment, PaymentAttempt
from billing.payments.charges import Request
from tests import charging
from tests.billing.builders import cannot_be_receipted, collect
from tests.closing import (
    cancel,
    decision_on,
    in_a_thread_of_the_provider,
    retry,
    start_close,
    step_of,
    work,
    work_once,
)
from tests.factories import AS_OF, account_using
from tests.provider import Killed

pytestmark = pytest.mark.django_db(transaction=True)

SEPTEMBER = date(2018, 9, 1)
LATER = AS_OF + timedelta(minutes=2)


def invoiced(amount: str = "12.00", **facts: object):
    account = account_using(amount, **facts)
    start_close()
    work("INVOICE")
    return account


class TestCharge:
    def test_is_done_with_the_attempt_and_tells_the_hold_what_is_left(self):
        account = invoiced()

        work_once("CHARGE")

        decision = decision_on(account, "CHARGE")
        assert (decision.did, decision.because, decision.world_changed) == (
            "DONE",
            "charged",
            False,
        )
        assert decision.attempt == PaymentAttempt.objects.get(state="SUCCEEDED")
        assert step_of(account, "HOLD").expected["due_minor"] == 0

    def test_a_decline_is_an_end_too(self):
        account = invoiced(card="sandbox_insufficient")

        work_once("CHARGE")

        decision = decision_on(account, "CHARGE")
        assert (decision.did, decision.because) == ("DONE", "declined: insufficient_funds")
        assert step_of(account, "HOLD").expected["due_minor"] == 1200

    def test_a_fault_of_ours_blocks_the_step_and_what_follows_for_a_person(self, provider):
        account = invoiced(card="sandbox_declined")
        provider.says("submit", decline_code="testmode_decline")

        work_once("CHARGE")

        assert step_of(account, "CHARGE").because == (
            "our set-up or request is wrong: testmode_decline"
        )
        assert [step_of(account, kind).state for kind in ("CHARGE", "HOLD")] == ["BLOCKED"] * 2

    def test_a_fault_of_ours_that_is_mended_is_charged_when_the_step_is_retried(self, provider):
        account = invoiced(card="sandbox_declined")
        provider.says("submit", decline_code="testmode_decline")
        work_once("CHARGE")
        retry(step_of(account, "CHARGE"))
        work_once("CHARGE")
        assert step_of(account, "CHARGE").state == "BLOCKED"
        assert PaymentAttempt.objects.count() == 2
        provider.heals()
        account.payment_methods.update(token="sandbox_visa")

        retry(step_of(account, "CHARGE"))
        work_once("CHARGE")

        assert step_of(account, "CHARGE").because == "charged"
        assert Payment.objects.get().amount_minor == 1200

    def test_a_fault_of_ours_that_nobody_has_heard_of_yet_is_not_tried_again(
        self, provider, monkeypatch
    ):
        account = invoiced(card="sandbox_declined")
        provider.says("submit", decline_code="testmode_decline")
        step = step_of(account, "CHARGE")
        charging.collect_all([Request(account.pk, run_id=step.run_id)], as_of=AS_OF)

        work_once("CHARGE")

        assert step_of(account, "CHARGE").state == "BLOCKED"
        assert PaymentAttempt.objects.count() == 1

    def test_takes_no_more_at_a_time_than_it_has_calls_for(self, settings):
        settings.CALLS_AT_ONCE = 2
        for _ in range(5):
            account_using("1.00")
        start_close()
        work("INVOICE")

        assert [work_once("CHARGE") for _ in range(3)] == [4, 1, 0]

    def test_says_that_the_card_has_expired_and_not_that_it_was_removed(self):
        account = account_using("12.00")
        account.payment_methods.update(expiry_year=2018, expiry_month=9)
        start_close()
        work("INVOICE", "CHARGE")

        decision = decision_on(account, "CHARGE")
        assert decision.because == "Visa ···· 4242 has expired"
        assert not decision.world_changed

    def test_carries_forward_less_than_the_provider_charges(self, provider):
        provider.capabilities = Capabilities(minimum_minor={"EUR": 50})
        account = invoiced("0.49")

        work_once("CHARGE")

        assert decision_on(account, "CHARGE").because == (
            "€0.49 is less than can be charged: carried forward"
        )
        work_once("HOLD")
        assert decision_on(account, "HOLD").because == (
            "less is due than is asked for: carried to the next invoice"
        )
        assert not account.holds.exists()

    def test_is_blocked_where_our_set_up_is_wrong_and_stops_no_other(self):
        account = account_using("12.00")
        account.payment_methods.update(gateway="unheard of")
        good = invoiced("3.00")

        work("CHARGE")

        assert step_of(account, "CHARGE").state == "BLOCKED"
        assert "'unheard of'" in step_of(account, "CHARGE").because
        assert step_of(good, "CHARGE").state == "DONE"

    def test_a_card_that_its_provider_has_no_more_is_a_decline_and_stops_no_other(self, provider):
        account = account_using("12.00", card="sandbox_visa_gone")
        other = invoiced("3.00")
        provider.before("prepare", MethodGone("no such card"))

        work("CHARGE")

        lost, paid = PaymentAttempt.objects.order_by("state")
        assert (lost.state, lost.decline_code, lost.provider_ref) == (
            "FAILED",
            "payment_method_unusable",
            None,
        )
        assert not lost.account.payment_methods.filter(state="ACTIVE").exists()
        assert decision_on(lost.account, "CHARGE").because == "declined: payment_method_unusable"
        assert {lost.account, paid.account} == {account, other}
        assert (paid.state, Payment.objects.get().account) == ("SUCCEEDED", paid.account)

    def test_a_card_that_was_charged_before_it_was_gone_has_paid(self, provider):
        account = invoiced()

        def pays_and_is_gone():
            charging.drive_due(as_of=LATER)
            raise MethodGone("detached")

        provider.before("prepare", in_a_thread_of_the_provider(pays_and_is_gone))

        work_once("CHARGE")

        attempt = PaymentAttempt.objects.get()
        assert (attempt.state, attempt.decline_code) == ("SUCCEEDED", "")
        assert decision_on(account, "CHARGE").because == "charged"
        assert Payment.objects.get().amount_minor == 1200

    def test_what_another_driver_has_brought_to_its_end_is_not_sent_again(self, provider, sandbox):
        account = invoiced()
        provider.after(
            "prepare", in_a_thread_of_the_provider(lambda: charging.drive_due(as_of=LATER))
        )

        work_once("CHARGE")

        assert decision_on(account, "CHARGE").because == "charged"
        assert [seen.amount_minor for seen in sandbox.book()] == [1200]
        assert provider.calls["submit"] == 1


class TestAnAnswerThatDidNotCome:
    def test_is_what_an_answer_is_that_says_no_more_than_before(self, provider):
        account = invoiced()
        provider.says("submit", status=Status.UNSUBMITTED)

        work_once("CHARGE")

        attempt = PaymentAttempt.objects.get()
        assert (attempt.state, attempt.unknown_since) == ("SUBMITTED", AS_OF)
        assert attempt.because == "OutcomeUnknown: after submit it is UNSUBMITTED as before"
        assert step_of(account, "CHARGE").state == "UNKNOWN"

        provider.heals()
        work_once("CHARGE", as_of=LATER)
        assert decision_on(account, "CHARGE").because == "charged"
        assert Payment.objects.get().amount_minor == 1200

    def test_is_what_one_is_that_cannot_be_written_down_and_stops_no_others_money(
        self, provider, monkeypatch
    ):
        poisoned = account_using("6.66")
        payer = invoiced("12.00")
        cannot_be_receipted(poisoned, monkeypatch)

        work_once("CHARGE")

        attempt = PaymentAttempt.objects.get(account=poisoned)
        assert (attempt.state, attempt.because) == ("SUBMITTED", "ValueError: no such time zone")
        assert step_of(poisoned, "CHARGE").state == "UNKNOWN"
        assert decision_on(payer, "CHARGE").because == "charged"

        monkeypatch.undo()
        work_once("CHARGE", as_of=LATER)
        assert decision_on(poisoned, "CHARGE").because == "charged"
        assert Payment.objects.get(account=poisoned).amount_minor == 666

    def test_is_asked_for_when_the_attempt_says_so(self, provider):
        account = invoiced()
        provider.after("submit", OutcomeUnknown("the reply was lost"))

        work_once("CHARGE")

        step = step_of(account, "CHARGE")
        attempt = PaymentAttempt.objects.get()
        assert (step.state, step.attempts) == ("UNKNOWN", 0)
        assert step.run_at == attempt.next_action_at > AS_OF

        work_once("CHARGE", as_of=LATER)
        assert decision_on(account, "CHARGE").because == "charged"
        assert provider.calls["submit"] == 1

    def test_nor_is_being_told_to_slow_down_a_failure(self, provider):
        account = invoiced()
        provider.before("submit", RateLimited(7))

        work_once("CHARGE")

        step = step_of(account, "CHARGE")
        assert (step.state, step.attempts) == ("UNKNOWN", 0)
        assert step.run_at == AS_OF + timedelta(seconds=7)

    def test_was_written_down_by_the_sweeper_meanwhile(self, provider):
        account = invoiced()
        provider.after("submit", OutcomeUnknown("the reply was lost"))
        work_once("CHARGE")
        charging.drive_due(as_of=LATER)

        work_once("CHARGE", as_of=LATER)

        assert decision_on(account, "CHARGE").because == "charged"
        assert PaymentAttempt.objects.count() == 1

    @pytest.mark.parametrize("call", ["prepare", "submit"])
    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_because_the_worker_was_killed_is_asked_for_by_the_next(
        self, provider, sandbox, call, moment
    ):
        account = invoiced()
        getattr(provider, moment)(call, Killed())
        with pytest.raises(Killed):
            work_once("CHARGE")

        account.steps.filter(kind="CHARGE").update(
            state="UNKNOWN", lease_token=None, lease_until=None
        )
        work_once("CHARGE", as_of=LATER)

        assert decision_on(account, "CHARGE").because == "charged"
        assert [seen.amount_minor for seen in sandbox.book()] == [1200]
        assert Payment.objects.get().amount_minor == 1200

    def test_for_a_day_goes_to_a_person_and_blocks_the_step(self, provider):
        account = invoiced()
        provider.before("submit", OutcomeUnknown("down"))
        work_once("CHARGE")
        attempt = PaymentAttempt.objects.get()
        for calls in range(1, 4):
            provider.before("read", OutcomeUnknown("still down"))
            attempt.refresh_from_db()
            work_once("CHARGE", as_of=AS_OF + timedelta(hours=10 * calls))

        step = step_of(account, "CHARGE")
        assert step.state == "BLOCKED"
        assert decision_on(account, "CHARGE").attempt == attempt

    def test_of_a_payment_in_review_blocks_the_step_at_once(self):
        account = invoiced()
        attempt = collect_and_review(account)

        work_once("CHARGE")

        decision = decision_on(account, "CHARGE")
        assert decision.because == "a payment is in review: it took the wrong currency"
        assert (decision.attempt, decision.saw["in_flight_minor"]) == (attempt, 1200)
        assert step_of(account, "HOLD").because == "its charge step is blocked"

    @pytest.mark.parametrize("state", ["PROCESSING", "REQUIRES_ACTION"])
    def test_of_a_bank_that_takes_its_time_is_awaited_until_the_provider_is_asked_again(
        self, provider, state
    ):
        account = invoiced()
        provider.after("submit", OutcomeUnknown("the reply was lost"))
        collect(account)
        at = AS_OF + timedelta(hours=1)
        PaymentAttempt.objects.update(state=state, next_action_at=at)

        work_once("CHARGE")

        step = step_of(account, "CHARGE")
        assert (step.state, step.because, step.run_at) == ("READY", "a payment is on its way", at)

    @pytest.mark.parametrize(("asked_after", "looks_after"), [(30, 30), (3600, 60)])
    def test_to_a_customers_own_payment_is_awaited_and_looked_for_each_minute(
        self, provider, asked_after, looks_after
    ):
        account = invoiced()
        provider.after("submit", OutcomeUnknown("the reply was lost"))
        attempt = collect(account)
        assert (attempt.state, attempt.unknown_since) == ("SUBMITTED", AS_OF)
        PaymentAttempt.objects.update(next_action_at=AS_OF + timedelta(seconds=asked_after))

        work_once("CHARGE")

        step = step_of(account, "CHARGE")
        assert (step.state, step.because) == ("READY", "a payment is on its way")
        assert step.run_at == AS_OF + timedelta(seconds=looks_after)

    def test_and_cannot_while_charging_is_paused_is_awaited_by_a_step_that_nobody_cancels(
        self, provider
    ):
        account = invoiced()
        provider.after("submit", Killed())
        with pytest.raises(Killed):
            work_once("CHARGE")
        account.steps.filter(kind="CHARGE").update(
            state="UNKNOWN", lease_token=None, lease_until=None
        )
        GatewayGuard.objects.update(paused_at=AS_OF, paused_because="restored", list_from=AS_OF)

        work_once("CHARGE", as_of=LATER)

        step = step_of(account, "CHARGE")
        assert step.state == "UNKNOWN"
        assert step.because == "charging through sandbox is paused: restored"
        assert step.run_at == LATER + timedelta(minutes=1)
        assert cancel(step) == 0

        GatewayGuard.objects.update(paused_at=None, paused_because="", list_from=None)
        work_once("CHARGE", as_of=LATER + timedelta(minutes=1))
        assert decision_on(account, "CHARGE").because == "charged"
        assert provider.calls["submit"] == 1

    def test_to_a_customers_own_payment_is_awaited_while_charging_is_paused_too(self, provider):
        account = invoiced()
        provider.after("submit", OutcomeUnknown("the reply was lost"))
        collect(account)
        GatewayGuard.objects.update(paused_at=AS_OF, paused_because="restored", list_from=AS_OF)

        work_once("CHARGE", as_of=LATER)

        step = step_of(account, "CHARGE")
        assert (step.state, step.run_at) == ("READY", LATER + timedelta(minutes=1))
        assert step.because == "charging through sandbox is paused: restored"


def collect_and_review(account) -> PaymentAttempt:
    attempt = PaymentAttempt(
        account=account,
        kind="ON_SESSION",
        currency="EUR",
        amount_minor=1200,
        payment_method=account.payment_methods.get(),
        gateway="sandbox",
        state="REVIEW",
        because="it took the wrong currency",
    )
    attempt.save()
    return attempt


def test_two_runs_steps_about_one_payment_both_end():
    """Two months closed together, by a worker that has slept for longer than it may drive an attempt."""
    account = invoiced()
    first = step_of(account, "CHARGE")
    second = start_close(SEPTEMBER).steps.get(account=account, kind="CHARGE")
    ended = []

    with charge.open_flow(clock=lambda: AS_OF) as flow:
        for step in (first, second):
            flow.begin(Chunk(step.run, [step], {account.pk: account}, AS_OF))
            PaymentAttempt.objects.update(next_action_at=AS_OF)
        while flow.room < settings.CALLS_AT_ONCE * 2:
            ended += flow.turn()

    assert {outcome.step: outcome.because for outcome in ended} == {
        first: "charged",
        second: "a payment is on its way",
    }
    assert Payment.objects.count() == 1
