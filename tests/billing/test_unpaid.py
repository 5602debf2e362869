"""What is not paid is followed up by the sweep: reminded of, warned about, held for; whatever the close has said."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from accounts import clock
from accounts.models import Account, BillingEntity, ChargingPause, Hold
from billing import books, dunning, ledger
from billing.close.health import sweeper
from billing.gateways import Status
from billing.gateways.stripe_currencies import MINIMUM_MINOR, chargeable_minor
from billing.models import (
    AccountClosure,
    Decision,
    DunningCase,
    FollowUp,
    LeastAmount,
    PaymentAttempt,
)
from billing.payments import charges, unpaid
from billing.payments.charges import NothingDue
from notifications import lanes
from notifications.models import Lane, Message
from tests.billing.builders import bill, collect, owing, pay_by_hand
from tests.billing.test_invoicing import NOVEMBER, using
from tests.closing import decision_on, finish, start_close, work
from tests.factories import AS_OF, EntityFactory, account_using
from tests.mailing import deliver

pytestmark = pytest.mark.django_db(transaction=True)

# Issued on 2 November, due on the 16th.
PAST_DUE = datetime(2018, 11, 17, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _books_hold():
    """Those promises that this is about: all of them take a second."""
    yield
    about = ("book_hold", "book_invoice", "book_dunning_open", "book_message_one")
    names = [each.name for each in books.promises() if each.name.startswith(about)]
    assert books.check(as_of=datetime(2018, 12, 31, tzinfo=UTC), only=names) == []


def patient(amount: str = "12.34", *, grace: int | None = 7, **facts: object) -> Account:
    """An account that owes, of an entity with fourteen days of terms; without a card unless said."""
    account = account_using(amount, **{"card": None, **facts})
    BillingEntity.objects.update(payment_terms_days=14, grace_days=grace)
    bill(account)
    return account


def at(day: int, hour: int = 9) -> datetime:
    """This day of November, or of December where it is over."""
    return datetime(2018, 11, 1, hour, tzinfo=UTC) + timedelta(days=day - 1)


def sweep(*days: int | datetime) -> None:
    """A sweep, and the mail, on each of these days."""
    for day in days:
        as_of = day if isinstance(day, datetime) else at(day)
        unpaid.follow_up(as_of=as_of)
        mail(as_of)


def mail(as_of: datetime) -> None:
    unsent = list(Message.objects.exclude(state="SENT").values_list("pk", flat=True))
    deliver(as_of=as_of)
    Message.objects.filter(pk__in=unsent, state="SENT").update(sent_at=as_of)


def mails(account: Account) -> list[str]:
    return list(
        Message.objects.filter(account=account, state="SENT")
        .order_by("created_at")
        .values_list("kind", flat=True)
    )


def is_held(account: Account) -> bool:
    return Hold.objects.filter(account=account, lifted_at=None).exists()


@pytest.fixture
def waits_at(provider, sandbox, monkeypatch):
    """Have charges wait at the provider in this state; called with an attempt, it is declined there."""

    def wait(status: str) -> None:
        monkeypatch.setattr(sandbox, "submit", lambda ref, key: sandbox.read(ref))
        provider.says("submit", status=status)

    def decline(as_of: datetime) -> None:
        provider.heals()
        attempt = PaymentAttempt.objects.get(state__in=PaymentAttempt.IN_FLIGHT)
        seen = sandbox.read(attempt.provider_ref)
        declined = replace(seen, status=Status.DECLINED, decline_code="card_declined")
        charges.apply_provider_state({attempt.pk: declined}, as_of=as_of)
        cancelled = sandbox.cancel(attempt.provider_ref, key="test")
        charges.apply_provider_state({attempt.pk: cancelled}, as_of=as_of)

    wait.decline = decline
    return wait


class TestTheWay:
    def test_is_a_reminder_a_warning_and_a_hold(self):
        account = patient()

        sweep(3, 12)
        assert mails(account) == []
        sweep(13, 14, 16)
        assert mails(account) == ["PAYMENT_REMINDER"]
        sweep(PAST_DUE, at(17))
        assert mails(account) == ["PAYMENT_REMINDER"]
        sweep(18, 19, 24, 25)
        assert mails(account) == ["PAYMENT_REMINDER", "HOLD_WARNING"]
        assert not is_held(account)
        sweep(26)

        assert mails(account) == ["PAYMENT_REMINDER", "HOLD_WARNING", "HOLD_PLACED"]
        hold = Hold.objects.get(account=account)
        assert (hold.grace_days, hold.warned_at, hold.placed_at) == (7, at(18), at(26))
        acts = Decision.objects.filter(account=account, did="DONE").order_by("pk")
        assert list(acts.values_list("act", flat=True)) == ["REMIND", "WARN", "HOLD"]

    def test_says_the_days(self):
        account = patient()

        sweep(13, 18)

        reminder, warning = Message.objects.filter(account=account).order_by("created_at")
        assert reminder.subject.strip() == "Invoice MC-000001 is due on 16 November 2018"
        assert "€12.34 is still to be paid" in reminder.body_text
        assert "Please pay by 25 November 2018" in warning.subject
        assert "was due on 16 November 2018. €12.34 is overdue." in warning.body_text

    def test_ends_when_it_is_paid(self):
        account = patient()
        sweep(13, 18)

        pay_by_hand(account, 1234, as_of=at(20))
        sweep(26)

        assert not is_held(account)
        assert not FollowUp.objects.exists()

    def test_goes_on_when_a_close_has_ended(self):
        account = account_using("12.00", card=None)
        BillingEntity.objects.update(payment_terms_days=14, grace_days=7)
        assert finish(start_close()).is_finished

        sweeper.sweep(as_of=at(18))
        mail(at(18))
        sweeper.sweep(as_of=at(26))

        assert is_held(account)

    def test_without_a_grace_has_no_warning(self):
        account = patient(grace=None)

        sweep(16)
        assert not is_held(account)
        sweep(PAST_DUE)

        assert (is_held(account), mails(account)) == (True, ["PAYMENT_REMINDER", "HOLD_PLACED"])

    def test_begins_with_no_reminder_where_the_entity_wants_none_or_gives_no_time(self):
        account = patient()
        BillingEntity.objects.update(remind_days_before=None)
        sweep(16)
        assert mails(account) == []

        FollowUp.objects.all().delete()
        BillingEntity.objects.update(remind_days_before=14)
        sweep(16)

        assert mails(account) == []

    def test_has_one_reminder_though_it_is_followed_up_anew(self):
        account = patient()
        sweep(13)
        FollowUp.objects.all().delete()

        sweep(14)

        assert mails(account) == ["PAYMENT_REMINDER"]
        assert Decision.objects.filter(act="REMIND").count() == 1

    def test_has_no_reminder_where_there_is_nobody_to_write_to(self):
        account = patient(email="")

        sweep(14)

        assert not Message.objects.filter(account=account).exists()
        assert not Decision.objects.filter(act="REMIND").exists()

    def test_begins_anew_for_what_is_owed_again(self):
        account = patient()
        sweep(18)
        pay_by_hand(account, 1234, as_of=at(19))
        BillingEntity.objects.update(payment_terms_days=0)
        using(account, "5.00", month=NOVEMBER)
        bill(account, month=NOVEMBER, as_of=at(31))

        sweep(33)
        assert not is_held(account)
        sweep(41)

        assert is_held(account)
        assert mails(account) == ["HOLD_WARNING", "RECEIPT", "HOLD_WARNING", "HOLD_PLACED"]


class TestAWarning:
    def test_counts_from_its_delivery(self):
        account = patient()
        unpaid.follow_up(as_of=at(18))

        unpaid.follow_up(as_of=at(29))
        assert not is_held(account)
        mail(at(29))
        assert "by 6 December 2018" in Message.objects.get(account=account).subject
        sweep(36)
        assert not is_held(account)
        sweep(37)

        assert is_held(account)

    @pytest.mark.parametrize("days", [40, 100])
    def test_that_cannot_be_delivered_holds_nobody_and_is_left_to_a_person_once(self, days):
        account = patient(email="")

        for day in range(18, 18 + days, 10):
            sweep(day)

        assert not is_held(account)
        left = Decision.objects.filter(account=account, act="HOLD", did="BLOCKED")
        assert [each.because for each in left] == [
            "nobody can be warned: the account has no email address"
        ]

    def test_that_was_refused_is_written_to_the_address_that_is_right(self):
        account = patient()
        unpaid.follow_up(as_of=at(18))
        Message.objects.update(state="DEAD")
        sweep(19)
        assert decision_on(account, "HOLD").because == (
            "the warning cannot be delivered to books@acme.example"
        )

        Account.objects.update(email="new@acme.example")
        sweep(20, 28)

        assert mails(account) == ["HOLD_WARNING", "HOLD_PLACED"]

    def test_that_a_payment_on_its_way_has_cancelled_is_written_again(self, waits_at):
        account = patient(card="sandbox_visa")
        unpaid.follow_up(as_of=at(18))
        waits_at("PROCESSING")
        collect(account, as_of=at(18))
        mail(at(18))
        assert Message.objects.get().state == "CANCELLED"

        waits_at.decline(at(18, 20))
        Message.objects.filter(kind="PAYMENT_FAILED").delete()
        sweep(19, 27)

        assert mails(account) == ["HOLD_WARNING", "HOLD_PLACED"]


class TestNobodyIsHeldOrWarned:
    def test_whose_payment_is_on_its_way(self, waits_at):
        account = patient(card="sandbox_visa")
        waits_at("PROCESSING")
        collect(account, as_of=at(16))

        sweep(18, 48)

        assert (is_held(account), mails(account)) == (False, [])

    def test_whose_charging_is_paused(self):
        account = patient()
        ChargingPause.objects.create(
            account=account, reason="MANUAL", because="they called", paused_at=AS_OF
        )

        sweep(18, 40)

        assert (is_held(account), mails(account)) == (False, [])

    def test_whose_account_is_closed(self):
        account = patient()
        AccountClosure.objects.create(
            account=account,
            debt="COLLECT",
            credit="KEEP",
            because="they left",
            closed_at=AS_OF,
            closed_by="ann",
        )

        sweep(13, 18, 40)

        assert (is_held(account), mails(account)) == (False, [])

    def test_whose_card_is_tried_another_day(self):
        account = patient(card="sandbox_insufficient")
        BillingEntity.objects.update(retry_days=[3, 30])
        collect(account, kind="AUTO", as_of=AS_OF)

        sweep(13, 18, 25)

        assert ledger.standing(account.pk, as_of=at(25)).overdue_minor == 0
        assert mails(account) == ["PAYMENT_FAILED"]
        DunningCase.objects.update(next_try_at=None)
        sweep(26)
        assert mails(account) == ["PAYMENT_FAILED", "HOLD_WARNING"]

    def test_whose_provider_is_down_so_that_they_cannot_pay(self):
        account = patient(card="sandbox_visa", grace=None)
        lanes.grant("sandbox", wanted=0)
        lanes.pause(Lane.objects.get(provider="sandbox").pk, by="ops", because="maintenance")

        sweep(PAST_DUE)

        assert (is_held(account), mails(account)) == (False, [])
        assert FollowUp.objects.get().because.startswith("nobody can pay now: ")

    def test_whose_hold_a_person_has_lifted_before_something_else_is_overdue(self):
        account = patient(grace=None)
        sweep(18)
        dunning.lift_hold_by_hand(
            hold_id=Hold.objects.get().pk, reason="they called", actor="ann", as_of=at(19)
        )

        sweep(20, 27)
        assert not is_held(account)
        using(account, "5.00", month=NOVEMBER)
        bill(account, month=NOVEMBER, as_of=at(31))
        sweep(50)

        assert is_held(account)


class TestInAClose:
    def test_its_hold_step_decides_first(self):
        account = account_using("12.34", card=None)
        BillingEntity.objects.update(payment_terms_days=None, grace_days=None)
        start_close()
        work("INVOICE", "CHARGE")
        later = AS_OF + timedelta(hours=2)

        unpaid.follow_up(as_of=later)

        assert not Hold.objects.exists()
        assert FollowUp.objects.get().because == "the hold step of its close looks first"
        work("HOLD", as_of=later)
        assert Hold.objects.get().account == account


class TestHeldInTheEnd:
    def test_is_who_never_confirmed_where_nothing_is_tried_again(self, waits_at):
        account = account_using("12.00", card="sandbox_visa")
        waits_at("NEEDS_CUSTOMER")
        finish(start_close())
        assert decision_on(account, "HOLD").because == "their bank has asked them to confirm"
        waits_at.decline(at(5))

        sweep(8)

        assert is_held(account)

    def test_is_whose_own_payment_just_before_the_due_date_fails_later(self, waits_at):
        account = patient(card="sandbox_visa", grace=None)
        waits_at("PROCESSING")
        collect(account, as_of=at(16))
        sweep(17)
        assert not is_held(account)

        waits_at.decline(at(17, 12))
        sweep(18)

        assert is_held(account)


class TestLess:
    """Than the least amount that is asked for."""

    @pytest.mark.parametrize("card", [None, "sandbox_visa", "sandbox_declined"])
    @pytest.mark.parametrize(
        ("currency", "less", "least"),
        [("EUR", "0.49", "0.50"), ("JPY", "49", "50"), ("KWD", "0.149", "0.150")],
    )
    def test_is_not_overdue_whatever_card_is_on_file(self, card, currency, less, least):
        small = account_using(less, card=card, currency=currency)
        enough = account_using(least, card=card, currency=currency)
        bill(small, enough)

        sweep(18, 30)

        overdue = ledger.standings([small.pk, enough.pk], as_of=at(30))
        assert overdue[small.pk].overdue_minor == 0
        assert overdue[enough.pk].overdue_minor == overdue[enough.pk].due_minor
        assert (is_held(small), is_held(enough)) == (False, True)

    def test_that_is_overdue_beside_what_is_not_due_yet_holds_nobody(self):
        account = owing("12.00", card=None)
        pay_by_hand(account, 1170)
        BillingEntity.objects.update(payment_terms_days=60)
        using(account, "20.00", month=NOVEMBER)
        bill(account, month=NOVEMBER, as_of=at(31))

        sweep(32)

        assert ledger.standing(account.pk, as_of=at(32)).overdue_minor == 0
        assert not is_held(account)

    def test_is_paid_with_the_next_invoice(self):
        account = account_using("0.30")
        bill(account)
        with pytest.raises(NothingDue, match=r"0\.30 is less than can be charged: carried forward"):
            collect(account)
        using(account, "5.00", month=NOVEMBER)
        bill(account, month=NOVEMBER, as_of=at(31))

        assert collect(account, as_of=at(31)).amount_minor == 530

    def test_may_be_paid_by_transfer(self):
        account = owing("0.30", card=None)

        pay_by_hand(account, 30)

        assert ledger.standing(account.pk, as_of=AS_OF).due_minor == 0

    def test_lifts_the_hold_when_more_is_asked_for_from_now_on(self):
        account = owing("12.00", card=None)
        sweep(18)
        assert is_held(account)

        LeastAmount.objects.create(entity=account.entity, currency="EUR", amount_minor=1201)
        unpaid.look_at_once(entity_id=account.entity_id, currency="EUR", as_of=at(18))
        sweep(18)

        assert not is_held(account)

    def test_has_held_accounts_looked_at_whichever_entity_they_are_of(self):
        account = owing("12.00", card=None)
        sweep(18)
        assert is_held(account)

        LeastAmount.objects.create(entity=account.entity, currency="EUR", amount_minor=1201)
        unpaid.look_at_once(entity_id=None, currency="EUR", as_of=at(18))
        sweep(18)

        assert not is_held(account)

    def test_may_differ_by_entity(self):
        account = owing("12.00", card=None)
        LeastAmount.objects.create(entity=account.entity, currency="EUR", amount_minor=1201)

        assert ledger.standing(account.pk, as_of=AS_OF).is_too_little


class TestOneThatCannotBeLookedAt:
    def test_stops_no_other_and_is_tried_again(self, monkeypatch):
        broken, fine = patient(grace=None), patient(grace=None)
        real = unpaid._act

        def act(seen):
            if seen.account.pk == broken.pk:
                raise ValueError("bad row")
            return real(seen)

        monkeypatch.setattr(unpaid, "_act", act)

        with pytest.raises(ValueError, match="bad row"):
            unpaid.follow_up(as_of=at(18))

        assert (is_held(broken), is_held(fine)) == (False, True)
        assert FollowUp.objects.get(account=broken).because == "ValueError: bad row"

    def test_is_the_next_sweeps_when_there_is_no_time(self):
        account = patient(grace=None)

        assert unpaid.follow_up(as_of=at(18), within_seconds=0) == 0
        assert not is_held(account)
        assert unpaid.follow_up(as_of=at(18)) == 1
        assert is_held(account)


def test_an_account_is_not_overdue_before_its_own_close_has_charged_it():
    account = account_using("12.00", card="sandbox_declined")
    start_close()

    work("INVOICE")
    assert ledger.standing(account.pk, as_of=AS_OF).overdue_minor == 0

    work("CHARGE")
    assert ledger.standing(account.pk, as_of=AS_OF).overdue_minor == 1200


class TestTheAdmin:
    def save(self, client, **said: object) -> str:
        url = "/admin/billing/leastamount/add/"
        return client.post(url, {"entity": "", **said}).content.decode()

    def test_keeps_a_least_amount_and_has_held_accounts_looked_at(self, admin_client):
        account = owing("12.00", card=None)
        sweep(18)
        assert is_held(account)

        self.save(admin_client, entity=account.entity_id, currency="eur", amount_minor="1201")
        unpaid.follow_up(as_of=clock.now())

        assert not is_held(account)

    def test_refuses_what_no_card_can_be_charged_and_what_is_no_currency(
        self, admin_client, stripe
    ):
        assert "stripe charges no less than €0.50" in self.save(
            admin_client, entity=EntityFactory().pk, currency="EUR", amount_minor="49"
        )
        assert "&#x27;ZZZ&#x27; is not an ISO 4217 code" in self.save(
            admin_client, currency="ZZZ", amount_minor="50"
        )

    def test_shows_what_is_followed_up(self, admin_client):
        patient()
        sweep(3)

        page = admin_client.get("/admin/billing/followup/").content.decode()

        assert "not due until 2018-11-16" in page


def test_least_amounts_to_begin_with_are_no_less_than_stripe_charges():
    seeded = dict(LeastAmount.objects.filter(entity=None).values_list("currency", "amount_minor"))
    short = {c: m for c, m in MINIMUM_MINOR.items() if seeded.get(c, 0) < m}
    odd = {c: m for c, m in seeded.items() if chargeable_minor(m, c) != m}

    assert (short, odd) == ({}, {})
    assert (seeded["USD"], seeded["JPY"], seeded["KWD"]) == (50, 50, 150)
