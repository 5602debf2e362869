"""The made-up provider and its meddling, small: the same every time, and the books hold afterwards."""

import os

import pytest
from django.utils import timezone

from accounts.models import Account, BillingEntity, PaymentMethod
from billing import books
from billing.close import pipeline, runs
from billing.close.engine import runner
from billing.demo import charging, meddling, provider
from billing.gateways.standins.fakestripe import shared
from billing.models import CreditGrant, LeastAmount, Payment, PaymentAttempt
from billing.usage import imports
from tests.factories import AccountFactory

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def customers(monkeypatch, stripe):
    monkeypatch.setattr(provider, "ACCOUNTS", 60)
    provider.clear()
    holders = charging.chosen(provider.build())
    # Enough of each kind for every deed.
    decline = [(account, charging.DECLINES) for account, _ in holders[-4:]]
    charging.save([*holders[:-4], *decline])


def work(kind: str) -> None:
    while runner.work_once(pipeline.BY_KIND[kind], as_of=timezone.now()):
        pass


class TestTheDemo:
    def test_ends_with_books_that_hold_whatever_happens_meanwhile(self, customers, tmp_path):
        usage = tmp_path / "usage.csv"
        rows = provider.write_usage(usage)
        imported = imports.import_usage(
            path=usage,
            form=imports.FORMATS["csv"],
            as_of=timezone.now(),
            rejects_path=tmp_path / "rejects.csv",
            strict=True,
        )
        assert imported.batch.rows_added == rows

        run, _ = runs.start(
            entity=BillingEntity.objects.get(),
            month=provider.MONTH,
            started_by="test",
            as_of=timezone.now(),
        )
        deeds = meddling.plan(run)
        assert meddling.meddle(run, deeds, as_of=timezone.now()) == 0
        work("INVOICE")
        assert meddling.meddle(run, deeds, as_of=timezone.now()) > 0
        for kind in ("CHARGE", "EMAIL", "HOLD"):
            work(kind)

        assert deeds == []
        assert Payment.objects.filter(gateway="manual").exists()
        assert PaymentAttempt.objects.filter(kind="ON_SESSION").exists()
        assert CreditGrant.objects.filter(kind="GOODWILL").exists()
        assert PaymentMethod.objects.filter(state="REMOVED").exists()
        assert books.check(as_of=timezone.now()) == []

    def test_a_deed_that_comes_too_late_does_nothing(self, customers):
        account = Account.objects.first()
        deeds = [meddling.Deed(account, does) for does in meddling.DEEDS]

        for deed in deeds:
            deed.does(account, timezone.now())

        assert not Payment.objects.exists()
        assert not CreditGrant.objects.exists()

    def test_is_the_same_every_time(self, customers, tmp_path):
        provider.write_usage(tmp_path / "once.csv")
        provider.write_usage(tmp_path / "twice.csv")

        assert (tmp_path / "once.csv").read_bytes() == (tmp_path / "twice.csv").read_bytes()

    def test_its_provider_is_ready_for_whoever_comes_next(self, settings, tmp_path):
        settings.PROVIDER_DIR = tmp_path / "provider"

        environment = charging.set_up()
        charging.trouble()
        charging.tell("http://127.0.0.1:1/webhooks/stripe/")

        assert shared.access(settings.PROVIDER_DIR).url == environment["STRIPE_API_BASE"]
        assert environment["STRIPE_SECRET_KEY"] == settings.STRIPE_SECRET_KEY
        assert (environment["GATEWAYS"], environment["TRIAL"]) == ("stripe", "true")
        assert (settings.GATEWAYS, settings.TRIAL) == (["stripe"], True)
        os.close(shared._used.pop(settings.PROVIDER_DIR))
        assert shared._started.pop().wait(10) == 0

    def test_keeps_the_least_amounts_that_a_migration_wrote(self):
        before = set(LeastAmount.objects.values_list("currency", "amount_minor"))
        assert ("EUR", 50) in before

        provider.clear()

        assert set(LeastAmount.objects.values_list("currency", "amount_minor")) == before

    def test_deletes_nobody_elses_accounts(self):
        AccountFactory(external_id="a-real-customer")

        with pytest.raises(provider.NotADemoDatabase, match="1 accounts that are not the demo's"):
            provider.clear()

        assert Account.objects.count() == 1
