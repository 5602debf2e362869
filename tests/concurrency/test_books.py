"""Ledger, credit and invoice numbers under two writers at once."""

from datetime import date

import pytest
from django.db import IntegrityError, transaction

from accounts import holds
from billing import ledger, locks
from billing.invoices import credits
from billing.ledger import Event, Leg
from billing.models import Invoice, LedgerAccount, LedgerEntry, Posting
from tests.billing.builders import assert_books_balance, bill, credit, due, grant, owing
from tests.factories import AS_OF, AccountFactory, PeriodFactory, SummaryFactory, account_using
from tests.workers import Aside, at_once, wait_until_somebody_waits

pytestmark = [pytest.mark.concurrency, pytest.mark.django_db(transaction=True)]

NOVEMBER = date(2018, 11, 1)


def sale(account, source: str) -> Event:
    return Event(
        kind=LedgerEntry.Kind.INVOICE_ISSUED,
        source=source,
        account_id=account.pk,
        entity_id=account.entity_id,
        currency="EUR",
        description="a sale",
        effective_at=AS_OF,
        legs=(Leg("RECEIVABLE", 100), Leg("REVENUE", -100)),
    )


class TestLedger:
    def test_a_writer_without_the_accounts_lock_cannot_build_on_a_stale_balance(self):
        account = AccountFactory()
        with transaction.atomic():
            ledger.post([sale(account, "first")])

        with transaction.atomic():
            ledger.post([sale(account, "second")])
            careless = Aside(lambda: in_transaction(lambda: ledger.post([sale(account, "third")])))
            wait_until_somebody_waits()

        assert isinstance(careless.join(), IntegrityError)
        assert "running_balance_has_one_next_posting" in str(careless.result)
        assert [
            p.balance_minor for p in Posting.objects.exclude(version=None).order_by("version")
        ] == [
            100,
            200,
        ]

    def test_an_account_of_the_company_that_two_open_at_once_is_one(self):
        ours, theirs = AccountFactory(), AccountFactory()

        with transaction.atomic():
            ledger.post([sale(ours, "ours")])
            other = Aside(lambda: in_transaction(lambda: ledger.post([sale(theirs, "theirs")])))
            wait_until_somebody_waits()

        assert other.join() is None
        assert LedgerAccount.objects.filter(kind="REVENUE").count() == 1


def in_transaction(act):
    with transaction.atomic():
        return act()


class TestCredit:
    def test_two_invoices_at_once_do_not_spend_one_credit_twice(self):
        account = account_using("10.00")
        november = PeriodFactory(account=account, month=NOVEMBER)
        SummaryFactory(account=account, period=november)
        grant(account, 1500)

        at_once(lambda: bill(account), lambda: bill(account, month=NOVEMBER))

        assert due(account) == (1000 + 1000 - 1500 if Invoice.objects.count() == 2 else 500)
        assert credit(account) == 0
        assert_books_balance()

    def test_credit_that_two_sweepers_expire_is_expired_once(self):
        accounts = [AccountFactory() for _ in range(3)]
        for account in accounts:
            grant(account, 500, expires_at=AS_OF.replace(day=3))

        results = at_once(*[lambda: credits.expire_due_credits(as_of=AS_OF.replace(day=4))] * 2)

        assert sum(results) == 3
        assert LedgerEntry.objects.filter(kind="CREDIT_EXPIRED").count() == 3
        assert_books_balance()

    def test_the_same_grant_by_two_clicks_is_one(self):
        account = AccountFactory()
        form = "0198c0de-0000-7000-8000-000000000001"

        results = at_once(*[lambda: grant(account, 500, token=form)] * 2)

        assert sorted(type(r).__name__ for r in results) == ["AlreadyGranted", "CreditGrant"]
        assert credit(account) == 500


class TestInvoiceNumbers:
    def test_workers_at_once_number_without_a_gap(self):
        accounts = [account_using("1.00") for _ in range(8)]

        at_once(*[lambda a=account: bill(a) for account in accounts])

        assert sorted(Invoice.objects.values_list("sequence", flat=True)) == list(range(1, 9))

    def test_a_transaction_that_is_rolled_back_gives_its_numbers_to_who_waits(self):
        ours, theirs = account_using("1.00"), account_using("1.00")

        with transaction.atomic():
            (rolled_back,) = bill(ours)
            other = Aside(lambda: bill(theirs))
            wait_until_somebody_waits()
            transaction.set_rollback(True)
        (issued,) = other.join()
        (issued_again,) = bill(ours)

        assert rolled_back.number == issued.number == "MC-000001"
        assert issued_again.number == "MC-000002"

    def test_an_account_that_two_bill_at_once_gets_one_invoice(self):
        account = account_using("1.00")

        results = at_once(lambda: bill(account), lambda: bill(account))

        assert sorted(len(invoices) for invoices in results) == [0, 1]
        assert due(account) == 100


class TestTheAccountsLock:
    def test_makes_whoever_writes_the_accounts_money_wait(self):
        account = owing("12.34")

        with transaction.atomic():
            locks.account_for_update(account.pk)
            other = Aside(lambda: grant(account, 1234))
            wait_until_somebody_waits()
            assert due(account) == 1234

        assert other.join().remaining_minor == 0
        assert due(account) == 0

    def test_does_not_hold_up_rows_that_only_name_the_account(self):
        account = AccountFactory()

        with transaction.atomic():
            locks.account_for_update(account.pk)
            usage = Aside(lambda: SummaryFactory(account=account))
            assert usage.join().pk

    def test_is_taken_in_one_order_so_that_no_two_wait_for_each_other(self):
        ids = [AccountFactory().pk for _ in range(10)]

        results = at_once(
            *[
                lambda order=order: in_transaction(lambda: len(locks.accounts_for_update(order)))
                for order in (ids, ids[::-1]) * 3
            ]
        )

        assert results == [10] * 6


class TestHolds:
    def test_two_who_place_a_hold_at_once_place_one(self):
        account = AccountFactory()

        def place():
            with transaction.atomic():
                locks.account_for_update(account.pk)
                return holds.place_hold(account_id=account.pk, reason="OVERDUE", as_of=AS_OF)

        results = at_once(place, place)

        assert sorted(type(result).__name__ for result in results) == ["AlreadyHeld", "Hold"]
