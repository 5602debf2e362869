"""Dunning: a declined charge is tried again on its days, told once, and held at the end; or paid."""

from contextlib import nullcontext
from datetime import UTC, datetime, timedelta

import pytest
from django.urls import reverse

from accounts.models import Account, BillingEntity, Hold, PaymentMethod
from billing import dunning
from billing.gateways import Method, Misconfigured, NotSent, OutcomeUnknown
from billing.models import Decision, DunningCase, PaymentAttempt
from billing.payments import charges, methods, retries, unpaid
from billing.payments.charges import amounts, reserving
from notifications.models import Message
from tests import charging
from tests.billing.builders import bill, collect, due, grant, owing, pay_by_hand
from tests.closing import (
    assert_books_hold,
    decision_on,
    in_a_thread_of_the_provider,
    start_close,
    work,
)
from tests.factories import AS_OF, CardFactory, account_using
from tests.mailing import deliver
from tests.provider import Killed
from tests.workers import at_once

pytestmark = pytest.mark.django_db(transaction=True)

State, Kind = PaymentAttempt.State, PaymentAttempt.Kind
SCHEDULE = [3, 5, 7, 14]


@pytest.fixture(autouse=True)
def _books_hold():
    yield
    assert_books_hold()


def day(number: float):
    """So many days after the decline that opened the case."""
    return AS_OF + timedelta(days=number)


def declined(card: str = "sandbox_insufficient", days=SCHEDULE, **facts: object) -> Account:
    """An account whose automatic charge was declined, of an entity with this schedule."""
    account = owing("12.34", card=card, **facts)
    BillingEntity.objects.update(retry_days=days)
    assert collect(account, kind=Kind.AUTO).state == State.FAILED
    return account


def asked_to_confirm(provider, sandbox, monkeypatch, kind: str = Kind.AUTO) -> Account:
    """An account whose bank wants its customer to confirm a charge: the close's, if nothing else is said."""
    account = owing()
    BillingEntity.objects.update(retry_days=SCHEDULE)
    with monkeypatch.context() as patch:
        patch.setattr(sandbox, "submit", lambda ref, key: sandbox.read(ref))
        provider.says("submit", status="NEEDS_CUSTOMER")
        assert collect(account, kind=kind).state == State.REQUIRES_ACTION
    provider.heals()
    return account


def case_of(account: Account) -> DunningCase:
    return DunningCase.objects.get(account=account)


def tried(account: Account) -> list[str]:
    """What was charged, oldest first."""
    attempts = PaymentAttempt.objects.filter(account=account).order_by("created_at")
    return [f"{attempt.kind} {attempt.state}" for attempt in attempts]


def mails(account: Account) -> list[str]:
    found = Message.objects.filter(account=account).order_by("created_at")
    return list(found.values_list("kind", flat=True))


def is_held(account: Account) -> bool:
    return Hold.objects.filter(account=account, lifted_at=None).exists()


def becomes(account: Account, token: str) -> None:
    """The bank thinks anew of the card."""
    PaymentMethod.objects.filter(account=account).update(token=token)


def add_card(account: Account, *, as_of, token: str = "sandbox_visa") -> PaymentMethod:
    return methods.add_card(
        account_id=account.pk,
        gateway="sandbox",
        token=token,
        brand="Visa",
        last_four="4242",
        expiry_month=12,
        expiry_year=2035,
        actor="ann@example.com",
        as_of=as_of,
        make_default=True,
    )


def renew_card(account: Account, *, as_of) -> None:
    """Its bank has sent its holder a new one: good for a year longer."""
    card = PaymentMethod.objects.get(account=account)
    methods.update_card(
        account_id=account.pk,
        method_id=card.pk,
        seen=Method(card.token, "cus", "Visa", "1111", 1, card.expiry_year + 1),
        actor="provider",
        as_of=as_of,
    )


