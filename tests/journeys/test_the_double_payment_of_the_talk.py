"""
The world changes between any two steps, and inside them: nobody is charged twice, nobody is held for it.

The close that was one slow class once charged a customer who had paid by hand while the charge waited
in the queue. Here is that customer, and everybody it could have happened to.
"""

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from accounts.models import Account, Hold, PaymentMethod
from billing import ledger
from billing.gateways import OutcomeUnknown
from billing.models import Payment, PaymentAttempt, Step
from billing.payments import booking, charges
from notifications.models import Message
from tests import charging
from tests.billing.builders import collect, grant, pay_by_hand
from tests.closing import (
    decision_on,
    finish,
    in_a_thread_of_the_provider,
    retry,
    start_close,
    step_of,
    work,
    work_once,
)
from tests.factories import AS_OF, account_using
from tests.mailing import deliver

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def invoiced() -> Account:
    """An account whose invoice of 12.00 is issued, and whose charge waits in the queue."""
    account = account_using("12.00")
    start_close()
    work("INVOICE")
    return account


def charged(sandbox) -> list[int]:
    """What the provider took, in the order it was asked."""
    return [seen.amount_minor for seen in sandbox.book() if seen.status == "SUCCEEDED"]


def remove_card(account: Account) -> None:
    PaymentMethod.objects.filter(account=account).update(
        state="REMOVED", removed_at=AS_OF, is_default=False
    )


class TestTheDoublePaymentOfTheTalk:
    def test_who_pays_by_hand_while_the_charge_waits_is_not_charged(self, invoiced, sandbox):
        pay_by_hand(invoiced, 1200)
        finish(step_of(invoiced, "CHARGE").run)

        decision = decision_on(invoiced, "CHARGE")
        assert decision.did == "SKIPPED"
        assert decision.because == "settled meanwhile"
        assert decision.world_changed
        assert decision.expected["due_minor"] == 1200
        assert decision.saw["due_minor"] == 0
        assert list(sandbox.book()) == []
        assert Payment.objects.get().gateway == "manual"
        assert not Hold.objects.exists()

    def test_nor_who_pays_by_hand_while_it_is_on_its_way_to_the_provider(
        self, invoiced, provider, sandbox
    ):
        provider.after("prepare", in_a_thread_of_the_provider(lambda: pay_by_hand(invoiced, 1200)))
        finish(step_of(invoiced, "CHARGE").run)

        assert provider.calls["submit"] == 0
        assert charged(sandbox) == []
        assert PaymentAttempt.objects.get().state == "RELEASED"
        assert decision_on(invoiced, "SUBMIT").because == "settled meanwhile"
        assert decision_on(invoiced, "CHARGE").because == "settled meanwhile"
        assert not Hold.objects.exists()

    def test_who_pays_a_part_by_hand_on_the_way_is_charged_the_rest(
        self, invoiced, provider, sandbox
    ):
        provider.after("prepare", in_a_thread_of_the_provider(lambda: pay_by_hand(invoiced, 500)))
        finish(step_of(invoiced, "CHARGE").run)

        assert charged(sandbox) == [700]
        assert decision_on(invoiced, "CHARGE").world_changed
        assert ledger.standing(invoiced.pk, as_of=AS_OF).due_minor == 0

    def test_who_pays_by_hand_when_the_money_is_moving_has_it_as_credit(
        self, invoiced, provider, sandbox
    ):
        provider.before("submit", in_a_thread_of_the_provider(lambda: pay_by_hand(invoiced, 1200)))
        finish(step_of(invoiced, "CHARGE").run)

        standing = ledger.standing(invoiced.pk, as_of=AS_OF)
        assert charged(sandbox) == [1200]
        assert (standing.due_minor, standing.credit_minor) == (0, 1200)

    def test_payments_before_and_after_a_charge_that_lost_its_reply_add_up(self, sandbox):
        account = account_using("12.00", card="sandbox_lost_reply")
        run = start_close()
        work("INVOICE")
        pay_by_hand(account, 200)
        work_once("CHARGE")
        pay_by_hand(account, 300)

        finish(run, as_of=AS_OF + timedelta(minutes=1))

        standing = ledger.standing(account.pk, as_of=AS_OF)
        assert charged(sandbox) == [1000]
        assert (standing.due_minor, standing.credit_minor) == (0, 300)


