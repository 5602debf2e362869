"""`manage.py check_books`: what people and programs read, and the exit code scripts go by."""

import json
from datetime import datetime

import pytest
from django.core.management import CommandError, call_command

from billing import books
from billing.books import promises
from billing.models import NumberSeries
from tests.factories import EntityFactory

pytestmark = pytest.mark.django_db(transaction=True)

ALL = len(promises())
SERIES = "book_invoice_number_series_is_current"


def check_books(capsys, *arguments: str) -> tuple[int, str]:
    """Its exit code, and what it says on standard output."""
    try:
        call_command("check_books", *arguments)
    except SystemExit as end:
        return int(end.code or 0), capsys.readouterr().out
    return 0, capsys.readouterr().out


def break_series(times: int = 1) -> None:
    for number in range(times):
        entity = EntityFactory(slug=f"e{number}", invoice_prefix=f"E{number}")
        NumberSeries.objects.create(entity=entity, next_number=5)


class TestForPeople:
    def test_all_hold(self, capsys):
        assert check_books(capsys) == (0, f"check_books: all {ALL} checks hold\n")

    def test_a_broken_promise_says_what_was_promised_what_to_do_and_which_rows(self, capsys):
        break_series()

        code, said = check_books(capsys)

        [promise] = promises([SERIES])
        assert code == 1
        assert said.splitlines()[:4] == [
            f"{SERIES}: 1 broken",
            f"  Promised: {promise.sentence}",
            f"  Broken: {promise.advice}",
            "    entity id  next number  last sequence",
        ]
        assert said.endswith(f"\ncheck_books: 1 of {ALL} checks are violated\n")

    def test_of_many_rows_the_first_ten_are_shown(self, capsys):
        break_series(times=12)

        _, said = check_books(capsys)

        assert said.count("5              0") == 10
        assert "    … and 2 more\n" in said

    def test_progress_goes_to_standard_error(self, capsys):
        call_command("check_books")

        assert f"{ALL} checks" in capsys.readouterr().err


class TestForPrograms:
    def test_all_hold(self, capsys):
        code, said = check_books(capsys, "--json")

        answer = json.loads(said)
        assert code == 0
        assert datetime.fromisoformat(answer.pop("as_of")).tzinfo is not None
        assert answer == {"checks": ALL, "violated": 0, "violations": []}

    def test_one_document_also_when_something_is_broken(self, capsys):
        break_series()

        code, said = check_books(capsys, "--json")

        [violation] = json.loads(said)["violations"]
        assert code == 1
        assert violation["check"] == SERIES
        assert violation["promise"] == promises([SERIES])[0].sentence
        assert violation["count"] == 1
        assert violation["rows"][0]["next_number"] == 5


class TestOnly:
    def test_looks_at_these(self, capsys):
        break_series()

        said = check_books(
            capsys, "--only", "book_ledger_sums_to_zero", "--only", "book_hold_one_open_per_reason"
        )

        assert said == (0, "check_books: all 2 checks hold\n")

    def test_of_an_unknown_name_cannot_be_told(self):
        with pytest.raises(CommandError, match="no check 'nope'") as error:
            call_command("check_books", "--only", "nope")

        assert error.value.returncode == 2


def test_a_book_that_cannot_be_read_is_not_a_broken_promise(monkeypatch):
    def unreadable(**_: object) -> None:
        raise books.BookUnreadable("the book of sandbox cannot be read")

    monkeypatch.setattr(books, "check", unreadable)

    with pytest.raises(CommandError) as error:
        call_command("check_books")

    assert error.value.returncode == 2
