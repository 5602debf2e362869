"""Rows, never querysets; in one order; or an error that says what there is not."""

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from accounts.models import Account, BillingEntity
from billing import locks
from billing.models import PaymentAttempt
from tests.billing.builders import bill
from tests.billing.test_invoicing import NOVEMBER, using
from tests.factories import OCTOBER, AccountFactory, EntityFactory, token

pytestmark = pytest.mark.django_db


def test_accounts_come_locked_and_by_id():
    first, second = AccountFactory(), AccountFactory()

    with CaptureQueriesContext(connection) as queries:
        locked = locks.accounts_for_update([second.pk, first.pk])

    assert list(locked) == [first.pk, second.pk]
    assert queries[0]["sql"].endswith("FOR NO KEY UPDATE")


def test_one_account_comes_locked():
    account = AccountFactory()

    with CaptureQueriesContext(connection) as queries:
        assert locks.account_for_update(account.pk) == account

    assert "FOR NO KEY UPDATE" in queries[0]["sql"]


def test_an_account_that_is_not_there_is_said():
    with pytest.raises(Account.DoesNotExist):
        locks.account_for_update(0)


def test_a_lock_outside_a_transaction_is_a_defect(transactional_db):
    account = AccountFactory()

    with pytest.raises(transaction.TransactionManagementError):
        locks.account_for_update(account.pk)


def test_open_invoices_come_oldest_due_first_and_settled_ones_not():
    account = AccountFactory()
    BillingEntity.objects.update(payment_terms_days=60)
    using(account, "1", month=OCTOBER)
    (due_in_two_months,) = bill(account, month=OCTOBER)
    BillingEntity.objects.update(payment_terms_days=7)
    using(account, "2", month=NOVEMBER)
    (due_in_a_week,) = bill(account, month=NOVEMBER)
    settled = AccountFactory(entity=account.entity)
    using(settled, "0", month=OCTOBER)
    bill(settled)
    draft_of = AccountFactory(entity=account.entity)
    using(draft_of, "1")

    rows = locks.open_invoices_for_update([account.pk, settled.pk, draft_of.pk])

    assert [row.pk for row in rows] == [due_in_a_week.pk, due_in_two_months.pk]


def test_an_attempt_that_is_not_there_is_said():
    with pytest.raises(PaymentAttempt.DoesNotExist):
        locks.attempt_for_update(token())


def test_a_number_series_begins_at_one_and_is_one_per_entity():
    entity = EntityFactory()

    assert locks.number_series_for_update(entity).next_number == 1
    assert locks.number_series_for_update(entity).pk == locks.number_series_for_update(entity).pk