class TestADeclinedAutomaticCharge:
    def test_opens_a_case_that_says_when_it_is_tried_again(self):
        case = case_of(declined())

        assert (case.decline_class, case.decline_code, case.retries_made) == (
            "SOFT",
            "insufficient_funds",
            0,
        )
        assert (case.opened_at, case.next_try_at, case.ends_at) == (AS_OF, day(3), day(14))

    def test_tells_the_customer_when(self):
        account = declined()

        message = Message.objects.get(account=account)
        assert "We will try again on 5 November 2018." in message.body_text
        assert "paid by 16 November 2018 puts the account on hold." in message.body_text

    def test_tells_it_in_hungarian_where_a_date_ends_with_a_stop_of_its_own(self):
        account = declined(language="hu")

        message = Message.objects.get(account=account)
        assert "próbálkozás napja: 2018. november 5." in message.body_text
        assert ".." not in message.body_text

    def test_that_needs_the_customer_is_not_tried_again_but_waited_for(self):
        case = case_of(declined("sandbox_expired"))

        assert (case.decline_class, case.next_try_at, case.ends_at) == (
            "NEEDS_CUSTOMER",
            None,
            day(14),
        )

    def test_whose_bank_says_never_again_waits_for_another_card(self):
        case = case_of(declined("sandbox_stolen"))

        assert (case.decline_class, case.next_try_at) == ("STOP", None)

    def test_that_its_holder_then_tries_in_vain_is_waited_for_as_before(self):
        account = declined("sandbox_expired")

        assert collect(account, kind=Kind.ON_SESSION, as_of=day(1)).state == State.FAILED

        case = case_of(account)
        assert (case.next_try_at, case.ends_at) == (None, day(14))
        charging.retry_due(as_of=day(5))
        assert tried(account) == ["AUTO FAILED", "ON_SESSION FAILED"]

    def test_without_a_schedule_opens_none(self):
        declined(days=[])

        assert not DunningCase.objects.exists()

    def test_for_a_fault_of_ours_opens_none(self, provider):
        provider.says("submit", decline_code="amount_too_small")

        declined()

        assert not DunningCase.objects.exists()

    def test_of_a_customer_who_was_at_it_opens_none(self):
        account = owing(card="sandbox_declined")
        BillingEntity.objects.update(retry_days=SCHEDULE)

        collect(account, kind=Kind.ON_SESSION)

        assert not DunningCase.objects.exists()

    def test_that_its_customer_did_not_confirm_in_time_waits_for_them(
        self, provider, sandbox, monkeypatch
    ):
        account = asked_to_confirm(provider, sandbox, monkeypatch)

        charging.drive_due(as_of=day(3))

        assert tried(account) == ["AUTO FAILED"]
        case = case_of(account)
        assert (case.decline_code, case.next_try_at) == ("authentication_required", None)

    @pytest.mark.parametrize(
        ("fate", "code"),
        [
            ({"state": "REMOVED", "removed_at": AS_OF}, "payment_method_missing"),
            (
                {"state": "BLOCKED", "blocked_at": AS_OF, "blocked_because": "stolen_card"},
                "payment_method_unusable",
            ),
            ({"expiry_year": 2017}, "expired_card"),
        ],
        ids=["removed", "blocked", "expired"],
    )
    def test_whose_card_is_gone_before_its_customer_confirmed_waits_for_another(
        self, provider, sandbox, monkeypatch, fate, code
    ):
        account = asked_to_confirm(provider, sandbox, monkeypatch)
        PaymentMethod.objects.update(**fate, is_default=False)

        charging.drive_due(as_of=day(0.1))

        assert tried(account) == ["AUTO FAILED"]
        case = case_of(account)
        assert (case.decline_code, case.next_try_at) == (code, None)
        assert mails(account) == ["CONFIRMATION_NEEDED", "PAYMENT_FAILED"]

    def test_paid_in_part_before_its_customer_confirmed_is_made_for_the_rest(
        self, provider, sandbox, monkeypatch
    ):
        account = asked_to_confirm(provider, sandbox, monkeypatch)
        pay_by_hand(account, 1000)

        charging.drive_due(as_of=day(0.1))

        assert tried(account) == ["AUTO RELEASED", "AUTO SUCCEEDED"]
        assert due(account) == 0

    def test_paid_in_part_by_a_customer_who_was_at_it_is_not_made_for_the_rest(
        self, provider, sandbox, monkeypatch
    ):
        account = asked_to_confirm(provider, sandbox, monkeypatch, kind=Kind.ON_SESSION)
        pay_by_hand(account, 1000)

        charging.drive_due(as_of=day(0.1))

        assert tried(account) == ["ON_SESSION RELEASED"]

    def test_whose_card_is_gone_before_its_customer_confirmed_is_made_with_the_new_one(
        self, provider, sandbox, monkeypatch
    ):
        account = asked_to_confirm(provider, sandbox, monkeypatch)
        PaymentMethod.objects.update(state="REMOVED", removed_at=AS_OF, is_default=False)
        add_card(account, as_of=day(0.01), token="sandbox_mastercard")

        charging.drive_due(as_of=day(0.1))
        charging.retry_due(as_of=day(0.1))

        assert tried(account) == ["AUTO FAILED", "RETRY SUCCEEDED"]


