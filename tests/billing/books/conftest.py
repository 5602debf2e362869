"""Healthy books, committed once for a module, for its tests to break and roll back."""

import shutil

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import override_settings

from tests.billing.books.healthy import Month
from tests.factories import EntityFactory


@pytest.fixture(scope="module")
def committed_month(django_db_setup, django_db_blocker, tmp_path_factory):
    """The books, and the file in which the sandbox keeps its own."""
    book = tmp_path_factory.mktemp("healthy") / "sandbox-book.sqlite3"
    with django_db_blocker.unblock():
        with override_settings(SANDBOX_BOOK=book, SANDBOX_SLOW_SECONDS=0):
            month = Month().build()
        yield month, book
        call_command("flush", verbosity=0, interactive=False)
        EntityFactory()


@pytest.fixture
def month(committed_month, db, settings) -> Month:
    """The healthy books as the test's own, at the instant they were left."""
    month, book = committed_month
    shutil.copy(book, settings.SANDBOX_BOOK)
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('books.as_of', %s, true)", [month.now.isoformat()])
    return month
