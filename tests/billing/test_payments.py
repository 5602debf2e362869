"""Receiving money: what is due, once, whatever the provider, the line and the world do meanwhile."""

from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, connections, transaction
from django_q.models import OrmQ

from accounts.models import BillingEntity, Hold, PaymentMethod, TimelineEvent
from billing import gateways
from billing.gateways import (
    Misconfigured,
    NotSent,
    Observation,
    OutcomeUnknown,
    RateLimited,
)
from billing.gateways.standins.sandbox import SandboxGateway
from billing.models import (
    Allocation,
    CreditGrant,
    Decision,
    Invoice,
    Payment,
    PaymentAttempt,
)
from billing.payments import booking, charges
from billing.payments.charges import (
    AttemptInFlight,
    BalanceChanged,
    NoPaymentMethod,
    NothingDue,
    Request,
    calls,
    rechecking,
)
from notifications import lanes
from notifications.lanes import breaker
from notifications.models import Message
from tests import charging
from tests.billing.builders import (
    assert_books_balance,
    bill,
    cannot_be_receipted,
    collect,
    credit,
    due,
    grant,
    owing,
    pay_by_hand,
)
from tests.closing import in_a_thread_of_the_provider
from tests.factories import AS_OF, AccountFactory, CardFactory, account_using, token
from tests.provider import Killed

pytestmark = pytest.mark.django_db(transaction=True)

State = PaymentAttempt.State
SOON = AS_OF + timedelta(minutes=2)
NEXT_DAY = AS_OF + timedelta(hours=25)


@pytest.fixture(autouse=True)
def _books_balance(sandbox):
    yield
    assert_books_balance()


def sweep(*, as_of=SOON) -> None:
    """What the sweeper does once a minute."""
    charging.drive_due(as_of=as_of)


def attempt_of(account) -> PaymentAttempt:
    return PaymentAttempt.objects.get(account=account)


def stuck(account, provider, call: str, error: Exception | None = None) -> PaymentAttempt:
    """An attempt whose reply to this call never came, though the call was carried out."""
    provider.after(call, error or OutcomeUnknown("the line went dead"))
    return collect(account)


def remove_card(account) -> None:
    PaymentMethod.objects.filter(account=account).update(state="REMOVED", removed_at=AS_OF)


class TestCollect:
    def test_takes_what_is_due_and_settles_the_invoice(self, sandbox):
        account = owing("12.34")

        attempt = collect(account)

        assert attempt.state == State.SUCCEEDED
        assert attempt.payment.amount_minor == 1234
        assert due(account) == 0
        assert Invoice.objects.get(account=account).settled_at == AS_OF
        assert_books_balance(sandbox)

    def test_takes_the_balance_due_not_the_total(self, sandbox):
        account = owing("12.34")
        pay_by_hand(account, 1000)

        attempt = collect(account)

        assert attempt.amount_minor == 234
        assert due(account) == 0

    def test_sends_a_receipt_and_says_so_on_the_timeline(self):
        account = owing()

        collect(account)

        assert Message.objects.get(account=account).kind == "RECEIPT"
        assert TimelineEvent.objects.filter(account=account, kind="payment.received").exists()

    def test_lifts_the_hold_of_who_has_paid(self):
        account = owing()
        hold = Hold.objects.create(account=account, reason="OVERDUE", placed_at=AS_OF)

        collect(account)

        hold.refresh_from_db()
        assert hold.lifted_at == AS_OF

    def test_takes_the_money_of_an_account_that_nobody_can_write_to(self):
        account = owing(email="")

        assert collect(account).state == State.SUCCEEDED

    def test_twice_is_the_same_as_once(self, sandbox):
        account = owing()
        collect(account)

        with pytest.raises(NothingDue, match="nothing is due"):
            collect(account)

        assert Payment.objects.count() == 1

    def test_refuses_to_start_inside_a_transaction(self):
        account = owing()

        with transaction.atomic(), pytest.raises(RuntimeError, match="durable"):
            charges.begin([charges.Request(account.pk)], as_of=AS_OF)

    def test_never_calls_the_provider_with_a_transaction_open(self):
        with transaction.atomic(), pytest.raises(AssertionError, match="transaction open"):
            calls.Window().begin(PaymentAttempt(), lambda _: None, before=0)