class TestRetries:
    def test_are_made_on_the_schedules_days_and_end_with_a_hold(self):
        account = declined()

        for number in range(1, 15):
            charging.retry_due(as_of=day(number))

        assert tried(account) == ["AUTO FAILED", *["RETRY FAILED"] * 4]
        assert is_held(account)
        case = case_of(account)
        assert (case.retries_made, case.closed_at) == (4, day(14))
        assert decision_on(account, "HOLD").because == case.closed_because

    def test_tell_the_same_once_and_the_hold_at_the_end(self):
        account = declined()

        for number in SCHEDULE:
            charging.retry_due(as_of=day(number))

        assert mails(account) == ["PAYMENT_FAILED", "HOLD_PLACED"]

    def test_tell_another_cause(self):
        account = declined()
        becomes(account, "sandbox_expired")

        charging.retry_due(as_of=day(3))

        assert mails(account) == ["PAYMENT_FAILED"] * 2
        assert case_of(account).next_try_at is None

    def test_that_succeed_close_the_case_and_say_so(self):
        account = declined()
        becomes(account, "sandbox_visa")

        assert charging.retry_due(as_of=day(3)) == 1

        case = case_of(account)
        assert (case.closed_at, case.closed_because) == (day(3), "paid")
        assert (due(account), is_held(account)) == (0, False)
        assert decision_on(account, "RETRY").because == "its day had come: charged again"

    def test_twice_in_a_minute_are_made_once(self):
        account = declined()

        charging.retry_due(as_of=day(3))
        charging.retry_due(as_of=day(3))

        assert tried(account) == ["AUTO FAILED", "RETRY FAILED"]

    def test_by_two_sweepers_at_once_are_made_once(self):
        accounts = [declined() for _ in range(3)]

        def sweep():
            return charging.retry_due(as_of=day(3))

        results = at_once(sweep, sweep)

        assert sorted(results) == [0, 3]
        assert [tried(account) for account in accounts] == [["AUTO FAILED", "RETRY FAILED"]] * 3

    @pytest.mark.parametrize("call", ["prepare", "submit", "cancel"])
    def test_killed_there_are_made_once_all_the_same(self, provider, call):
        account = declined()
        provider.after(call, Killed())
        with pytest.raises(Killed):
            charging.retry_due(as_of=day(3))

        for minutes in range(1, 15):
            charging.sweep(as_of=day(3) + timedelta(minutes=minutes))

        assert tried(account) == ["AUTO FAILED", "RETRY FAILED"]
        assert case_of(account).next_try_at == day(5)

    def test_killed_before_anything_was_reserved_come_up_again(self, monkeypatch):
        account = declined()
        with monkeypatch.context() as killed:
            killed.setattr(charges, "begin_each", _die)
            with pytest.raises(Killed):
                charging.retry_due(as_of=day(3))

        charging.retry_due(as_of=day(3) + timedelta(minutes=9))
        assert tried(account) == ["AUTO FAILED"]
        charging.retry_due(as_of=day(3) + timedelta(minutes=10))
        assert tried(account) == ["AUTO FAILED", "RETRY FAILED"]

    def test_missed_while_nothing_ran_are_not_made_up_for(self):
        account = declined()

        charging.retry_due(as_of=day(6))

        assert (len(tried(account)), case_of(account).next_try_at) == (2, day(7))

    def test_of_what_cannot_be_charged_just_now_are_looked_at_later(self, provider):
        account = declined()
        provider.after("submit", OutcomeUnknown("the line went dead"))
        collect(account, as_of=day(3))

        charging.retry_due(as_of=day(3))

        assert case_of(account).next_try_at == day(3) + timedelta(hours=1)

    def test_while_the_last_charge_is_being_given_up_are_made_a_moment_later(self, provider):
        account = declined()
        provider.before("cancel", NotSent("connection refused"))
        assert collect(account, kind=Kind.AUTO, as_of=day(2)).state == State.CANCELING
        DunningCase.objects.update(next_try_at=day(3))

        retries.retry_due(as_of=day(3))

        assert case_of(account).next_try_at == day(3) + retries.AFTER_A_CANCEL
        assert not Decision.objects.filter(act="RETRY").exists()

    def test_whose_charge_on_its_way_ends_meanwhile_go_by_how_it_ended(self, provider):
        undecided, _ = declined(), declined()
        becomes(undecided, "sandbox_expired")
        provider.before("submit", NotSent("connection refused"))
        attempt = collect(undecided, kind=Kind.AUTO, as_of=day(3) - timedelta(minutes=2))
        drives = in_a_thread_of_the_provider(lambda: charging.drive([attempt], as_of=day(3)))
        provider.before("submit", drives)

        charging.retry_due(as_of=day(3))

        case = case_of(undecided)
        assert tried(undecided) == ["AUTO FAILED", "AUTO FAILED"]
        assert (case.decline_class, case.next_try_at) == ("NEEDS_CUSTOMER", None)

    def test_that_are_not_needed_any_more_once_they_are_claimed_are_not_made(self, monkeypatch):
        account = declined()
        begin = charges.begin_each

        def after_a_payment(*asked, **facts):
            pay_by_hand(account, 1234)
            return begin(*asked, **facts)

        monkeypatch.setattr(charges, "begin_each", after_a_payment)

        charging.retry_due(as_of=day(3))

        assert tried(account) == ["AUTO FAILED"]
        assert case_of(account).closed_because == "paid"

    def test_without_a_card_wait_for_one(self):
        account = declined()
        PaymentMethod.objects.update(state="REMOVED", removed_at=AS_OF, is_default=False)

        charging.retry_due(as_of=day(3))

        assert case_of(account).next_try_at is None
        assert decision_on(account, "RETRY").because == "there is no card"

    def test_that_never_got_to_the_provider_wait_a_day_for_an_operator(self, provider):
        account = declined()
        provider.before("prepare", Misconfigured("a wrong key"))

        charging.retry_due(as_of=day(3))

        assert case_of(account).next_try_at == day(4)
        assert not is_held(account)

    def test_of_less_than_can_be_charged_are_not_made(self, monkeypatch):
        account = declined()
        monkeypatch.setattr(amounts, "chargeable_minor", lambda *_: 0)

        charging.retry_due(as_of=day(3))

        assert "is less than can be charged" in case_of(account).closed_because
        assert not is_held(account)


