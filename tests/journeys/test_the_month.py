"""A month, closed in one process: what each kind of customer finds afterwards."""

import pytest

from accounts.models import BillingEntity, Hold
from billing.close import pipeline, runner, runs
from billing.models import CloseRun, Decision, Invoice, Payment, PaymentAttempt, Step
from notifications.models import Message
from tests.factories import AS_OF, OCTOBER, AccountFactory, account_using

pytestmark = pytest.mark.django_db(transaction=True)


def start_close() -> CloseRun:
    run, _ = runs.start(
        entity=BillingEntity.objects.get(), month=OCTOBER, started_by="test", as_of=AS_OF
    )
    return run


def work(*kinds: str) -> None:
    """Work on these kinds of step until none is ready."""
    while any(runner.work_once(pipeline.BY_KIND[kind], as_of=AS_OF) for kind in kinds):
        pass


def finish(run: CloseRun) -> CloseRun:
    work("INVOICE", "CHARGE", "EMAIL", "HOLD")
    runs.release_report(run.pk)
    work("REPORT")
    run.refresh_from_db()
    return run


class TestTheMonth:
    def test_an_account_that_pays_owes_nothing_afterwards(self):
        account = account_using("12.34")

        run = finish(start_close())

        assert run.is_finished
        assert Payment.objects.get(account=account).amount_minor == 1234
        assert Invoice.objects.get(account=account).settled_at is not None
        assert [c["collected"] for c in run.report["currencies"]] == ["12.34"]

    def test_an_account_whose_card_declines_is_held_and_told(self):
        account = account_using("12.34", card="sandbox_insufficient")

        finish(start_close())

        assert PaymentAttempt.objects.get().state == "FAILED"
        assert Hold.objects.get(account=account).lifted_at is None
        assert set(Message.objects.values_list("kind", flat=True)) == {
            "INVOICE",
            "PAYMENT_FAILED",
            "HOLD_PLACED",
        }

    def test_an_account_without_usage_gets_no_invoice(self):
        AccountFactory()

        finish(start_close())

        assert not Invoice.objects.exists()
        assert set(Step.objects.exclude(kind="REPORT").values_list("state", flat=True)) == {"SKIPPED"}
        assert Decision.objects.count() == 4