class TestRefusals:
    """Each says what it saw under the lock."""

    def test_nothing_is_due(self):
        account = AccountFactory()

        with pytest.raises(NothingDue) as refused:
            collect(account)

        assert refused.value.standing.due_minor == 0

    def test_there_is_no_card(self):
        account = owing(card=None)

        with pytest.raises(NoPaymentMethod, match="there is no card") as refused:
            collect(account)

        assert refused.value.standing.due_minor == 1234

    def test_the_card_has_expired(self):
        account = owing(card=None)
        CardFactory(account=account, expiry_year=2018, expiry_month=9)

        with pytest.raises(NoPaymentMethod, match="4242 has expired"):
            collect(account)

    def test_the_removed_card_is_no_card(self):
        account = owing()
        remove_card(account)

        with pytest.raises(NoPaymentMethod):
            collect(account)

    def test_less_than_the_gateway_charges_is_carried_forward(self, monkeypatch):
        monkeypatch.setattr(
            SandboxGateway,
            "capabilities",
            gateways.Capabilities(minimum_minor={"EUR": 50}),
        )
        account = owing("0.49")

        with pytest.raises(NothingDue, match=r"0\.49 is less than can be charged: carried forward"):
            collect(account)

        assert collect(owing("0.50")).state == State.SUCCEEDED

    def test_another_attempt_is_on_its_way(self, provider):
        account = owing()
        first = stuck(account, provider, "submit")

        with pytest.raises(AttemptInFlight) as refused:
            collect(account)

        assert refused.value.attempt == first
        assert refused.value.standing.in_flight_minor == 1234

    def test_one_accounts_refusal_is_not_anothers(self):
        poor, payer = owing(card=None), owing()

        collected = charging.collect_all([Request(poor.pk), Request(payer.pk)], as_of=AS_OF)

        assert isinstance(collected.refused[poor.pk], NoPaymentMethod)
        assert collected.attempts[payer.pk].state == State.SUCCEEDED

    def test_a_card_of_a_gateway_that_is_not_set_up_stops_no_other(self):
        stranger, payer = owing(card=None), owing()
        CardFactory(account=stranger, gateway="nowhere")

        collected = charging.collect_all([Request(stranger.pk), Request(payer.pk)], as_of=AS_OF)

        assert collected.attempts[payer.pk].state == State.SUCCEEDED
        given_up = collected.attempts[stranger.pk]
        assert given_up.state == State.RELEASED
        assert "'nowhere' is not one of sandbox" in given_up.because

    def test_a_changed_balance_is_refused_where_the_policy_says_so(self):
        account = owing("12.34")

        changed = charging.collect_all([Request(account.pk, only_if_due_minor=1000)], as_of=AS_OF)
        same = charging.collect_all([Request(account.pk, only_if_due_minor=1234)], as_of=AS_OF)

        assert isinstance(changed.refused[account.pk], BalanceChanged)
        assert same.attempts[account.pk].state == State.SUCCEEDED


class TestTheWorldChangesBetweenReserveAndSubmit:
    """The recheck under the lock, on the last line before money may move."""

    def test_paid_by_hand_is_not_charged(self, provider, sandbox):
        account = owing("12.34")
        provider.after("prepare", lambda: pay_by_hand(account, 1234))

        attempt = collect(account)

        assert attempt.state == State.RELEASED
        assert attempt.because == "settled meanwhile"
        assert [seen.status for seen in sandbox.book()] == ["CANCELED"]

    def test_paid_in_part_is_charged_anew_for_the_rest(self, provider):
        account = owing("12.34")
        provider.after("prepare", lambda: pay_by_hand(account, 1000))

        given_up, collected = collect(account), collect(account)

        assert given_up.because == "less is due meanwhile"
        assert (collected.state, collected.amount_minor) == (State.SUCCEEDED, 234)

    def test_credit_granted_is_not_charged(self, provider):
        account = owing("12.34")
        provider.after("prepare", lambda: grant(account, 2000))

        attempt = collect(account)

        assert attempt.state == State.RELEASED
        assert provider.calls["submit"] == 0
        assert credit(account) == 766

    def test_a_removed_card_is_not_charged(self, provider):
        account = owing()
        provider.after("prepare", lambda: remove_card(account))

        attempt = collect(account)

        assert attempt.because == "card removed meanwhile"
        assert provider.calls["submit"] == 0

    def test_more_due_is_not_charged_unasked(self, provider):
        account = owing("12.34")
        other = account_using("1.00")
        other.summaries.update(account=account, period=account.periods.get())
        later = account.periods.get().ends_at.date().replace(day=1)
        provider.after("prepare", lambda: bill(account, month=later))

        attempt = collect(account)

        assert attempt.amount_minor == 1234
        assert due(account) == 100

    def test_giving_up_is_a_decision(self, provider):
        account = owing("12.34")
        provider.after("prepare", lambda: pay_by_hand(account, 1234))

        attempt = collect(account)

        decision = Decision.objects.get(account=account)
        assert (decision.act, decision.did, decision.attempt) == ("SUBMIT", "SKIPPED", attempt)
        assert decision.expected["due_minor"] == 1234
        assert decision.saw["due_minor"] == 0

    def test_pays_twice_only_where_the_customer_does_so_while_the_bank_is_at_it(
        self, provider, sandbox
    ):
        account = owing("12.34")
        provider.before("submit", lambda: pay_by_hand(account, 1234))

        attempt = collect(account)

        assert attempt.state == State.SUCCEEDED
        assert credit(account) == 1234  # both are real money: none of it is lost
        assert_books_balance(sandbox)


