"""A month, closed in one process: what each kind of customer finds afterwards."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from accounts.models import Hold
from billing import ledger
from billing.close import runs
from billing.close.steps import invoice
from billing.models import Decision, Invoice, LineItem, Payment, PaymentAttempt, Step
from billing.models.usage import Kind
from billing.reports import progress
from notifications.models import Message
from tests.closing import decision_on, finish, retry, start_close, states, step_of, work, work_once
from tests.factories import (
    AS_OF,
    OCTOBER,
    AccountFactory,
    CardFactory,
    PeriodFactory,
    PriceFactory,
    SummaryFactory,
    account_using,
)

pytestmark = pytest.mark.django_db(transaction=True)

NOVEMBER = date(2018, 11, 1)
FOLLOWERS = ("CHARGE", "EMAIL", "HOLD")


@pytest.fixture
def break_invoice_of(monkeypatch):
    """A defect in our code that one account's invoice trips over."""

    def break_it(account):
        real = invoice.drafting.draft_invoices

        def draft(accounts, **facts):
            if account in accounts:
                raise RuntimeError("a defect")
            return real(accounts, **facts)

        monkeypatch.setattr(invoice.drafting, "draft_invoices", draft)

    return break_it


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
        assert set(Step.objects.exclude(kind="REPORT").values_list("state", flat=True)) == {
            "SKIPPED"
        }
        assert Decision.objects.count() == 4

    def test_an_account_without_a_card_is_not_charged_but_held(self):
        account = account_using("12.34", card=None)

        finish(start_close())

        assert decision_on(account, "CHARGE").because == "there is no card"
        assert not decision_on(account, "CHARGE").world_changed
        assert Hold.objects.filter(account=account, lifted_at=None).exists()

    def test_an_account_without_an_email_address_pays_all_the_same(self):
        account = account_using("12.34", email="")

        run = start_close()
        work("INVOICE", "EMAIL")
        finish(run)

        assert Payment.objects.get(account=account).amount_minor == 1234
        assert step_of(account, "EMAIL").because == "the account has no email address"
        assert not Message.objects.exists()

    def test_an_invoice_below_zero_becomes_credit_and_charges_nothing(self):
        account = AccountFactory()
        CardFactory(account=account)
        SummaryFactory(
            account=account, kind=Kind.CREDIT, unit_price=None, quantity=1, amount=Decimal(-7)
        )

        run = finish(start_close())

        standing = ledger.standing(account.pk, as_of=AS_OF)
        assert (standing.due_minor, standing.credit_minor) == (0, 700)
        assert not PaymentAttempt.objects.exists()
        assert run.report["currencies"][0]["kept_as_credit"] == "7.00"

    def test_an_invoice_over_nothing_is_settled_at_once_and_sent(self):
        account = AccountFactory()
        SummaryFactory(account=account, unit_price=None, quantity=1, amount=Decimal(0))

        finish(start_close())

        assert Invoice.objects.get(account=account).settled_at == AS_OF
        assert step_of(account, "CHARGE").because == "nothing is due"
        assert Message.objects.get().state == "SENT"

    def test_a_slow_card_and_one_whose_reply_is_lost_are_charged_once(self, sandbox):
        slow = account_using("10.00", card="sandbox_slow")
        lost = account_using("20.00", card="sandbox_lost_reply")
        run = start_close()

        work("INVOICE")
        work_once("CHARGE")
        assert step_of(slow, "CHARGE").because == "charged"
        assert step_of(lost, "CHARGE").state == "UNKNOWN"
        assert step_of(lost, "HOLD").state == "WAITING"
        finish(run, as_of=AS_OF + timedelta(minutes=1))

        assert step_of(lost, "CHARGE").because == "charged"
        assert sorted(seen.amount_minor for seen in sandbox.book()) == [1000, 2000]
        assert not Hold.objects.exists()

    def test_a_run_ends_with_blocked_and_dead_steps_in_it_and_lists_them(self, break_invoice_of):
        unpriced = AccountFactory(external_id="unpriced")
        SummaryFactory(account=unpriced, unit_price=None)
        misconfigured = account_using("5.00", card="no card of the sandbox")
        good = account_using("12.34")
        doomed = account_using("8.00")
        run = start_close()
        Step.objects.filter(account=doomed, kind="INVOICE").update(attempts=7)
        break_invoice_of(doomed)

        run = finish(run)

        assert run.is_finished
        assert states() == {"DONE": 5, "SKIPPED": 2, "BLOCKED": 9, "DEAD": 1}
        assert Payment.objects.get().account == good
        assert {(row["kind"], row["state"], row["because"]) for row in progress.stuck(run)} == {
            ("INVOICE", "BLOCKED", step_of(unpriced, "INVOICE").because),
            ("INVOICE", "DEAD", "RuntimeError: a defect"),
            ("CHARGE", "BLOCKED", step_of(misconfigured, "CHARGE").because),
            *((kind, "BLOCKED", "its invoice step is blocked") for kind in FOLLOWERS),
            *((kind, "BLOCKED", "its invoice step gave up") for kind in FOLLOWERS),
            ("HOLD", "BLOCKED", "its charge step is blocked"),
        }
        assert "is not a sandbox card" in step_of(misconfigured, "CHARGE").because


