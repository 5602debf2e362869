"""The invoice step: one invoice for each who used something, and what the charge is to expect."""

from decimal import Decimal

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_q.models import OrmQ

from billing.close.engine import runner
from billing.models import Invoice, Step, UsageSummary
from tests.billing.builders import grant
from tests.closing import decision_on, start_close, step_of, work, work_once
from tests.factories import AccountFactory, EntityFactory, SummaryFactory, account_using

pytestmark = pytest.mark.django_db(transaction=True)


class TestInvoice:
    def test_is_issued_and_the_charge_expects_what_is_due_of_it(self):
        account = account_using("12.00")
        without_card = account_using("5.00", card=None)
        start_close()
        work("INVOICE")

        invoice = Invoice.objects.get(account=account)
        decision = decision_on(account, "INVOICE")
        assert (decision.did, decision.because) == ("DONE", f"issued {invoice.number}")
        assert decision.saw["total_minor"] == 1200
        expected = step_of(account, "CHARGE").expected
        assert (expected["due_minor"], expected["has_card"]) == (1200, True)
        assert expected["invoice"] == step_of(account, "EMAIL").expected["invoice"] == invoice.pk
        assert not step_of(without_card, "CHARGE").expected["has_card"]

    def test_uses_credit_first_and_the_charge_expects_the_rest(self):
        account = account_using("12.00")
        grant(account, 500)
        start_close()
        work("INVOICE")

        assert decision_on(account, "INVOICE").saw["total_minor"] == 1200
        assert step_of(account, "CHARGE").expected["due_minor"] == 700

    def test_of_who_used_nothing_is_none_but_old_debt_is_charged(self):
        account = AccountFactory()
        start_close()
        work("INVOICE")

        assert decision_on(account, "INVOICE").because == "no usage to bill"
        assert step_of(account, "CHARGE").state == "READY"

    def test_without_a_price_is_blocked_and_says_which(self):
        account = AccountFactory()
        SummaryFactory(account=account, unit_price=None, item="huge")
        start_close()
        work("INVOICE")

        step = step_of(account, "INVOICE")
        assert step.state == "BLOCKED"
        assert "no price for server 'huge' per 'hour' in EUR in 2018-10" in step.because


class TestPoison:
    def test_accounts_are_found_listed_and_stop_nobody_else(self, monkeypatch):
        """Usage beyond what a column of money holds: the database itself refuses it."""
        monkeypatch.setattr(runner, "ATTEMPTS_MAX", 1)
        sound = [account_using("12.00") for _ in range(37)]
        poisoned = [account_using("12.00") for _ in range(3)]
        UsageSummary.objects.filter(account__in=poisoned).update(quantity=Decimal(10) ** 20)
        run = start_close()

        work("INVOICE")

        assert set(Invoice.objects.values_list("account", flat=True)) == {a.pk for a in sound}
        listed = Step.objects.filter(run=run, kind="INVOICE", state="DEAD")
        assert {step.account_id for step in listed} == {account.pk for account in poisoned}
        assert all(step.last_error and step.because for step in listed)
        numbers = Invoice.objects.order_by("sequence").values_list("sequence", flat=True)
        assert list(numbers) == list(range(numbers[0], numbers[0] + len(sound)))


def test_asks_the_database_as_often_for_many_accounts_as_for_a_few():
    asked = []
    for slug, accounts in (("few", 2), ("many", 9)):
        entity = EntityFactory(slug=slug, invoice_prefix=slug)
        for _ in range(accounts):
            account_using("12.34", entity=entity)
        start_close(entity=entity)
        OrmQ.objects.all().delete()
        with CaptureQueriesContext(connection) as queries:
            assert work_once("INVOICE") == accounts
        asked.append(len(queries))

    assert asked[0] == asked[1]
