"""The hold step: who is overdue and has nothing on its way is held; nobody else."""

from datetime import timedelta

import pytest

from accounts.models import BillingEntity, Hold
from billing.models import Decision
from tests.billing.builders import pay_by_hand
from tests.billing.close.test_steps_charge import collect_and_review
from tests.closing import decision_on, start_close, step_of, work, work_once
from tests.factories import AS_OF, EntityFactory, account_using

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

    def test_waits_for_the_due_date_and_then_looks_again(self):
        EntityFactory()
        BillingEntity.objects.update(payment_terms_days=14)
        account = declined()
        due_at = AS_OF + timedelta(days=14)

        work_once("HOLD")
        step = step_of(account, "HOLD")
        assert (step.state, step.because, step.run_at) == ("READY", "not overdue yet", due_at)
        assert not Decision.objects.filter(act="HOLD").exists()

        work_once("HOLD", as_of=due_at)
        assert Hold.objects.filter(account=account).exists()

    def test_finds_it_paid_at_the_due_date(self):
        EntityFactory()
        BillingEntity.objects.update(payment_terms_days=14)
        account = declined()
        work_once("HOLD")
        pay_by_hand(account, 1200)

        work_once("HOLD", as_of=AS_OF + timedelta(days=14))

        assert decision_on(account, "HOLD").because == "settled meanwhile"

    def test_is_not_placed_while_a_person_reviews_a_payment(self):
        account = declined()
        collect_and_review(account)

        work_once("HOLD")

        decision = decision_on(account, "HOLD")
        assert (decision.did, decision.because) == ("SKIPPED", "a payment is in review")
        assert not Hold.objects.exists()
