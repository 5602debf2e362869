"""Invoices from usage: priced by the catalogue, rounded once, numbered without gaps, never changed."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import IntegrityError, connection, transaction

from accounts.models import Account, BillingEntity, TimelineEvent
from billing import locks
from billing.invoices import drafting, issuing
from billing.invoices.rating import NoPrice
from billing.models import CreditGrant, Invoice, LedgerEntry, LineItem, NumberSeries, UsageSummary
from billing.models.usage import Kind
from billing.usage import billing_periods
from tests.billing.builders import assert_books_balance, bill, credit, due, grant
from tests.factories import (
    AS_OF,
    OCTOBER,
    AccountFactory,
    EntityFactory,
    PeriodFactory,
    PriceFactory,
    ProductFactory,
    SummaryFactory,
    account_using,
)

pytestmark = pytest.mark.django_db

SEPTEMBER, NOVEMBER = date(2018, 9, 1), date(2018, 11, 1)


@pytest.fixture(autouse=True)
def _books_balance():
    yield
    assert_books_balance()


def using(account, amount: str, *, month: date = OCTOBER, **facts) -> UsageSummary:
    """A tally that states its price: so much, in major units."""
    return SummaryFactory(
        account=account,
        period=PeriodFactory(account=account, month=month),
        **{"quantity": Decimal(1), "unit_price": Decimal(amount), **facts},
    )


def hours(account, quantity: str, *, month: date = OCTOBER, **facts) -> UsageSummary:
    """A tally that states no price: the catalogue has it."""
    return SummaryFactory(
        account=account,
        period=PeriodFactory(account=account, month=month),
        **{"quantity": Decimal(quantity), "unit_price": None, **facts},
    )


def lines_of(invoice: Invoice) -> list[tuple[str, int]]:
    return list(invoice.lines.order_by("position").values_list("description", "amount_minor"))


class TestLines:
    def test_explain_themselves(self):
        account = AccountFactory(time_zone="Europe/Budapest")
        price = PriceFactory(unit_price=Decimal("0.0116"), free_quantity=750)
        summary = hours(account, "1000.5")

        (invoice,) = bill(account)

        line = invoice.lines.get()
        assert (line.description, line.kind, line.unit) == ("Server · small", "USAGE", "hour")
        assert (line.price, line.summary) == (price, summary)
        assert (line.quantity, line.free_quantity) == (Decimal("1000.5"), 750)
        assert line.unit_price == Decimal("0.0116")
        assert line.amount_unrounded == Decimal("2.9058")
        assert line.amount_minor == 291
        assert line.starts_at == datetime(2018, 9, 30, 22, tzinfo=UTC)
        assert line.ends_at == datetime(2018, 10, 31, 23, tzinfo=UTC)

    @pytest.mark.parametrize(
        ("currency", "unit_price", "minor"),
        [
            ("EUR", "0.005", 1),
            ("EUR", "0.00499999", 0),
            ("EUR", "-0.005", -1),
            ("JPY", "1.5", 2),
            ("JPY", "-1.5", -2),
            ("KWD", "0.0015", 2),
        ],
    )
    def test_are_rounded_half_up_to_the_currencys_minor_unit(self, currency, unit_price, minor):
        account = AccountFactory(currency=currency)
        using(account, unit_price)

        (invoice,) = bill(account)

        assert invoice.lines.get().amount_minor == minor

    def test_are_rounded_each_and_the_total_is_their_sum(self):
        account = AccountFactory()
        for item in ("a", "b", "c"):
            using(account, "0.005", item=item)

        (invoice,) = bill(account)

        assert [minor for _, minor in lines_of(invoice)] == [1, 1, 1]
        assert invoice.total_minor == 3

    def test_take_the_amount_the_source_stated_as_a_whole(self):
        account = AccountFactory()
        hours(account, "3", amount=Decimal("7.125"), kind=Kind.FEE)

        (invoice,) = bill(account)

        line = invoice.lines.get()
        assert (line.amount_minor, line.unit_price, line.price) == (713, None, None)

    def test_are_numbered_in_the_order_of_month_and_product(self):
        account = AccountFactory()
        database = ProductFactory(code="database", name="Database")
        using(account, "1", item="small")
        using(account, "2", item="large")
        using(account, "3", product=database)
        using(account, "4", month=SEPTEMBER)

        (invoice,) = bill(account)

        assert lines_of(invoice) == [
            ("Server · small", 400),
            ("Database · small", 300),
            ("Server · large", 200),
            ("Server · small", 100),
        ]
        assert list(invoice.lines.order_by("position").values_list("position", flat=True)) == [
            1, 2, 3, 4,
        ]  # fmt: skip

    def test_freeze_the_tally_they_bill(self):
        account = AccountFactory()
        summary = using(account, "1")

        (invoice,) = bill(account)

        summary.refresh_from_db()
        assert summary.invoice == invoice


class TestCataloguePrices:
    def test_the_items_own_price_comes_before_the_products(self):
        account = AccountFactory()
        PriceFactory(unit_price=1)
        PriceFactory(unit_price=2, item="large")
        hours(account, "1", item="small")
        hours(account, "1", item="large")

        (invoice,) = bill(account)

        assert lines_of(invoice) == [("Server · large", 200), ("Server · small", 100)]

    def test_the_price_in_force_when_the_period_starts_holds_for_all_of_it(self):
        account = AccountFactory()
        PriceFactory(unit_price=1)
        PriceFactory(unit_price=5, starts_at=datetime(2018, 10, 15, tzinfo=UTC))
        hours(account, "1")
        hours(account, "1", month=NOVEMBER)

        (october,) = bill(account)
        (november,) = bill(account, month=NOVEMBER)

        assert (october.total_minor, november.total_minor) == (100, 500)

    def test_a_price_that_starts_within_the_period_counts_where_none_was_before(self):
        account = AccountFactory()
        PriceFactory(unit_price=5, starts_at=datetime(2018, 10, 15, tzinfo=UTC))
        hours(account, "1")

        (invoice,) = bill(account)

        assert invoice.total_minor == 500

    def test_an_items_new_price_does_not_reach_back_over_the_one_in_force(self):
        account = AccountFactory()
        PriceFactory(unit_price=1)
        PriceFactory(unit_price=5, item="small", starts_at=datetime(2018, 10, 15, tzinfo=UTC))
        hours(account, "1")

        (invoice,) = bill(account)

        assert invoice.total_minor == 100

    @pytest.mark.parametrize(
        "other",
        [
            {"currency": "USD"},
            {"unit": "GB"},
            {"item": "large"},
            {"starts_at": datetime(2018, 11, 1, tzinfo=UTC)},
        ],
    )
    def test_no_price_is_said_and_stops_that_account_alone(self, other):
        account, other_account = AccountFactory(), account_using("1.00")
        PriceFactory(**other)
        hours(account, "1")

        with transaction.atomic():
            locked = locks.accounts_for_update([account.pk, other_account.pk])
            drafted = drafting.draft_invoices(list(locked.values()), month=OCTOBER)

        assert list(drafted.invoices) == [other_account.pk]
        assert isinstance(drafted.unpriced[account.pk], NoPrice)
        assert str(drafted.unpriced[account.pk]) == (
            "no price for server 'small' per 'hour' in EUR in 2018-10:"
            " add one to the catalogue, then retry this step"
        )


class TestAllowance:
    def test_is_taken_off_once_over_all_items_of_the_price(self):
        account = AccountFactory()
        PriceFactory(unit_price=1, free_quantity=100)
        hours(account, "80", item="large")
        hours(account, "50", item="small")

        (invoice,) = bill(account)

        assert list(invoice.lines.order_by("position").values_list("free_quantity", flat=True)) == [
            80, 20,
        ]  # fmt: skip
        assert invoice.total_minor == 3000

    def test_is_each_accounts_own(self):
        ours, theirs = AccountFactory(), AccountFactory()
        PriceFactory(unit_price=1, free_quantity=100)
        hours(ours, "80")
        hours(theirs, "80")

        assert [invoice.total_minor for invoice in bill(ours, theirs)] == [0, 0]

    def test_starts_anew_every_month(self):
        account = AccountFactory()
        PriceFactory(unit_price=1, free_quantity=100)
        hours(account, "100")
        hours(account, "100", month=NOVEMBER)

        (october,) = bill(account)
        (november,) = bill(account, month=NOVEMBER)

        assert (october.total_minor, november.total_minor) == (0, 0)


class TestMonthlyFee:
    def test_is_charged_once_for_a_month_of_use_on_a_line_of_its_own(self):
        account = AccountFactory()
        PriceFactory(unit_price=1, monthly_fee=Decimal("9.99"))
        hours(account, "1", item="large")
        hours(account, "1", item="small")

        (invoice,) = bill(account)

        assert lines_of(invoice) == [
            ("Server · monthly fee", 999),
            ("Server · large", 100),
            ("Server · small", 100),
        ]

    def test_is_not_charged_for_a_month_without_use(self):
        account = AccountFactory()
        PriceFactory(unit_price=1, monthly_fee=Decimal("9.99"))
        using(account, "1")

        (invoice,) = bill(account)

        assert lines_of(invoice) == [("Server · small", 100)]


class TestLateUsage:
    """Usage that comes after its month was billed: on the next invoice, as its own line."""

    def test_has_its_own_line_with_its_own_period(self):
        account = AccountFactory()
        using(account, "1")
        bill(account)
        using(account, "2")
        using(account, "3", month=NOVEMBER)

        (november,) = bill(account, month=NOVEMBER)

        lines = november.lines.order_by("position")
        assert [line.amount_minor for line in lines] == [200, 300]
        assert [f"{line.starts_at:%m-%d}" for line in lines] == ["10-01", "11-01"]

    def test_gets_what_its_month_has_left_of_the_allowance(self):
        account = AccountFactory()
        PriceFactory(unit_price=1, free_quantity=100)
        hours(account, "70")
        bill(account)
        hours(account, "50")
        hours(account, "100", month=NOVEMBER)

        (november,) = bill(account, month=NOVEMBER)

        assert [minor for _, minor in lines_of(november)] == [2000, 0]

    def test_knows_the_allowance_of_its_own_month_from_that_of_others(self):
        account = AccountFactory()
        PriceFactory(unit_price=1, free_quantity=100)
        hours(account, "100", month=SEPTEMBER)
        bill(account, month=SEPTEMBER)
        hours(account, "30")
        bill(account)
        hours(account, "70")

        (november,) = bill(account, month=NOVEMBER)

        assert november.total_minor == 0

    def test_does_not_pay_its_months_fee_again(self):
        account = AccountFactory()
        PriceFactory(unit_price=1, monthly_fee=9)
        hours(account, "1")
        bill(account)
        hours(account, "1", item="large")

        (november,) = bill(account, month=NOVEMBER)

        assert lines_of(november) == [("Server · large", 100)]

    def test_pays_its_months_fee_where_nobody_has(self):
        account = AccountFactory()
        PriceFactory(unit_price=1, monthly_fee=9)
        using(account, "1")
        bill(account)
        hours(account, "1")

        (november,) = bill(account, month=NOVEMBER)

        assert ("Server · monthly fee", 900) in lines_of(november)

    def test_a_month_closed_after_the_next_one_has_its_allowance_and_fee_once(self):
        account = AccountFactory()
        PriceFactory(unit_price=1, free_quantity=100, monthly_fee=9)
        hours(account, "100")
        bill(account, month=NOVEMBER)
        hours(account, "10")

        (october,) = bill(account)

        assert lines_of(october) == [("Server · small", 1000)]

    def test_waits_for_the_next_invoice_where_its_month_has_one(self):
        account = AccountFactory()
        using(account, "1")
        bill(account)
        using(account, "2")

        assert bill(account) == []
        assert UsageSummary.objects.filter(invoice=None).count() == 1


class TestDrafting:
    def test_an_account_without_usage_gets_no_invoice(self):
        assert bill(AccountFactory()) == []

    def test_usage_of_a_later_month_waits(self):
        account = AccountFactory()
        using(account, "1", month=NOVEMBER)

        assert bill(account) == []

    def test_opens_the_period_of_an_account_that_has_only_late_usage(self):
        account = AccountFactory()
        using(account, "1", month=SEPTEMBER)

        (invoice,) = bill(account)

        assert invoice.period.month == OCTOBER

    def test_does_not_open_periods_that_are_open(self, monkeypatch):
        account = account_using("1.00")
        monkeypatch.setattr(billing_periods, "open_periods", None)

        assert len(bill(account)) == 1

    def test_is_addressed_to_the_account_as_it_was_then(self):
        account = account_using("1.00")
        (invoice,) = bill(account)

        account.name = "Acme Holding"
        account.save()

        invoice.refresh_from_db()
        assert invoice.account_name == "Acme"


class TestIssuing:
    def test_numbers_books_and_tells_the_timeline(self):
        account = account_using("12.34")

        (invoice,) = bill(account)

        invoice.refresh_from_db()
        assert (invoice.state, invoice.number, invoice.issued_at) == ("ISSUED", "MC-000001", AS_OF)
        assert due(account) == 1234
        assert LedgerEntry.objects.get().description == "Invoice MC-000001"
        event = TimelineEvent.objects.get(account=account)
        assert (event.kind, event.details) == ("invoice.issued", {"invoice": invoice.pk})

    def test_is_due_after_the_entitys_payment_terms(self):
        patient = EntityFactory(slug="patient", invoice_prefix="P", payment_terms_days=14)
        account = account_using("12.34", entity=patient)

        (invoice,) = bill(account)

        assert invoice.due_date == date(2018, 11, 16)
        assert invoice.due_at == datetime(2018, 11, 17, tzinfo=UTC)

    @pytest.mark.parametrize(
        ("zone", "issued", "days", "due_on", "past_due"),
        [
            # No days: the day of issue, to its end.
            ("UTC", "2018-11-02T09:00Z", 0, "2018-11-02", "2018-11-03T00:00Z"),
            ("Pacific/Auckland", "2018-11-02T12:30Z", 0, "2018-11-03", "2018-11-03T11:00Z"),
            ("America/Los_Angeles", "2018-11-02T03:00Z", 14, "2018-11-15", "2018-11-16T08:00Z"),
            # The day after begins at one, for there the clocks leave midnight out.
            ("America/Sao_Paulo", "2018-11-02T12:00Z", 1, "2018-11-03", "2018-11-04T03:00Z"),
            # The day has 25 hours: its last one comes twice.
            ("Asia/Beirut", "2018-10-27T09:00Z", 0, "2018-10-27", "2018-10-27T22:00Z"),
            # The day after was left out.
            ("Pacific/Apia", "2011-12-29T12:00Z", 0, "2011-12-29", "2011-12-30T10:00Z"),
        ],
    )
    def test_is_past_due_when_that_day_is_over_where_the_account_is(
        self, zone, issued, days, due_on, past_due
    ):
        entity = EntityFactory(slug="patient", invoice_prefix="P", payment_terms_days=days)
        account = account_using("12.34", entity=entity, time_zone=zone)

        (invoice,) = bill(account, as_of=datetime.fromisoformat(issued))

        invoice.refresh_from_db()
        assert invoice.due_date == date.fromisoformat(due_on)
        assert (invoice.due_at, invoice.time_zone) == (datetime.fromisoformat(past_due), zone)

    def test_keeps_its_due_date_when_the_terms_or_the_zone_change(self):
        entity = EntityFactory(slug="patient", invoice_prefix="P", payment_terms_days=14)
        account = account_using("12.34", entity=entity)
        (invoice,) = bill(account)

        BillingEntity.objects.update(payment_terms_days=30)
        Account.objects.update(time_zone="Pacific/Auckland")

        dated = (invoice.due_date, invoice.due_at)
        invoice.refresh_from_db()
        assert (invoice.due_date, invoice.due_at) == dated

    def test_times_rise_with_the_numbers_whatever_the_workers_clocks_say(self):
        (first,) = bill(account_using("1.00"), as_of=AS_OF)
        (second,) = bill(account_using("1.00"), as_of=AS_OF - timedelta(hours=1))

        assert second.sequence == first.sequence + 1
        assert second.issued_at == second.due_at == first.issued_at == AS_OF

    def test_numbers_go_on_without_a_gap_per_entity(self):
        other = EntityFactory(slug="other", invoice_prefix="OT")
        ours, theirs = account_using("1.00"), account_using("1.00", entity=other)

        first, second = bill(ours, theirs)
        using(ours, "1", month=NOVEMBER)
        (third,) = bill(ours, month=NOVEMBER)

        assert [i.number for i in (first, second, third)] == ["MC-000001", "OT-000001", "MC-000002"]
        assert NumberSeries.objects.get(entity=other).next_number == 2

    def test_credit_is_used_at_once(self):
        account = account_using("12.34")
        grant(account, 1000)

        bill(account)

        assert (due(account), credit(account)) == (234, 0)

    def test_a_negative_total_becomes_credit_that_never_expires(self):
        account = AccountFactory()
        using(account, "-5.00", kind=Kind.CREDIT)

        (invoice,) = bill(account)

        assert (invoice.total_minor, invoice.settled_at) == (-500, AS_OF)
        left = CreditGrant.objects.get()
        assert (left.kind, left.amount_minor, left.expires_at) == ("INVOICE", 500, None)
        assert left.reason == f"Invoice {invoice.number} is a credit"
        assert (due(account), credit(account)) == (0, 500)

    def test_a_total_of_zero_is_settled_and_books_nothing(self):
        account = AccountFactory()
        using(account, "0")

        (invoice,) = bill(account)

        assert invoice.settled_at == AS_OF
        assert not LedgerEntry.objects.exists()

    def test_no_invoice_is_no_work(self):
        issuing.issue_invoices([], accounts={}, as_of=AS_OF)

        assert not NumberSeries.objects.exists()


class TestAnIssuedInvoice:
    """Final, whoever tries (triggers)."""

    @pytest.fixture
    def invoice(self) -> Invoice:
        (invoice,) = bill(account_using("12.34"))
        return invoice

    def refused(self, match: str, change) -> None:
        with pytest.raises(IntegrityError, match=match), transaction.atomic():
            change()

    def test_never_changes(self, invoice):
        mine = Invoice.objects.filter(pk=invoice.pk)

        self.refused("is issued and never changes", lambda: mine.update(total_minor=1))
        self.refused("is issued and never changes", lambda: mine.update(due_at=None))
        self.refused("is issued and never changes", lambda: mine._raw_delete(mine.db))

    def test_may_be_settled(self, invoice):
        assert Invoice.objects.filter(pk=invoice.pk).update(settled_at=AS_OF) == 1

        Invoice.objects.filter(pk=invoice.pk).update(settled_at=None)

    def test_keeps_its_lines(self, invoice):
        lines = LineItem.objects.filter(invoice=invoice)
        one_more = lines.get()
        one_more.pk, one_more.summary, one_more.position = None, None, 2

        self.refused("lines of an issued invoice never change", lambda: lines.update(quantity=2))
        self.refused("lines of an issued invoice never change", lines.delete)
        self.refused("lines of an issued invoice never change", one_more.save)

    def test_keeps_its_tally(self, invoice):
        billed = UsageSummary.objects.filter(invoice=invoice)

        self.refused("is append-only", lambda: billed.update(quantity=2))
        self.refused("is append-only", lambda: billed._raw_delete(billed.db))

    def test_a_draft_may_still_change(self):
        account = account_using("1.00")
        drafting.draft_invoices([account], month=OCTOBER)

        Invoice.objects.filter(account=account).update(account_name="Acme Holding")
        LineItem.objects.filter(invoice__account=account).update(description="Servers")

        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        assert Invoice.objects.get(account=account).is_draft