class TestOneAccountThatRaises:
    """It stops no other; it is said, and comes up again."""

    @pytest.fixture
    def poisoned(self, monkeypatch):
        """Make what does this raise, for one account among others."""

        def poison(module, name: str, bad: Account):
            real = getattr(module, name)

            def raise_for_it(*args, **facts):
                named = [arg.account_id for arg in args if hasattr(arg, "account_id")]
                named += [arg.pk for arg in args if isinstance(arg, Account)]
                if bad.pk in named:
                    raise LookupError("poison")
                return real(*args, **facts)

            monkeypatch.setattr(module, name, raise_for_it)

        return poison

    @pytest.mark.parametrize(
        ("module", "name"),
        [(reserving, "_refusal"), (retries, "_tried")],
        ids=["when it is reserved", "when it is noted"],
    )
    def test_when_it_is_charged(self, poisoned, module, name):
        bad, *good = accounts = [declined() for _ in range(3)]
        for account in accounts:
            becomes(account, "sandbox_visa")
        poisoned(module, name, bad)

        with pytest.raises(LookupError):
            charging.retry_due(as_of=day(3))
        charging.drive_due(as_of=day(3))

        assert [due(account) for account in good] == [0, 0]
        assert all(len(tried(account)) == 2 for account in good)
        assert Decision.objects.filter(act="RETRY", account__in=good).count() == 2
        with pytest.raises(LookupError) if name == "_refusal" else nullcontext():
            charging.retry_due(as_of=day(3) + retries.TRY_WINDOW)
        assert len(tried(bad)) == (1 if name == "_refusal" else 2)

    def test_when_its_schedule_has_ended(self, poisoned):
        bad, good = declined("sandbox_expired"), declined("sandbox_expired")
        poisoned(dunning, "place_hold", bad)

        with pytest.raises(LookupError):
            charging.retry_due(as_of=day(14))

        assert is_held(good)
        assert not is_held(bad)
        assert case_of(bad).ends_at == day(14) + retries.LOOK_AGAIN_AFTER

    def test_is_not_charged_twice_for_it(self, poisoned):
        bad, good = declined(), declined()
        poisoned(reserving, "_refusal", bad)

        with pytest.raises(LookupError):
            charging.retry_due(as_of=day(3))
        charging.drive_due(as_of=day(3))

        assert tried(good) == ["AUTO FAILED", "RETRY FAILED"]


