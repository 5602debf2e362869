"""Credit: granted once, used oldest expiry first, expired when its time is over."""

from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction

from accounts.models import Hold, TimelineEvent
from billing import locks
from billing.invoices import credits
from billing.models import Allocation, CreditGrant, Decision, LedgerEntry
from tests.billing.builders import assert_books_balance, bill, credit, due, grant, owing
from tests.factories import AS_OF, AccountFactory, SummaryFactory, account_using, token

pytestmark = pytest.mark.django_db

TOMORROW, IN_A_WEEK = AS_OF + timedelta(days=1), AS_OF + timedelta(days=7)


@pytest.fixture(autouse=True)
def _books_balance():
    yield
    assert_books_balance()


class TestGrantCredit:
    def test_is_kept_until_there_is_something_to_pay(self):
        account = AccountFactory()

        granted = grant(account, 500)

        assert (granted.remaining_minor, credit(account)) == (500, 500)
        assert LedgerEntry.objects.get().kind == "CREDIT_GRANTED"

    def test_is_used_at_once_on_what_is_owed(self):
        account = owing("12.34")

        granted = grant(account, 1000)

        assert granted.remaining_minor == 0
        assert (due(account), credit(account)) == (234, 0)

    def test_settles_the_invoice_and_keeps_the_rest(self):
        account = owing("12.34")

        granted = grant(account, 2000)

        assert (due(account), granted.remaining_minor) == (0, 766)
        assert account.invoices.get().settled_at == AS_OF

    def test_lifts_the_hold_of_who_owes_nothing_any_more(self):
        account = owing("12.34")
        hold = Hold.objects.create(account=account, reason="OVERDUE", placed_at=AS_OF)

        grant(account, 1234)

        hold.refresh_from_db()
        assert hold.lifted_at == AS_OF
        assert Decision.objects.get(hold=hold).because == "settled by credit"

    def test_keeps_the_hold_of_who_still_owes(self):
        account = owing("12.34")
        hold = Hold.objects.create(account=account, reason="OVERDUE", placed_at=AS_OF)

        grant(account, 1134)

        hold.refresh_from_db()
        assert hold.lifted_at is None

    def test_lifts_the_hold_of_who_owes_too_little_to_be_charged(self):
        account = owing("12.34")
        hold = Hold.objects.create(account=account, reason="OVERDUE", placed_at=AS_OF)

        grant(account, 1233)

        hold.refresh_from_db()
        assert hold.lifted_at == AS_OF

    def test_the_same_form_sent_twice_is_one_grant(self):
        account = AccountFactory()
        form = token()
        grant(account, 500, token=form)

        with pytest.raises(credits.AlreadyGranted):
            grant(account, 500, token=form)

        assert credit(account) == 500

    def test_refuses_another_currency(self):
        account = AccountFactory()

        with pytest.raises(credits.WrongCurrency, match="is in EUR"):
            grant(account, 500, currency="USD")

    @pytest.mark.parametrize("amount_minor", [0, -1])
    def test_refuses_what_is_no_credit(self, amount_minor):
        account = AccountFactory()

        with pytest.raises(IntegrityError, match="grant_is_"):
            grant(account, amount_minor)

    def test_says_who_granted_it_and_why(self):
        account = AccountFactory()

        granted = grant(account, 500)

        event = TimelineEvent.objects.get()
        assert event.actor == "ann@example.com"
        assert event.summary.endswith("granted: Sorry for the outage")
        assert event.details == {"grant": granted.pk}


class TestUse:
    def test_goes_by_the_oldest_expiry_and_never_expiring_last(self):
        account = AccountFactory()
        for_ever = grant(account, 500)
        later = grant(account, 500, expires_at=IN_A_WEEK)
        sooner = grant(account, 500, expires_at=TOMORROW)

        SummaryFactory(account=account, quantity=120)
        bill(account)

        for one, left in ((sooner, 0), (later, 0), (for_ever, 300)):
            one.refresh_from_db()
            assert one.remaining_minor == left

    def test_is_never_made_of_expired_credit(self):
        account = account_using("12.00")
        grant(account, 500, expires_at=TOMORROW)

        bill(account, as_of=TOMORROW)

        assert due(account, as_of=TOMORROW) == 1200
        assert not Allocation.objects.exists()

    def test_lands_on_the_ledger_once_per_allocation(self):
        account = owing("12.34")

        grant(account, 500)
        grant(account, 500)

        assert LedgerEntry.objects.filter(kind="CREDIT_APPLIED").count() == 2

    def test_without_credit_changes_nothing(self):
        account = owing("12.34")

        assert credits.apply_credits([account], as_of=AS_OF) == []

    def test_without_debt_changes_nothing(self):
        account = AccountFactory()
        grant(account, 500)

        assert credits.apply_credits([account], as_of=AS_OF) == []


class TestExpiry:
    def test_is_booked_once(self):
        account = AccountFactory()
        granted = grant(account, 500, expires_at=TOMORROW)

        assert credits.expire_due_credits(as_of=TOMORROW) == 1
        assert credits.expire_due_credits(as_of=TOMORROW) == 0

        granted.refresh_from_db()
        assert (granted.remaining_minor, granted.expired_minor) == (0, 500)
        assert credit(account) == 0
        assert LedgerEntry.objects.filter(kind="CREDIT_EXPIRED").count() == 1
        assert TimelineEvent.objects.filter(kind="credit.expired").count() == 1

    def test_takes_only_what_is_left(self):
        account = owing("2.00")
        granted = grant(account, 500, expires_at=TOMORROW)

        credits.expire_due_credits(as_of=TOMORROW)

        granted.refresh_from_db()
        assert granted.expired_minor == 300

    def test_waits_for_its_time(self):
        grant(AccountFactory(), 500, expires_at=TOMORROW)
        grant(AccountFactory(), 500)

        assert credits.expire_due_credits(as_of=TOMORROW - timedelta(seconds=1)) == 0

    def test_goes_account_by_account_up_to_a_limit(self):
        accounts = [AccountFactory() for _ in range(3)]
        for account in accounts:
            grant(account, 100, expires_at=TOMORROW)
            grant(account, 100, expires_at=TOMORROW)

        assert credits.expire_due_credits(as_of=TOMORROW, limit=2) == 4
        assert credits.expire_due_credits(as_of=TOMORROW, limit=2) == 2

    def test_credit_granted_too_late_is_expired_at_once(self):
        account = owing("12.34")

        granted = grant(account, 500, expires_at=AS_OF)

        assert granted.expired_minor == 500
        assert due(account) == 1234

    def test_of_many_accounts_touches_each_ones_own(self):
        ours, theirs = AccountFactory(), AccountFactory()
        grant(ours, 100, expires_at=TOMORROW)
        grant(theirs, 100)

        with transaction.atomic():
            locked = locks.accounts_for_update([ours.pk, theirs.pk])
            (expired,) = credits.expire_credits(list(locked.values()), as_of=TOMORROW)

        assert expired.account_id == ours.pk
        assert CreditGrant.objects.filter(remaining_minor=0).count() == 1