class TestDeclines:
    def test_a_decline_is_canceled_at_the_provider_before_it_is_over(self, provider, sandbox):
        account = owing(card="sandbox_insufficient")

        attempt = collect(account)

        assert attempt.state == State.FAILED
        assert attempt.decline_code == "insufficient_funds"
        assert [seen.status for seen in sandbox.book()] == ["CANCELED"]
        assert provider.calls["cancel"] == 1

    def test_is_told_once_with_what_is_due(self):
        account = owing("12.34", card="sandbox_declined")

        collect(account)

        message = Message.objects.get(account=account)
        assert message.kind == "PAYMENT_FAILED"
        assert message.amounts["due_minor"] == 1234
        assert TimelineEvent.objects.filter(account=account, kind="payment.failed").count() == 1

    def test_the_account_may_try_again_with_another_card(self):
        account = owing(card="sandbox_declined")
        collect(account)
        remove_card(account)
        CardFactory(account=account)

        assert collect(account).state == State.SUCCEEDED

    def test_one_without_a_code_is_a_decline_all_the_same(self, provider):
        account = owing(card="sandbox_declined")
        provider.says("submit", decline_code="")

        attempt = collect(account)

        assert (attempt.state, attempt.because) == (State.FAILED, "declined: declined")

    def test_a_lost_reply_to_the_cancel_keeps_why(self, provider):
        account = owing(card="sandbox_declined")

        attempt = stuck(account, provider, "cancel")
        assert attempt.state == State.CANCELING
        sweep()

        attempt.refresh_from_db()
        assert (attempt.state, attempt.because) == (State.FAILED, "declined: card_declined")


class TestWhatADeclineMeans:
    def test_is_kept_with_what_the_bank_advised(self, provider):
        account = owing(card="sandbox_insufficient")
        provider.says("submit", advice_code="try_again_later")

        attempt = collect(account)

        assert (attempt.decline_class, attempt.advice_code) == ("SOFT", "try_again_later")

    def test_after_never_again_the_card_is_blocked_and_says_when_and_why(self):
        account = owing(card="sandbox_stolen")

        attempt = collect(account)

        card = attempt.payment_method
        assert (attempt.state, attempt.decline_class) == (State.FAILED, "STOP")
        assert (card.state, card.is_default, card.blocked_at) == ("BLOCKED", False, AS_OF)
        assert card.blocked_because == "its bank said stolen_card"
        assert TimelineEvent.objects.filter(account=account, kind="card.blocked").count() == 1

    def test_the_banks_advice_alone_stops_too(self, provider):
        account = owing(card="sandbox_declined")
        provider.says("submit", advice_code="do_not_try_again")

        card = collect(account).payment_method

        assert card.blocked_because == ("its bank said card_declined, and advised do_not_try_again")

    def test_the_same_card_of_another_account_is_not_charged_either(self, sandbox):
        other = owing(card="sandbox_stolen")
        collect(owing(card="sandbox_stolen"))

        with pytest.raises(NoPaymentMethod, match="is blocked on another account"):
            collect(other)

        assert len(list(sandbox.book())) == 1

    def test_blocked_between_reserve_and_submit_it_is_not_charged(self, provider, sandbox):
        account, other = owing(card="sandbox_stolen"), owing(card="sandbox_stolen")
        provider.after("prepare", in_a_thread_of_the_provider(lambda: collect(other)))

        attempt = collect(account)

        assert (attempt.state, attempt.because) == (State.RELEASED, "card blocked meanwhile")

    def test_removed_while_it_was_charged_it_is_blocked_all_the_same(self, provider):
        account = owing(card="sandbox_stolen")
        provider.after("submit", in_a_thread_of_the_provider(lambda: remove_card(account)))

        card = collect(account).payment_method

        assert (card.state, card.blocked_at) == ("REMOVED", AS_OF)

    def test_a_fault_of_ours_is_an_operators_and_not_the_customers(self, provider, caplog):
        account = owing(card="sandbox_declined")
        provider.says("submit", decline_code="amount_too_small")

        attempt = collect(account)

        assert (attempt.state, attempt.decline_class) == (State.FAILED, "OURS")
        assert not Message.objects.filter(account=account).exists()
        decision = Decision.objects.get(attempt=attempt)
        assert (decision.did, decision.because) == (
            "BLOCKED",
            "our set-up or request is wrong: amount_too_small",
        )
        assert "refused for a fault of ours: amount_too_small" in caplog.text


