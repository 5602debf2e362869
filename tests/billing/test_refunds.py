"""Money that is paid back on purpose: exactly once, however often it is asked for and whoever dies."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from django.db import transaction
from django.test import Client

from accounts.models import Account
from billing import gateways, locks, reconciliation
from billing.gateways import DisputeStatus, OutcomeUnknown, RefundSpec, RefundStatus
from billing.models import (
    CreditGrant,
    Decision,
    GatewayGuard,
    LedgerEntry,
    Payment,
    Posting,
    Refund,
)
from billing.payments import disputes, refunds, reversals
from billing.payments.refunds import learning, refund_kind, settling
from billing.payments.refunds.refund_kind import REFUNDS
from notifications import dispatcher, lanes
from notifications.models import Message
from tests import charging
from tests.billing.builders import bill, collect, credit, due, owing, pay_by_hand
from tests.billing.dispute_builders import seen_of
from tests.billing.stripe_builders import event, told
from tests.billing.stripe_builders import owing as owing_at_stripe
from tests.billing.test_invoicing import NOVEMBER, using
from tests.closing import assert_books_hold, in_a_thread_of_the_provider
from tests.factories import AS_OF, MemberFactory, token
from tests.provider import Killed
from tests.stripe_provider import new_key
from tests.workers import at_once

pytestmark = pytest.mark.django_db(transaction=True)

State = Refund.State
SOON = AS_OF + timedelta(minutes=2)


def paid(amount: str = "12.34", **facts: object) -> Payment:
    account = owing(amount, **facts)
    collect(account)
    return account.payments.get()


def refund(payment: Payment, amount_minor: int, **facts: object) -> Refund:
    return charging.refund(
        **{
            "payment_id": payment.pk,
            "token": token(),
            "amount_minor": amount_minor,
            "reason": "Not what they wanted",
            "actor": "ann@example.com",
            "as_of": AS_OF,
            **facts,
        }
    )


def asked_for(payment: Payment, amount_minor: int) -> Refund:
    """A refund that nobody has taken on yet."""
    return refunds.refund(
        payment_id=payment.pk,
        token=token(),
        amount_minor=amount_minor,
        reason="Not what they wanted",
        actor="ann@example.com",
        as_of=AS_OF,
    )


def booked(*kinds: str) -> list[dict[str, int]]:
    entries = LedgerEntry.objects.filter(kind__startswith="REFUND").order_by("pk")
    assert [entry.kind for entry in entries] == list(kinds)
    return [
        {p.ledger_account.kind: p.amount_minor for p in entry.postings.all()} for entry in entries
    ]


def balance_of(kind: str) -> int:
    postings = Posting.objects.filter(ledger_account__kind=kind)
    return sum(postings.values_list("amount_minor", flat=True))


def at_the_provider(sandbox, payment: Payment) -> list[int]:
    return [seen.amount_minor for seen in sandbox.find_refunds(payment.provider_ref)]


class TestPaysBack:
    def test_of_what_was_settled_at_our_cost_and_the_invoice_stays_paid(self, sandbox):
        payment = paid()

        made = refund(payment, 500)

        assert (made.state, made.credit_minor, made.cost_minor) == (State.SUCCEEDED, 0, 500)
        assert at_the_provider(sandbox, payment) == [500]
        assert booked("REFUND_RESERVED", "REFUND_SENT") == [
            {"REFUNDS": 500, "REFUNDS_IN_TRANSIT": -500},
            {"REFUNDS_IN_TRANSIT": 500, "CASH": -500},
        ]
        assert due(payment.account) == 0
        assert refunds.refundable_minor(payment) == 734
        assert_books_hold()

    def test_of_unused_credit_first(self):
        payment = pay_by_hand(owing("10.00", card=None), 1500)

        made = refund(payment, 700)

        assert (made.credit_minor, made.cost_minor) == (500, 200)
        assert credit(payment.account) == 0
        assert CreditGrant.objects.get().refunded_minor == 500
        assert_books_hold()

    def test_by_hand_where_no_gateway_took_it(self, provider):
        payment = pay_by_hand(owing("10.00", card=None), 1000)

        made = refund(payment, 1000, reason="Transferred, reference 4711")

        assert made.state == State.SUCCEEDED
        assert made.next_action_at is None
        assert not provider.calls
        assert_books_hold()

    def test_by_hand_what_came_by_direct_debit(self, debit):
        account = owing(card=None)
        payment = pay_by_hand(account, 1234)
        by_debit = Payment(account=account, gateway="debit", currency="EUR", amount_minor=1234)

        assert refunds.is_by_hand(payment)
        assert refunds.is_by_hand(by_debit)

    def test_and_tells_the_customer_and_support(self):
        payment = paid()

        refund(payment, 500)

        message = Message.objects.get(kind="REFUND_SENT")
        assert message.subject == "Your refund of €5.00"
        assert "of your payment of 2 November 2018" in message.body_text
        decision = Decision.objects.get(act="REFUND")
        assert decision.because.endswith("to be paid back: Not what they wanted")
        assert (decision.actor, decision.attempt) == ("ann@example.com", payment.attempt)
        assert payment.account.timeline.filter(kind="payment.refund").count() == 1

    def test_in_hungarian(self):
        refund(paid(language="hu"), 500)

        subject = Message.objects.get(kind="REFUND_SENT").subject
        assert subject.endswith("összegű visszatérítése")


class TestRefuses:
    @pytest.mark.parametrize("amount_minor", [0, -1, 735, 10**12])
    def test_more_than_is_left_and_says_what_is(self, sandbox, amount_minor):
        payment = paid()
        refund(payment, 500)

        with pytest.raises(refunds.RefundTooMuch, match=r"of which €7\.34 is left"):
            refund(payment, amount_minor)

        assert at_the_provider(sandbox, payment) == [500]
        assert_books_hold()

    def test_the_same_form_sent_twice(self, sandbox):
        payment, form = paid(), token()
        refund(payment, 500, token=form)

        with pytest.raises(refunds.AlreadyRequested):
            refund(payment, 500, token=form)

        assert at_the_provider(sandbox, payment) == [500]

    def test_a_second_as_long_as_one_is_on_its_way(self, provider):
        payment = paid()
        provider.after("refund", OutcomeUnknown("lost"))
        refund(payment, 500)

        with pytest.raises(refunds.RefundInFlight):
            refund(payment, 100)

    def test_all_but_one_of_two_at_once(self, sandbox):
        payment = paid()

        results = at_once(lambda: refund(payment, 1234), lambda: refund(payment, 1234))

        assert sorted(isinstance(result, Refund) for result in results) == [False, True]
        assert at_the_provider(sandbox, payment) == [1234]
        assert_books_hold()

    def test_what_is_disputed(self, sandbox):
        payment = paid()
        seen = seen_of(payment, DisputeStatus.OPEN)
        disputes.apply_provider_state("sandbox", seen, as_of=AS_OF)

        with pytest.raises(refunds.RefundTooMuch, match=r"of which €0\.00 is left"):
            refund(payment, 100)

        assert at_the_provider(sandbox, payment) == []
        assert_books_hold()

    def test_while_the_gateway_is_closed(self, sandbox):
        payment = paid()
        GatewayGuard.objects.update(paused_at=AS_OF, paused_because="restored", list_from=AS_OF)

        with pytest.raises(refunds.RefundsStopped, match="restored"):
            refund(payment, 500)

        assert not Refund.objects.exists()

    def test_what_the_provider_refuses_and_everything_is_as_before(self, provider):
        payment = paid("3.00")
        provider.before("refund", gateways.RefundRefused("disputed"))

        made = refund(payment, 300)

        assert (made.state, made.because) == (State.FAILED, "refused: disputed")
        assert refunds.refundable_minor(payment) == 300
        assert booked("REFUND_RESERVED", "REFUND_UNDONE")[1] == {
            "REFUNDS": -300,
            "REFUNDS_IN_TRANSIT": 300,
        }
        assert not Message.objects.filter(kind="REFUND_SENT").exists()
        assert_books_hold()


class TestAClosedGateway:
    """Our database may have lost refunds: whoever sent now might pay back twice."""

    def close(self) -> None:
        GatewayGuard.objects.update(paused_at=AS_OF, paused_because="restored", list_from=AS_OF)

    def test_found_closed_by_who_takes_it_on_leaves_it_as_it_is(self, provider):
        made = asked_for(paid(), 500)
        # As after a restore that nobody has noticed yet.
        GatewayGuard.objects.update(database_identity="another")

        dispatcher.drive(REFUNDS, [made.pk], clock=lambda: AS_OF)

        made.refresh_from_db()
        assert (made.state, made.because, made.unknown_since) == (State.RESERVED, "", None)
        assert GatewayGuard.objects.get().paused_because
        assert not provider.calls["find_refunds"] + provider.calls["refund"]

    def test_that_closes_between_looking_and_sending_keeps_it_from_being_sent(
        self, provider, sandbox
    ):
        payment = paid()
        provider.before("find_refunds", in_a_thread_of_the_provider(self.close))

        made = refund(payment, 500)

        assert made.state == State.RESERVED
        assert at_the_provider(sandbox, payment) == []

        GatewayGuard.objects.update(paused_at=None, paused_because="", list_from=None)
        charging.drive_refunds_due(as_of=SOON)
        made.refresh_from_db()
        assert made.state == State.SUCCEEDED
        assert at_the_provider(sandbox, payment) == [500]
        assert_books_hold(as_of=SOON)


class TestIsPaidBackOnce:
    @pytest.mark.parametrize(
        ("call", "when"),
        [("find_refunds", "before"), ("refund", "before"), ("refund", "after")],
    )
    def test_killed_anywhere(self, provider, sandbox, call, when):
        payment = paid()
        getattr(provider, when)(call, Killed())
        with pytest.raises(Killed):
            refund(payment, 500)
        assert_books_hold()

        charging.sweep(as_of=SOON)

        assert Refund.objects.get().state == State.SUCCEEDED
        assert at_the_provider(sandbox, payment) == [500]
        assert_books_hold(as_of=SOON)

    def test_killed_before_it_is_written_down(self, provider, sandbox, monkeypatch):
        payment = paid()
        with monkeypatch.context() as patch:
            patch.setattr(settling, "settle", _killed)
            with pytest.raises(Killed):
                refund(payment, 500)

        charging.drive_refunds_due(as_of=SOON)

        assert provider.calls["refund"] == 1
        assert Refund.objects.get().state == State.SUCCEEDED
        assert_books_hold(as_of=SOON)

    def test_after_a_lost_reply(self, provider, sandbox):
        payment = paid()
        provider.after("refund", OutcomeUnknown("lost"))
        assert refund(payment, 500).state == State.SUBMITTED

        charging.drive_refunds_due(as_of=SOON)

        assert (provider.calls["refund"], at_the_provider(sandbox, payment)) == (1, [500])
        assert Refund.objects.get().state == State.SUCCEEDED
        assert_books_hold(as_of=SOON)

    def test_by_the_same_key_where_the_provider_has_none(self, provider, sandbox):
        payment = paid()
        provider.before("refund", OutcomeUnknown("500"))
        refund(payment, 500)

        charging.drive_refunds_due(as_of=SOON)

        assert (provider.calls["refund"], at_the_provider(sandbox, payment)) == (2, [500])
        assert_books_hold(as_of=SOON)

    def test_two_drivers_at_once(self, provider, sandbox):
        payment = paid()
        provider.before("refund", OutcomeUnknown("500"))
        refund(payment, 500)

        at_once(*[lambda: charging.drive_refunds_due(as_of=SOON)] * 2)

        assert at_the_provider(sandbox, payment) == [500]
        assert_books_hold(as_of=SOON)

    def silent(self, provider, count: int) -> None:
        """So many refunds whose time has come at a provider that does not answer."""
        for payment in [paid() for _ in range(count)]:
            provider.before("refund", OutcomeUnknown("lost"))
            refund(payment, 500)
            lanes.note_answers("sandbox", answered=1)
        for _ in range(count):
            provider.before("find_refunds", OutcomeUnknown("the read timed out"))
        provider.calls.clear()

    def test_no_more_are_asked_about_once_the_provider_is_known_to_be_silent(
        self, provider, monkeypatch
    ):
        self.silent(provider, 10)
        with monkeypatch.context() as patch:
            patch.setattr(refund_kind, "batch", 5)
            dispatcher.run(
                "charge", clock=lambda: SOON, until=lambda: bool(provider.calls["find_refunds"])
            )

        with pytest.raises(dispatcher.Throttled, match="does not answer"):
            dispatcher.run("charge", clock=lambda: SOON, until=lambda: False)

        assert provider.calls["find_refunds"] == 5
        assert Refund.objects.filter(next_action_at__lte=SOON).count() == 5
        assert_books_hold(as_of=SOON)

    def test_not_sent_at_all_if_nobody_answers_for_half_a_day(self, provider):
        payment = paid()
        for hours in (0, 1, 13):
            provider.before("find_refunds", OutcomeUnknown("down"))
            if not hours:
                refund(payment, 500)
            charging.drive_refunds_due(as_of=AS_OF + timedelta(hours=hours))

        assert Refund.objects.get().state == State.FAILED
        assert not provider.calls["refund"]
        assert_books_hold(as_of=AS_OF + timedelta(hours=13))


class TestAnswers:
    def pending(self, provider) -> Refund:
        provider.says("refund", status=RefundStatus.PENDING)
        return refund(paid(), 500)

    def test_that_refuse_bring_the_credit_back(self, provider):
        account = owing()
        pays = in_a_thread_of_the_provider(lambda: pay_by_hand(account, 1000))
        provider.before("submit", pays)
        collect(account)
        provider.before("refund", gateways.RefundRefused("disputed"))

        made = refund(account.payments.get(gateway="sandbox"), 1100)

        assert (made.state, made.credit_minor) == (State.FAILED, 1000)
        assert credit(account) == 1000
        assert_books_hold()

    def test_that_ask_us_to_come_later(self, provider):
        provider.before("find_refunds", gateways.RateLimited(7))

        made = refund(paid(), 500)

        assert (made.state, made.next_action_at) == (State.RESERVED, AS_OF + timedelta(seconds=7))

    def test_that_nothing_is_set_up_before_it_is_sent_undo_it(self, provider):
        provider.before("find_refunds", gateways.Misconfigured("wrong key"))

        made = refund(paid(), 500)

        assert (made.state, made.because) == (State.FAILED, "never sent: Misconfigured: wrong key")
        assert_books_hold()

    def test_that_nothing_is_set_up_when_it_is_sent_are_for_a_person(self, provider):
        provider.before("refund", gateways.Misconfigured("wrong key"))

        assert refund(paid(), 500).state == State.REVIEW
        assert_books_hold()

    def test_that_it_is_still_on_its_way_or_none_change_nothing(self, provider):
        made = self.pending(provider)
        provider.says("read_refund", status=RefundStatus.PENDING)
        for hours in (1, 2):
            charging.drive_refunds_due(as_of=AS_OF + timedelta(hours=hours))
            provider.before("read_refund", OutcomeUnknown("down"))

        made.refresh_from_db()
        assert (made.state, made.because) == (State.PENDING, "")

    def test_that_it_was_given_up_on_its_way_undo_it(self, provider):
        made = self.pending(provider)
        provider.says("read_refund", status=RefundStatus.REFUSED)

        charging.drive_refunds_due(as_of=AS_OF + timedelta(hours=1))

        made.refresh_from_db()
        assert (made.state, made.because) == (
            State.FAILED,
            "refused: the provider gave it up",
        )
        assert_books_hold()

    def test_that_refuse_what_another_driver_has_settled_change_nothing(self, provider, sandbox):
        def settled_by_another() -> None:
            [made] = Refund.objects.all()
            seen = sandbox.refund(refund_kind._spec(made), key=refund_kind._key(made))
            refunds.learn("sandbox", seen, as_of=AS_OF)
            raise gateways.RefundRefused("nothing is left")

        provider.before("refund", settled_by_another)

        assert refund(paid(), 1234).state == State.SUCCEEDED
        assert_books_hold()


class TestReview:
    LATE = AS_OF + timedelta(hours=13)

    @pytest.fixture
    def in_review(self, provider) -> Refund:
        payment = paid()
        provider.before("refund", OutcomeUnknown("500"))
        made = refund(payment, 500)
        charging.drive_refunds_due(as_of=self.LATE)
        made.refresh_from_db()
        return made

    def test_never_sends_again(self, provider, in_review):
        assert in_review.state == State.REVIEW

        charging.drive_refunds_due(as_of=self.LATE + timedelta(hours=2))

        assert provider.calls["refund"] == 1
        assert Decision.objects.filter(act="REFUND", did=Decision.Did.BLOCKED).count() == 1
        assert_books_hold(as_of=self.LATE, waiting=["refund_review"])

    def test_ends_by_what_a_person_saw(self, in_review):
        ended = refunds.resolve_review(
            refund_id=in_review.pk, reason="not there", actor="ann@example.com", as_of=self.LATE
        )

        assert (ended.state, ended.because) == (
            State.FAILED,
            "released by ann@example.com: not there",
        )
        with pytest.raises(refunds.NotInReview):
            refunds.resolve_review(
                refund_id=in_review.pk, reason="", actor="bob@example.com", as_of=self.LATE
            )
        assert_books_hold(as_of=self.LATE)

    def test_ends_by_what_the_provider_says_if_it_has_it(self, sandbox, in_review):
        sandbox.refund(refund_kind._spec(in_review), key=refund_kind._key(in_review))

        ended = refunds.resolve_review(
            refund_id=in_review.pk, reason="?", actor="ann@example.com", as_of=self.LATE
        )

        assert ended.state == State.SUCCEEDED
        assert_books_hold(as_of=self.LATE)

    def test_what_comes_to_light_after_that_is_booked_all_the_same(self, sandbox, in_review):
        refunds.resolve_review(
            refund_id=in_review.pk, reason="not there", actor="ann@example.com", as_of=self.LATE
        )
        late = sandbox.refund(refund_kind._spec(in_review), key=refund_kind._key(in_review))

        assert refunds.learn("sandbox", late, as_of=self.LATE)

        theirs = Refund.objects.exclude(pk=in_review.pk).get()
        assert (theirs.state, theirs.requested_by) == (State.SUCCEEDED, "provider")
        assert_books_hold(as_of=self.LATE)

    def test_that_no_answer_comes_for_is_ended_by_what_the_person_saw(self, provider, in_review):
        provider.before("find_refunds", OutcomeUnknown("down"))

        ended = refunds.resolve_review(
            refund_id=in_review.pk, reason="not there", actor="ann@example.com", as_of=self.LATE
        )

        assert (ended.state, ended.because) == (
            State.FAILED,
            "released by ann@example.com: not there",
        )
        assert provider.calls["refund"] == 1
        assert_books_hold(as_of=self.LATE)

    def test_and_keeps_no_other_that_there_is_enough_left_for_from_being_sent(
        self, sandbox, in_review
    ):
        refunds.resolve_review(
            refund_id=in_review.pk, reason="not there", actor="ann@example.com", as_of=self.LATE
        )
        sandbox.refund(refund_kind._spec(in_review), key=refund_kind._key(in_review))

        other = refund(in_review.payment, 400, as_of=self.LATE)

        assert other.state == State.SUCCEEDED
        assert sorted(at_the_provider(sandbox, in_review.payment)) == [400, 500]
        assert_books_hold(as_of=self.LATE)


class TestSentBack:
    @pytest.mark.parametrize("first", [RefundStatus.PENDING, RefundStatus.SUCCEEDED])
    def test_all_of_it_is_the_customers_credit(self, provider, first):
        payment = paid()
        provider.says("refund", status=first)
        assert refund(payment, 500).state == first.value
        provider.says("read_refund", status=RefundStatus.RETURNED, because="account_closed")
        later = AS_OF + timedelta(days=5)

        charging.drive_refunds_due(as_of=later)
        charging.drive_refunds_due(as_of=later + timedelta(days=5))

        assert Refund.objects.get().state == State.RETURNED
        assert credit(payment.account, as_of=later) == 500
        assert refunds.refundable_minor(payment) == 1234
        message = Message.objects.get(kind="REFUND_RETURNED")
        assert message.subject == "Your refund of €5.00 came back to us"
        assert_books_hold(as_of=later)

    def test_it_pays_what_is_open(self, provider):
        payment = paid()
        refund(payment, 500)
        using(payment.account, "15.00", month=NOVEMBER)
        bill(payment.account, month=NOVEMBER)
        provider.says("read_refund", status=RefundStatus.RETURNED)

        charging.drive_refunds_due(as_of=AS_OF + timedelta(days=5))

        assert (due(payment.account), credit(payment.account)) == (1000, 0)
        assert_books_hold(as_of=AS_OF + timedelta(days=5))

    def test_of_a_succeeded_one_we_ask_for_a_month(self, provider):
        refund(paid(), 500)
        for day in range(0, 60, 5):
            charging.drive_refunds_due(as_of=AS_OF + timedelta(days=day))

        assert provider.calls["read_refund"] == 6
        assert Refund.objects.get().next_action_at is None


class TestOfAPaymentThatGoesBackMeanwhile:
    """As if the refund had never been, or the reversal had come first: nobody keeps money that is gone."""

    @pytest.fixture
    def overpaid(self, provider) -> Payment:
        """12.34 by card, of which 10.00 is credit: it was paid by hand while the provider was at it."""
        account = owing()
        by_hand = in_a_thread_of_the_provider(lambda: pay_by_hand(account, 1000))
        provider.before("submit", by_hand)
        collect(account)
        return account.payments.get(gateway="sandbox")

    def goes_back(self, payment: Payment, amount_minor: int = 1234) -> None:
        with transaction.atomic():
            reversals.reverse_payment(
                payment,
                account=locks.account_for_update(payment.account_id),
                amount_minor=amount_minor,
                provider_ref=f"return {payment.reversals.count()}",
                reason="returned by the bank",
                as_of=AS_OF,
            )

    def refused_after(self, provider, act) -> None:
        def refuse() -> None:
            in_a_thread_of_the_provider(act)()
            raise gateways.RefundRefused("nothing is left")

        provider.before("refund", refuse)

    def test_refused_brings_no_credit_back(self, provider, overpaid):
        self.refused_after(provider, lambda: self.goes_back(overpaid))

        made = refund(overpaid, 1234)

        assert (made.state, made.credit_minor, made.lost_minor) == (State.FAILED, 1000, 1000)
        assert (due(overpaid.account), credit(overpaid.account)) == (234, 0)
        assert CreditGrant.objects.get().reversed_minor == 1000
        assert balance_of("REFUNDS") == 0
        assert_books_hold()

    def test_refused_brings_back_what_did_not_go_with_it(self, provider, overpaid):
        self.refused_after(provider, lambda: self.goes_back(overpaid, 500))

        made = refund(overpaid, 700)

        assert (made.state, made.lost_minor) == (State.FAILED, 0)
        # 300 of the credit and 200 of the invoice went back; the 700 that are there again pay that.
        assert (due(overpaid.account), credit(overpaid.account)) == (0, 500)
        assert balance_of("REFUNDS") == 0
        assert_books_hold()

    def test_refused_it_leaves_lost_what_an_earlier_refund_had_taken(self, provider, overpaid):
        refund(overpaid, 400)
        self.refused_after(provider, lambda: self.goes_back(overpaid))

        made = refund(overpaid, 834)

        assert (made.credit_minor, made.lost_minor) == (600, 600)
        assert (due(overpaid.account), credit(overpaid.account)) == (234, 0)
        assert balance_of("REFUNDS") == 400
        assert_books_hold()

    def test_sent_back_by_the_bank_it_is_theirs_only_as_far_as_it_was_a_gift(
        self, provider, overpaid
    ):
        refund(overpaid, 1100)
        self.goes_back(overpaid)
        provider.says("read_refund", status=RefundStatus.RETURNED)

        charging.drive_refunds_due(as_of=AS_OF + timedelta(days=5))

        # Of 11.00 only 1.00 was ever more than their own money, and that pays what is owed again.
        assert Refund.objects.get().lost_minor == 1000
        assert (due(overpaid.account), credit(overpaid.account)) == (134, 0)
        assert balance_of("REFUNDS") == 100
        message = Message.objects.get(kind="REFUND_RETURNED")
        assert message.subject == "Your refund of €1.00 came back to us"
        assert "€10.00 of it had gone back" in Decision.objects.latest("pk").because.replace(
            "\xa0", ""
        )
        assert_books_hold(as_of=AS_OF + timedelta(days=5))

    def test_sent_back_of_their_own_money_alone_nothing_is_theirs(self, provider, overpaid):
        refund(overpaid, 1000)
        self.goes_back(overpaid)
        provider.says("read_refund", status=RefundStatus.RETURNED)

        charging.drive_refunds_due(as_of=AS_OF + timedelta(days=5))

        assert (due(overpaid.account), credit(overpaid.account)) == (234, 0)
        assert not Message.objects.filter(kind="REFUND_RETURNED").exists()
        assert balance_of("REFUNDS") == 0
        assert_books_hold(as_of=AS_OF + timedelta(days=5))

    @pytest.mark.parametrize(("theirs_minor", "left_minor"), [(1234, 0), (700, 300)])
    def test_paid_back_at_the_provider_takes_the_credit_of_one_that_fails(
        self, provider, sandbox, overpaid, theirs_minor, left_minor
    ):
        def made_there() -> None:
            spec = RefundSpec("", "acme", overpaid.provider_ref, theirs_minor, "EUR")
            refunds.learn("sandbox", sandbox.refund(spec, key=str(token())), as_of=AS_OF)

        self.refused_after(provider, made_there)

        made = refund(overpaid, 1234)

        theirs = Refund.objects.exclude(pk=made.pk).get()
        assert (theirs.credit_minor, theirs.cost_minor) == (
            min(theirs_minor, 1000),
            max(theirs_minor - 1000, 0),
        )
        assert credit(overpaid.account) == left_minor
        assert balance_of("REFUNDS") == theirs.cost_minor
        assert_books_hold()


class TestMadeAtTheProvider:
    def theirs(self, sandbox, payment: Payment, amount_minor: int = 400, own_reference: str = ""):
        spec = RefundSpec(own_reference, "acme", payment.provider_ref, amount_minor, "EUR")
        return sandbox.refund(spec, key=str(token()))

    def test_is_booked_once(self, sandbox):
        payment = paid()
        seen = self.theirs(sandbox, payment)

        for _ in range(2):
            assert refunds.learn("sandbox", seen, as_of=AS_OF)

        made = Refund.objects.get()
        assert (made.state, made.requested_by, made.token) == (State.SUCCEEDED, "provider", None)
        assert Message.objects.filter(kind="REFUND_SENT").count() == 1
        assert_books_hold()

    def test_learnt_by_two_at_once_it_is_booked_once(self, sandbox, monkeypatch):
        seen = self.theirs(sandbox, paid())
        refunds.learn("sandbox", seen, as_of=AS_OF)
        looks = iter([None, learning._known("sandbox", seen)])
        monkeypatch.setattr(learning, "_known", lambda *_: next(looks))

        assert refunds.learn("sandbox", seen, as_of=AS_OF)

        assert Refund.objects.count() == 1

    def test_that_came_to_nothing_before_we_heard_of_it_is_not_booked(self, sandbox):
        seen = replace(self.theirs(sandbox, paid()), status=RefundStatus.REFUSED)

        assert refunds.learn("sandbox", seen, as_of=AS_OF)

        assert not Refund.objects.exists()

    def test_is_found_before_we_send_one_of_our_own(self, sandbox):
        payment = paid()
        self.theirs(sandbox, payment, 1000)

        made = refund(payment, 500)

        assert (made.state, made.because) == (State.FAILED, "less is left meanwhile")
        assert at_the_provider(sandbox, payment) == [1000]
        assert_books_hold()

    def test_or_lost_by_our_database_it_is_not_sent_a_second_time_unseen(self, sandbox):
        payment = paid()
        self.theirs(sandbox, payment, 400, own_reference=str(token()))

        repeated = refund(payment, 400)
        sent = at_the_provider(sandbox, payment)
        asked_again = refund(payment, 400, as_of=SOON)

        assert (repeated.state, repeated.because) == (
            State.FAILED,
            "the provider has a refund that we had lost: look at it, then ask again",
        )
        assert sent == [400]
        assert asked_again.state == State.SUCCEEDED
        assert_books_hold(as_of=SOON)

    def test_and_killed_when_the_lost_one_is_written_down_it_is_not_sent_either(
        self, sandbox, monkeypatch
    ):
        payment = paid()
        self.theirs(sandbox, payment, 400, own_reference=str(token()))

        with monkeypatch.context() as patch:
            patch.setattr(refund_kind, "_may_send", _killed)
            with pytest.raises(Killed):
                refund(payment, 400)
        charging.drive_refunds_due(as_of=SOON)

        assert at_the_provider(sandbox, payment) == [400]
        assert refunds.refundable_minor(payment) == 834
        assert_books_hold(as_of=SOON)

    def test_of_nobodys_payment_is_not_ours(self, sandbox):
        seen = self.theirs(sandbox, paid())

        assert not refunds.learn("stripe", seen, as_of=AS_OF)


class TestIsSeenByTheCustomer:
    """What was paid back, when, and where it stands: on the overview, the invoice and the payment."""

    def pages(self, payment: Payment) -> list[str]:
        account = payment.account
        client = Client()
        client.force_login(MemberFactory(account=account).user)
        return [
            client.get(f"/accounts/{account.pk}/{page}").content.decode().replace("\xa0", " ")
            for page in (
                "",
                f"invoices/{account.invoices.earliest('pk').pk}/",
                f"payments/{payment.attempt_id}/",
            )
        ]

    def say(self, payment: Payment, *words: str) -> bool:
        return all(word in page for page in self.pages(payment) for word in words)

    def test_as_paid_back(self):
        payment = paid()
        refund(payment, 500)

        assert self.say(payment, "€5.00 paid back on 2 November 2018")
        Account.objects.update(language="hu")
        assert self.say(payment, "visszatérítve, ekkor: 2018. november 2.")

    @pytest.mark.parametrize("state", [State.PENDING, State.REVIEW])
    def test_as_on_its_way(self, provider, state):
        payment = paid()
        provider.says("refund", status=RefundStatus.PENDING)
        Refund.objects.filter(pk=refund(payment, 500).pk).update(state=state)

        assert self.say(payment, "€5.00 on its way back to you since 2 November 2018")

    def test_not_at_all_where_it_failed_or_there_is_none(self, provider):
        payment = paid()
        provider.before("refund", gateways.RefundRefused("disputed"))
        refund(payment, 500)

        assert not any("paid back" in page or "way back" in page for page in self.pages(payment))

    def test_as_sent_back_and_the_credit_that_it_is_pays_an_invoice(self, provider):
        payment = paid()
        refund(payment, 500)
        using(payment.account, "15.00", month=NOVEMBER)
        [november] = bill(payment.account, month=NOVEMBER)
        provider.says("read_refund", status=RefundStatus.RETURNED)
        charging.drive_refunds_due(as_of=AS_OF + timedelta(days=5))

        assert self.say(
            payment,
            "€5.00 paid back on 2 November 2018",
            "€5.00 of that came back from your bank: it is your credit",
        )
        client = Client()
        client.force_login(MemberFactory(account=payment.account).user)
        page = client.get(f"/accounts/{payment.account_id}/invoices/{november.pk}/")
        assert "Credit from a refund that came back" in page.content.decode()

    def test_with_what_their_bank_has_taken_back(self):
        payment = paid()
        TestOfAPaymentThatGoesBackMeanwhile().goes_back(payment, 234)

        assert self.say(payment, "€2.34 taken back by your bank on 2 November 2018")
        [_, invoice, _] = self.pages(payment)
        assert '<span class="tag">taken back</span>' in invoice


class TestAtStripe:
    def paid(self, stripe, card: str = "visa") -> Payment:
        account = owing_at_stripe(stripe, card=card)
        collect(account)
        return account.payments.get()

    def refunds_of(self, payment: Payment) -> list[int]:
        found = gateways.get("stripe").find_refunds(payment.provider_ref)
        return [seen.amount_minor for seen in found]

    def test_pays_back(self, stripe):
        payment = self.paid(stripe)

        made = refund(payment, 500)

        assert made.state == State.SUCCEEDED
        [seen] = gateways.get("stripe").find_refunds(payment.provider_ref)
        assert (seen.ref, seen.own_reference) == (made.provider_ref, str(made.pk))
        assert_books_hold()

    def test_refuses_what_is_too_much_there(self, stripe):
        payment = self.paid(stripe)
        spec = RefundSpec("x", "acme", payment.provider_ref, 9999, "EUR")

        with pytest.raises(gateways.RefundRefused, match="greater than unrefunded"):
            gateways.get("stripe").refund(spec, key=new_key())

    def test_refuses_what_is_finer_than_it_counts(self, stripe):
        account = owing_at_stripe(stripe, "12.340", currency="KWD")
        collect(account)

        with pytest.raises(refunds.RefundTooFine, match="finer than stripe counts"):
            refund(account.payments.get(), 1001)

    def test_of_a_payment_that_is_not_booked_yet_is_waited_for(self, stripe):
        stripe.fault("execute_then_drop", "/confirm$")
        attempt = collect(owing_at_stripe(stripe))
        theirs = stripe.post("refunds", payment_intent=attempt.provider_ref, amount=400)["id"]

        assert told(event("refund.created", theirs)) == ["WAITING"]
        charging.drive_due(as_of=SOON)

        assert told(as_of=SOON) == ["APPLIED"]
        assert Refund.objects.get().amount_minor == 400
        assert_books_hold(as_of=SOON)

    @pytest.mark.parametrize(
        ("card", "ends"),
        [("pendingRefund", State.SUCCEEDED), ("pendingRefundFail", State.RETURNED)],
    )
    def test_on_its_way_for_a_while_it_is_asked_about(self, stripe, card, ends):
        made = refund(self.paid(stripe, card), 500)
        assert made.state == State.PENDING
        assert_books_hold()

        with stripe.in_days(1):
            charging.drive_refunds_due(as_of=AS_OF + timedelta(days=1))

        assert Refund.objects.get().state == ends
        assert_books_hold(as_of=AS_OF + timedelta(days=1))

    @pytest.mark.parametrize("fault", ["execute_then_drop", "drop_before", "execute_then_500"])
    def test_exactly_once_on_a_bad_line(self, stripe, fault):
        payment = self.paid(stripe)
        stripe.fault(fault, "/v1/refunds")
        assert refund(payment, 500).state == State.SUBMITTED

        charging.drive_refunds_due(as_of=SOON)

        assert Refund.objects.get().state == State.SUCCEEDED
        assert self.refunds_of(payment) == [500]
        assert_books_hold(as_of=SOON)

    def test_sent_back_later_it_is_told_by_an_event(self, stripe):
        made = refund(self.paid(stripe, "refundFail"), 500)
        assert made.state == State.SUCCEEDED
        stripe.control("refunds", {"refund": made.provider_ref, "status": "failed"})

        happened = event("refund.failed", made.provider_ref)
        assert told(happened) == ["APPLIED"]

        made.refresh_from_db()
        assert (made.state, made.because) == (State.RETURNED, "expired_or_canceled_card")
        assert_books_hold()

    def test_made_in_the_dashboard_it_is_booked_once(self, stripe):
        payment = self.paid(stripe)
        theirs = stripe.post("refunds", payment_intent=payment.provider_ref, amount=400)["id"]

        outcomes = told(event("refund.created", theirs), event("refund.updated", theirs))

        assert outcomes == ["APPLIED", "APPLIED"]
        assert Refund.objects.get().requested_by == "provider"
        assert_books_hold()

    def test_whose_event_was_lost_is_found_by_reconciliation_once(self, stripe):
        payment = self.paid(stripe)
        stripe.post("refunds", payment_intent=payment.provider_ref, amount=400)
        now = datetime.now(UTC)

        for _ in range(2):
            one = reconciliation.start(gateway="stripe", started_by="test", as_of=now)
            assert reconciliation.work(one, as_of=now)
            one.refresh_from_db()
            assert one.counts["refunds"] == 1

        assert (Refund.objects.get().amount_minor, Refund.objects.get().state) == (400, "SUCCEEDED")
        assert_books_hold(as_of=now)

    def test_of_another_installation_it_is_not_ours(self, stripe):
        ref = stripe.prepared()
        gateways.get("stripe").submit(ref, key=new_key())
        theirs = stripe.post("refunds", payment_intent=ref)["id"]

        assert told(event("refund.created", theirs)) == ["FOREIGN"]


def _killed(*_args: object, **_facts: object) -> None:
    raise Killed
