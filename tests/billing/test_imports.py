import csv
import gzip
import threading
import tracemalloc
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.models import Count, F, Sum
from django.db.models.functions import Coalesce

from accounts.models import Account, BillingEntity
from billing import spreadsheets
from billing.models import (
    Decision,
    Price,
    Product,
    RejectedRow,
    UsageBatch,
    UsageEvent,
    UsageSummary,
)
from billing.reports import rejected_rows
from billing.usage import imports
from billing.usage.imports import (
    FORMATS,
    FileRefused,
    RowsRejected,
    following_up,
    price_book,
    rejects,
    staging,
    storing,
)
from tests.factories import AccountFactory, EntityFactory
from tests.workers import at_once

AS_OF = datetime(2018, 12, 1, 6, tzinfo=UTC)
DATA = Path(settings.BASE_DIR).parent / "shared" / "data"
CUR = DATA / "aws_cur_2018"
FOCUS = DATA / "focus_1_0_sample" / "focus_sample.csv.gz"
real_data = [
    pytest.mark.real_data,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no usage exports at {DATA}"),
]

OUR_ROW = {
    "event_id": "e-1", "account": "acme", "product": "server", "quantity": "2", "currency": "EUR",
    "starts_at": "2018-10-05T10:00:00Z", "unit": "hour", "item": "small",
}  # fmt: skip
CUR_ROW = {
    "bill_invoice_id": "1", "billing_month": "2018-10", "payer_account": "9", "usage_account": "11",
    "line_type": "Usage", "usage_start": "2018-10-01T00:00:00Z", "usage_end": "2018-10-01T01:00:00Z",
    "product_code": "AmazonEC2", "usage_type": "BoxUsage:t2.micro", "operation": "RunInstances",
    "resource_id": "i-1", "region": "us-east-1", "usage_amount": "1.0000000000", "pricing_unit": "Hrs",
    "unit_rate": "0.0116000000", "billed_cost": "0.0116000000", "currency": "USD",
    "tag_department": "Sales", "tag_workload": "", "description": "a t2.micro hour",
}  # fmt: skip
FOCUS_ROW = {
    "BilledCost": "1.50", "BillingAccountId": "payer", "BillingCurrency": "USD",
    "ChargeCategory": "Usage", "ChargePeriodStart": "2024-09-22 00:00:00",
    "ChargePeriodEnd": "2024-09-22 01:00:00", "ServiceName": "Virtual Machines",
    "SubAccountId": "sub-1", "SubAccountName": "Zenith", "PricingQuantity": "3",
    "PricingUnit": "Hours", "ConsumedQuantity": "4", "ConsumedUnit": "Seconds",
    "BillingPeriodStart": "2024-09-01 00:00:00", "BillingPeriodEnd": "2024-10-01 00:00:00",
    "ChargeDescription": "a virtual machine", "RegionId": "eastus", "SkuId": "SKU",
    "SkuPriceId": "NULL", "Tags": '{"env": "prod"}', "ChargeClass": "NULL",
    "CommitmentDiscountStatus": "NULL",
}  # fmt: skip
TEMPLATES = {"csv": OUR_ROW, "aws-cur": CUR_ROW, "focus": FOCUS_ROW}


def write(path, rows):
    """A CSV file with these rows; the first says which columns there are."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(autouse=True)
def _entity(db):
    EntityFactory()


@pytest.fixture
def load(tmp_path):
    """Imports rows, each the format's ordinary row with some fields changed, or a path."""

    def load(form, *changes, path=None, **options):
        if path is None:
            rows = [TEMPLATES[form] | change for change in changes]
            path = write(tmp_path / "usage.csv", rows)
        return imports.import_usage(
            path=path,
            form=FORMATS[form],
            as_of=AS_OF,
            rejects_path=tmp_path / "rejects.csv",
            **options,
        )

    return load


