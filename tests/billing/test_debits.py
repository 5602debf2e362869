"""Money that takes days: announced, collected on its day, decided by the bank days after."""

import json
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta

import pytest
from django.utils import timezone

from accounts.models import Hold, PaymentMethod
from billing import gateways, reconciliation
from billing.gateways import OutcomeUnknown
from billing.gateways.standins.debit import DebitGateway
from billing.gateways.standins.fakedebit import DirectDebit
from billing.models import Decision, DunningCase, Payment, PaymentAttempt, PaymentReversal
from billing.payments import charges, inbound
from billing.payments.charges import (
    AttemptInFlight,
    GatewayClosed,
    NoPaymentMethod,
    calls,
    collecting,
    preparing,
    rechecking,
    reserving,
    settling,
)
from notifications.models import Message
from tests import charging, mailing
from tests.billing.builders import bill, collect, credit, due, grant, pay_by_hand
from tests.closing import assert_books_hold, start_close, work
from tests.factories import AS_OF, CardFactory, MandateFactory, account_using
from tests.provider import Killed
from tests.workers import at_once

pytestmark = pytest.mark.django_db(transaction=True)

State = PaymentAttempt.State
# Two days' notice from 2 November, where the account is: UTC.
CHARGE_DAY = datetime(2018, 11, 4, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _books_hold(debit):
    yield
    assert_books_hold()


def owing(amount: str = "12.34", behaviour: str = "debit_pays", **facts):
    """An account with an issued invoice over this much, and a mandate that behaves so."""
    account = account_using(amount, card=None, **facts)
    MandateFactory(account=account, behaviour=behaviour)
    bill(account)
    return account


def sweep(*, as_of: datetime) -> None:
    charging.drive_due(as_of=as_of)


def tell(debit: DirectDebit, *, as_of: datetime) -> None:
    """The provider delivers what has happened, and we work on it."""
    for headers, body in debit.deliveries(secret="whsec_debit"):
        hints = gateways.get("debit").parse_webhook(headers, body)
        inbound.receive(gateway="debit", hints=hints, body=body, as_of=as_of)
    inbound.process_due(as_of=as_of)


def announced(account) -> Message:
    return Message.objects.get(account=account, kind="CHARGE_ANNOUNCED")


def deliver(*, as_of: datetime) -> None:
    mailing.deliver(as_of=as_of)


class TestTheDay:
    def test_is_announced_days_before_and_nothing_is_sent_until_then(self, debit):
        account = owing()

        attempt = collect(account)
        sweep(as_of=CHARGE_DAY - timedelta(seconds=1))

        attempt.refresh_from_db()
        assert (attempt.state, attempt.charge_date) == (State.PREPARED, date(2018, 11, 4))
        assert attempt.next_action_at == CHARGE_DAY
        assert debit.payment(attempt.provider_ref)["status"] == "pending_submission"
        message = announced(account)
        assert message.subject == "We will collect €12.34 on 4 November 2018"
        assert "by Direct debit ···· 3000" in message.body_text

    def test_is_where_the_account_is(self, debit):
        # It is 3 November there already.
        account = owing(time_zone="Pacific/Kiritimati")
        attempt = collect(account, as_of=datetime(2018, 11, 2, 12, tzinfo=UTC))

        assert attempt.charge_date == date(2018, 11, 5)
        assert attempt.next_action_at == datetime(2018, 11, 4, 10, tzinfo=UTC)

    def test_hands_it_to_the_bank_which_takes_days(self, debit):
        account = owing()
        collect(account)

        sweep(as_of=CHARGE_DAY)
        attempt = PaymentAttempt.objects.get()
        assert (attempt.state, attempt.submitted_at) == (State.PROCESSING, CHARGE_DAY)
        said = charges.on_its_way(attempt, as_of=CHARGE_DAY)
        assert said == "on its way: the bank takes about 2 days"
        with pytest.raises(AttemptInFlight):
            collect(account, as_of=CHARGE_DAY)

        debit.advance(2)
        sweep(as_of=CHARGE_DAY + timedelta(days=2))
        attempt.refresh_from_db()
        assert attempt.state == State.SUCCEEDED
        assert charges.on_its_way(attempt, as_of=CHARGE_DAY) == ""
        assert due(account) == 0

    def test_that_has_come_is_not_announced_any_more(self, debit):
        account = owing()
        collect(account)
        sweep(as_of=CHARGE_DAY)

        deliver(as_of=CHARGE_DAY)

        message = announced(account)
        assert (message.state, message.because) == ("CANCELLED", "collected already")

    def test_without_notice_is_today(self, debit, settings):
        settings.DEBIT_NOTICE_DAYS = 0

        attempt = collect(owing())

        assert attempt.state == State.PROCESSING
        assert not Message.objects.filter(kind="CHARGE_ANNOUNCED").exists()

    def test_two_sweepers_hand_over_once(self, debit):
        attempt = collect(owing())

        at_once(*[lambda: sweep(as_of=CHARGE_DAY)] * 2)

        told = [e["action"] for e in _events(debit) if attempt.provider_ref in e["links"].values()]
        assert told == ["created", "submitted"]


def _events(debit: DirectDebit):
    return [e for _, body in debit.deliveries(secret="x") for e in json.loads(body)["events"]]


def in_two_parts(account) -> list[tuple[str, int]]:
    """What was to be collected of an account, and then of what was left; oldest first."""
    attempts = PaymentAttempt.objects.filter(account=account).order_by("created_at")
    return list(attempts.values_list("state", "amount_minor"))


REST_IS_ANNOUNCED = [("RELEASED", 1234), ("PREPARED", 234)]


class TestTheWorldChangesBeforeTheDay:
    def test_paid_otherwise_is_cancelled_at_once_and_not_announced(self, debit):
        account = owing()
        attempt = collect(account)
        pay_by_hand(account, 1234)

        sweep(as_of=AS_OF)

        attempt.refresh_from_db()
        assert (attempt.state, attempt.because) == (State.RELEASED, "settled meanwhile")
        assert debit.payment(attempt.provider_ref)["status"] == "cancelled"
        deliver(as_of=AS_OF)
        assert (announced(account).state, announced(account).because) == (
            "CANCELLED",
            "not collected on that day",
        )
        assert Decision.objects.filter(act="SUBMIT", did="SKIPPED").exists()

    def test_paid_in_part_is_announced_anew_for_the_rest(self, debit):
        account = owing()
        collect(account)
        pay_by_hand(account, 1000)

        sweep(as_of=AS_OF)

        released, again = PaymentAttempt.objects.order_by("created_at")
        assert (released.state, released.because) == (State.RELEASED, "less is due meanwhile")
        assert (again.state, again.amount_minor) == (State.PREPARED, 234)

    @pytest.mark.parametrize(
        ("policy", "did", "because"),
        [
            ("HOLD_FOR_PERSON", "BLOCKED", "the balance has changed: a person decides"),
            ("SKIP", "SKIPPED", "less is due meanwhile"),
        ],
    )
    def test_paid_in_part_is_left_as_its_close_leaves_a_changed_balance(
        self, debit, policy, did, because
    ):
        account = account_using("12.34", card=None)
        MandateFactory(account=account)
        start_close(when_balance_changed=policy)
        work("INVOICE", "CHARGE", "HOLD")
        attempt = PaymentAttempt.objects.get()
        pay_by_hand(account, 1000)

        for minutes in range(3):
            sweep(as_of=AS_OF + timedelta(minutes=minutes))

        attempt.refresh_from_db()
        assert in_two_parts(account) == [("RELEASED", 1234)]
        assert (attempt.because, attempt.next_action_at) == (because, None)
        decision = Decision.objects.get(act="CHARGE", world_changed=True)
        assert (decision.did, decision.saw["due_minor"]) == (did, 234)

    def test_paid_in_part_and_asked_about_by_a_person_is_announced_anew_too(self, debit):
        account = owing()
        attempt = collect(account)
        pay_by_hand(account, 1000)

        charges.ask([attempt], as_of=AS_OF)
        for minutes in range(3):
            sweep(as_of=AS_OF + timedelta(minutes=minutes))

        assert in_two_parts(account) == REST_IS_ANNOUNCED
        attempt.refresh_from_db()
        assert attempt.next_action_at is None

    def test_paid_in_part_is_announced_anew_once_charging_goes_on(self, debit, monkeypatch):
        account = owing()
        collect(account)
        pay_by_hand(account, 1000)
        with monkeypatch.context() as stopped:
            stopped.setattr(reserving, "_stopped", stop)
            sweep(as_of=AS_OF)
        assert in_two_parts(account) == [("RELEASED", 1234)]

        sweep(as_of=AS_OF + timedelta(minutes=1))

        assert in_two_parts(account) == REST_IS_ANNOUNCED

    def test_of_which_one_breaks_announces_the_others_anew(self, debit, monkeypatch):
        accounts = broken, *others = [owing() for _ in range(4)]
        for account in accounts:
            collect(account)
            pay_by_hand(account, 1000)
        reserved = reserving._reserved

        def breaks(request, account, *facts):
            if account == broken:
                raise ValueError("its row is odd")
            return reserved(request, account, *facts)

        with monkeypatch.context() as bad:
            bad.setattr(reserving, "_reserved", breaks)
            with pytest.raises(ValueError, match="odd"):
                sweep(as_of=AS_OF)
        assert [in_two_parts(account) for account in others] == [REST_IS_ANNOUNCED] * 3

        sweep(as_of=AS_OF + timedelta(minutes=1))
        assert in_two_parts(broken) == REST_IS_ANNOUNCED

    def test_paid_in_part_with_its_mandate_removed_is_in_dunning(self, debit):
        account = owing()
        collect(account, kind="AUTO")
        PaymentMethod.objects.update(state="REMOVED", removed_at=AS_OF, is_default=False)
        pay_by_hand(account, 1000)

        sweep(as_of=AS_OF)

        assert in_two_parts(account) == [("FAILED", 1234)]
        assert DunningCase.objects.get(account=account).decline_code == "payment_method_missing"

    def test_credit_granted_is_seen_on_the_day(self, debit):
        account = owing()
        collect(account)
        grant(account, 1234)

        sweep(as_of=CHARGE_DAY)

        assert PaymentAttempt.objects.get().state == State.RELEASED

    def test_an_ended_mandate_is_not_charged_and_the_card_chosen_instead_is(self, debit):
        account = owing()
        collect(account)
        debit.end_mandate(f"debit_pays.{account.external_id}")
        tell(debit, as_of=AS_OF)
        [mandate] = PaymentMethod.objects.all()
        assert (mandate.mandate_status, mandate.state) == ("CANCELLED", "ACTIVE")
        with pytest.raises(NoPaymentMethod, match="has expired"):
            collect(account)

        PaymentMethod.objects.update(is_default=False)
        CardFactory(account=account)
        assert collect(account).state == State.SUCCEEDED

    def test_of_one_the_bank_has_ended_the_close_started_dunning_takes_over(self, debit):
        account = owing()
        collect(account, kind="AUTO")
        debit.end_mandate(f"debit_pays.{account.external_id}")
        tell(debit, as_of=AS_OF)

        attempt = PaymentAttempt.objects.get()
        assert (attempt.state, attempt.because) == (State.FAILED, "declined: mandate_cancelled")
        mail = Message.objects.get(account=account, kind="PAYMENT_FAILED")
        assert "The direct debit mandate was withdrawn." in mail.body_text

        charging.retry_due(as_of=AS_OF + timedelta(days=2))
        assert Hold.objects.filter(account=account, lifted_at=None).exists()

    def test_a_removed_mandate_is_found_out_on_the_day(self, debit):
        account = owing()
        collect(account, kind="AUTO")
        PaymentMethod.objects.update(state="REMOVED", removed_at=AS_OF, is_default=False)
        CardFactory(account=account)

        sweep(as_of=CHARGE_DAY)
        charging.retry_due(as_of=CHARGE_DAY)

        assert list(PaymentAttempt.objects.order_by("created_at").values_list("state", "gateway")) == [
            ("FAILED", "debit"),
            ("SUCCEEDED", "sandbox"),
        ]  # fmt: skip


def stop(_stopped, standing, _method) -> GatewayClosed:
    return GatewayClosed("charging is paused", standing=standing)


class TestTooLate:
    def test_paid_otherwise_while_the_bank_has_it_becomes_credit(self, debit):
        account = owing()
        collect(account)
        sweep(as_of=CHARGE_DAY)
        pay_by_hand(account, 1234, as_of=CHARGE_DAY)

        sweep(as_of=CHARGE_DAY + timedelta(hours=1))
        assert PaymentAttempt.objects.get().state == State.PROCESSING

        debit.advance(2)
        tell(debit, as_of=CHARGE_DAY + timedelta(days=2))
        assert (due(account), credit(account)) == (0, 1234)
        assert Payment.objects.count() == 2

    def test_a_cancel_that_crosses_with_the_bank_waits_for_the_end(self, debit, monkeypatch):
        account = owing()
        attempt = collect(account)
        pay_by_hand(account, 1234)
        # Somebody else has handed it over between our recheck and our cancel.
        real = DebitGateway.cancel

        def too_late(gateway, ref, *, key):
            debit.submit_payment(ref)
            return real(gateway, ref, key=key)

        monkeypatch.setattr(DebitGateway, "cancel", too_late)
        sweep(as_of=AS_OF)

        attempt.refresh_from_db()
        assert attempt.state == State.PROCESSING
        debit.advance(2)
        sweep(as_of=AS_OF + timedelta(days=2))
        assert credit(account) == 1234


class TestTheBankSaysNo:
    def test_days_later_is_told_in_a_debits_words(self, debit):
        account = owing(behaviour="debit_insufficient")
        collect(account)
        sweep(as_of=CHARGE_DAY)
        debit.advance(3)

        tell(debit, as_of=CHARGE_DAY + timedelta(days=3))
        sweep(as_of=CHARGE_DAY + timedelta(days=3, minutes=2))

        attempt = PaymentAttempt.objects.get()
        assert (attempt.state, attempt.decline_code) == (State.FAILED, "insufficient_funds")
        mail = Message.objects.get(account=account, kind="PAYMENT_FAILED")
        assert "The bank account did not have enough money." in mail.body_text
        assert "We could not collect €12.34 by Direct debit ···· 3001." in mail.body_text
        assert due(account) == 1234

    def test_a_withdrawn_mandate_is_never_charged_again(self, debit):
        account = owing(behaviour="debit_withdrawn")
        collect(account)
        sweep(as_of=CHARGE_DAY)
        debit.advance(1)
        sweep(as_of=CHARGE_DAY + timedelta(days=1))

        assert PaymentAttempt.objects.get().state == State.FAILED
        with pytest.raises(NoPaymentMethod):
            collect(account, as_of=CHARGE_DAY + timedelta(days=1))


class TestTakenBack:
    """The bank has paid, and takes it back weeks later."""

    @pytest.fixture
    def account(self, debit):
        account = owing(behaviour="debit_charged_back")
        collect(account, kind="AUTO")
        sweep(as_of=CHARGE_DAY)
        debit.advance(2)
        return account

    def test_is_owed_again_once_however_often_it_is_told(self, debit, account):
        tell(debit, as_of=CHARGE_DAY + timedelta(days=2))
        assert due(account) == 0
        debit.advance(10)
        back_at = CHARGE_DAY + timedelta(days=12)
        seen = gateways.get("debit").read(PaymentAttempt.objects.get().provider_ref)

        at_once(*[lambda: tell(debit, as_of=back_at)] * 2)
        charges.apply_provider_state({PaymentAttempt.objects.get().pk: seen}, as_of=back_at)

        attempt = PaymentAttempt.objects.get()
        assert (attempt.state, attempt.decline_code) == (State.SUCCEEDED, "returned_by_bank")
        assert PaymentReversal.objects.get().owed_minor == 1234
        assert due(account) == 1234
        assert Message.objects.get(account=account, kind="PAYMENT_REVERSED")
        assert not Message.objects.filter(account=account, kind="PAYMENT_FAILED").exists()

    def test_before_we_heard_of_the_success_books_both(self, debit, account):
        debit.advance(10)

        sweep(as_of=CHARGE_DAY + timedelta(days=12))

        assert Payment.objects.count() == PaymentReversal.objects.count() == 1
        assert PaymentAttempt.objects.get().state == State.SUCCEEDED
        assert due(account) == 1234

    def test_takes_what_it_had_left_as_credit_first(self, debit, account):
        pay_by_hand(account, 1234, as_of=CHARGE_DAY)
        tell(debit, as_of=CHARGE_DAY + timedelta(days=2))
        assert credit(account) == 1234
        debit.advance(10)

        tell(debit, as_of=CHARGE_DAY + timedelta(days=12))

        assert (due(account), credit(account)) == (0, 0)
        assert not DunningCase.objects.exists()

    def test_is_not_charged_again_by_itself_but_held_at_the_end(self, debit, account):
        tell(debit, as_of=CHARGE_DAY + timedelta(days=2))
        debit.advance(10)
        tell(debit, as_of=CHARGE_DAY + timedelta(days=12))

        case = DunningCase.objects.get(account=account)
        assert (case.decline_code, case.next_try_at) == ("returned_by_bank", None)
        charging.retry_due(as_of=CHARGE_DAY + timedelta(days=14))

        assert PaymentAttempt.objects.count() == 1
        assert Hold.objects.filter(account=account, lifted_at=None).exists()

    def test_is_found_by_reconciliation_when_nobody_told_us(self, debit, account):
        tell(debit, as_of=CHARGE_DAY + timedelta(days=2))
        now = timezone.now()
        reconcile(as_of=now + timedelta(days=20))
        debit.advance(10)

        reconcile(as_of=now + timedelta(days=50))

        assert PaymentReversal.objects.get().payment.account == account
        assert due(account) == 1234


def reconcile(*, as_of: datetime) -> None:
    """On the provider's own clock, which is the real one: it says when its objects were made."""
    begun = reconciliation.start(gateway="debit", started_by="test", as_of=as_of)
    reconciliation.work(begun, as_of=as_of)
    begun.refresh_from_db()
    assert begun.state == "FINISHED"


class TestAnswersThatDoNotCome:
    def test_of_the_bank_are_asked_for_and_it_goes_on(self, debit):
        account = owing(behaviour="debit_lost_reply")
        collect(account)
        sweep(as_of=CHARGE_DAY)
        assert PaymentAttempt.objects.get().state == State.SUBMITTED

        sweep(as_of=CHARGE_DAY + timedelta(minutes=2))
        assert PaymentAttempt.objects.get().state == State.PROCESSING

        debit.advance(2)
        sweep(as_of=CHARGE_DAY + timedelta(days=2))
        assert due(account) == 0

    def test_of_prepare_are_found_by_our_reference(self, debit, monkeypatch):
        account = owing()
        real = DebitGateway.prepare

        def lost(gateway, spec, *, key):
            real(gateway, spec, key=key)
            raise OutcomeUnknown("the reply was lost")

        monkeypatch.setattr(DebitGateway, "prepare", lost)
        collect(account)
        monkeypatch.undo()
        debit_book = gateways.get("debit")
        sweep(as_of=AS_OF + timedelta(minutes=2))

        [made] = debit_book.book()
        assert PaymentAttempt.objects.get().provider_ref == made.ref


PLACES = [
    (calls, "_prepare"),
    (preparing, "store_in"),
    (rechecking, "look_again"),
    (calls, "_submit"),
    (settling, "_succeed"),
]


class TestKilled:
    """At any point of its life: announced, handed over and booked once all the same."""

    @pytest.mark.parametrize("place", PLACES, ids=lambda place: place[1])
    def test_there_heals_by_itself(self, debit, monkeypatch, place):
        account = owing()
        real = getattr(*place)
        struck = []

        def killed(*args, **facts):
            if not struck:
                struck.append(place)
                raise Killed(place[1])
            return real(*args, **facts)

        monkeypatch.setattr(*place, killed)
        now = AS_OF
        with suppress(Killed):
            collect(account)
        for _ in range(6):
            now += timedelta(days=1)
            for minutes in (0, 2):
                with suppress(Killed):
                    sweep(as_of=now + timedelta(minutes=minutes))
            debit.advance(1)

        assert struck
        [seen] = [each for each in gateways.get("debit").book() if each.status != "CANCELED"]
        assert (seen.status, PaymentAttempt.objects.get().state) == ("SUCCEEDED", "SUCCEEDED")
        assert Payment.objects.count() == 1
        assert due(account) == 0
        assert Message.objects.filter(account=account, kind="CHARGE_ANNOUNCED").count() == 1

    @pytest.mark.parametrize(
        "place",
        [(calls, "_cancel"), (settling, "_end_unpaid"), (collecting, "begin_each")],
        ids=lambda place: place[1],
    )
    def test_there_after_a_part_was_paid_collects_the_rest(self, debit, monkeypatch, place):
        account = owing()
        attempt = collect(account)
        pay_by_hand(account, 1000)
        real = getattr(*place)

        def killed(*args, **facts):
            if place[1] == "_cancel":
                real(*args, **facts)
            raise Killed(place[1])

        with monkeypatch.context() as patch:
            patch.setattr(*place, killed)
            with pytest.raises(Killed):
                sweep(as_of=AS_OF)
        tell(debit, as_of=AS_OF)
        for minutes in (2, 3):
            sweep(as_of=AS_OF + timedelta(minutes=minutes))

        assert in_two_parts(account) == REST_IS_ANNOUNCED
        attempt.refresh_from_db()
        assert attempt.next_action_at is None


def test_days_pass_by_command(debit, settings):
    collect(owing())
    command = [
        sys.executable,
        "-m",
        "billing.gateways.standins.fakedebit",
        str(settings.DEBIT_BOOK),
        "1",
    ]

    said = subprocess.run(command, cwd=settings.BASE_DIR, capture_output=True, check=True).stdout

    told = [json.loads(line) for line in said.splitlines()]
    assert [event["resource_type"] for event in told] == ["mandates"]