class TestLostReplies:
    """No answer is no answer: never a failure, never a reason to charge again."""

    def test_of_prepare_takes_the_same_object_over(self, provider, sandbox):
        account = owing()

        attempt = stuck(account, provider, "prepare")
        assert attempt.state == State.RESERVED
        sweep()

        attempt.refresh_from_db()
        assert attempt.state == State.SUCCEEDED
        assert [seen.ref for seen in sandbox.book()] == [attempt.provider_ref]

    def test_of_submit_leaves_the_attempt_until_the_provider_has_said(self, provider, sandbox):
        account = owing()

        attempt = stuck(account, provider, "submit")
        assert attempt.state == State.SUBMITTED
        assert attempt.because == "OutcomeUnknown: the line went dead"
        sweep()

        attempt.refresh_from_db()
        assert (attempt.state, attempt.because) == (State.SUCCEEDED, "")
        assert provider.calls["submit"] == 1
        assert_books_balance(sandbox)

    def test_of_cancel_frees_the_account_only_when_the_provider_says_so(self, provider):
        account = owing()
        provider.after("prepare", lambda: pay_by_hand(account, 1234))

        attempt = stuck(account, provider, "cancel")
        assert attempt.is_in_flight
        assert attempt.because == "settled meanwhile"
        sweep()

        attempt.refresh_from_db()
        assert (attempt.state, attempt.because) == (State.RELEASED, "settled meanwhile")

    def test_the_sandbox_card_that_loses_replies_pays_once(self, sandbox):
        account = owing(card="sandbox_lost_reply")

        collect(account)
        sweep()

        assert attempt_of(account).state == State.SUCCEEDED
        assert_books_balance(sandbox)

    def test_each_repeat_carries_another_key_so_that_no_cached_answer_lives_for_ever(
        self, provider, monkeypatch
    ):
        account = owing()
        keys = []
        cancel = provider.sandbox.cancel
        monkeypatch.setattr(
            provider.sandbox, "cancel", lambda ref, key: keys.append(key) or cancel(ref, key=key)
        )
        provider.after("prepare", lambda: remove_card(account))

        stuck(account, provider, "cancel")
        sweep()

        assert len(set(keys)) == 2

    @pytest.mark.parametrize("error", [OutcomeUnknown("?"), NotSent("?"), ValueError("a 502 page")])
    def test_whatever_is_raised_is_unknown_and_asked_again(self, provider, error):
        account = owing()
        provider.before("submit", error)

        attempt = collect(account)

        assert attempt.state == State.SUBMITTED
        assert attempt.unknown_since == AS_OF
        assert attempt.next_action_at == AS_OF + timedelta(seconds=5)

    def test_is_asked_ever_more_rarely_and_then_hourly(self, provider, monkeypatch):
        # Nor is it asked more often than its lane lets anybody ask: tests/billing/test_throttle.py.
        monkeypatch.setattr(breaker, "OPENS_AFTER", 1000)
        account = owing()
        attempt = stuck(account, provider, "submit")
        pauses = []

        for _ in range(7):
            provider.before("read", OutcomeUnknown("still dead"))
            sweep(as_of=(asked_at := attempt.next_action_at))
            attempt.refresh_from_db()
            pauses.append((attempt.next_action_at - asked_at).total_seconds())

        assert pauses == [30, 120, 600, 3600, 3600, 3600, 3600]

    def test_a_throttled_call_is_neither_an_attempt_nor_a_failure(self, provider):
        account = owing()
        provider.before("submit", RateLimited(17))

        attempt = collect(account)

        assert attempt.state == State.SUBMITTED
        assert attempt.next_action_at == AS_OF + timedelta(seconds=17)
        assert (attempt.unknown_since, attempt.key_generation) == (AS_OF, 0)

    @pytest.mark.parametrize(
        ("said", "waits"),
        [(0, 5), (-3, 5), (0.01, 5), (17, 17), (1e12, 3600), (float("nan"), 5), (float("inf"), 5)],
    )
    def test_a_throttled_call_is_repeated_neither_in_a_loop_nor_after_a_year(
        self, provider, said, waits
    ):
        attempt = stuck(owing(), provider, "submit", RateLimited(said))

        assert attempt.next_action_at == AS_OF + timedelta(seconds=waits)
        assert lanes.grant("sandbox", wanted=1).wait_seconds > 4

    def test_that_comes_after_an_hour_of_throttled_calls_is_asked_for_as_soon_as_any(
        self, provider, hours_pass_in_lanes
    ):
        attempt = stuck(owing(), provider, "submit", RateLimited(17))
        provider.before("read", OutcomeUnknown("the line went dead"))
        an_hour_later = AS_OF + timedelta(hours=1)

        sweep(as_of=an_hour_later)

        attempt.refresh_from_db()
        assert attempt.next_action_at == an_hour_later + timedelta(seconds=5)

    def test_one_lost_reply_in_a_batch_is_not_the_others(self, provider):
        first, second = owing(), owing()
        provider.after("submit", OutcomeUnknown("the line went dead"))

        collected = charging.collect_all([Request(first.pk), Request(second.pk)], as_of=AS_OF)

        assert sorted(a.state for a in collected.attempts.values()) == ["SUBMITTED", "SUCCEEDED"]


class TestSentAgain:
    """Before every send, not just the first: is it still due?"""

    def not_sent(self, account, provider) -> PaymentAttempt:
        provider.before("submit", NotSent("connection refused"))
        return collect(account)

    def test_sends_what_the_provider_never_got(self, provider, sandbox):
        account = owing()

        attempt = self.not_sent(account, provider)
        sweep()

        attempt.refresh_from_db()
        assert attempt.state == State.SUCCEEDED
        assert_books_balance(sandbox)

    def test_never_charges_who_has_paid_by_hand_meanwhile(self, provider, sandbox):
        account = owing("12.34")
        attempt = self.not_sent(account, provider)
        pay_by_hand(account, 1234)

        sweep()

        attempt.refresh_from_db()
        assert (attempt.state, attempt.because) == (State.RELEASED, "settled meanwhile")
        assert [seen.status for seen in sandbox.book()] == ["CANCELED"]

    def test_never_charges_a_card_that_was_removed_meanwhile(self, provider):
        account = owing()
        attempt = self.not_sent(account, provider)
        remove_card(account)

        sweep()

        attempt.refresh_from_db()
        assert attempt.because == "card removed meanwhile"

    def test_does_not_send_before_the_provider_has_answered_where_it_stands(self, provider):
        account = owing()
        attempt = self.not_sent(account, provider)
        provider.before("read", OutcomeUnknown("still dead"))

        sweep()

        attempt.refresh_from_db()
        assert attempt.state == State.SUBMITTED
        assert provider.calls["submit"] == 1


