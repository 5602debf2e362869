"""The rehearsal writes nothing, and says to the cent what the close then does."""

from decimal import Decimal

import pytest
from django.db import OperationalError, connection

from billing.close import rehearsal
from billing.close.steps import invoice
from billing.models import UsageBatch
from billing.models.usage import Kind
from tests.billing.builders import grant
from tests.closing import finish, start_close, step_of
from tests.emptying import KEPT, TABLES
from tests.factories import (
    AS_OF,
    OCTOBER,
    AccountFactory,
    EntityFactory,
    PriceFactory,
    SummaryFactory,
    account_using,
)

pytestmark = pytest.mark.django_db(transaction=True)


def rehearse(**facts: object) -> dict:
    return rehearsal.rehearse(entity=EntityFactory(), month=OCTOBER, as_of=AS_OF, **facts)


def rows_of_every_table() -> dict[str, tuple]:
    """How many rows, which was inserted or changed last, and by which transaction."""
    with connection.cursor() as cursor:
        cursor.execute(TABLES, [list(KEPT)])
        tables = [name for (name,) in cursor.fetchall()]
        seen = {}
        for table in tables:
            cursor.execute(
                f"SELECT count(*), max(xmin::text::bigint), max(ctid::text) FROM {table}"
            )
            seen[table] = cursor.fetchone()
    return seen


class TestRehearse:
    def test_says_what_the_close_then_invoices_and_writes_nothing(self):
        account_using("12.34")
        account_using("3.00", card=None)
        account_using("0.50", state="CLOSED")
        account_using("900", currency="JPY")
        PriceFactory(unit_price=Decimal("0.333"), monthly_fee=Decimal(5), free_quantity=3)
        SummaryFactory(account=AccountFactory(), unit_price=None, item="catalogued")
        grant(account_using("8.00"), 250)
        SummaryFactory(
            account=AccountFactory(),
            kind=Kind.CREDIT,
            unit_price=None,
            quantity=1,
            amount=Decimal(-7),
        )
        AccountFactory(state="CLOSED")
        unpriced = AccountFactory()
        SummaryFactory(account=unpriced, unit_price=None, unit="parsec")
        before = rows_of_every_table()

        told = rehearse()

        assert rows_of_every_table() == before
        run = finish(start_close())
        assert told["currencies"] == [
            {
                "currency": "EUR",
                "invoices": 6,
                "invoiced": "54.14",
                "due": "58.64",
                "due_with_card": "18.34",
            },
            {
                "currency": "JPY",
                "invoices": 1,
                "invoiced": "900",
                "due": "900",
                "due_with_card": "900",
            },
        ]
        for said, done in zip(told["currencies"], run.report["currencies"], strict=True):
            assert (said["invoices"], said["invoiced"]) == (done["invoices"], done["invoiced"])
        assert told["accounts"] == run.steps.filter(kind="INVOICE").count() == 8
        assert told["blocked"] == [
            {"account": unpriced.external_id, "because": step_of(unpriced, "INVOICE").because}
        ]

    def test_after_the_close_finds_everything_invoiced_already(self):
        account_using("12.34", card="sandbox_declined")
        finish(start_close())

        [told] = rehearse()["currencies"]

        assert (told["invoices"], told["invoiced"], told["due"]) == (0, "0.00", "12.34")

    def test_lists_the_account_it_fails_on_with_the_others_around_it(self, monkeypatch):
        monkeypatch.setattr(invoice, "batch", 4)
        accounts = [account_using("1.00") for _ in range(7)]
        real = invoice.perform

        def perform(chunk):
            if accounts[2].pk in chunk.accounts:
                raise LookupError("a defect")
            return real(chunk)

        monkeypatch.setattr(invoice, "perform", perform)
        advanced = []

        told = rehearse(on_progress=advanced.append)

        assert told["blocked"] == [
            {"account": accounts[2].external_id, "because": "LookupError: a defect"}
        ]
        assert told["currencies"][0]["invoices"] == 6
        assert advanced == [4, 3]

    def test_takes_trouble_of_the_database_for_what_it_is(self, monkeypatch):
        account_using("1.00")

        def away(_chunk):
            raise OperationalError("connection refused")

        monkeypatch.setattr(invoice, "perform", away)

        with pytest.raises(OperationalError):
            rehearse()

    def test_says_how_much_usage_is_not_in_it(self):
        UsageBatch.objects.create(source="csv", name="late.csv", sha256="0" * 64)

        assert rehearse()["untallied_batches"] == 1
