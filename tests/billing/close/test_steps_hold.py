"""The hold step: who is overdue and has nothing on its way is held; nobody else."""

from datetime import date, timedelta

import pytest

from accounts.models import BillingEntity, Hold
from billing.close import pipeline
from billing.close.engine import runner
from billing.models import PaymentAttempt
from tests.billing.close.test_steps_charge import collect_and_review
from tests.closing import decision_on, finish, start_close, work, work_once
from tests.factories import AS_OF, PeriodFactory, SummaryFactory, account_using

pytestmark = pytest.mark.django_db(transaction=True)


def declined(amount: str = "12.00"):
    account = account_using(amount, card="sandbox_declined")
    start_close()
    work("INVOICE", "CHARGE")
    return account


class TestHold:
    def test_is_placed_on_who_is_overdue_with_a_decision_that_names_it(self):
        account = declined()

        work_once("HOLD")

        hold = Hold.objects.get(account=account)
        decision = decision_on(account, "HOLD")
        assert (decision.did, decision.because, decision.hold) == (
            "DONE",
            "overdue and not paid",
            hold,
        )
        assert decision.saw["overdue_minor"] == 1200

    def test_is_not_placed_where_nothing_is_due(self):
        account = account_using("12.00")
        start_close()
        work("INVOICE", "CHARGE", "HOLD")

        decision = decision_on(account, "HOLD")
        assert (decision.because, decision.world_changed) == ("nothing is due", False)

    def test_is_not_placed_twice(self):
        account = declined()
        Hold.objects.create(account=account, reason="OVERDUE", placed_at=AS_OF)

        work_once("HOLD")

        assert decision_on(account, "HOLD").because == "already held"
        assert Hold.objects.count() == 1

    def test_does_not_wait_for_the_due_date_and_the_run_ends(self):
        account = account_using("12.00", card="sandbox_declined")
        BillingEntity.objects.update(payment_terms_days=14)

        run = finish(start_close())

        assert run.is_finished
        decision = decision_on(account, "HOLD")
        assert (decision.did, decision.because) == ("SKIPPED", "not due until 2018-11-16")

    def test_does_not_wait_for_a_warning_either(self):
        account = declined()
        BillingEntity.objects.update(grace_days=7)

        work_once("HOLD")

        decision = decision_on(account, "HOLD")
        assert (decision.did, decision.because) == (
            "SKIPPED",
            "overdue: a warning comes before the hold",
        )

    def test_is_not_placed_for_less_than_is_asked_for_whatever_card_there_is(self):
        accounts = [account_using("0.49", card=card) for card in (None, "sandbox_declined")]
        start_close()

        work("INVOICE", "CHARGE", "HOLD")

        assert not Hold.objects.exists()
        for account in accounts:
            assert decision_on(account, "HOLD").because == (
                "less is due than is asked for: carried to the next invoice"
            )
        assert not PaymentAttempt.objects.exists()

    def test_of_a_month_is_not_placed_for_the_next_months_invoice_before_its_charge(self):
        account = account_using("12.00")
        start_close()
        work("INVOICE", "CHARGE")
        SummaryFactory(
            account=account, period=PeriodFactory(account=account, month=date(2018, 11, 1))
        )
        later = AS_OF + timedelta(days=30)
        start_close(date(2018, 11, 1), as_of=later)
        work("INVOICE", as_of=later)

        runner.work_once(pipeline.BY_KIND["HOLD"], as_of=later)

        assert not Hold.objects.exists()
        assert decision_on(account, "HOLD").because == "nothing is overdue yet"

    def test_is_not_placed_while_a_person_reviews_a_payment(self):
        account = declined()
        collect_and_review(account)

        work_once("HOLD")

        decision = decision_on(account, "HOLD")
        assert (decision.did, decision.because) == ("SKIPPED", "a payment is in review")
        assert not Hold.objects.exists()