class TestCreditGrantedInBetween:
    def test_in_part_charges_the_rest(self, invoiced, sandbox):
        grant(invoiced, 500)
        finish(step_of(invoiced, "CHARGE").run)

        decision = decision_on(invoiced, "CHARGE")
        assert decision.because == "charged what is due now"
        assert decision.world_changed
        assert decision.expected["due_minor"] == 1200
        assert decision.saw["charged_minor"] == 700
        assert charged(sandbox) == [700]

    def test_in_whole_charges_nothing(self, invoiced, sandbox):
        grant(invoiced, 1200)
        finish(step_of(invoiced, "CHARGE").run)

        assert decision_on(invoiced, "CHARGE").because == "settled meanwhile"
        assert charged(sandbox) == []
        assert not Hold.objects.exists()


class TestCardRemovedInBetween:
    def test_skips_the_charge_and_then_holds(self, invoiced, sandbox):
        remove_card(invoiced)
        finish(step_of(invoiced, "CHARGE").run)

        decision = decision_on(invoiced, "CHARGE")
        assert (decision.did, decision.because) == ("SKIPPED", "card removed meanwhile")
        assert decision.world_changed
        assert charged(sandbox) == []
        assert Hold.objects.get(account=invoiced).lifted_at is None

    def test_on_the_way_to_the_provider_charges_nothing_either(self, invoiced, provider, sandbox):
        provider.after("prepare", in_a_thread_of_the_provider(lambda: remove_card(invoiced)))
        finish(step_of(invoiced, "CHARGE").run)

        assert charged(sandbox) == []
        assert decision_on(invoiced, "SUBMIT").because == "card removed meanwhile"
        assert Hold.objects.filter(account=invoiced, lifted_at=None).exists()


class TestPaidAfterADecline:
    def test_before_the_hold_is_not_held(self):
        account = account_using("12.00", card="sandbox_declined")
        run = start_close()
        work("INVOICE", "CHARGE")

        pay_by_hand(account, 1200)
        finish(run)

        decision = decision_on(account, "HOLD")
        assert decision.because == "settled meanwhile"
        assert decision.world_changed
        assert not Hold.objects.exists()

    def test_after_the_hold_lifts_it_in_the_same_transaction(self, monkeypatch):
        account = account_using("12.00", card="sandbox_declined")
        finish(start_close())
        assert Hold.objects.get(account=account).lifted_at is None

        with monkeypatch.context() as patch:
            patch.setattr(booking, "_send_receipts", _fail)
            with pytest.raises(RuntimeError):
                pay_by_hand(account, 1200)
        assert not Payment.objects.exists()
        assert Hold.objects.get(account=account).lifted_at is None

        pay_by_hand(account, 1200)
        assert Hold.objects.get(account=account).lifted_at == AS_OF
        assert decision_on(account, "LIFT_HOLD").because == "paid"

    def test_in_part_keeps_the_hold(self):
        account = account_using("12.00", card="sandbox_declined")
        finish(start_close())

        # Less than is left is not asked for, and holds nobody.
        pay_by_hand(account, 1150)

        assert Hold.objects.get(account=account).lifted_at is None


class TestTheCustomerPaysNow:
    def test_a_charge_step_waits_for_a_payment_in_flight_and_finds_it_settled(
        self, invoiced, provider, sandbox
    ):
        provider.after("submit", OutcomeUnknown("the reply was lost"))
        collect(invoiced)

        work_once("CHARGE")
        step = step_of(invoiced, "CHARGE")
        assert (step.state, step.because, step.attempts) == ("READY", "a payment is on its way", 0)
        assert decision_on(invoiced, "CHARGE").did == "WAITED"

        work_once("CHARGE")
        finish(step.run, as_of=AS_OF + timedelta(minutes=1))

        assert decision_on(invoiced, "CHARGE").because == "settled meanwhile"
        assert invoiced.decisions.filter(act="CHARGE", did="WAITED").count() == 1
        assert charged(sandbox) == [1200]

    def test_a_payment_that_never_arrived_is_given_up_once_the_card_is_gone(
        self, invoiced, provider, sandbox
    ):
        provider.before("submit", OutcomeUnknown("it never arrived"))
        collect(invoiced)
        work_once("CHARGE")

        remove_card(invoiced)
        finish(step_of(invoiced, "CHARGE").run, as_of=AS_OF + timedelta(minutes=1))

        assert PaymentAttempt.objects.get().state == "RELEASED"
        assert decision_on(invoiced, "CHARGE").because == "card removed meanwhile"
        assert charged(sandbox) == []

    def test_while_the_close_charges_is_told_that_a_payment_is_on_its_way(
        self, invoiced, provider, sandbox
    ):
        refused = []

        def pay_now():
            with pytest.raises(charges.AttemptInFlight) as raised:
                collect(invoiced)
            refused.append(raised.value.because)

        provider.before("submit", in_a_thread_of_the_provider(pay_now))
        finish(step_of(invoiced, "CHARGE").run)

        assert refused == ["a payment is on its way"]
        assert charged(sandbox) == [1200]

    def test_and_is_declined_while_the_hold_looks_so_the_hold_waits_and_then_holds(self, provider):
        account = account_using("12.00", card="sandbox_declined")
        start_close()
        work("INVOICE", "CHARGE")
        provider.after("submit", OutcomeUnknown("the reply was lost"))
        collect(account)

        work_once("HOLD")
        assert step_of(account, "HOLD").because == "a payment is on its way"
        assert not Hold.objects.exists()
        charging.drive_due(as_of=AS_OF + timedelta(minutes=1))
        finish(step_of(account, "HOLD").run, as_of=AS_OF + timedelta(minutes=1))

        assert Hold.objects.get(account=account).lifted_at is None