def _die(*_args, **_facts):
    raise Killed


class TestAnotherCard:
    def test_is_tried_at_once(self):
        account = declined("sandbox_stolen")

        add_card(account, as_of=day(1))
        charging.retry_due(as_of=day(1))

        assert tried(account) == ["AUTO FAILED", "RETRY SUCCEEDED"]
        assert case_of(account).closed_because == "paid"

    def test_chosen_from_those_there_are_is_tried_at_once(self):
        account = declined("sandbox_expired")
        other = CardFactory(account=account, is_default=False)

        methods.make_default(account_id=account.pk, method_id=other.pk, actor="a", as_of=day(1))

        assert case_of(account).next_try_at == day(1)

    def test_that_its_bank_has_renewed_is_tried_at_once(self):
        account = declined("sandbox_expired")

        renew_card(account, as_of=day(1))

        assert case_of(account).next_try_at == day(1)

    def test_renewed_that_is_not_to_be_charged_changes_nothing(self):
        account = declined("sandbox_expired")
        PaymentMethod.objects.update(is_default=False)

        renew_card(account, as_of=day(1))

        assert case_of(account).next_try_at is None

    def test_that_is_not_to_be_charged_changes_nothing(self):
        account = declined("sandbox_expired")

        methods.add_card(
            account_id=account.pk,
            gateway="sandbox",
            token="sandbox_mastercard",
            brand="Mastercard",
            last_four="4444",
            expiry_month=12,
            expiry_year=2035,
            actor="a",
            as_of=day(1),
        )

        assert case_of(account).next_try_at is None

    def test_chosen_while_the_old_one_is_being_declined_is_tried_next(self, provider):
        account = declined("sandbox_insufficient")
        provider.after("submit", OutcomeUnknown("the line went dead"))
        charging.retry_due(as_of=day(3))
        add_card(account, as_of=day(3))

        for minutes in (1, 2):
            charging.sweep(as_of=day(3) + timedelta(minutes=minutes))

        assert tried(account) == ["AUTO FAILED", "RETRY FAILED", "RETRY SUCCEEDED"]

    def test_added_while_the_others_of_the_sweep_are_charged_is_tried_next(self, provider):
        cardless, other = declined(), declined()
        PaymentMethod.objects.filter(account=cardless).update(
            state="REMOVED", removed_at=AS_OF, is_default=False
        )
        becomes(other, "sandbox_visa")
        adds = in_a_thread_of_the_provider(lambda: add_card(cardless, as_of=day(3)))
        provider.before("submit", adds)

        charging.retry_due(as_of=day(3))
        charging.retry_due(as_of=day(3) + timedelta(minutes=1))

        assert tried(cardless) == ["AUTO FAILED", "RETRY SUCCEEDED"]

    @pytest.mark.parametrize("change", [add_card, renew_card], ids=["it is added", "it is renewed"])
    def test_before_a_fault_of_ours_is_noted_is_not_tried_a_day_later(self, provider, change):
        account = declined()
        becomes(account, "sandbox_mastercard")
        changes = in_a_thread_of_the_provider(lambda: change(account, as_of=day(3)))

        def fail() -> None:
            changes()
            raise Misconfigured("a wrong key")

        provider.before("prepare", fail)

        retries.retry_due(as_of=day(3))
        charging.drive_due(as_of=day(3))

        assert case_of(account).next_try_at == day(3)
        charging.retry_due(as_of=day(3))
        assert tried(account) == ["AUTO FAILED", "RETRY RELEASED", "RETRY SUCCEEDED"]

    def test_added_while_a_fault_of_ours_is_found_is_not_tried_a_day_later(self, provider):
        accounts = [declined(), declined()]
        PaymentMethod.objects.update(token="sandbox_mastercard")
        # It is the one or the other that never gets to the provider.
        provider.before("prepare", Misconfigured("a wrong key"))
        adds = in_a_thread_of_the_provider(
            lambda: [add_card(account, as_of=day(3)) for account in accounts]
        )
        provider.before("submit", adds)

        retries.retry_due(as_of=day(3))
        charging.drive_due(as_of=day(3))

        assert DunningCase.objects.get(closed_at=None).next_try_at == day(3)

    def test_after_four_retries_is_not_tried_by_itself(self):
        account = declined()
        for number in (0.1, 0.2, 0.3, 0.4):
            renew_card(account, as_of=day(number))
            charging.retry_due(as_of=day(number))

        add_card(account, as_of=day(1))
        charging.retry_due(as_of=day(1))

        assert (len(tried(account)), case_of(account).retries_made) == (5, 4)


