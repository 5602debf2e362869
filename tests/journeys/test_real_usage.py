"""Real bills, closed by this engine, come out as their providers billed them."""

import csv
import gzip
from collections import defaultdict
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from django.conf import settings

from billing import books
from billing.models import Invoice, LineItem, UsageEvent
from billing.reports import lines
from billing.usage.imports import FORMATS, import_usage, price_book
from tests.closing import finish, start_close
from tests.factories import EntityFactory

DATA = settings.BASE_DIR.parent / "shared" / "data"
AWS, FOCUS = DATA / "aws_cur_2018", DATA / "focus_1_0_sample" / "focus_sample.csv.gz"

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.real_data,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"the usage exports are not at {DATA}"),
]

OCTOBER, NOVEMBER = date(2018, 10, 1), date(2018, 11, 1)
MONTH_ENDS = {
    OCTOBER: datetime(2018, 11, 2, 9, tzinfo=UTC),
    NOVEMBER: datetime(2018, 12, 2, 9, tzinfo=UTC),
    date(2024, 9, 1): datetime(2024, 10, 2, 9, tzinfo=UTC),
    date(2024, 10, 1): datetime(2024, 11, 2, 9, tzinfo=UTC),
}
Totals = dict[tuple[str, str], Decimal]


@pytest.fixture(autouse=True)
def _an_entity() -> None:
    EntityFactory()


def close(month: date) -> None:
    as_of = MONTH_ENDS[month]
    run = finish(start_close(month, as_of=as_of), as_of=as_of)
    assert run.is_finished
    assert not run.steps.filter(state__in=["BLOCKED", "DEAD"]).exists()
    assert not books.check(as_of=as_of)


def billed(month: date) -> list[Totals]:
    """What was invoiced of a month by account and product: unrounded, rounded, and in how many lines."""
    rows = lines.invoiced(entity_id=EntityFactory().pk, month=month, by=["account", "product"])
    return [
        {(row["account"], row["product"]): Decimal(row[name]) for row in rows}
        for name in ("amount_unrounded", "amount", "lines")
    ]


def expected(month: date) -> Totals:
    totals: Totals = defaultdict(Decimal)
    with (AWS / "expected_totals.csv").open() as file:
        for row in csv.DictReader(file):
            if row["billing_month"] == f"{month:%Y-%m}":
                totals[row["usage_account"], row["product_code"]] += Decimal(row["billed_total"])
    return totals


class TestAnAwsBill:
    def test_of_two_months_is_invoiced_as_amazon_billed_it(self, tmp_path):
        book = price_book.read(path=AWS / "rates.csv", currency="USD")
        for month, as_of in list(MONTH_ENDS.items())[:2]:
            import_usage(
                path=AWS / f"usage_{month:%Y-%m}.csv.gz",
                form=FORMATS["aws-cur"],
                as_of=as_of,
                rejects_path=tmp_path / "rejects.csv",
                book=book,
                strict=True,
            )
            close(month)

            unrounded, rounded, count = billed(month)
            assert unrounded.keys() == expected(month).keys()
            for key, total in expected(month).items():
                assert abs(unrounded[key] - total) <= Decimal("1e-6"), (month, key)
                assert abs(rounded[key] - total) <= Decimal("0.005") * count[key] + Decimal("1e-6")
        assert Invoice.objects.filter(period__month__in=MONTH_ENDS).count() == 4


class TestAFocusExport:
    def test_is_invoiced_as_its_rows_were_billed_each_in_its_own_billing_period(self, tmp_path):
        import_usage(
            path=FOCUS,
            form=FORMATS["focus"],
            as_of=MONTH_ENDS[date(2024, 9, 1)],
            rejects_path=tmp_path / "rejects.csv",
            strict=True,
        )
        with gzip.open(FOCUS, "rt", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        billed_cost: dict[date, Totals] = defaultdict(lambda: defaultdict(Decimal))
        for row in rows:
            month = date.fromisoformat(row["BillingPeriodStart"][:10]).replace(day=1)
            billed_cost[month][row["SubAccountId"]] += Decimal(row["BilledCost"])
        # One account has but one row, and that is billed in October.
        assert [len(totals) for _, totals in sorted(billed_cost.items())] == [35, 1]

        for month in sorted(billed_cost):
            close(month)

            invoiced: Totals = defaultdict(Decimal)
            for line in LineItem.objects.filter(invoice__period__month=month).select_related(
                "invoice__account"
            ):
                invoiced[line.invoice.account.external_id] += line.amount_unrounded
            for account, total in billed_cost[month].items():
                assert abs(invoiced[account] - total) <= Decimal("1e-6"), account
        assert UsageEvent.objects.count() == len(rows)