class TestSettledBeforeTheMailIsSent:
    def test_the_mail_is_not_even_written(self, invoiced):
        pay_by_hand(invoiced, 1200)
        work("EMAIL")
        finish(step_of(invoiced, "EMAIL").run)

        decision = decision_on(invoiced, "EMAIL")
        assert decision.because == "settled meanwhile: the receipt tells it"
        assert decision.world_changed
        assert [message.kind for message in Message.objects.all()] == ["RECEIPT"]

    def test_one_that_is_written_is_cancelled_and_says_why(self, invoiced, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr("django.core.mail.backends.locmem.EmailBackend.open", _mail_server_down)
            work_once("EMAIL")
        assert step_of(invoiced, "EMAIL").because == "not delivered yet"

        pay_by_hand(invoiced, 1200)
        two_minutes_pass()
        finish(step_of(invoiced, "EMAIL").run)
        deliver(as_of=AS_OF)

        message = Message.objects.get(kind="INVOICE")
        assert message.state == "CANCELLED"
        assert message.because.startswith("settled")
        assert decision_on(invoiced, "EMAIL").did == "SKIPPED"

    def test_one_settled_by_credit_still_tells_of_the_invoice(self, invoiced, mailoutbox):
        grant(invoiced, 1200)
        work("EMAIL")
        finish(step_of(invoiced, "EMAIL").run)

        assert step_of(invoiced, "EMAIL").state == "DONE"
        assert Message.objects.get(kind="INVOICE").state == "SENT"


class TestThePolicyForAChangedBalance:
    def test_skip_charges_nothing_where_less_is_due(self, sandbox):
        account = account_using("12.00")
        unchanged = account_using("5.00")
        run = start_close(when_balance_changed="SKIP")
        work("INVOICE")
        grant(account, 200)

        finish(run)

        decision = decision_on(account, "CHARGE")
        assert (decision.did, decision.because) == ("SKIPPED", "the balance has changed")
        assert decision.world_changed
        assert charged(sandbox) == [500]
        assert decision_on(unchanged, "CHARGE").did == "DONE"

    def test_a_person_who_was_shown_the_balance_lets_it_be_charged(self, sandbox):
        account = account_using("12.00")
        run = start_close(when_balance_changed="HOLD_FOR_PERSON")
        work("INVOICE")
        grant(account, 200)
        run = finish(run)

        decision = decision_on(account, "CHARGE")
        assert decision.did == "BLOCKED"
        assert decision.because == "the balance has changed: a person decides"
        assert (decision.expected["due_minor"], decision.saw["due_minor"]) == (1200, 1000)
        assert charged(sandbox) == []
        assert not Hold.objects.exists()

        retry_charge(account)
        finish(run)

        assert charged(sandbox) == [1000]
        assert not Hold.objects.exists()

    def test_but_not_another_balance_than_the_one_shown(self, sandbox):
        account = account_using("12.00")
        run = start_close(when_balance_changed="HOLD_FOR_PERSON")
        work("INVOICE")
        grant(account, 200)
        run = finish(run)

        retry_charge(account)
        grant(account, 300)
        finish(run)

        decision = decision_on(account, "CHARGE")
        assert (decision.expected["due_minor"], decision.saw["due_minor"]) == (1000, 700)
        assert decision.did == "BLOCKED"
        assert charged(sandbox) == []


def retry_charge(account: Account) -> None:
    assert retry(step_of(account, "CHARGE")) == 1


def _fail(*_args, **_facts):
    raise RuntimeError("killed here")


def _mail_server_down(_backend):
    raise ConnectionRefusedError("no mail server")


def two_minutes_pass() -> None:
    """For the message and its step."""
    Message.objects.update(next_attempt_at=Now())
    Step.objects.filter(kind="EMAIL").update(run_at=Now())
