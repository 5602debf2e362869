"""The views follow their files, and never stand in a migration's way."""

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from billing import money
from billing.books import promises, schema

pytestmark = pytest.mark.django_db


def execute(query: str) -> list[tuple]:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall() if cursor.description else []


class TestBeforeMigrating:
    def test_they_are_dropped(self):
        schema.drop_before_migrating(using="default", plan=["a migration"])

        assert schema.standing(connection) == set()

    def test_they_stay_where_nothing_is_to_migrate(self):
        before = schema.standing(connection)

        schema.drop_before_migrating(using="default", plan=[])

        assert schema.standing(connection) == before

    def test_a_column_they_read_may_change_then(self):
        schema.drop_before_migrating(using="default", plan=["a migration"])

        execute("ALTER TABLE billing_posting ALTER COLUMN amount_minor TYPE numeric")


class TestAfterMigrating:
    def test_they_are_what_the_files_say_and_no_more(self):
        before = schema.standing(connection)
        execute("CREATE VIEW book_without_a_file AS SELECT 1 AS one")

        schema.create_after_migrating(using="default", plan=[])

        assert schema.standing(connection) == before
        assert {promise.name for promise in promises()} < before

    def test_from_nothing_to_all(self):
        schema.drop_before_migrating(using="default", plan=["a migration"])

        schema.create_after_migrating(using="default", plan=[])
        schema.create_after_migrating(using="default", plan=[])

        assert {promise.name for promise in promises()} < schema.standing(connection)

    def test_none_is_made_on_a_schema_that_is_not_the_newest(self, monkeypatch):
        schema.drop_before_migrating(using="default", plan=["a migration"])
        monkeypatch.setattr(MigrationExecutor, "migration_plan", lambda *_: ["one to go"])

        schema.create_after_migrating(using="default", plan=["a migration"])

        assert schema.standing(connection) == set()

    def test_a_flush_changes_nothing(self):
        schema.drop_before_migrating(using="default", plan=["a migration"])

        schema.create_after_migrating(using="default")

        assert schema.standing(connection) == set()


class TestTheViews:
    def test_carry_their_promise_as_a_comment(self):
        [promise] = promises(["book_ledger_sums_to_zero"])

        said = execute("SELECT obj_description('book_ledger_sums_to_zero'::regclass)")

        assert said == [(promise.sentence,)]

    def test_have_the_minor_units_of_money(self):
        units = dict(execute("SELECT * FROM books_minor_units"))

        assert units == {code: 10 ** money.exponent(code) for code in money.EXPONENTS}
