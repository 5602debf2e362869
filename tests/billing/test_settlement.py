"""Money spread over what is owed: oldest due first, and none of it lost on the way."""

from datetime import timedelta

import pytest

from billing.ledger import settlement
from billing.ledger.settlement import Source
from billing.models import Allocation, CreditGrant, Invoice
from tests.billing.builders import bill, due, pay_by_hand
from tests.billing.test_invoicing import NOVEMBER, using
from tests.factories import AS_OF, AccountFactory

pytestmark = pytest.mark.django_db


def owed_twice(*, first: str = "10.00", second: str = "5.00"):
    """An account that owes for October, and for November a day later."""
    account = AccountFactory()
    using(account, first)
    (october,) = bill(account)
    using(account, second, month=NOVEMBER)
    (november,) = bill(account, month=NOVEMBER, as_of=AS_OF + timedelta(days=1))
    return account, october, november


def test_the_oldest_due_is_settled_first():
    account, october, november = owed_twice()

    pay_by_hand(account, 1200)

    assert settlement.dues([october, november]) == {october.pk: 0, november.pk: 300}
    october.refresh_from_db()
    november.refresh_from_db()
    assert (october.settled_at, november.settled_at) == (AS_OF, None)


def test_the_second_payment_goes_on_where_the_first_ended():
    account, october, november = owed_twice()

    pay_by_hand(account, 400)
    pay_by_hand(account, 800)

    assert list(Allocation.objects.order_by("pk").values_list("invoice", "amount_minor")) == [
        (october.pk, 400),
        (october.pk, 600),
        (november.pk, 200),
    ]
    assert due(account) == 300


def test_money_settles_nothing_of_another_account():
    _, october, november = owed_twice()
    stranger = Source(AccountFactory().pk, 5000, grant=CreditGrant(currency="EUR"))

    assert settlement.allocate(sources=[stranger], invoices=[october, november], as_of=AS_OF) == []
    assert stranger.available_minor == 5000


def test_money_settles_nothing_in_another_currency():
    account, october, november = owed_twice()
    dollars = Source(account.pk, 5000, grant=CreditGrant(currency="USD"))

    assert settlement.allocate(sources=[dollars], invoices=[october, november], as_of=AS_OF) == []
    assert dollars.available_minor == 5000


def test_nothing_to_spread_marks_nothing_settled():
    _, october, november = owed_twice()

    assert settlement.allocate(sources=[], invoices=[october, november], as_of=AS_OF) == []

    assert Invoice.objects.filter(settled_at=None).count() == 2
