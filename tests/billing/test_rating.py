"""Open usage, priced: for the invoice that takes it, for a rehearsal, for the customer's page."""

from datetime import date
from decimal import Decimal

import pytest

from billing.invoices import rating
from tests.billing.builders import bill
from tests.billing.test_invoicing import NOVEMBER, SEPTEMBER, hours, using
from tests.factories import OCTOBER, AccountFactory, PriceFactory, ProductFactory

pytestmark = pytest.mark.django_db


def rate(account, *, months_up_to: date = OCTOBER) -> rating.Rated:
    return rating.rate_open_usage([account], months_up_to=months_up_to)[account.pk]


def minors(rated: rating.Rated) -> list[int]:
    return [line.amount_minor for line in rated.lines]


class TestMonthsUpTo:
    @pytest.mark.parametrize(
        ("month", "expected"),
        [(SEPTEMBER, [100]), (OCTOBER, [100, 200]), (NOVEMBER, [100, 200, 300])],
    )
    def test_are_that_month_and_those_before_it(self, month, expected):
        account = AccountFactory()
        using(account, "1", month=SEPTEMBER)
        using(account, "2", month=OCTOBER)
        using(account, "3", month=NOVEMBER)

        assert minors(rate(account, months_up_to=month)) == expected

    def test_leave_out_accounts_without_open_usage_in_them(self):
        later, billed, idle = AccountFactory(), AccountFactory(), AccountFactory()
        using(later, "1", month=NOVEMBER)
        using(billed, "1")
        bill(billed)

        assert rating.rate_open_usage([later, billed, idle], months_up_to=OCTOBER) == {}

    @pytest.mark.parametrize("months_up_to", [OCTOBER, NOVEMBER])
    def test_of_late_usage_may_have_their_invoice_already(self, months_up_to):
        account = AccountFactory()
        PriceFactory(unit_price=1, free_quantity=100, monthly_fee=9)
        hours(account, "80")
        bill(account)
        hours(account, "50")

        rated = rate(account, months_up_to=months_up_to)

        assert [(line.free_quantity, line.is_fee) for line in rated.lines] == [(20, False)]
        assert rated.total_minor == 3000

    def test_what_one_account_used_up_of_a_month_is_not_taken_from_another_month(self):
        """Read together with an account whose late usage is of the other month."""
        account, other = AccountFactory(), AccountFactory()
        PriceFactory(unit_price=1, free_quantity=100, monthly_fee=9)
        hours(account, "80", month=SEPTEMBER)
        hours(account, "80")
        bill(account)
        hours(account, "50")
        hours(other, "50", month=SEPTEMBER)

        rated = rating.rate_open_usage([account, other], months_up_to=NOVEMBER)

        assert [line.free_quantity for line in rated[account.pk].lines if not line.is_fee] == [20]
        assert [line.free_quantity for line in rated[other.pk].lines if not line.is_fee] == [50]


class TestLines:
    def test_say_what_they_cost_and_why(self):
        account = AccountFactory()
        price = PriceFactory(unit_price=Decimal("0.0116"), free_quantity=750, monthly_fee=5)
        summary = hours(account, "1000.5")

        fee, usage = rate(account).lines

        assert (fee.is_fee, usage.is_fee) == (True, False)
        assert fee.summary.pk == usage.summary.pk == summary.pk
        assert fee.price == usage.price == price
        assert (fee.unit_price, fee.amount, fee.amount_minor) == (5, 5, 500)
        assert (usage.unit_price, usage.free_quantity) == (Decimal("0.0116"), 750)
        assert (usage.amount, usage.amount_minor) == (Decimal("2.9058"), 291)

    def test_take_the_price_that_the_source_stated(self):
        account = AccountFactory()
        PriceFactory(unit_price=1, monthly_fee=9)
        using(account, "0.25", quantity=2)
        hours(account, "3", amount=Decimal("7.125"), item="large")

        whole, by_unit = rate(account).lines

        assert (whole.price, whole.unit_price, whole.amount_minor) == (None, None, 713)
        assert (by_unit.price, by_unit.unit_price, by_unit.amount_minor) == (
            None,
            Decimal("0.25"),
            50,
        )

    def test_are_those_of_the_invoice(self):
        account = AccountFactory()
        PriceFactory(unit_price=Decimal("0.333"), free_quantity=2, monthly_fee=5)
        hours(account, "1", month=SEPTEMBER)
        hours(account, "7")
        using(account, "1", item="large")

        rated = rate(account)

        (invoice,) = bill(account)
        billed = invoice.lines.order_by("position")
        assert minors(rated) == [line.amount_minor for line in billed]
        assert rated.total_minor == invoice.total_minor


class TestWithoutAPrice:
    def test_usage_is_named_and_the_rest_is_priced(self):
        account, other = AccountFactory(), AccountFactory()
        database = ProductFactory(code="database", name="Database")
        without = hours(account, "1", product=database)
        using(account, "2")
        using(other, "3")

        rated = rating.rate_open_usage([account, other], months_up_to=OCTOBER)

        (no_price,) = rated[account.pk].unpriced
        assert no_price.summary.pk == without.pk
        assert str(no_price).startswith(
            "no price for database 'small' per 'hour' in EUR in 2018-10"
        )
        assert rated[account.pk].total_minor == 200
        assert (rated[other.pk].unpriced, rated[other.pk].total_minor) == ([], 300)


class TestManyAccounts:
    def test_are_read_at_once(self, django_assert_num_queries):
        accounts = [AccountFactory() for _ in range(5)]
        PriceFactory(unit_price=1, free_quantity=100)
        for account in accounts:
            hours(account, "80")
        bill(*accounts)
        for account in accounts:
            hours(account, "50")

        # Summaries, periods, products, prices, invoices of later months, lines of earlier invoices.
        with django_assert_num_queries(6):
            rated = rating.rate_open_usage(accounts, months_up_to=NOVEMBER)

        assert [rated[account.pk].total_minor for account in accounts] == [3000] * 5
