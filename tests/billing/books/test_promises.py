"""Every promise holds for healthy books, and notices the one thing that breaks it."""

import sqlite3
from contextlib import closing

import pytest
from django.conf import settings
from django.db import connection

from billing.books import UnknownPromise, promises
from billing.books.checking import find
from billing.books.promises import Promise
from tests.billing.books import page
from tests.billing.books.breaks import BREAKS, OTHER_WAYS, Break


def do(harm: Break) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        if harm.ours:
            cursor.execute(harm.ours)
    with closing(sqlite3.connect(settings.SANDBOX_BOOK)) as book, book:
        book.executescript(harm.providers)


def of_rows() -> list[Promise]:
    """Those that say what must never be; what must not last is broken in tests/billing/test_waiting.py."""
    return [promise for promise in promises() if not promise.name.startswith("book_wait_")]


def broken(chosen: list[Promise]) -> set[str]:
    return {finding.promise.name.removeprefix("book_") for finding in find(chosen)}


class TestHealthyBooks:
    def test_keep_every_promise(self, month):
        assert broken(promises()) == set()


class TestEveryPromise:
    @pytest.mark.parametrize("name", BREAKS)
    def test_notices_what_breaks_it(self, month, name):
        do(BREAKS[name])

        assert broken(of_rows()) == {name} | BREAKS[name].also

    @pytest.mark.parametrize(("name", "harm"), OTHER_WAYS)
    def test_notices_what_breaks_it_the_other_way_round(self, month, name, harm):
        do(harm)

        assert broken(of_rows()) == {name}

    def test_has_a_way_to_break_it_here(self):
        assert {f"book_{name}" for name in BREAKS} == {promise.name for promise in of_rows()}

    @pytest.mark.parametrize("promise", promises(), ids=lambda promise: promise.name)
    def test_is_a_sentence_with_advice(self, promise):
        assert promise.sentence.endswith(".")
        assert promise.advice.endswith((".", "?"))
        assert len(promise.name) <= 63, "PostgreSQL would cut it off"

    def test_stands_in_the_docs(self):
        """To write the table anew: `manage.py shell -c "from tests.billing.books.page import write; write()"`."""
        assert page.table() in page.PATH.read_text(encoding="utf-8")

    def test_of_an_unknown_name_is_refused(self):
        with pytest.raises(UnknownPromise, match="no check 'book_of_kells'"):
            promises(["book_of_kells"])