class TestReview:
    """An unknown that stays goes to a person. It blocks new attempts: late is better than twice."""

    def in_review(self, account, provider, call: str = "submit") -> PaymentAttempt:
        attempt = stuck(account, provider, call)
        provider.before("read" if call == "submit" else call, OutcomeUnknown("still dead"))
        sweep(as_of=NEXT_DAY)
        attempt.refresh_from_db()
        assert attempt.state == State.REVIEW
        return attempt

    def test_blocks_new_attempts_and_goes_on_asking(self, provider):
        account = owing()

        attempt = self.in_review(account, provider)

        assert attempt.next_action_at == NEXT_DAY + timedelta(hours=1)
        with pytest.raises(AttemptInFlight):
            collect(account, as_of=NEXT_DAY)

    def test_books_what_the_provider_says_at_last(self, provider, sandbox):
        account = owing()
        attempt = self.in_review(account, provider)

        sweep(as_of=NEXT_DAY + timedelta(hours=2))

        attempt.refresh_from_db()
        assert attempt.state == State.SUCCEEDED
        assert_books_balance(sandbox)

    def test_gives_up_what_never_was_submitted(self, provider, sandbox):
        account = owing()
        provider.before("submit", NotSent("connection refused"))
        attempt = collect(account)
        provider.before("read", OutcomeUnknown("still dead"))
        sweep(as_of=NEXT_DAY)

        sweep(as_of=NEXT_DAY + timedelta(hours=2))

        attempt.refresh_from_db()
        assert (attempt.state, attempt.because) == (State.RELEASED, "not submitted in time")
        assert [seen.status for seen in sandbox.book()] == ["CANCELED"]

    def test_a_cancel_that_stays_unknown_comes_to_review_too(self, provider):
        account = owing(card="sandbox_declined")
        attempt = self.in_review(account, provider, "cancel")

        sweep(as_of=NEXT_DAY + timedelta(hours=2))

        attempt.refresh_from_db()
        assert (attempt.state, attempt.because) == (State.FAILED, "declined: card_declined")

    def test_a_call_that_is_throttled_for_a_day_comes_to_review_too(
        self, provider, hours_pass_in_lanes
    ):
        attempt = stuck(owing(), provider, "submit", RateLimited(17))
        for as_of in (AS_OF + timedelta(hours=23), NEXT_DAY):
            assert attempt.state == State.SUBMITTED
            provider.before("read", RateLimited(17))
            sweep(as_of=as_of)
            attempt.refresh_from_db()

        assert (attempt.state, attempt.because) == (
            State.REVIEW,
            "RateLimited: retry after 17 s",
        )
        assert attempt.next_action_at == NEXT_DAY + timedelta(hours=1)

    @pytest.mark.parametrize("call", ["submit", "cancel"])
    @pytest.mark.parametrize("how", ["no answer", "nothing has changed"])
    def test_an_act_that_never_comes_through_is_reviewed_though_every_read_answers(
        self, provider, sandbox, monkeypatch, hours_pass_in_lanes, call, how
    ):
        account = owing(card="sandbox_declined" if call == "cancel" else "sandbox_visa")

        def fail(ref, *, key):
            provider.calls["acts"] += 1
            if how == "no answer":
                raise OutcomeUnknown("500")
            return sandbox.read(ref)

        monkeypatch.setattr(sandbox, call, fail)
        attempt = collect(account)

        for hours in range(1, 25):
            assert attempt.state == (State.SUBMITTED if call == "submit" else State.CANCELING)
            sweep(as_of=AS_OF + timedelta(hours=hours, minutes=hours))
            attempt.refresh_from_db()

        assert (attempt.state, attempt.unknown_since) == (State.REVIEW, AS_OF)
        assert provider.calls["acts"] < 30

    def test_one_whose_cancel_never_comes_through_stays_with_a_person(
        self, provider, sandbox, monkeypatch, hours_pass_in_lanes
    ):
        monkeypatch.setattr(sandbox, "cancel", lambda ref, key: sandbox.read(ref))
        attempt = collect(owing(card="sandbox_declined"))

        for days in range(1, 30):
            sweep(as_of=AS_OF + timedelta(days=days))

            attempt.refresh_from_db()
            assert (attempt.state, attempt.unknown_since) == (State.REVIEW, AS_OF)

    def test_a_wrong_set_up_is_reviewed_at_once_and_heals_when_it_is_put_right(self, provider):
        account = owing()
        attempt = stuck(account, provider, "submit", Misconfigured("API key revoked"))
        assert attempt.state == State.REVIEW
        assert attempt.because == "Misconfigured: API key revoked"

        sweep(as_of=AS_OF + timedelta(hours=2))

        attempt.refresh_from_db()
        assert attempt.state == State.SUCCEEDED

    @pytest.mark.parametrize(
        ("error", "as_of"),
        [
            (Misconfigured("?"), AS_OF),
            (OutcomeUnknown("?"), NEXT_DAY),
            (RateLimited(17), NEXT_DAY),
        ],
    )
    def test_what_never_got_to_the_provider_frees_the_account(
        self, provider, hours_pass_in_lanes, error, as_of
    ):
        account = owing()
        provider.before("prepare", error)
        attempt = collect(account)
        provider.before("find", error)

        sweep(as_of=as_of)

        attempt.refresh_from_db()
        assert (attempt.state, attempt.next_action_at) == (State.RELEASED, None)
        assert collect(account).state == State.SUCCEEDED


