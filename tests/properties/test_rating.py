"""
Whatever was used, priced and billed in whichever order: what the customer's page shows is what the invoice says.

Product by product, and so does the rehearsal. Over all invoices of a period nobody pays a fee twice, or gets
a free quantity twice.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.models import Account
from billing import locks, periods
from billing.close import rehearsal
from billing.invoices import drafting, issuing
from billing.models import Invoice, LineItem, Price, Product, UsageSummary
from billing.money import to_major
from billing.views import numbers
from billing.views.access import Seat
from billing.views.customer import usage
from tests.billing.builders import assert_books_balance
from tests.emptying import empty_tables
from tests.factories import (
    AS_OF,
    AccountFactory,
    EntityFactory,
    MemberFactory,
    PeriodFactory,
    PriceFactory,
    ProductFactory,
    SummaryFactory,
)

pytestmark = pytest.mark.django_db(transaction=True)

MONTHS = [date(2018, month, 1) for month in (8, 9, 10)]
ITEMS = st.sampled_from(["small", "large"])
# Of a product, by the unit. The first has a price from the beginning, the others mostly.
REGULAR, *OTHERS = ("server", "hour"), ("server", "GB"), ("database", "hour")
SOLD = st.sampled_from([REGULAR, REGULAR, *OTHERS])
NEW_YEAR = datetime(2018, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Use:
    """An account used something, at a price that the source states, in one of two ways, or does not."""

    account: int
    month: date
    sold: tuple[str, str]
    item: str
    quantity: Decimal
    stated: dict[str, Decimal] = field(default_factory=dict)


@dataclass(frozen=True)
class Add:
    """A price is added to the catalogue."""

    sold: tuple[str, str]
    item: str
    starts_at: datetime
    unit_price: Decimal
    free_quantity: int
    monthly_fee: Decimal


@dataclass(frozen=True)
class Close:
    """A month is closed, maybe after a later one."""

    month: date


def decimals(*values: str) -> st.SearchStrategy[Decimal]:
    return st.sampled_from([Decimal(value) for value in values])


QUANTITIES = decimals("1", "7.5", "60", "1000.125", "-3")
USES = st.builds(
    Use,
    account=st.sampled_from([0, 0, 1]),
    month=st.sampled_from(MONTHS),
    sold=SOLD,
    item=ITEMS,
    quantity=QUANTITIES,
    stated=st.sampled_from(
        [{}, {}, {}, {"unit_price": Decimal("0.105")}, {"amount": Decimal("-2.345")}]
    ),
)
TERMS = {
    "unit_price": decimals("2", "0.3333", "0.005", "0"),
    "free_quantity": st.sampled_from([10, 100, 0]),
    "monthly_fee": decimals("9.99", "0.005", "0"),
}
DAYS = st.sampled_from([(1, 1), (8, 15), (9, 1), (9, 15), (10, 1)])
ADDS = st.builds(
    Add,
    sold=SOLD,
    item=st.just("") | ITEMS,
    starts_at=DAYS.map(lambda day: datetime(2018, *day, tzinfo=UTC)),
    **TERMS,
)


@st.composite
def catalogues(draw: st.DrawFn) -> list[Add]:
    priced = [REGULAR, *(sold for sold in OTHERS if draw(st.sampled_from([True, True, False])))]
    general = [
        draw(st.builds(Add, st.just(sold), st.just(""), st.just(NEW_YEAR), **TERMS))
        for sold in priced
    ]
    return general + draw(st.lists(ADDS, max_size=3))


@st.composite
def stories(draw: st.DrawFn) -> list[Use | Add | Close]:
    """
    Three months are closed, mostly one after the other; what was used in any of them comes at any time.

    Something is used in every month, and more of it comes late, or most stories would not be about that.
    """
    story: list[Use | Add | Close] = []
    closed: list[date] = []
    for month in draw(st.just(MONTHS) | st.permutations(MONTHS)):
        story.append(Use(0, month, REGULAR, draw(ITEMS), draw(QUANTITIES)))
        if closed:
            late = draw(st.sampled_from(closed))
            story.append(Use(0, late, REGULAR, draw(ITEMS), draw(QUANTITIES)))
        story += draw(st.lists(USES | USES | USES | ADDS, max_size=4))
        story.append(Close(month))
        closed.append(month)
    return story


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(catalogues(), stories())
def test_the_page_and_the_rehearsal_say_what_the_invoice_then_says(catalogue, story):
    try:
        accounts = [
            AccountFactory(external_id="near", time_zone="UTC"),
            AccountFactory(external_id="far", time_zone="Pacific/Auckland"),
        ]
        for event in (*catalogue, *story):
            match event:
                case Use():
                    use(accounts[event.account], event)
                case Add():
                    add(event)
                case Close():
                    close_and_compare(accounts, event.month)
        nothing_was_given_or_charged_twice()
        assert_books_balance()
    finally:
        empty_tables()


def use(account: Account, used: Use) -> None:
    """Add to the open summary of its key, as the tally does."""
    key = {
        "account": account,
        "period": PeriodFactory(account=account, month=used.month),
        "product": product(used.sold),
        "item": used.item,
        "unit": used.sold[1],
        "unit_price": used.stated.get("unit_price"),
    }
    amount = used.stated.get("amount")
    summary = UsageSummary.objects.filter(
        **key, amount__isnull=amount is None, invoice=None
    ).first()
    if summary is None:
        SummaryFactory(**key, quantity=used.quantity, amount=amount)
        return
    summary.quantity += used.quantity
    summary.amount = None if amount is None else summary.amount + amount
    summary.save()


def add(price: Add) -> None:
    key = {
        "product": product(price.sold),
        "item": price.item,
        "unit": price.sold[1],
        "starts_at": price.starts_at,
    }
    if not Price.objects.filter(**key).exists():
        PriceFactory(
            **key,
            unit_price=price.unit_price,
            free_quantity=price.free_quantity,
            monthly_fee=price.monthly_fee,
        )


def product(sold: tuple[str, str]) -> Product:
    return ProductFactory(code=sold[0], name=sold[0].title())


def close_and_compare(accounts: list[Account], month: date) -> None:
    to_invoice = [
        account for account in accounts if not account.invoices.filter(period__month=month).exists()
    ]
    pages = {account.pk: page_of(account, month) for account in to_invoice}
    rehearsed = rehearsal.rehearse(entity=EntityFactory(), month=month, as_of=AS_OF)

    drafted = invoice(accounts, month)

    for account in to_invoice:
        page = pages[account.pk]
        if account.pk in drafted.invoices:
            assert_shows(page, drafted.invoices[account.pk], account)
        elif account.pk in drafted.unpriced:
            assert not page["is_whole"]
        else:
            assert page is None
    total = sum(invoice.total_minor for invoice in drafted.invoices.values())
    assert [row["invoiced"] for row in rehearsed["currencies"]] == [str(to_major(total, "EUR"))]
    assert {row["account"]: row["because"] for row in rehearsed["blocked"]} == {
        account.external_id: str(drafted.unpriced[account.pk])
        for account in accounts
        if account.pk in drafted.unpriced
    }


def page_of(account: Account, month: date) -> dict | None:
    """As a member sees it in the last second of the month."""
    as_of = periods.ends_at(month, account.time_zone) - timedelta(seconds=1)
    return usage.since_last_invoice(seat_at(account), as_of=as_of)


def seat_at(account: Account) -> Seat:
    member = account.members.first() or MemberFactory(account=account)
    return Seat(member, [account])


def invoice(accounts: Iterable[Account], month: date) -> drafting.Drafted:
    with transaction.atomic():
        locked = locks.accounts_for_update([account.pk for account in accounts])
        drafted = drafting.draft_invoices(list(locked.values()), month=month)
        issuing.issue_invoices(list(drafted.invoices.values()), accounts=locked, as_of=AS_OF)
    return drafted


def assert_shows(page: dict | None, billed: Invoice, account: Account) -> None:
    reader = seat_at(account).reader
    money, locale = reader.money, reader.locale
    cost: dict[tuple[str, str], int] = defaultdict(int)
    used: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for line in billed.lines.select_related("product", "price"):
        key = line.product.name, line.unit if line.summary_id else line.price.unit
        cost[key] += line.amount_minor
        used[key] += line.quantity if line.summary_id else 0
    assert page is not None
    assert page["is_whole"]
    assert {
        (row["product"], row["unit"]): (row["quantity"], row["cost"]) for row in page["rows"]
    } == {
        (name, numbers.unit(unit, used[name, unit], locale=locale)): (
            numbers.quantity(used[name, unit], locale=locale),
            money(minor, "EUR"),
        )
        for (name, unit), minor in cost.items()
    }
    assert page["total"] == money(billed.total_minor, "EUR")


def nothing_was_given_or_charged_twice() -> None:
    """Over all invoices, by period and price, in the words of the rows and not of the code under test."""
    by_price = defaultdict(list)
    for line in LineItem.objects.filter(price__isnull=False).select_related("price", "invoice"):
        by_price[line.invoice.account_id, line.starts_at, line.price].append(line)
    for (_account, _starts_at, price), lines in by_price.items():
        usage_lines = [line for line in lines if line.summary_id]
        used = sum(max(Decimal(0), line.quantity) for line in usage_lines)
        assert sum(line.free_quantity for line in usage_lines) == min(price.free_quantity, used)
        assert len(lines) - len(usage_lines) == bool(price.monthly_fee)
