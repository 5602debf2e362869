import csv
import gzip
import io
import json
import sys

import pytest
from django.core.management import CommandError, call_command

from billing.models import Price, UsageBatch, UsageEvent, UsageSummary
from tests.billing.test_imports import BOOK_ROW, CUR_ROW, OUR_ROW, write
from tests.factories import EntityFactory

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch, db):
    monkeypatch.chdir(tmp_path)
    EntityFactory()


def import_usage(*arguments, ends_with=0):
    out = io.StringIO()
    if not ends_with:
        call_command("import_usage", *map(str, arguments), stdout=out)
        return out.getvalue()
    with pytest.raises(SystemExit) as ended:
        call_command("import_usage", *map(str, arguments), stdout=out)
    assert ended.value.code == ends_with
    return out.getvalue()


def test_says_what_was_added_and_the_second_time_that_nothing_was(tmp_path):
    path = write(tmp_path / "usage.csv", [OUR_ROW, OUR_ROW | {"event_id": "e-2"}])

    first = import_usage(path, "--format", "csv")
    second = import_usage(path, "--format", "csv")

    assert "2 added, 0 known already, 0 rejected." in first
    assert "New accounts: 1. New products: 1." in first
    assert "0 added, 2 known already, 0 rejected." in second
    assert UsageSummary.objects.get().events == 2


def test_json_is_one_document_and_nothing_else(tmp_path, capsys):
    path = write(tmp_path / "usage.csv", [OUR_ROW])

    call_command("import_usage", str(path), "--format", "csv", "--json", stdout=sys.stdout)

    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document.pop("seconds") >= 0
    assert document == {
        "file": "usage.csv",
        "format": "csv",
        "sha256": document["sha256"],
        "batch": UsageBatch.objects.get().pk,
        "rows_read": 1,
        "rows_added": 1,
        "rows_known": 0,
        "rows_rejected": 0,
        "rejects_file": None,
        "rejected": None,
        "rows_repaired": 0,
        "accounts_added": 1,
        "products_added": 1,
        "batches_tallied": 1,
        "prices": None,
    }
    assert "Done: 100 %" in captured.err


def test_good_rows_are_imported_and_bad_ones_listed_beside_them(tmp_path):
    path = write(tmp_path / "usage.csv", [OUR_ROW, OUR_ROW | {"quantity": "NaN"}])

    out = import_usage(path, "--format", "csv", ends_with=3)

    assert "1 added, 0 known already, 1 rejected." in out
    assert "It is not done: 1 row names no amount that can be read. Repair" in out
    assert "are in usage.csv.rejects.csv." in out
    with (tmp_path / "usage.csv.rejects.csv").open(newline="") as file:
        header, row = csv.reader(file)
    assert header == ["row", "field", "value", "problem", "how_to_fix", "of_import", *OUR_ROW]
    assert row[:4] == ["3", "quantity", "NaN", "is not a number"]
    assert row[4].startswith("Write digits with a decimal point")
    assert row[5] == str(UsageBatch.objects.get().pk)
    assert row[6:] == list((OUR_ROW | {"quantity": "NaN"}).values())


def test_a_file_with_rejected_rows_is_not_done_until_they_came_repaired(tmp_path):
    rows = [OUR_ROW | {"amount": ""}, OUR_ROW | {"event_id": "e-2", "quantity": "?", "amount": "7"}]
    path = write(tmp_path / "usage.csv", rows)

    document = json.loads(import_usage(path, "--format", "csv", "--json", ends_with=3))
    named = document["rejected"]
    again = import_usage(path, "--format", "csv", ends_with=3)
    rejects = tmp_path / document["rejects_file"]
    rejects.write_text(rejects.read_text().replace("acme,server,?", "acme,server,1"))
    done = import_usage(rejects, "--format", "csv")

    assert named["money"] == [{"currency": "EUR", "amount": "7.00"}]
    assert (named["rows"], named["rows_without_amount"]) == (1, 0)
    assert "It is not done: 1 row names EUR 7.00." in again
    assert "Of rows that earlier imports rejected, 1 came again in it." in done


def test_the_rejects_can_be_listed_elsewhere(tmp_path):
    path = write(tmp_path / "usage.csv", [OUR_ROW, OUR_ROW | {"quantity": "NaN"}])

    document = json.loads(
        import_usage(
            path, "--format", "csv", "--json", "--rejects", tmp_path / "bad.csv", ends_with=3
        )
    )

    assert document["rejects_file"] == str(tmp_path / "bad.csv")
    assert (tmp_path / "bad.csv").exists()


def test_strict_imports_nothing_of_a_file_with_a_bad_row(tmp_path):
    path = write(tmp_path / "usage.csv", [OUR_ROW, OUR_ROW | {"quantity": "NaN"}])

    with pytest.raises(CommandError, match="1 of 2 rows"):
        import_usage(path, "--format", "csv", "--strict")

    assert not UsageEvent.objects.exists()


@pytest.mark.parametrize("name", ["nowhere.csv", "."])
def test_a_file_that_cannot_be_opened_is_an_error_of_the_command(name):
    with pytest.raises(CommandError, match="cannot be opened"):
        import_usage(name, "--format", "csv")


def test_an_unknown_format_is_an_error_that_names_the_known_ones(tmp_path):
    with pytest.raises(CommandError, match="aws-cur"):
        import_usage(tmp_path, "--format", "xml")


class TestWithAPriceBook:
    @pytest.fixture
    def usage(self, tmp_path):
        path = write(tmp_path / "usage.csv", [CUR_ROW])
        path.write_bytes(gzip.compress(path.read_bytes()))
        return path

    def test_says_what_became_a_price_and_what_did_not(self, tmp_path, usage):
        rates = [BOOK_ROW, BOOK_ROW | {"unit_rate": "0"}, BOOK_ROW | {"line_type": "RIFee"}]
        book = write(tmp_path / "rates.csv", rates)

        out = import_usage(usage, "--format", "aws-cur", "--price-book", book, "--currency", "EUR")

        assert "Prices: 1 added, 0 known already." in out
        assert "Free tiers whose size the book does not state: 1" in out
        assert "Left out: 1 RIFee rows: no on-demand price." in out
        assert Price.objects.get().currency == "EUR"

    def test_says_which_prices_were_stored_otherwise_before(self, tmp_path, usage):
        book = write(tmp_path / "rates.csv", [BOOK_ROW])
        import_usage(usage, "--format", "aws-cur", "--price-book", book)
        book = write(tmp_path / "rates.csv", [BOOK_ROW | {"unit_rate": "5"}])

        human = import_usage(usage, "--format", "aws-cur", "--price-book", book)
        document = json.loads(
            import_usage(usage, "--format", "aws-cur", "--price-book", book, "--json")
        )

        assert "Prices that differ from those stored before, which stay: 1" in human
        assert document["prices"] == {
            "added": 0,
            "known": 0,
            "different": 1,
            "free_tiers": 0,
            "skipped": {},
        }

    def test_a_book_that_cannot_be_read_keeps_the_usage_out(self, tmp_path, usage):
        book = write(tmp_path / "rates.csv", [BOOK_ROW | {"unit_rate": "?"}])

        with pytest.raises(CommandError, match=r"rates.csv, row 2: unit_rate '\?'"):
            import_usage(usage, "--format", "aws-cur", "--price-book", book)

        assert not UsageBatch.objects.exists()