class TestTheEndOfTheSchedule:
    def test_comes_for_who_was_waited_for_too(self):
        account = declined("sandbox_expired")

        charging.retry_due(as_of=day(14) - timedelta(seconds=1))
        assert not is_held(account)
        charging.retry_due(as_of=day(14))

        assert is_held(account)
        assert mails(account) == ["PAYMENT_FAILED", "HOLD_PLACED"]

    def test_waits_for_a_payment_on_its_way(self, provider):
        account = declined("sandbox_expired")
        becomes(account, "sandbox_visa")
        provider.after("submit", OutcomeUnknown("the line went dead"))
        collect(account, as_of=day(14))

        charging.retry_due(as_of=day(14))
        assert not is_held(account)
        charging.drive_due(as_of=day(14) + timedelta(minutes=1))
        charging.retry_due(as_of=day(15))

        assert (due(account), is_held(account)) == (0, False)

    def test_waits_until_something_is_overdue(self):
        account = account_using("12.34", card="sandbox_expired")
        BillingEntity.objects.update(retry_days=SCHEDULE, payment_terms_days=30)
        bill(account)
        collect(account, kind=Kind.AUTO)

        past_due = datetime(2018, 12, 3, tzinfo=UTC)
        charging.retry_due(as_of=day(14))
        assert (is_held(account), case_of(account).ends_at) == (False, past_due)
        charging.retry_due(as_of=past_due)

        assert is_held(account)

    def test_waits_for_the_grace_that_a_delivered_warning_leaves(self):
        account = declined("sandbox_expired")
        BillingEntity.objects.update(grace_days=7)

        charging.retry_due(as_of=day(14))
        assert not is_held(account)
        unpaid.follow_up(as_of=day(14))
        deliver(as_of=day(14))
        Message.objects.filter(kind="HOLD_WARNING").update(sent_at=day(14))
        charging.retry_due(as_of=day(14) + timedelta(hours=1))
        assert (is_held(account), case_of(account).ends_at) == (
            False,
            datetime(2018, 11, 24, tzinfo=UTC),
        )
        charging.retry_due(as_of=datetime(2018, 11, 24, tzinfo=UTC))

        assert is_held(account)

    def test_after_a_fault_of_ours_is_left_to_a_person(self, provider):
        account = declined()
        provider.says("submit", decline_code="testmode_decline")

        for number in SCHEDULE:
            charging.retry_due(as_of=day(number))
        charging.retry_due(as_of=day(14))

        decision = decision_on(account, "HOLD")
        assert (decision.did, decision.because) == (
            "BLOCKED",
            "our set-up or request is wrong: testmode_decline",
        )
        assert (is_held(account), mails(account)) == (False, ["PAYMENT_FAILED"])

    def test_finds_an_account_that_is_held_already(self):
        account = declined("sandbox_expired")
        Hold.objects.create(account=account, reason="MANUAL", placed_at=AS_OF)
        held = Hold.objects.create(account=account, reason="OVERDUE", placed_at=AS_OF)
        Decision.objects.bulk_create(
            Decision(account=account, act="HOLD", did="DONE", because="test", hold=hold)
            for hold in Hold.objects.all()
        )

        charging.retry_due(as_of=day(14))

        assert case_of(account).closed_because == "already held"
        assert Hold.objects.filter(reason="OVERDUE").get() == held

    def test_does_not_hold_for_less_than_is_asked_for(self):
        account = declined("sandbox_expired")
        pay_by_hand(account, 1185)

        charging.retry_due(as_of=day(14))

        assert not is_held(account)