class TestTheCustomerIsAsked:
    """REQUIRES_ACTION: the bank wants the customer to confirm."""

    @pytest.fixture
    def asked(self, provider, sandbox, monkeypatch) -> PaymentAttempt:
        account = owing("12.34")
        monkeypatch.setattr(sandbox, "submit", lambda ref, key: sandbox.read(ref))
        provider.says("submit", status="NEEDS_CUSTOMER")
        provider.says("read", status="NEEDS_CUSTOMER")
        attempt = collect(account)
        assert attempt.state == State.REQUIRES_ACTION
        return attempt

    def test_is_looked_at_every_ten_minutes(self, asked):
        assert asked.next_action_at == AS_OF + timedelta(minutes=10)

        sweep(as_of=AS_OF + timedelta(minutes=10))

        asked.refresh_from_db()
        assert asked.state == State.REQUIRES_ACTION

    def test_is_given_up_when_it_was_paid_another_way(self, asked, sandbox):
        pay_by_hand(asked.account, 1234)

        sweep(as_of=AS_OF + timedelta(hours=1))

        asked.refresh_from_db()
        assert (asked.state, asked.because) == (State.RELEASED, "settled meanwhile")

    @pytest.mark.parametrize(
        "pays",
        [
            lambda account: pay_by_hand(account, 1234),
            lambda account: pay_by_hand(account, 100),
            lambda account: grant(account, 1234),
        ],
        ids=["by hand", "in part", "by credit"],
    )
    def test_is_cancelled_at_once_when_it_was_paid_another_way(self, asked, sandbox, pays):
        pays(asked.account)

        assert OrmQ.objects.filter(key="charge").exists()
        sweep(as_of=AS_OF)

        assert next(sandbox.book()).status == "CANCELED"

    @pytest.mark.parametrize("kind", ["AUTO", "RETRY"])
    def test_cancelled_at_the_provider_is_followed_up_as_a_decline(
        self, provider, sandbox, monkeypatch, kind
    ):
        account = owing("12.34")
        BillingEntity.objects.update(retry_days=[3, 5])
        monkeypatch.setattr(sandbox, "submit", lambda ref, key: sandbox.read(ref))
        provider.says("submit", status="NEEDS_CUSTOMER")
        attempt = collect(account, kind=kind)
        sandbox.cancel(attempt.provider_ref, key="by hand")

        sweep(as_of=AS_OF + timedelta(minutes=10))

        attempt.refresh_from_db()
        assert (attempt.state, attempt.decline_code) == (State.FAILED, "canceled_at_the_provider")
        assert attempt.case.next_try_at == AS_OF + timedelta(days=3, minutes=10)

    def test_cancelled_at_the_provider_frees_the_account_of_a_customer_who_is_there(
        self, asked, provider, sandbox
    ):
        provider.heals()
        sandbox.cancel(asked.provider_ref, key="by hand")

        sweep(as_of=AS_OF + timedelta(minutes=10))

        asked.refresh_from_db()
        assert (asked.state, asked.decline_code) == (State.RELEASED, "")

    def test_keeps_nobody_else_from_their_turn(self, asked, provider):
        later = AS_OF + timedelta(hours=1)
        provider.before("submit", OutcomeUnknown("the line went dead"))
        unknown = collect(owing())
        PaymentAttempt.objects.filter(pk=unknown.pk).update(next_action_at=later)

        charging.drive_due(as_of=later, limit=1)

        asked.refresh_from_db()
        unknown.refresh_from_db()
        assert asked.next_action_at < later < unknown.next_action_at

    def test_is_given_up_after_three_days(self, asked):
        sweep(as_of=AS_OF + timedelta(hours=72))

        asked.refresh_from_db()
        assert asked.because == "the customer did not confirm it in time"
        assert asked.state == State.RELEASED


class TestTheBankTakesItsTime:
    def test_a_processing_payment_is_neither_paid_nor_failed(self, provider):
        account = owing("12.34")
        provider.says("submit", status="PROCESSING")
        attempt = collect(account)
        provider.says("read", status="PROCESSING")

        sweep(as_of=AS_OF + timedelta(hours=1))

        attempt.refresh_from_db()
        assert attempt.state == State.PROCESSING
        assert due(account) == 1234

    def test_is_booked_when_it_comes(self, provider, sandbox):
        account = owing("12.34")
        provider.says("submit", status="PROCESSING")
        collect(account)

        sweep(as_of=AS_OF + timedelta(hours=1))

        assert attempt_of(account).state == State.SUCCEEDED
        assert_books_balance(sandbox)