class TestAMissingPrice:
    def test_blocks_its_account_alone_until_it_is_added_and_the_step_retried(self):
        unpriced = AccountFactory()
        CardFactory(account=unpriced)
        summary = SummaryFactory(account=unpriced, unit_price=None, quantity=Decimal(100))
        good = account_using("12.34")
        run = finish(start_close())
        assert run.is_finished
        assert step_of(good, "INVOICE").state == "DONE"
        assert (
            "no price for server 'small' per 'hour' in EUR" in step_of(unpriced, "INVOICE").because
        )
        assert step_of(unpriced, "CHARGE").because == "its invoice step is blocked"

        PriceFactory(product=summary.product, unit_price=Decimal("0.05"))
        everything_stuck = Step.objects.filter(account=unpriced)
        assert retry(*everything_stuck) == 4
        run = finish(run)

        assert run.is_finished
        assert Payment.objects.get(account=unpriced).amount_minor == 500
        assert {step.state for step in Step.objects.filter(account=unpriced)} == {"DONE", "SKIPPED"}
        # The receipt came first; that there was an invoice, it knew.
        assert decision_on(unpriced, "EMAIL").because == "settled meanwhile: the receipt tells it"
        assert run.report["currencies"][0]["invoiced"] == "17.34"

    def test_the_report_made_before_it_was_added_stays_in_a_decision(self):
        unpriced = AccountFactory()
        SummaryFactory(account=unpriced, unit_price=None)
        account_using("12.34")
        run = finish(start_close())

        retry(step_of(unpriced, "INVOICE"))

        run.refresh_from_db()
        assert not run.is_finished
        reopened = Decision.objects.get(run=run, act="REOPEN")
        assert reopened.actor == "ann@example.com"
        assert reopened.saw["currencies"][0]["invoiced"] == "12.34"


class TestLateUsage:
    def test_is_billed_by_the_next_run_at_the_period_it_was_in(self):
        account = account_using("10.00")
        finish(start_close())

        SummaryFactory(account=account, quantity=Decimal(1), unit_price=Decimal("3.00"))
        SummaryFactory(
            account=account,
            period=PeriodFactory(account=account, month=NOVEMBER),
            quantity=Decimal(1),
            unit_price=Decimal("4.00"),
        )
        finish(
            start_close(NOVEMBER, as_of=datetime(2018, 12, 2, 9, tzinfo=UTC)),
            as_of=datetime(2018, 12, 2, 9, tzinfo=UTC),
        )

        october, november = Invoice.objects.order_by("pk")
        assert (october.total_minor, november.total_minor) == (1000, 700)
        late = LineItem.objects.get(invoice=november, amount_minor=300)
        assert (late.starts_at, late.ends_at) == (
            datetime(2018, 10, 1, tzinfo=UTC),
            datetime(2018, 11, 1, tzinfo=UTC),
        )

    def test_of_an_account_that_was_closed_since_is_billed_too(self):
        account = account_using("10.00", state="CLOSED")
        unused = AccountFactory(state="CLOSED")

        finish(start_close())

        assert Invoice.objects.get().account == account
        assert not Step.objects.filter(account=unused).exists()


class TestMonthEnds:
    def test_each_account_is_billed_for_the_month_of_its_own_zone(self):
        zones = {
            "Pacific/Kiritimati": datetime(2018, 9, 30, 10, tzinfo=UTC),  # UTC+14
            "Europe/Budapest": datetime(
                2018, 9, 30, 22, tzinfo=UTC
            ),  # summer time begins the month
            "America/Los_Angeles": datetime(2018, 10, 1, 7, tzinfo=UTC),
            "Etc/GMT+12": datetime(2018, 10, 1, 12, tzinfo=UTC),
        }
        for zone in zones:
            account_using("1.00", time_zone=zone, external_id=zone)

        finish(start_close())

        begins = {
            line.invoice.account.external_id: line.starts_at
            for line in LineItem.objects.select_related("invoice__account")
        }
        assert begins == zones
        # … and winter time ends it.
        in_budapest = LineItem.objects.get(invoice__account__external_id="Europe/Budapest")
        assert in_budapest.ends_at == datetime(2018, 10, 31, 23, tzinfo=UTC)

    def test_the_close_starts_when_the_month_is_over_in_the_last_zone_and_not_before(self):
        account_using("1.00", time_zone="Pacific/Kiritimati")
        account_using("1.00", time_zone="Etc/GMT+12")
        over = datetime(2018, 11, 1, 12, tzinfo=UTC)

        with pytest.raises(runs.NotOverYet, match="2018-11-01 12:00 UTC"):
            start_close(as_of=over - timedelta(seconds=1))
        assert runs.start_due(as_of=over - timedelta(seconds=1))[0].month == date(2018, 9, 1)
        assert start_close(as_of=over).month == OCTOBER
