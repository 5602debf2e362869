"""Healthy books, committed once for a module, for its tests to break and roll back."""

import shutil

import pytest
from django.db import connection
from django.test import override_settings

from accounts.models import BillingEntity
from tests.billing.books.healthy import Month


@pytest.fixture(scope="module")
def committed_month(django_db_setup, django_db_blocker, tmp_path_factory):
    """The books, and the file in which the sandbox keeps its own."""
    book = tmp_path_factory.mktemp("healthy") / "sandbox-book.sqlite3"
    with django_db_blocker.unblock():
        empty = empty_tables()
        entities = set(BillingEntity.objects.values_list("pk", flat=True))
        try:
            with override_settings(SANDBOX_BOOK=book, SANDBOX_SLOW_SECONDS=0):
                month = Month().build()
            yield month, book
        finally:
            # Not a flush: what migrations have written is for the tests that follow.
            with connection.cursor() as cursor:
                cursor.execute(f"TRUNCATE {', '.join(empty)}")
            BillingEntity.objects.exclude(pk__in=entities).delete()


def empty_tables() -> list[str]:
    with connection.cursor() as cursor:
        names = connection.introspection.django_table_names(only_existing=True)
        return [name for name in names if not has_rows(name, cursor)]


def has_rows(table: str, cursor) -> bool:
    cursor.execute(f'SELECT EXISTS (SELECT 1 FROM "{table}")')
    return cursor.fetchone()[0]


@pytest.fixture
def month(committed_month, db, settings) -> Month:
    """The healthy books as the test's own, at the instant they were left."""
    month, book = committed_month
    shutil.copy(book, settings.SANDBOX_BOOK)
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('books.as_of', %s, true)", [month.now.isoformat()])
    return month