class TestApplyProviderState:
    """Money that moved is booked from any state; everything else only ends what is in flight."""

    def says(self, attempt: PaymentAttempt, status: str, **facts) -> None:
        observation = Observation(
            **{
                "ref": attempt.provider_ref or "sb_1",
                "own_reference": str(attempt.pk),
                "status": gateways.Status(status),
                "amount_minor": attempt.amount_minor,
                "currency": attempt.currency,
                **facts,
            }
        )
        charges.apply_provider_state({attempt.pk: observation}, as_of=SOON)
        attempt.refresh_from_db()

    def failed(self) -> PaymentAttempt:
        return collect(owing("12.34", card="sandbox_declined"))

    def test_a_late_success_of_a_failed_attempt_is_booked(self):
        attempt = self.failed()

        self.says(attempt, "SUCCEEDED")

        assert attempt.state == State.SUCCEEDED
        assert due(attempt.account) == 0

    def test_a_late_success_of_a_debt_paid_otherwise_becomes_credit(self):
        attempt = self.failed()
        pay_by_hand(attempt.account, 1234)

        self.says(attempt, "SUCCEEDED")

        surplus = CreditGrant.objects.get()
        assert (surplus.kind, surplus.amount_minor) == ("SURPLUS", 1234)
        assert surplus.expires_at is None

    def test_applied_twice_is_booked_once(self):
        attempt = self.failed()

        self.says(attempt, "SUCCEEDED")
        self.says(attempt, "SUCCEEDED")

        assert Payment.objects.count() == 1

    @pytest.mark.parametrize(
        "old_news", ["UNSUBMITTED", "NEEDS_CUSTOMER", "PROCESSING", "DECLINED", "CANCELED"]
    )
    def test_old_news_about_one_that_has_ended_changes_nothing(self, old_news):
        paid, failed = collect(owing()), self.failed()

        self.says(paid, old_news)
        self.says(failed, old_news)

        assert (paid.state, failed.state) == (State.SUCCEEDED, State.FAILED)
        assert Message.objects.count() == 2

    def test_how_an_object_that_was_left_behind_ends_does_not_end_the_attempt(self, provider):
        submitted = stuck(owing(), provider, "submit")

        self.says(submitted, "CANCELED", ref="left behind")
        self.says(submitted, "DECLINED", ref="left behind")

        assert submitted.state == State.SUBMITTED

    def test_money_that_one_left_behind_took_is_booked_too_and_said(self):
        attempt = collect(owing("12.34"))

        self.says(attempt, "SUCCEEDED", ref="left behind")

        assert Payment.objects.count() == 2
        assert credit(attempt.account) == 1234
        assert attempt.payment.provider_ref == attempt.provider_ref != "left behind"
        assert "by left behind as well" in attempt.because

    def test_another_amount_is_booked_as_taken_and_said(self, provider):
        account = owing("12.34")
        provider.says("submit", amount_minor=1200)

        attempt = collect(account)

        assert attempt.state == State.SUCCEEDED
        assert attempt.because.startswith("the provider took")
        assert (due(account), attempt.payment.amount_minor) == (34, 1200)

    def test_another_currency_is_left_to_a_person(self, provider):
        account = owing("12.34")
        provider.says("submit", currency="USD")

        attempt = collect(account)

        assert attempt.state == State.REVIEW
        assert attempt.because == "the provider took USD, not EUR"
        assert attempt.next_action_at is None
        assert not Payment.objects.exists()

    def test_one_that_cannot_be_written_down_stops_no_others_money(self, provider, monkeypatch):
        poisoned, payer = owing("6.66"), owing("12.34")
        cannot_be_receipted(poisoned, monkeypatch)

        collected = charging.collect_all([Request(poisoned.pk), Request(payer.pk)], as_of=AS_OF)

        assert collected.attempts[payer.pk].state == State.SUCCEEDED
        assert collected.attempts[poisoned.pk].state == State.SUBMITTED
        assert collected.attempts[poisoned.pk].because == "ValueError: no such time zone"

        monkeypatch.undo()
        sweep()
        assert attempt_of(poisoned).state == State.SUCCEEDED


class TestObjectsAtTheProvider:
    def test_an_object_that_was_left_behind_is_never_submitted(self, provider, sandbox):
        """Two drivers prepared one attempt: the first to store its object wins."""
        account = owing()

        def another_driver_prepares_too():
            attempt = attempt_of(account)
            provider.sandbox.prepare(calls.spec(attempt), key="of another driver")

        provider.before("prepare", another_driver_prepares_too)

        attempt = collect(account)

        statuses = {seen.ref: seen.status for seen in sandbox.book()}
        assert statuses.pop(attempt.provider_ref) == "SUCCEEDED"
        assert list(statuses.values()) == ["UNSUBMITTED"]
        assert_books_balance(sandbox)

    def test_a_restored_row_takes_over_the_object_that_has_taken_the_money(self, sandbox):
        """Our row says RESERVED, from a backup; the provider has charged for it since."""
        attempt = collect(owing("12.34"))
        account = owing("12.34")
        restored = PaymentAttempt.objects.create(
            account=account,
            kind="AUTO",
            currency="EUR",
            amount_minor=1234,
            payment_method=account.payment_methods.get(),
            gateway="sandbox",
            next_action_at=AS_OF,
        )
        left_behind, used, closed = (
            sandbox.prepare(calls.spec(restored), key=f"key {n}").ref for n in range(3)
        )
        sandbox.submit(used, key="")
        sandbox.cancel(closed, key="")

        sweep()

        restored.refresh_from_db()
        assert (restored.state, restored.provider_ref) == (State.SUCCEEDED, used)
        assert sandbox.read(left_behind).status == "UNSUBMITTED"
        assert attempt.state == State.SUCCEEDED
        assert_books_balance(sandbox)

    def test_one_that_was_closed_there_is_made_anew(self, provider, sandbox):
        account = owing()
        provider.before("prepare", NotSent("?"))
        attempt = collect(account)
        sandbox.cancel(sandbox.prepare(calls.spec(attempt), key="old").ref, key="")

        sweep()

        attempt.refresh_from_db()
        assert attempt.state == State.SUCCEEDED