class TestPaying:
    @pytest.mark.parametrize(
        ("pays", "because"),
        [
            (lambda account: pay_by_hand(account, 1234), "paid"),
            (lambda account: grant(account, 1234), "settled by credit"),
        ],
    )
    def test_all_of_it_closes_the_case_at_once(self, pays, because):
        account = declined()

        pays(account)

        assert case_of(account).closed_because == because
        assert charging.retry_due(as_of=day(3)) == 0

    def test_a_part_of_it_is_tried_for_the_rest(self):
        account = declined()
        pay_by_hand(account, 1000)
        becomes(account, "sandbox_visa")

        charging.retry_due(as_of=day(3))

        assert due(account) == 0
        assert PaymentAttempt.objects.get(kind=Kind.RETRY).amount_minor == 234


class TestTheClose:
    def test_leaves_the_hold_to_the_end_of_the_schedule(self):
        account = account_using("12.00", card="sandbox_insufficient")
        start_close()
        BillingEntity.objects.update(retry_days=SCHEDULE)

        work("INVOICE", "CHARGE", "HOLD")

        decision = decision_on(account, "HOLD")
        assert (decision.did, decision.because) == (
            "SKIPPED",
            "in dunning: next try on 2018-11-05",
        )
        assert not is_held(account)

    def test_holds_who_has_no_card_at_once(self):
        account = account_using("12.00", card=None)
        start_close()
        BillingEntity.objects.update(retry_days=SCHEDULE)

        work("INVOICE", "CHARGE", "HOLD")

        assert is_held(account)

    def test_of_a_later_month_counts_as_a_try_and_opens_no_second_case(self):
        account = declined()

        assert collect(account, kind=Kind.AUTO, as_of=day(4)).state == State.FAILED

        case = case_of(account)
        assert (case.retries_made, case.next_try_at, case.ends_at) == (1, day(5), day(14))
        assert mails(account) == ["PAYMENT_FAILED"]


class TestStaff:
    def test_see_on_the_account_why_and_until_when(self, admin_client):
        soft, stopped = declined(), declined("sandbox_declined")
        PaymentMethod.objects.filter(account=stopped).update(
            state=PaymentMethod.State.BLOCKED,
            is_default=False,
            blocked_at=AS_OF,
            blocked_because="stolen_card",
        )

        def page(account: Account) -> str:
            url = reverse("admin:accounts_account_change", args=[account.pk])
            return admin_client.get(url).content.decode()

        assert "insufficient_funds" in page(soft)
        assert "Blocked" in page(stopped)