def listed(path):
    """The rows of a file of rejects."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def repaired(path, *changes):
    """The file of rejects with its rows corrected, one after another."""
    return write(path, [row | change for row, change in zip(listed(path), changes, strict=True)])


@pytest.fixture
def rejected(tmp_path):
    """The rejected rows, as the rejects file lists them."""

    def rejected():
        return listed(tmp_path / "rejects.csv")

    return rejected


def billed(**by):
    """Σ of what the summaries come to, by account and product."""
    money = Coalesce("amount", F("quantity") * F("unit_price"))
    return {
        (row["account__external_id"], row["product__code"]): (row["total"], row["events"])
        for row in UsageSummary.objects.filter(**by)
        .values("account__external_id", "product__code")
        .annotate(total=Sum(money), events=Sum("events"))
    }


class TestRealUsage:
    pytestmark = [*real_data, pytest.mark.django_db]

    def test_two_months_of_a_cloud_bill_come_to_what_the_provider_billed(self, load):
        book = price_book.read(path=CUR / "rates.csv", currency="USD")

        october = load("aws-cur", path=CUR / "usage_2018-10.csv.gz", book=book)
        november = load("aws-cur", path=CUR / "usage_2018-11.csv.gz", book=book)

        assert (october.batch.rows_added, november.batch.rows_added) == (119_307, 124_340)
        assert october.rejects_path is None
        assert (october.prices.added, november.prices.added) == (464, 0)
        for month in (10, 11):
            expected = expected_totals(f"2018-{month}")
            got = billed(period__month=datetime(2018, month, 1, tzinfo=UTC).date())
            assert got.keys() == expected.keys()
            for key, (total, events) in expected.items():
                assert abs(got[key][0] - total) < Decimal("1e-6"), key
                assert got[key][1] == events, key

        again = load("aws-cur", path=CUR / "usage_2018-10.csv.gz", book=book)

        assert (again.batch.rows_added, again.batch.rows_known) == (0, 119_307)
        assert again.batch.tallied_at is None  # what we hold is from before the tally
        assert UsageBatch.objects.filter(tallied_at=None).count() == 0
        assert UsageSummary.objects.aggregate(n=Sum("events"))["n"] == 119_307 + 124_340

    def test_prices_come_from_the_book_where_the_usage_states_none(self, load, tmp_path):
        book = price_book.read(path=CUR / "rates.csv", currency="USD")
        with gzip.open(CUR / "usage_2018-10.csv.gz", "rt", newline="") as file:
            rows = [
                {
                    name: field
                    for name, field in row.items()
                    if name not in {"unit_rate", "billed_cost"}
                }
                for row in csv.DictReader(file)
                if row["product_code"] == "AmazonRDS"
            ]

        load("aws-cur", path=write(tmp_path / "rds.csv", rows), book=book)

        total = Decimal(0)
        for summary in UsageSummary.objects.all():
            assert summary.unit_price is None
            assert summary.amount is None
            price = Price.objects.get(product=summary.product, item=summary.item, unit=summary.unit)
            total += price.unit_price * summary.quantity
        assert abs(total - Decimal("920.7477222548")) < Decimal("1e-6")

    def test_a_focus_sample_is_billed_row_by_row(self, load):
        loaded = load("focus", path=FOCUS)

        with gzip.open(FOCUS, "rt", encoding="utf-8", newline="") as file:
            expected = {}
            for row in csv.DictReader(file):
                account = row["SubAccountId"]
                expected[account] = expected.get(account, Decimal(0)) + Decimal(row["BilledCost"])
        got = {}
        for (account, _), (total, _) in billed().items():
            got[account] = got.get(account, Decimal(0)) + total
        assert loaded.batch.rows_added == 429
        assert got == expected
        assert Account.objects.count() == 36
        assert Account.objects.get(external_id="11353890204").name == "Atlas Orion"
        kinds = dict(UsageEvent.objects.values_list("kind").annotate(Count("pk")))
        assert kinds == {"USAGE": 425, "COVERED": 1, "ADJUSTMENT": 2, "CREDIT": 1}
        [moved] = UsageEvent.objects.exclude(effective_at=F("starts_at"))
        assert moved.starts_at == datetime(2024, 9, 30, 22, tzinfo=UTC)
        assert moved.effective_at == datetime(2024, 10, 1, tzinfo=UTC)


def expected_totals(month):
    totals = {}
    with (CUR / "expected_totals.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["billing_month"] == month:
                key = (row["usage_account"], row["product_code"])
                total, lines = totals.get(key, (Decimal(0), 0))
                totals[key] = (total + Decimal(row["billed_total"]), lines + int(row["lines"]))
    return totals


@pytest.mark.django_db
class TestAwsCur:
    def test_a_row_that_states_its_rate_keeps_it(self, load):
        load("aws-cur", {})

        event = UsageEvent.objects.get()
        assert (event.unit_price, event.amount) == (Decimal("0.0116"), None)
        assert event.item == "BoxUsage:t2.micro · RunInstances · us-east-1"
        assert event.description == "a t2.micro hour"
        assert event.attributes == {
            "resource": "i-1",
            "region": "us-east-1",
            "tags": {"department": "Sales"},
        }

    def test_a_row_without_a_rate_is_billed_what_it_cost(self, load):
        load("aws-cur", {"unit_rate": "", "billed_cost": "0.0340000000"})

        event = UsageEvent.objects.get()
        assert (event.unit_price, event.amount) == (None, Decimal("0.034"))

    def test_a_row_with_neither_is_left_to_the_price_list(self, load):
        load("aws-cur", {"unit_rate": "", "billed_cost": ""})

        event = UsageEvent.objects.get()
        assert (event.unit_price, event.amount) == (None, None)

    @pytest.mark.parametrize(
        ("line_type", "rate", "cost", "expected"),
        [
            ("DiscountedUsage", "0.0000000000", "0", ("COVERED", Decimal(0), None)),
            ("DiscountedUsage", "", "", ("COVERED", Decimal(0), None)),
            ("RIFee", "0.03", "22.32", ("FEE", Decimal("0.03"), None)),
            ("Fee", "", "500", ("FEE", None, Decimal(500))),
            ("Tax", "0", "12.5", ("TAX", None, Decimal("12.5"))),
            ("Credit", "", "-3.25", ("CREDIT", None, Decimal("-3.25"))),
            ("Refund", "-1", "", ("ADJUSTMENT", Decimal(-1), None)),
            ("SavingsPlanNegation", "", "-1.5", ("ADJUSTMENT", None, Decimal("-1.5"))),
            ("SavingsPlanCoveredUsage", "0.1", "0.1", ("USAGE", Decimal("0.1"), None)),
        ],
    )
    def test_line_types_become_kinds(self, load, line_type, rate, cost, expected):
        load("aws-cur", {"line_type": line_type, "unit_rate": rate, "billed_cost": cost})

        event = UsageEvent.objects.get()
        assert (event.kind, event.unit_price, event.amount) == expected

    def test_a_tax_row_needs_no_quantity(self, load):
        load("aws-cur", {"line_type": "Tax", "usage_amount": "", "unit_rate": ""})

        assert UsageEvent.objects.get().quantity == 0

    def test_usage_of_another_month_counts_in_the_month_it_is_billed_in(self, load):
        load("aws-cur", {"billing_month": "2018-11"}, {"billing_month": ""})

        late, plain = UsageEvent.objects.order_by("-effective_at")
        assert late.effective_at == datetime(2018, 11, 1, tzinfo=UTC)
        assert late.starts_at == plain.effective_at == datetime(2018, 10, 1, tzinfo=UTC)

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"line_type": "Gift"}, "line_type"),
            ({"usage_amount": "NaN"}, "usage_amount"),
            ({"usage_amount": ""}, "usage_amount"),
            ({"usage_amount": "-1"}, "usage_amount"),
            ({"unit_rate": "-0.1"}, "unit_rate"),
            ({"usage_start": "yesterday"}, "usage_start"),
            ({"usage_end": "2018-09-30T23:00:00Z"}, "usage_end"),
            ({"billing_month": "October"}, "billing_month"),
            ({"usage_account": ""}, "usage_account"),
            ({"product_code": ""}, "product_code"),
            ({"currency": ""}, "currency"),
            ({"usage_type": "x" * 300}, "usage_type"),
        ],
    )
    def test_a_row_that_cannot_be_billed_is_named_with_its_field(
        self, load, rejected, change, field
    ):
        load("aws-cur", {}, change)

        [row] = rejected()
        assert (row["row"], row["field"]) == ("3", field)
        assert UsageEvent.objects.count() == 1

    def test_a_report_needs_no_tags_no_prices_and_no_description(self, load, tmp_path):
        row = {name: CUR_ROW[name] for name in FORMATS["aws-cur"].required}

        load("aws-cur", path=write(tmp_path / "bare.csv", [row]))

        event = UsageEvent.objects.get()
        assert event.attributes == {"region": "us-east-1"}
        assert (event.unit_price, event.amount, event.description) == (None, None, "")

    def test_equal_rows_of_a_file_all_count_and_count_once(self, load):
        first = load("aws-cur", {}, {}, {"usage_amount": "2"}, {})
        second = load("aws-cur", {}, {}, {"usage_amount": "2"}, {})

        assert first.batch.rows_added == 4
        assert (second.batch.rows_added, second.batch.rows_known) == (0, 4)
        assert UsageSummary.objects.get().quantity == 5

    def test_the_same_export_with_its_columns_moved_is_known(self, load, tmp_path):
        load("aws-cur", {})
        moved = write(tmp_path / "moved.csv", [dict(reversed(CUR_ROW.items()))])

        again = load("aws-cur", path=moved)

        assert (again.batch.rows_added, again.batch.rows_known) == (0, 1)


@pytest.mark.django_db
class TestFocus:
    def test_what_is_billed_is_the_billed_cost(self, load):
        load("focus", {})

        event = UsageEvent.objects.get()
        assert (event.amount, event.unit_price) == (Decimal("1.5"), None)
        assert (event.quantity, event.unit) == (3, "Hours")
        assert event.item == "a virtual machine · eastus · SKU"
        assert event.attributes == {"region": "eastus", "tags": {"env": "prod"}}
        assert Account.objects.get().name == "Zenith"

    @pytest.mark.parametrize(
        ("change", "kind"),
        [
            ({"ChargeCategory": "Purchase"}, "FEE"),
            ({"ChargeCategory": "Credit", "BilledCost": "-2"}, "CREDIT"),
            ({"ChargeCategory": "Adjustment", "PricingQuantity": "-4"}, "ADJUSTMENT"),
            ({"ChargeCategory": "Tax"}, "TAX"),
            ({"ChargeClass": "Correction", "PricingQuantity": "-4"}, "ADJUSTMENT"),
            ({"CommitmentDiscountStatus": "Used", "BilledCost": "0.000"}, "COVERED"),
            ({"CommitmentDiscountStatus": "Used"}, "USAGE"),
            ({"CommitmentDiscountStatus": "Unused", "BilledCost": "0"}, "USAGE"),
        ],
    )
    def test_charge_categories_become_kinds(self, load, change, kind):
        load("focus", change)

        assert UsageEvent.objects.get().kind == kind

    def test_null_is_nothing_however_it_is_written(self, load):
        nothing = {"SubAccountId": "NULL", "PricingQuantity": "", "PricingUnit": "NULL"}
        load("focus", nothing, nothing | {"ConsumedQuantity": "NULL", "ConsumedUnit": ""})

        consumed, none = UsageEvent.objects.order_by("-quantity")
        assert Account.objects.get().external_id == "payer"
        assert Account.objects.get().name == "payer"
        assert (consumed.quantity, consumed.unit) == (4, "Seconds")
        assert (none.quantity, none.unit) == (0, "")

    def test_only_what_must_be_there_must_be_there(self, load, tmp_path):
        required = {name: FOCUS_ROW[name] for name in FORMATS["focus"].required}
        path = tmp_path / "bare.csv"
        text = write(path, [dict(reversed(required.items()))]).read_text()
        path.write_text("\ufeff" + text, encoding="utf-8")

        load("focus", path=path)

        event = UsageEvent.objects.get()
        assert (event.amount, event.item) == (Decimal("1.5"), "")
        assert event.effective_at == event.starts_at

    @pytest.mark.parametrize(
        "written",
        [
            "2024-09-22T02:00:00Z",
            "2024-09-22 02:00:00",
            "2024-09-22T04:00:00.000+02:00",
            "2024-09-21T22:00:00.0-04:00",
            "2024-09-22T02:00:00.0000000Z",
        ],
    )
    def test_an_instant_is_read_however_iso_8601_writes_it(self, load, written):
        load("focus", {"ChargePeriodStart": written, "ChargePeriodEnd": "2024-09-22T03:00:00Z"})

        assert UsageEvent.objects.get().starts_at == datetime(2024, 9, 22, 2, tzinfo=UTC)

    @pytest.mark.parametrize(
        ("written", "kept"),
        [
            ("35.2E-7", "0.00000352"),
            ("1.50000000000000000000", "1.5"),
            ("0.00000012345678901234", "0.000000123456789"),
            (" .5 ", "0.5"),
            ("+2", "2"),
            ("1e2", "100"),
        ],
    )
    def test_costs_are_read_however_exports_write_them(self, load, written, kept):
        load("focus", {"BilledCost": written})

        assert UsageEvent.objects.get().amount == Decimal(kept)

    def test_text_survives_quotes_newlines_and_backslashes(self, load):
        hard = 'two\nlines, a "quote", a \\ and\ta tab\r\nend \\N \\.'
        load(
            "focus",
            {"ChargeDescription": hard, "ResourceId": "a\\b\n"} | {"Tags": '{"a": "\\\\b"}'},
        )

        event = UsageEvent.objects.get()
        assert event.description == hard
        assert event.item == f"{hard} · eastus · SKU"
        assert event.attributes["tags"] == {"a": "\\b"}

    @pytest.mark.parametrize(
        "tags",
        ["not json", '{"a": "\\u0000"}', '{"a": "\\ud800"}', "[1]", '{"a": NaN}', '{"a": 1e400}'],
    )
    def test_tags_that_are_no_json_object_stay_text(self, load, tags):
        load("focus", {"Tags": tags})

        assert UsageEvent.objects.get().attributes["tags"] == tags

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"ChargeCategory": "NULL"}, "ChargeCategory"),
            ({"BilledCost": "NULL"}, "BilledCost"),
            ({"BilledCost": "0.1234567890123456789012345"}, "BilledCost"),
            ({"PricingQuantity": "Infinity"}, "PricingQuantity"),
            ({"PricingQuantity": "NULL", "ConsumedQuantity": "x"}, "ConsumedQuantity"),
            ({"ChargePeriodStart": "NULL"}, "ChargePeriodStart"),
            ({"BillingPeriodStart": "soon"}, "BillingPeriodStart"),
            ({"ServiceName": "NULL"}, "ServiceName"),
            ({"SubAccountId": "NULL", "BillingAccountId": "NULL"}, "SubAccountId"),
            ({"BillingCurrency": "DOLLARS"}, "BillingCurrency"),
        ],
    )
    def test_a_row_that_cannot_be_billed_is_named_with_its_field(
        self, load, rejected, change, field
    ):
        load("focus", {}, change)

        assert [row["field"] for row in rejected()] == [field]


@pytest.mark.django_db
class TestOurCsv:
    def test_every_column_is_kept(self, load):
        load(
            "csv",
            {
                "ends_at": "2018-10-05T11:00:00Z",
                "effective_at": "2018-11-01T00:00:00Z",
                "kind": "FEE",
                "amount": "-3.5",
                "description": "set-up",
                "account_name": "Acme Ltd",
                "product_name": "Servers",
                "attributes": '{"team": "search", "spot": false}',
            },
        )

        event = UsageEvent.objects.select_related("batch").get()
        assert (event.kind, event.amount, event.quantity) == ("FEE", Decimal("-3.5"), 2)
        assert event.ends_at == datetime(2018, 10, 5, 11, tzinfo=UTC)
        assert event.effective_at == datetime(2018, 11, 1, tzinfo=UTC)
        assert event.attributes == {"team": "search", "spot": False}
        assert Account.objects.get().name == "Acme Ltd"
        assert Product.objects.get().name == "Servers"

    def test_an_id_known_with_other_content_is_rejected_and_the_first_stays(self, load, rejected):
        load("csv", {})

        loaded = load(
            "csv", {"quantity": "3"}, {}, {"event_id": "e-2"}, {"event_id": "e-2", "unit": "h"}
        )

        stored, within = sorted(rejected(), key=lambda row: int(row["row"]))
        assert loaded.batch.rows_added == 1
        assert loaded.batch.rows_known == 1
        assert loaded.batch.rows_rejected == 2
        assert stored["problem"] == (
            "is known for account acme with other content: quantity 2 before, 3 here"
        )
        assert stored["quantity"] == "3"
        assert "USAGE small hour before, USAGE small h here" in within["problem"]
        assert UsageEvent.objects.get(event_id="e-1").quantity == 2

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"product": "disk"}, "product server before, disk here"),
            ({"unit_price": "4"}, "another price"),
            ({"starts_at": "2018-11-05T10:00:00Z"}, "another time"),
        ],
    )
    def test_what_differs_is_said(self, load, rejected, change, says):
        first = {"unit_price": ""}
        load("csv", first)

        load("csv", first | change, first | {"event_id": "e-2"})

        assert says in rejected()[0]["problem"]
        assert Product.objects.count() == 1

    def test_an_event_told_twice_in_a_file_counts_once(self, load):
        loaded = load("csv", {}, {"quantity": "2.0"})

        assert (loaded.batch.rows_added, loaded.batch.rows_known) == (1, 1)

    def test_the_same_id_of_two_accounts_are_two_events(self, load):
        loaded = load("csv", {}, {"account": "other"})

        assert loaded.batch.rows_added == 2

    def test_an_account_needs_its_currency_said_once(self, load, rejected):
        load("csv", {}, {"event_id": "e-2", "currency": ""}, {"account": "new", "currency": ""})

        [row] = rejected()
        assert (row["field"], row["problem"]) == ("currency", "is empty, and account new is new")
        assert UsageEvent.objects.count() == 2

    def test_usage_in_another_currency_than_the_account_is_billed_in_is_rejected(
        self, load, rejected
    ):
        AccountFactory(external_id="acme", currency="EUR")

        load("csv", {}, {"event_id": "e-2", "currency": "USD"})

        [row] = rejected()
        assert (row["row"], row["field"], row["value"]) == ("3", "currency", "USD")
        assert row["problem"] == "is not the currency of account acme, which is billed in EUR"
        assert row["event_id"] == "e-2"

    @pytest.mark.parametrize(
        "quantity",
        ["", "NaN", "Infinity", "-inf", "1e400", "1e-20", "1,5", "0x10", "٣", "1_000", "--1",
         "1" * 16, "0." + "1" * 16, "9" * 500, "-1", "-0.5"],
    )  # fmt: skip
    def test_a_quantity_that_is_none_is_rejected(self, load, rejected, quantity):
        load("csv", {}, {"event_id": "e-2", "quantity": quantity})

        [row] = rejected()
        value = spreadsheets.as_it_was(row["value"])
        assert (row["row"], row["field"], value) == ("3", "quantity", quantity)
        assert row["problem"]
        assert row["how_to_fix"]

    def test_zero_is_not_negative(self, load):
        load("csv", {"quantity": "-0.00"}, {"event_id": "e-2", "quantity": "0e5"})

        assert UsageEvent.objects.filter(quantity=0).count() == 2

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"event_id": ""}, "event_id"),
            ({"event_id": "x" * 201}, "event_id"),
            ({"unit": "x" * 61}, "unit"),
            ({"currency": "eur"}, "currency"),
            ({"kind": "usage"}, "kind"),
            ({"unit_price": "1", "amount": "1"}, "amount"),
            ({"unit_price": "0.1234567890123"}, "unit_price"),
            ({"amount": "1e11"}, "amount"),
            ({"starts_at": "0001-01-01T00:00:00+01:00"}, "starts_at"),
            ({"starts_at": "9999-12-31T00:00:00Z"}, "starts_at"),
            ({"attributes": "[]"}, "attributes"),
            ({"item": "a\x00b"}, "item"),
        ],
    )
    def test_a_field_that_is_wrong_is_named(self, load, rejected, change, field):
        empty = {"kind": "", "unit_price": "", "amount": "", "attributes": ""}

        load("csv", empty, empty | {"event_id": "e-2"} | change)

        [row] = rejected()
        assert (row["row"], row["field"]) == ("3", field)

    def test_a_row_with_a_field_too_many_is_rejected_as_it_stands(self, load, rejected, tmp_path):
        path = write(tmp_path / "usage.csv", [OUR_ROW])
        path.write_text(path.read_text() + "\n\na,b\n")

        load("csv", path=path)

        [row] = rejected()
        assert (row["row"], row["field"], row["value"]) == ("3", "row", "2 fields")
        assert row["event_id"] == "a"


@pytest.mark.django_db
class TestAccounts:
    def test_an_account_named_for_the_first_time_is_created(self, load):
        loaded = load("csv", {"account": "fresh"})

        account = Account.objects.get()
        assert account.entity.slug == "default"
        assert (account.external_id, account.name) == ("fresh", "fresh")
        assert (account.currency, account.time_zone, account.language) == ("EUR", "UTC", "en")
        assert (loaded.accounts_added, loaded.products_added) == (1, 1)

    def test_a_known_account_stays_as_it_is(self, load):
        AccountFactory(external_id="acme", name="Known", time_zone="Asia/Tokyo")

        load("csv", {"account_name": "Other"})

        assert Account.objects.get().name == "Known"

    def test_without_an_entity_to_bill_nothing_is_imported(self, load):
        BillingEntity.objects.all().delete()

        with pytest.raises(FileRefused, match="no billing entity 'default'"):
            load("csv", {})

        assert not UsageBatch.objects.exists()


@pytest.mark.django_db
class TestFilesThatAreRefused:
    @pytest.fixture(autouse=True)
    def _nothing_is_written(self):
        yield
        assert not UsageBatch.objects.exists()
        assert not UsageEvent.objects.exists()
        assert not Account.objects.exists()

    def test_a_missing_column_is_named_with_the_format(self, load, tmp_path):
        row = {
            name: field for name, field in OUR_ROW.items() if name not in {"quantity", "account"}
        }

        with pytest.raises(FileRefused) as refused:
            load("csv", path=write(tmp_path / "usage.csv", [row]))

        assert "format csv" in str(refused.value)
        assert "lacks the columns account, quantity" in str(refused.value)
        assert "Export it with these columns" in str(refused.value)

    def test_the_format_it_looks_like_is_said(self, load, tmp_path):
        with pytest.raises(FileRefused, match="--format aws-cur"):
            load("focus", path=write(tmp_path / "usage.csv", [CUR_ROW]))

    def test_a_file_of_other_columns_shows_some_of_them(self, load, tmp_path):
        with pytest.raises(FileRefused, match="Its columns are c0, c1, c2, c3, c4, c5, c6, c7, …"):
            load("csv", path=write(tmp_path / "usage.csv", [{f"c{n}": "" for n in range(9)}]))

    def test_a_column_that_stands_there_twice_is_named(self, load, tmp_path):
        path = write(tmp_path / "usage.csv", [OUR_ROW])
        path.write_text(path.read_text().replace("unit,", "quantity,"))

        with pytest.raises(FileRefused, match="'quantity' stands in the header more than once"):
            load("csv", path=path)

    @pytest.mark.parametrize("content", [b"", b"\n\n"])
    def test_an_empty_file_is_said_to_be_empty(self, load, tmp_path, content):
        (tmp_path / "empty.csv").write_bytes(content)

        with pytest.raises(FileRefused, match="is empty"):
            load("csv", path=tmp_path / "empty.csv")

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"PK\x03\x04", "ZIP archive"),
            (b"PAR1....", "Parquet"),
            (b"\xff\xfea\x00", "UTF-16"),
            (b"event_id,account\n\xe9,b\n" + b"x" * 100, "UTF-8"),
            (b'event_id,account\n"never closed,b\n', "not valid CSV"),
        ],
    )
    def test_what_it_is_instead_is_said(self, load, tmp_path, content, says):
        header = ",".join(OUR_ROW).encode()
        (tmp_path / "usage.csv").write_bytes(content.replace(b"event_id,account", header))

        with pytest.raises(FileRefused, match=says):
            load("csv", path=tmp_path / "usage.csv")

    def test_a_file_that_is_not_there_is_named(self, load, tmp_path):
        with pytest.raises(FileRefused, match=r"nowhere\.csv cannot be opened: No such file"):
            load("csv", path=tmp_path / "nowhere.csv")
        with pytest.raises(FileRefused, match="Is a directory"):
            load("csv", path=tmp_path)

    def test_a_gzip_file_cut_short_is_refused_whole(self, load, tmp_path):
        rows = [OUR_ROW | {"event_id": f"e-{n * 7919}"} for n in range(5000)]
        whole = gzip.compress(write(tmp_path / "usage.csv", rows).read_bytes())
        (tmp_path / "cut.csv.gz").write_bytes(whole[:-200])

        with pytest.raises(FileRefused, match="gzip data is cut short or damaged"):
            load("csv", path=tmp_path / "cut.csv.gz")

    def test_a_file_named_gz_that_is_none_is_told_apart(self, load, tmp_path):
        (tmp_path / "usage.csv.gz").write_text("<html>Not found</html>\n")

        with pytest.raises(FileRefused, match=r"named \.gz and is no gzip file"):
            load("csv", path=tmp_path / "usage.csv.gz")

    def test_strict_keeps_the_whole_file_out_for_one_row(self, load, rejected):
        with pytest.raises(RowsRejected, match=r"1 of 2 rows of usage\.csv cannot be billed"):
            load("csv", {}, {"event_id": "e-2", "quantity": "NaN"}, strict=True)

        assert len(rejected()) == 1

    def test_a_file_of_nothing_but_rejected_rows_is_refused(self, load):
        with pytest.raises(
            RowsRejected, match="the first: row 2, quantity 'many': is not a number"
        ):
            load("csv", {"quantity": "many"})

    def test_rejects_that_cannot_be_written_stop_the_import(self, tmp_path):
        path = write(tmp_path / "usage.csv", [OUR_ROW | {"quantity": "many"}])

        with pytest.raises(FileRefused, match="Name another file with --rejects"):
            imports.import_usage(
                path=path, form=FORMATS["csv"], as_of=AS_OF, rejects_path=tmp_path / "no" / "r.csv"
            )


@pytest.mark.django_db
class TestReading:
    def test_gzip_is_told_by_its_first_bytes_whatever_its_name(self, load, tmp_path):
        path = write(tmp_path / "usage.csv", [OUR_ROW])
        path.write_bytes(gzip.compress(path.read_bytes()))

        assert load("csv", path=path).batch.rows_added == 1

    def test_plain_text_named_gz_is_read(self, load, tmp_path):
        path = write(tmp_path / "usage.csv.gz", [OUR_ROW])

        assert load("csv", path=path).batch.rows_added == 1

    def test_a_header_alone_is_a_month_without_usage(self, load, tmp_path):
        (tmp_path / "usage.csv").write_text(",".join(OUR_ROW))

        loaded = load("csv", path=tmp_path / "usage.csv")

        assert loaded.batch.rows_read == 0

    def test_tells_of_the_bytes_as_they_are_read_and_of_each_phase(self, load, tmp_path):
        read, phases = [], []
        path = write(tmp_path / "usage.csv", [OUR_ROW])

        load("csv", path=path, watch=imports.Watch(on_bytes=read.append, on_phase=phases.append))

        assert sum(read) == path.stat().st_size
        assert phases == ["Storing", "Tallying"]

    def test_rejections_are_fetched_a_page_at_a_time(self, load, rejected, monkeypatch):
        monkeypatch.setattr(storing, "PAGE", 2)
        AccountFactory(external_id="acme", currency="EUR")
        usd = [{"event_id": f"e-{n}", "currency": "USD"} for n in range(5)]

        load("csv", *usd, {})

        assert [row["row"] for row in rejected()] == ["2", "3", "4", "5", "6"]

    def test_what_the_database_refuses_is_not_hidden(self, load, monkeypatch):
        monkeypatch.setattr(staging, "COPY", "COPY no_such_table FROM STDIN")

        with pytest.raises(DatabaseError, match="no_such_table"):
            load("csv", {})


def waiting():
    """Of each import that has rows which wait: how many, and the money that they name."""
    return [
        (row["rows"], row["rows_without_amount"], row["money"])
        for row in rejected_rows.of_month(datetime(2018, 12, 1).date())
    ]


def usd(amount):
    return [{"currency": "USD", "amount": amount}]


@pytest.mark.django_db
class TestTheFileOfRejects:
    def test_never_writes_over_that_of_another_import(self, load, tmp_path):
        first = load("csv", {}, {"event_id": "e-2", "quantity": "NaN"})
        second = load("csv", {}, {"event_id": "e-3", "quantity": "many"})

        assert first.rejects_path == tmp_path / "rejects.csv"
        assert second.rejects_path == tmp_path / "rejects.2.csv"
        assert [listed(each.rejects_path)[0]["value"] for each in (first, second)] == [
            "NaN",
            "many",
        ]
        assert second.batch.rejects_file == str(second.rejects_path)

    def test_of_too_many_imports_are_cleaned_up_first(self, tmp_path, monkeypatch):
        monkeypatch.setattr(rejects, "MOST_FILES", 3)
        path = write(tmp_path / "usage.csv", [OUR_ROW, OUR_ROW | {"quantity": "NaN"}])
        (tmp_path / "r.csv").write_text("one")
        (tmp_path / "r.2.csv").write_text("two")

        with pytest.raises(FileRefused, match=r"There are 3 files like .*: name another"):
            imports.import_usage(
                path=path, form=FORMATS["csv"], as_of=AS_OF, rejects_path=tmp_path / "r.csv"
            )

        assert (tmp_path / "r.csv").read_text() == "one"
        assert sorted(each.name for each in tmp_path.glob("r*.csv")) == ["r.2.csv", "r.csv"]

    def test_that_has_the_usual_name_is_numbered_before_its_ending(self, tmp_path):
        path = write(tmp_path / "usage.csv", [OUR_ROW, OUR_ROW | {"quantity": "NaN"}])
        named = [
            imports.import_usage(
                path=path,
                form=FORMATS["csv"],
                as_of=AS_OF,
                rejects_path=tmp_path / "usage.csv.rejects.csv",
            ).rejects_path.name
            for _ in range(3)
        ]

        assert named == [
            "usage.csv.rejects.csv",
            "usage.csv.2.rejects.csv",
            "usage.csv.3.rejects.csv",
        ]

    @pytest.mark.parametrize(
        "text",
        ["=HYPERLINK(1)", "+1 234", "-2+3", "@SUM(1)", "\tx", "\rx", "\nx", "'=1", "''@x", "－1"],
    )
    def test_is_safe_in_a_spreadsheet_and_comes_back_as_it_was(self, load, tmp_path, text):
        load(
            "csv",
            {"description": ""},
            {"event_id": "e-2", "quantity": "NaN", "item": text, "description": text},
        )

        [row] = listed(tmp_path / "rejects.csv")
        assert (row["item"], row["description"]) == (f"'{text}", f"'{text}")
        load("csv", path=repaired(tmp_path / "rejects.csv", {"quantity": "1"}))
        assert UsageEvent.objects.get(event_id="e-2").item == text

    @pytest.mark.parametrize("form", ["aws-cur", "focus"])
    def test_repaired_is_what_the_repaired_original_is(self, load, tmp_path, form):
        cost = {"aws-cur": "usage_amount", "focus": "BilledCost"}[form]
        wrong = {cost: "=oops", ("description" if form == "aws-cur" else "Tags"): "@x"}
        right = wrong | {cost: "7"}
        load(form, {}, wrong)

        again = load(form, path=repaired(tmp_path / "rejects.csv", {cost: "7"}))
        whole = load(form, {}, right)

        assert (again.batch.rows_added, again.repaired) == (1, 1)
        assert (whole.batch.rows_added, whole.batch.rows_known) == (0, 2)
        assert waiting() == []

    def test_repaired_rows_that_equal_others_of_their_file_count_beside_them(self, load, tmp_path):
        wrong = {"usage_amount": "many"}
        load("aws-cur", {}, {}, wrong, wrong)
        path = repaired(tmp_path / "rejects.csv", {"usage_amount": CUR_ROW["usage_amount"]}, {})

        one = load("aws-cur", path=path)
        two = load(
            "aws-cur",
            path=repaired(one.rejects_path, {"usage_amount": CUR_ROW["usage_amount"]}),
        )
        again = load("aws-cur", path=path)
        whole = load("aws-cur", {}, {}, {}, {})

        assert [each.batch.rows_added for each in (one, two, again, whole)] == [1, 1, 0, 0]
        assert UsageSummary.objects.get().quantity == 4

    def test_repaired_rows_that_another_export_had_are_known(self, load, tmp_path):
        load("aws-cur", {"resource_id": "i-2"}, {"usage_amount": "many"})
        load("aws-cur", {"resource_id": "i-2"}, {}, {"resource_id": "i-3"})

        path = repaired(tmp_path / "rejects.csv", {"usage_amount": CUR_ROW["usage_amount"]})

        assert load("aws-cur", path=path).batch.rows_added == 0

    def test_of_the_release_before_is_read_too(self, load, tmp_path):
        load("aws-cur", {}, {"usage_amount": "many"})
        [row] = listed(tmp_path / "rejects.csv")
        del row["of_import"]

        load("aws-cur", path=write(tmp_path / "old.csv", [row | {"usage_amount": "3"}]))
        whole = load("aws-cur", {}, {"usage_amount": "3"})

        assert whole.batch.rows_added == 0


@pytest.mark.django_db
class TestRejectedRows:
    """They wait, with the money that they name, until they come again or are set aside."""

    @pytest.mark.parametrize(
        ("form", "change", "unread", "named"),
        [
            ("csv", {"quantity": "NaN", "amount": "12.345"}, 0, "12.345"),
            ("csv", {"unit_price": "0.5", "kind": "usage"}, 0, "1.00"),
            ("csv", {"amount": "1000", "currency": "", "quantity": ""}, 0, "1000.00"),
            ("csv", {"amount": "-3", "quantity": ""}, 0, "-3.00"),
            ("csv", {"quantity": "NaN", "unit_price": "1"}, 1, None),
            ("csv", {"quantity": "NaN"}, 1, None),
            ("csv", {"quantity": "NaN", "amount": "1e400"}, 1, None),
            ("csv", {"amount": "5", "currency": "DOLLARS"}, 1, None),
            ("csv", {"amount": "5", "currency": "", "account": "new"}, 1, None),
            ("aws-cur", {"line_type": "Gift"}, 0, "0.0116"),
            ("aws-cur", {"line_type": "Gift", "billed_cost": ""}, 0, "0.0116"),
            ("aws-cur", {"usage_start": "yesterday"}, 0, "0.0116"),
            ("focus", {"ChargeCategory": "Gift", "BilledCost": "7"}, 0, "7.00"),
            ("focus", {"ChargeCategory": "Gift", "BilledCost": "NULL"}, 1, None),
        ],
    )
    def test_say_the_money_that_they_name(self, load, form, change, unread, named):
        base = {"unit_price": "", "amount": "", "kind": "", "currency": "USD"}
        good = base if form == "csv" else {}
        if form == "focus":
            good = {"BillingPeriodStart": "2018-09-01", "ChargePeriodStart": "2018-09-22"}

        load(form, good, good | {"event_id": "e-2"} | change if form == "csv" else good | change)

        assert waiting() == [(1, unread, usd(named) if named else [])]

    def test_of_a_row_with_a_field_too_many_say_nothing(self, load, tmp_path):
        path = write(tmp_path / "usage.csv", [OUR_ROW])
        path.write_text(path.read_text() + "a,b\n")

        load("csv", path=path)

        assert waiting() == [(1, 1, [])]

    def test_are_added_up_by_currency(self, load):
        wrong = {"quantity": "NaN", "amount": "0.1"}
        load(
            "csv",
            {"amount": ""},
            *[wrong | {"event_id": f"x-{n}"} for n in range(3)],
            {"event_id": "usd", "currency": "USD", "amount": "1.5"},
        )

        assert waiting() == [
            (
                4,
                0,
                [{"currency": "EUR", "amount": "0.30"}, {"currency": "USD", "amount": "1.50"}],
            )
        ]

    def test_of_a_later_month_are_not_of_an_earlier_one(self, load):
        load("csv", {}, {"event_id": "e-2", "starts_at": "2018-11-30T00:00:00Z", "quantity": "x"})

        assert rejected_rows.of_month(datetime(2018, 10, 1).date()) == []
        assert len(rejected_rows.of_month(datetime(2018, 11, 1).date())) == 1

    def test_wait_once_though_the_file_is_imported_again(self, load):
        for _ in range(3):
            load("csv", {"amount": ""}, {"event_id": "e-2", "quantity": "NaN", "amount": "5"})

        assert waiting() == [(1, 0, [{"currency": "EUR", "amount": "5.00"}])]

    def test_no_longer_wait_when_the_whole_file_came_repaired(self, load):
        load("aws-cur", {}, {"resource_id": "i-2"}, {"usage_amount": "many"})

        again = load("aws-cur", {}, {"resource_id": "i-2"}, {"usage_amount": "3"})

        assert again.repaired == 1
        assert waiting() == []

    def test_still_wait_when_another_file_of_the_name_came(self, load):
        load("aws-cur", {}, {"resource_id": "i-2"}, {"usage_amount": "many"})

        load("aws-cur", {}, {"resource_id": "i-4"}, {"usage_amount": "3"})

        assert len(waiting()) == 1

    def test_no_longer_wait_when_their_events_came_in_a_file_of_their_own(self, load, tmp_path):
        load("csv", {}, {"event_id": "e-2", "quantity": "x"}, {"event_id": "e-3", "quantity": "x"})

        load("csv", path=write(tmp_path / "own.csv", [OUR_ROW | {"event_id": "e-3"}]))

        assert [rows for rows, *_ in waiting()] == [1]

    def test_wait_once_though_rejected_again_in_a_file_of_their_own(self, load, tmp_path):
        load("csv", {}, {"event_id": "e-2", "quantity": "x"}, {"event_id": "e-3", "quantity": "x"})
        own = [OUR_ROW | {"event_id": "e-2", "quantity": "y"}, OUR_ROW | {"event_id": "e-3"}]

        load("csv", path=write(tmp_path / "own.csv", own))

        assert [rows for rows, *_ in waiting()] == [1]

    def test_whose_id_was_another_events_wait_for_a_file_that_says_so(self, load, tmp_path):
        load("csv", {})
        first = load("csv", {}, {"event_id": "e-9"}, {"quantity": "3"})
        load("csv", {})
        assert [rows for rows, *_ in waiting()] == [1]

        load("csv", path=repaired(first.rejects_path, {"event_id": "e-2"}))
        assert waiting() == []

    def test_left_out_of_the_repaired_file_still_wait(self, load, tmp_path):
        load("aws-cur", {}, {"usage_amount": "x"}, {"usage_amount": "y"})
        rows = listed(tmp_path / "rejects.csv")

        load(
            "aws-cur",
            path=write(tmp_path / "half.csv", [rows[1] | {"usage_amount": "2"}]),
        )

        assert [row.number for row in RejectedRow.objects.filter(again_in=None)] == [3]

    def test_are_set_aside_with_a_reason_once(self, load):
        batch = load("csv", {}, {"event_id": "e-2", "quantity": "NaN"}).batch
        why = {"batch_id": batch.pk, "reason": "A test row", "as_of": AS_OF}

        following_up.set_aside(**why, actor="ann@example.com")

        assert waiting() == []
        batch.refresh_from_db()
        assert (batch.set_aside_by, batch.set_aside_because) == ("ann@example.com", "A test row")
        decision = Decision.objects.get(act="SET_ASIDE_REJECTS")
        assert decision.actor == "ann@example.com"
        assert "1 rejected rows" in decision.because
        with pytest.raises(following_up.NothingToSetAside):
            following_up.set_aside(**why, actor="bob@example.com")

    def test_set_aside_stay_so_when_the_file_is_imported_again(self, load):
        rows = [{}, {"event_id": "e-2", "quantity": "NaN"}]
        batch = load("csv", *rows).batch
        following_up.set_aside(batch_id=batch.pk, reason="x", actor="ann", as_of=AS_OF)

        load("csv", *rows)
        assert waiting() == []

        load("csv", {"event_id": "other"}, {"event_id": "e-3", "quantity": "NaN"})
        assert len(waiting()) == 1

    def test_leave_nothing_of_a_file_that_is_refused(self, load):
        with pytest.raises(RowsRejected):
            load("csv", {}, {"event_id": "e-2", "quantity": "NaN"}, strict=True)

        assert not RejectedRow.objects.exists()

    @pytest.mark.parametrize("odd", ["\\", "\t", "a\nb", "\x00", "é" * 300])
    def test_are_kept_whatever_their_text(self, load, odd):
        load("csv", {}, {"event_id": f"e{odd}", "account": f"a{odd}", "quantity": "NaN"})

        kept = RejectedRow.objects.get()
        assert kept.account == f"a{odd}".replace("\x00", "").strip()[:200]


@pytest.mark.django_db
class TestALineWithoutAnEnd:
    @pytest.mark.parametrize(
        ("start", "piece"),
        [
            ("", "x"),
            (",".join(OUR_ROW) + "\ne-1,acme,", "9" * 50),
            (",".join(OUR_ROW) + "\ne-1,acme,", ","),
            (",".join(OUR_ROW) + "\ne-1,acme,", '"a\n",'),
        ],
    )
    def test_is_refused_before_it_takes_the_memory(self, load, tmp_path, start, piece):
        path = tmp_path / "endless.csv.gz"
        with gzip.open(path, "wt", compresslevel=1) as file:
            file.write(start)
            for _ in range(200):
                file.write(piece * ((1 << 19) // len(piece)))

        tracemalloc.start()
        with pytest.raises(FileRefused, match=r"line \d+.*(field|quote)") as refused:
            load("csv", path=path)
        _now, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert most < 60 << 20
        assert "Look for" in str(refused.value)

    def test_that_is_long_and_ends_is_read(self, load):
        load("csv", {"description": "x" * 100_000})

        assert UsageEvent.objects.count() == 1


@pytest.mark.concurrency
@pytest.mark.django_db(transaction=True)
class TestOnceWhateverHappens:
    @pytest.mark.parametrize("where", ["ensure_partitions", "add_events", "save"])
    def test_an_error_on_the_way_leaves_nothing(self, load, monkeypatch, where):
        owner = {
            "ensure_partitions": imports.partitions,
            "add_events": storing,
            "save": UsageBatch,
        }[where]

        def fail(*_, **__):
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(owner, where, fail)
            with pytest.raises(MemoryError):
                load("csv", {})

        assert not UsageBatch.objects.exists()
        assert not Account.objects.exists()
        assert not UsageEvent.objects.exists()
        with connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('pg_temp.usage_staging')")
            assert cursor.fetchone() == (None,)
        assert load("csv", {}).batch.rows_added == 1

    def test_an_interrupted_copy_leaves_nothing(self, load):
        def interrupt(_):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            load("csv", {}, watch=imports.Watch(on_bytes=interrupt))

        assert not UsageBatch.objects.exists()

    def test_a_batch_stored_just_before_a_crash_is_tallied_by_the_next(self, load, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(imports.tallying, "tally", lambda **_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                load("csv", {})
        assert UsageBatch.objects.get().tallied_at is None

        again = load("csv", {})

        assert (again.batch.rows_added, again.batches_tallied) == (0, 2)
        assert UsageSummary.objects.get().quantity == 2

    @pytest.mark.parametrize("form", ["csv", "aws-cur"])
    def test_two_that_import_the_same_file_at_once_store_each_event_once(
        self, load, tmp_path, form
    ):
        ids = {"event_id": "event_id", "account": "account"} if form == "csv" else {}
        rows = [
            TEMPLATES[form] | ({"event_id": f"e-{n}", "account": f"a-{n % 7}"} if ids else
                               {"resource_id": f"i-{n // 2}", "usage_account": f"a-{n % 7}"})
            for n in range(400)
        ]  # fmt: skip
        path = write(tmp_path / "same.csv", rows)
        outcomes, together = [], threading.Barrier(3)

        def run():
            together.wait()
            try:
                outcomes.append(load(form, path=path))
            finally:
                connection.close()

        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sorted(outcome.batch.rows_added for outcome in outcomes) == [0, 0, 400]
        assert UsageEvent.objects.count() == 400
        assert UsageSummary.objects.aggregate(n=Sum("events"))["n"] == 400
        assert not UsageBatch.objects.filter(tallied_at=None).exists()

    def test_rejected_rows_of_a_file_that_several_import_at_once_wait_once(self, load, tmp_path):
        rows = [OUR_ROW | {"event_id": f"e-{n}"} for n in range(50)]
        rows += [OUR_ROW | {"event_id": f"x-{n}", "quantity": "NaN"} for n in range(5)]
        path = write(tmp_path / "same.csv", rows)

        results = at_once(*[lambda: load("csv", path=path)] * 4)

        assert sorted(each.rejects_path.name for each in results) == [
            "rejects.2.csv", "rejects.3.csv", "rejects.4.csv", "rejects.csv",
        ]  # fmt: skip
        assert [rows for rows, *_ in waiting()] == [5]
        assert all(len(listed(each.rejects_path)) == 5 for each in results)


BOOK_ROW = {
    "product_code": "AmazonEC2", "usage_type": "BoxUsage:t2.micro", "operation": "RunInstances",
    "region": "us-east-1", "pricing_unit": "Hrs", "unit_rate": "0.0116", "line_type": "Usage",
    "pricing_term": "OnDemand", "first_seen": "2018-10-03T04:00:00Z",
}  # fmt: skip


class TestPriceBook:
    pytestmark = pytest.mark.django_db

    @pytest.fixture
    def book(self, tmp_path):
        def book(*changes, currency="USD"):
            path = write(tmp_path / "rates.csv", [BOOK_ROW | change for change in changes])
            return price_book.read(path=path, currency=currency)

        return book

    def test_a_price_holds_from_the_month_it_was_first_seen_in(self, book):
        stored = price_book.store(book({}))

        price = Price.objects.select_related("product").get()
        assert stored.added == 1
        assert price.product.code == "AmazonEC2"
        assert price.item == "BoxUsage:t2.micro · RunInstances · us-east-1"
        assert (price.unit, price.currency, price.unit_price) == ("Hrs", "USD", Decimal("0.0116"))
        assert price.starts_at == datetime(2018, 10, 1, tzinfo=UTC)

    def test_twice_is_once(self, book):
        price_book.store(book({}))

        again = price_book.store(book({}))

        assert (again.added, again.known, again.different) == (0, 1, 0)

    def test_a_stored_price_is_never_changed(self, book):
        price_book.store(book({}))

        again = price_book.store(book({"unit_rate": "0.02"}))

        assert (again.added, again.known, again.different) == (0, 0, 1)
        assert Price.objects.get().unit_price == Decimal("0.0116")

    def test_a_free_tier_keeps_the_paid_rate(self, book):
        read = book({"unit_rate": "0.0000000000"}, {})

        price_book.store(read)

        assert read.free_tiers == 1
        assert (Price.objects.get().unit_price, Price.objects.get().free_quantity) == (
            Decimal("0.0116"),
            0,
        )

    def test_what_is_only_free_costs_nothing(self, book):
        read = book({"unit_rate": "0"})

        assert [price.unit_price for price in read.prices] == ["0"]
        assert read.free_tiers == 0

    def test_of_several_rates_each_holds_from_its_month_and_the_later_of_a_month_wins(self, book):
        read = book(
            {"unit_rate": "3", "first_seen": "2018-11-02T00:00:00Z"},
            {"unit_rate": "2", "first_seen": "2018-10-20T00:00:00Z"},
            {"unit_rate": "1", "first_seen": "2018-10-02T00:00:00Z"},
        )

        assert [(price.unit_price, price.starts_at[:10]) for price in read.prices] == [
            ("2", "2018-10-01"),
            ("3", "2018-11-01"),
        ]

    def test_what_is_no_price_of_on_demand_usage_is_left_out_and_said(self, book):
        read = book(
            {"line_type": "DiscountedUsage", "pricing_term": "Reserved"},
            {"line_type": "RIFee"},
            {"pricing_term": "Reserved"},
            {"unit_rate": ""},
        )

        assert read.prices == []
        assert read.skipped == {
            "DiscountedUsage rows: no on-demand price": 1,
            "RIFee rows: no on-demand price": 1,
            "Reserved terms: no on-demand price": 1,
            "rows without a rate": 1,
        }

    def test_the_books_own_currency_goes_before_the_one_asked_for(self, book):
        read = book({"currency": "GBP"}, {"currency": "", "region": "x"}, currency="EUR")

        assert {price.priced.currency for price in read.prices} == {"GBP", "EUR"}

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"unit_rate": "free"}, "unit_rate 'free': is not a number"),
            ({"unit_rate": "-1"}, "unit_rate '-1': is negative"),
            ({"first_seen": "always"}, "first_seen 'always': is not a date"),
            ({"product_code": "x" * 201}, "is longer than 200 characters"),
            ({"region": "\x00"}, "NUL"),
        ],
    )
    def test_half_a_price_book_is_refused(self, book, change, says):
        with pytest.raises(FileRefused, match=says) as refused:
            book({}, change)

        assert "row 3" in str(refused.value)

    def test_a_file_that_is_no_price_book_is_refused(self, tmp_path):
        row = {name: field for name, field in BOOK_ROW.items() if name != "unit_rate"}
        path = write(tmp_path / "rates.csv", [row])

        with pytest.raises(FileRefused, match="is no price book: it lacks the column 'unit_rate'"):
            price_book.read(path=path, currency="USD")

    def test_is_imported_with_the_usage_or_not_at_all(self, book, load):
        loaded = load("aws-cur", {"unit_rate": "", "billed_cost": ""}, book=book({}))

        summary = UsageSummary.objects.get()
        assert loaded.prices.added == 1
        assert Price.objects.get(item=summary.item, unit=summary.unit, product=summary.product)
        with pytest.raises(RowsRejected):
            load("aws-cur", {"usage_amount": "x"}, book=book({"region": "elsewhere"}))
        assert Price.objects.count() == 1