class TestDriving:
    def test_that_a_step_has_begun_is_looked_for_before_it_is_prepared_again(
        self, provider, sandbox
    ):
        """Its reply was lost with the worker: the key alone would do for a day."""
        account = owing()
        provider.after("prepare", Killed())
        with charges.Collector(clock=lambda: AS_OF) as collector:
            begun = collector.reserve([Request(account.pk)])
            collector.enter(begun.attempts.values(), fresh=True)
            with pytest.raises(Killed):
                collector.turn()
        assert attempt_of(account).state == State.RESERVED

        charging.drive_due(as_of=SOON)

        assert provider.calls["find"] == 1
        assert attempt_of(account).state == State.SUCCEEDED
        assert len(list(sandbox.book())) == 1

    def test_a_driver_leaves_alone_what_another_is_at_work_on(self, provider):
        account = owing()
        provider.after("prepare", Killed())
        with pytest.raises(Killed):
            collect(account)

        assert charging.drive_due(as_of=AS_OF + timedelta(seconds=59)) == 0
        assert charging.drive_due(as_of=AS_OF + timedelta(seconds=60)) == 1

    def test_takes_at_most_so_many_the_longest_waiting_first(self, provider):
        late, later = owing(), owing()
        provider.after("submit", OutcomeUnknown("?"))
        collect(later, as_of=SOON)
        provider.after("submit", OutcomeUnknown("?"))
        collect(late)

        assert charging.drive_due(as_of=NEXT_DAY, limit=1) == 1

        assert attempt_of(late).state == State.SUCCEEDED
        assert attempt_of(later).state == State.SUBMITTED

    def test_returns_what_became_of_them(self, provider):
        attempt = stuck(owing(), provider, "submit")

        (driven,) = charging.drive([attempt], as_of=SOON)

        assert driven.state == State.SUCCEEDED
        assert charging.drive([attempt], as_of=SOON) == []

    def test_asked_here_and_now_a_fault_of_ours_with_one_is_told_after_the_others_are_through(
        self, provider, monkeypatch
    ):
        poisoned, payer = owing("6.66"), owing("12.34")
        for account in (poisoned, payer):
            provider.before("submit", OutcomeUnknown("never got there"))
            collect(account)
        look_again = rechecking.look_again

        def fail_for_one(attempts, *, as_of):
            if poisoned.pk in {attempt.account_id for attempt in attempts}:
                raise LookupError("a defect")
            return look_again(attempts, as_of=as_of)

        monkeypatch.setattr(rechecking, "look_again", fail_for_one)

        with pytest.raises(LookupError, match="a defect"):
            charges.collecting.ask(PaymentAttempt.objects.order_by("pk"), as_of=SOON)

        assert attempt_of(payer).state == State.SUCCEEDED
        assert attempt_of(poisoned).state == State.SUBMITTED
        assert due(poisoned) == 666

    def test_holds_no_transaction_and_no_connection_while_the_provider_is_asked(self, provider):
        """A provider that takes half a minute must not hold a row of ours, nor a connection."""
        seen = []

        def look():
            assert connections["default"].connection is None, "a call needs no database"
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT state FROM pg_stat_activity WHERE datname = current_database()"
                    " AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'"
                )
                seen.append(cursor.fetchall())
            connection.close()

        for call in ("prepare", "submit", "cancel", "read", "find"):
            provider.before(call, look)
        collect(owing(card="sandbox_declined"))
        provider.before("submit", NotSent("?"))
        stuck(owing(), provider, "prepare")
        sweep()
        sweep(as_of=AS_OF + timedelta(hours=1))

        assert seen == [[]] * 5


class TestRecordPayment:
    def test_settles_the_oldest_invoice_first(self):
        account = owing("12.34")

        payment = pay_by_hand(account, 1000)

        assert due(account) == 234
        assert Allocation.objects.get().payment == payment

    def test_keeps_what_is_left_over_as_credit(self):
        account = owing("12.34")

        pay_by_hand(account, 2000)

        assert (due(account), credit(account)) == (0, 766)

    def test_the_same_form_sent_twice_is_one_payment(self):
        account = owing("12.34")
        form = token()
        pay_by_hand(account, 1234, token=form)

        with pytest.raises(booking.AlreadyRecorded):
            pay_by_hand(account, 1234, token=form)

        assert Payment.objects.count() == 1

    def test_refuses_another_currency(self):
        account = owing()

        with pytest.raises(ValueError, match=r"currency USD: account acme-\d+ is in EUR"):
            pay_by_hand(account, 1234, currency="USD")

    @pytest.mark.parametrize("amount_minor", [0, -1])
    def test_refuses_what_is_no_money(self, amount_minor):
        account = owing()

        with pytest.raises(IntegrityError, match="payment_is_positive"):
            pay_by_hand(account, amount_minor)

    def test_says_who_recorded_it_and_why(self):
        account = owing()

        payment = pay_by_hand(account, 1234)

        event = TimelineEvent.objects.get(account=account, kind="payment.received")
        assert (event.actor, event.details) == (
            "ann@example.com",
            {"payment": payment.pk, "reason": "Reference 4711"},
        )
