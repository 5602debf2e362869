"""A month closed on direct debits: the run ends while the money is on its way, and days decide the rest."""

from datetime import UTC, date, datetime, timedelta

import pytest
from django.db.models.functions import Now

from accounts.models import BillingEntity, Hold
from billing.close.steps import charge
from billing.models import DunningCase, Invoice, Payment, PaymentAttempt, Step
from billing.payments import transfers
from billing.references import reference_of
from billing.reports import finance
from notifications.models import Message
from tests import charging
from tests.billing.builders import due
from tests.billing.test_debits import tell
from tests.closing import (
    assert_books_hold,
    decision_on,
    finish,
    start_close,
    step_of,
    work,
    work_once,
)
from tests.factories import MandateFactory, PeriodFactory, SummaryFactory, account_using
from tests.provider import Killed

pytestmark = pytest.mark.django_db(transaction=True)

State = PaymentAttempt.State
CHARGE_DAY = datetime(2018, 11, 4, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _debit(debit):
    """All of it happens where there is a debit provider."""


def using(amount: str = "12.00", behaviour: str = "debit_pays"):
    account = account_using(amount, card=None)
    MandateFactory(account=account, behaviour=behaviour)
    return account


def days_pass(debit, days: int, *, since: datetime) -> datetime:
    """Day by day: the bank works, tells us, and the sweeper looks."""
    for day in range(1, days + 1):
        debit.advance(1)
        tell(debit, as_of=since + timedelta(days=day))
        charging.drive_due(as_of=since + timedelta(days=day, minutes=2))
    return since + timedelta(days=days)


class TestTheRun:
    def test_ends_while_the_money_is_on_its_way(self, debit):
        account = using()

        run = finish(start_close())

        assert run.state == "FINISHED"
        assert decision_on(account, "CHARGE").because == (
            "on its way: collected on 2018-11-04, then the bank takes about 2 days"
        )
        hold = decision_on(account, "HOLD")
        assert (hold.did, hold.because) == ("SKIPPED", "covered by a payment on its way")
        assert hold.saw["in_flight_minor"] == 1200
        [row] = run.report["currencies"]
        assert (row["outstanding"], row["in_flight"]) == ("12.00", "12.00")
        assert set(Message.objects.values_list("kind", flat=True)) == {
            "INVOICE",
            "CHARGE_ANNOUNCED",
        }

    def test_is_not_opened_again_by_the_success_that_follows(self, debit):
        account = using()
        run = finish(start_close())
        charging.drive_due(as_of=CHARGE_DAY)

        days_pass(debit, 2, since=CHARGE_DAY)

        assert due(account) == 0
        assert Payment.objects.get().attempt.run == run
        run.refresh_from_db()
        assert run.state == "FINISHED"

    def test_killed_while_it_announces_goes_on_with_the_same_attempt(self, debit, monkeypatch):
        account = using()
        start_close()
        work("INVOICE")

        def killed(*_args, **_kwargs):
            raise Killed("before the step wrote its outcome down")

        monkeypatch.setattr(charge, "_attempted", killed)
        with pytest.raises(Killed):
            work_once("CHARGE")
        monkeypatch.undo()
        Step.objects.filter(kind="CHARGE").update(
            state="UNKNOWN", lease_token=None, lease_until=None
        )
        work("CHARGE", "HOLD")

        assert step_of(account, "CHARGE").because.startswith("on its way")
        assert PaymentAttempt.objects.get().state == State.PREPARED
        assert not Hold.objects.exists()

    def test_that_finds_last_months_debit_at_the_bank_waits_for_it(self, debit):
        account = using()
        finish(start_close())
        charging.drive_due(as_of=CHARGE_DAY)
        december = datetime(2018, 12, 2, 9, tzinfo=UTC)
        PaymentAttempt.objects.update(next_action_at=december + timedelta(hours=1))

        work_on_november(account, as_of=december)

        step = step_of(account, "CHARGE")
        assert (step.state, step.because) == ("READY", "a payment is on its way")
        assert step.run_at == december + timedelta(hours=1)

        days_pass(debit, 2, since=december)
        Step.objects.filter(pk=step.pk).update(run_at=Now())
        work("CHARGE", as_of=december + timedelta(days=2))
        attempt = PaymentAttempt.objects.latest("created_at")
        assert (attempt.amount_minor, attempt.charge_date) == (500, date(2018, 12, 6))


class TestTheWholeWay:
    def test_closed_paid_taken_back_owed_again_and_paid_by_transfer(self, debit, tmp_path):
        account = using(behaviour="debit_charged_back")
        run = finish(start_close())
        charging.drive_due(as_of=CHARGE_DAY)

        now = days_pass(debit, 2, since=CHARGE_DAY)
        assert due(account) == 0
        assert Invoice.objects.get().settled_at is not None

        now = days_pass(debit, 10, since=now)
        assert due(account) == 1200
        assert Invoice.objects.get().settled_at is None
        assert finance.answer(run, as_of=now)["currencies"][0]["overdue"] == "12.00"
        assert DunningCase.objects.filter(account=account, closed_at=None).exists()
        assert_books_hold(as_of=now)

        charging.retry_due(as_of=now + timedelta(days=1))
        assert Hold.objects.get(account=account).lifted_at is None

        statement = tmp_path / "december.csv"
        statement.write_text(
            "date,amount,currency,reference,payer,bank_ref\n"
            f"2018-12-01,12.00,EUR,{reference_of(account.pk)},Acme,B1\n"
        )
        transfers.import_statement(statement, as_of=now + timedelta(days=2))
        assert due(account) == 0
        assert Hold.objects.get(account=account).lifted_at is not None
        kinds = list(Message.objects.order_by("created_at").values_list("kind", flat=True))
        assert sorted(kinds) == sorted(
            ["INVOICE", "CHARGE_ANNOUNCED", "RECEIPT", "PAYMENT_REVERSED", "HOLD_PLACED",
             "RECEIPT", "HOLD_LIFTED"]
        )  # fmt: skip


class TestTheBankSaysNo:
    def test_days_later_opens_dunning_which_debits_again_and_holds_at_its_end(self, debit):
        account = using(behaviour="debit_insufficient")
        finish(start_close())
        BillingEntity.objects.update(retry_days=[3, 5, 7, 14])
        charging.drive_due(as_of=CHARGE_DAY)

        now = days_pass(debit, 3, since=CHARGE_DAY)

        case = DunningCase.objects.get(account=account)
        assert (case.decline_code, case.closed_at) == ("insufficient_funds", None)
        assert not Hold.objects.exists()

        # Days at the bank are days of the schedule: of 3, 5, 7 and 14 the first and the last are left.
        for _ in range(30):
            charging.retry_due(as_of=now)
            now = days_pass(debit, 1, since=now)

        tried = PaymentAttempt.objects.order_by("created_at")
        assert [attempt.kind for attempt in tried] == ["AUTO", "RETRY", "RETRY"]
        assert {attempt.state for attempt in tried} == {State.FAILED}
        assert Message.objects.filter(kind="CHARGE_ANNOUNCED").count() == 3
        assert Hold.objects.get(account=account).reason == "OVERDUE"
        case.refresh_from_db()
        assert case.closed_at is not None


def work_on_november(account, *, as_of: datetime) -> None:
    month = date(2018, 11, 1)
    SummaryFactory(
        account=account,
        period=PeriodFactory(account=account, month=month),
        quantity=1,
        unit_price=5,
    )
    start_close(month, as_of=as_of)
    work("INVOICE", "CHARGE", as_of=as_of)
