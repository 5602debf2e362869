"""Closing an account is an act: a final invoice, what becomes of debt and credit, no more charges, a way back."""

import threading
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import IntegrityError, OperationalError, connection, transaction

from accounts import clock
from accounts.models import Account, TimelineEvent
from billing import closure, gateways
from billing.close import runs
from billing.close.health import sweeper
from billing.gateways import registry
from billing.models import (
    AccountClosure,
    CreditGrant,
    DunningCase,
    GatewayGuard,
    Invoice,
    PaymentAttempt,
    Refund,
    UsageSummary,
)
from billing.payments import charges, retries
from billing.usage import tallying
from billing.views.staff import runs as staff_runs
from notifications.models import Message
from tests import charging
from tests.billing.builders import collect, credit, due, grant, owing, pay_by_hand
from tests.billing.test_tallying import usage_batch
from tests.closing import (
    ANN,
    assert_books_hold,
    decision_on,
    finish,
    in_a_thread_of_the_provider,
    start_close,
    step_of,
    work,
)
from tests.factories import (
    AS_OF,
    AccountFactory,
    EntityFactory,
    MemberFactory,
    SummaryFactory,
    UserFactory,
    account_using,
    token,
)

pytestmark = pytest.mark.django_db(transaction=True)

Debt, Credit = AccountClosure.Debt, AccountClosure.Credit
DECEMBER = datetime(2018, 12, 2, 9, tzinfo=UTC)


def close(account, *, as_of=AS_OF, **choice):
    wanted = {
        "token": token(),
        "debt": Debt.COLLECT,
        "credit": Credit.KEEP,
        "because": "they have left",
        "actor": ANN,
        **choice,
    }
    return closure.close_account(
        account_id=account.pk, wanted=closure.Wanted(**wanted), as_of=as_of
    )


def reopen(account, *, as_of=AS_OF):
    return closure.reopen_account(
        account_id=account.pk, because="they are back", actor=ANN, as_of=as_of
    )


def use(account, *, as_of):
    """As an import does: in the month of the instant."""
    usage_batch((account, as_of))


class TestTheFinalInvoice:
    def test_is_for_all_that_was_used_and_not_invoiced(self):
        account = account_using("10.00")
        use(account, as_of=AS_OF - timedelta(days=1))

        closed = close(account)

        assert closed.final_invoice.total_minor == 1050
        assert closed.final_invoice.period.month == date(2018, 11, 1)
        assert due(account) == 1050
        account.refresh_from_db()
        assert account.state == Account.State.CLOSED
        assert Message.objects.filter(account=account, kind="INVOICE").count() == 1
        assert_books_hold()

    def test_is_written_to_nobody_where_there_is_no_address(self):
        account = account_using("10.00")
        Account.objects.update(email="")

        assert close(account).final_invoice.total_minor == 1000
        assert not Message.objects.exists()

    def test_there_is_none_where_nothing_was_used(self):
        assert close(AccountFactory()).final_invoice is None
        assert_books_hold()

    def test_of_a_month_that_has_one_is_that_of_the_next(self):
        account = account_using("10.00")
        first = close(account).final_invoice
        reopen(account)
        use(account, as_of=AS_OF)

        second = close(account).final_invoice

        assert [each.period.month for each in (first, second)] == [
            date(2018, 11, 1),
            date(2018, 12, 1),
        ]
        assert_books_hold()

    def test_that_cannot_be_made_leaves_the_account_open(self):
        account = AccountFactory()
        SummaryFactory(account=account, unit_price=None)

        with pytest.raises(closure.CannotClose, match="no price"):
            close(account)

        account.refresh_from_db()
        assert account.state == Account.State.ACTIVE
        assert not Invoice.objects.exists()

    def test_nor_of_an_account_that_cannot_be_billed(self):
        account = account_using("10.00")
        Account.objects.update(time_zone="Mars/Olympus")

        with pytest.raises(closure.CannotClose, match="does not exist"):
            close(account)


class TestDebt:
    def test_stays_due_and_nobody_is_charged_by_itself(self, provider):
        account = owing()

        close(account)
        for run in runs.start_due(as_of=DECEMBER):
            finish(run, as_of=DECEMBER)
        sweeper.sweep(as_of=DECEMBER)

        assert due(account) == 1234
        assert not provider.calls
        assert not account.attempts.exists()
        assert_books_hold(as_of=DECEMBER)

    def test_is_charged_once_where_that_was_decided(self):
        account = owing()

        closed = close(account, debt=Debt.CHARGE)
        for minutes in (0, 5, 10):
            closure.charge_due(as_of=AS_OF + timedelta(minutes=minutes))
            charging.drive_due(as_of=AS_OF + timedelta(minutes=minutes))

        assert account.attempts.count() == 1
        assert due(account) == 0
        closed.refresh_from_db()
        assert closed.charge_at is None
        assert_books_hold()

    def test_whose_one_charge_is_declined_is_not_charged_again(self):
        account = owing(card="sandbox_insufficient", entity=EntityFactory(retry_days=[3]))
        close(account, debt=Debt.CHARGE)

        for days in range(10):
            sweeper.sweep(as_of=AS_OF + timedelta(days=days))

        assert account.attempts.get().state == PaymentAttempt.State.FAILED
        assert not DunningCase.objects.exists()
        assert due(account) == 1234
        assert_books_hold()

    def test_is_charged_by_the_sweep_where_whoever_closed_died(self):
        account = owing()
        close(account, debt=Debt.CHARGE)

        sweeper.sweep(as_of=AS_OF)
        charging.drive_due(as_of=AS_OF)

        assert due(account) == 0

    def test_is_not_charged_once_more_where_the_note_of_it_was_lost(self):
        account = owing(card="sandbox_insufficient")
        closed = close(account, debt=Debt.CHARGE)
        closure.charge_due(as_of=AS_OF)
        charging.drive_due(as_of=AS_OF)
        AccountClosure.objects.update(charge_at=AS_OF)

        closure.charge_due(as_of=AS_OF)

        assert account.attempts.get().state == PaymentAttempt.State.FAILED
        closed.refresh_from_db()
        assert closed.charge_at is None

    def test_waits_for_a_gateway_that_charges_nobody(self):
        collect(owing())
        account = owing()
        closed = close(account, debt=Debt.CHARGE)
        GatewayGuard.objects.update(paused_at=AS_OF, paused_because="restored", list_from=AS_OF)

        assert closure.charge_due(as_of=AS_OF) == 0

        assert not account.attempts.exists()
        closed.refresh_from_db()
        assert closed.charge_at == AS_OF
        GatewayGuard.objects.update(paused_at=None, paused_because="", list_from=None)
        assert closure.charge_due(as_of=AS_OF) == 1
        charging.drive_due(as_of=AS_OF)
        assert due(account) == 0
        assert_books_hold()

    @pytest.mark.parametrize(
        ("fault", "charged"),
        [
            # Of the one account: the others are charged.
            (ValueError("an amount that is none"), 1),
            # Of the database: nobody's charge would be noted.
            (OperationalError("the server went away"), 0),
        ],
    )
    def test_that_cannot_be_charged_stays_to_be_charged(self, fault, charged, monkeypatch):
        bad, good = owing(), owing()
        for account in (bad, good):
            close(account, debt=Debt.CHARGE)
        real = charges.begin

        def begin(requests, **how):
            if requests[0].account_id == bad.pk:
                raise fault
            return real(requests, **how)

        with monkeypatch.context() as patch:
            patch.setattr(charges, "begin", begin)
            with pytest.raises(type(fault), match=str(fault)):
                closure.charge_due(as_of=AS_OF)

        assert (bad.attempts.count(), good.attempts.count()) == (0, charged)
        closure.charge_due(as_of=AS_OF)
        charging.drive_due(as_of=AS_OF)
        assert (bad.attempts.count(), good.attempts.count()) == (1, 1)
        assert due(bad) == due(good) == 0
        assert_books_hold()

    def test_is_written_off_as_a_bad_debt(self):
        account = owing()
        use(account, as_of=AS_OF - timedelta(days=1))

        closed = close(account, debt=Debt.WRITE_OFF)

        assert closed.written_off_minor == 1284
        assert due(account) == credit(account) == 0
        assert not Invoice.objects.filter(settled_at=None).exists()
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT sum(p.amount_minor) FROM billing_posting p JOIN billing_ledgeraccount l"
                " ON l.id = p.ledger_account_id WHERE l.kind = 'BAD_DEBT'"
            )
            assert cursor.fetchone() == (1284,)
        assert_books_hold()

    def test_ends_dunning(self):
        account = owing(card="sandbox_insufficient", entity=EntityFactory(retry_days=[3]))
        collect(account, kind=PaymentAttempt.Kind.AUTO)
        case = DunningCase.objects.get()

        close(account)

        case.refresh_from_db()
        assert (case.closed_at, case.closed_because) == (AS_OF, "the account was closed")
        assert retries.retry_due(as_of=DECEMBER) == 0

    def test_on_its_way_is_not_written_off(self, provider):
        account = owing()
        provider.before("submit", gateways.OutcomeUnknown("no answer"))
        collect(account)

        with pytest.raises(closure.PaymentOnItsWay):
            close(account, debt=Debt.WRITE_OFF)

        account.refresh_from_db()
        assert account.state == Account.State.ACTIVE


class TestCredit:
    def test_is_kept(self):
        account = owing("10.00")
        pay_by_hand(account, 1500)

        close(account)

        assert credit(account) == 500
        assert not Refund.objects.exists()

    def test_goes_back_through_the_provider_it_came_by(self, provider):
        account = owing()
        provider.before("submit", in_a_thread_of_the_provider(lambda: pay_by_hand(account, 1000)))
        collect(account)
        grant(account, 300)

        closed = close(account, credit=Credit.PAY_BACK)
        charging.drive_refunds_due(as_of=AS_OF)

        assert closed.paid_back_minor == 1000
        refund = Refund.objects.get()
        assert (refund.state, refund.credit_minor, refund.requested_by) == (
            Refund.State.SUCCEEDED,
            1000,
            ANN,
        )
        # What was given is not paid out.
        assert credit(account) == 300
        assert_books_hold()

    def test_that_came_outside_a_provider_is_a_persons_to_pay_back(self):
        account = owing("10.00")
        pay_by_hand(account, 1500)

        closed = close(account, credit=Credit.PAY_BACK)

        assert closed.paid_back_minor == 0
        assert credit(account) == 500

    def test_that_came_by_a_provider_which_is_off_is_kept(self, provider, settings, monkeypatch):
        account = owing()
        provider.before("submit", in_a_thread_of_the_provider(lambda: pay_by_hand(account, 1000)))
        collect(account)
        settings.GATEWAYS = ["none"]
        monkeypatch.setattr(gateways, "get", registry.get)

        closed = close(account, credit=Credit.PAY_BACK)

        assert closed.paid_back_minor == 0
        assert credit(account) == 1000
        assert not Refund.objects.exists()

    def test_that_cannot_be_sent_now_keeps_the_account_open(self, provider):
        account = owing()
        provider.before("submit", in_a_thread_of_the_provider(lambda: pay_by_hand(account, 1000)))
        collect(account)
        with connection.cursor() as cursor:
            cursor.execute("UPDATE billing_gatewayguard SET database_identity = 'another'")

        with pytest.raises(closure.CannotClose, match="not everything can be paid back now"):
            close(account, credit=Credit.PAY_BACK)

        account.refresh_from_db()
        assert account.state == Account.State.ACTIVE


class TestAfterwards:
    def test_no_close_takes_it_and_usage_that_comes_later_waits(self, client):
        account = account_using("10.00")
        other = account_using("1.00")
        close(account)
        use(account, as_of=AS_OF)

        [run] = runs.start_due(as_of=DECEMBER)
        finish(run, as_of=DECEMBER)

        assert list(
            run.steps.exclude(account=None).values_list("account", flat=True).distinct()
        ) == [other.pk]
        assert UsageSummary.objects.filter(account=account, invoice=None).count() == 1
        client.force_login(UserFactory(is_staff=True, is_superuser=True))
        for page in ("/runs/", f"/admin/accounts/account/{account.pk}/change/"):
            said = client.get(page).content.decode()
            assert "nobody has billed" in said, page
        assert_books_hold(as_of=DECEMBER)

    def test_it_is_said_how_many_more_have_usage_than_are_listed(self, client, monkeypatch):
        monkeypatch.setattr(staff_runs, "UNBILLABLE_SHOWN", 1)
        for account in (account_using("10.00"), account_using("10.00"), account_using("10.00")):
            close(account)
            use(account, as_of=AS_OF)
        tallying.tally(as_of=AS_OF)
        client.force_login(UserFactory(is_staff=True, is_superuser=True))

        page = client.get("/runs/").content.decode()

        assert "nobody has billed" in page
        assert "And 2 more." in page

    def test_a_run_that_was_planned_before_leaves_it_alone(self):
        account = account_using("10.00")
        run = start_close()
        close(account)
        use(account, as_of=datetime(2018, 10, 30, tzinfo=UTC))
        tallying.tally(as_of=AS_OF)

        finish(run)

        for kind in ("INVOICE", "CHARGE", "HOLD"):
            step = step_of(account, kind)
            assert (step.state, "closed" in step.because) == ("SKIPPED", True), kind
        assert Invoice.objects.filter(account=account).count() == 1
        assert not account.attempts.exists()
        assert_books_hold()

    def test_a_run_that_had_invoiced_it_charges_and_holds_it_no_more(self):
        account = account_using("10.00")
        start_close()
        work("INVOICE")
        close(account)

        work("CHARGE", "HOLD")

        assert step_of(account, "CHARGE").because == "the account is closed"
        assert not account.holds.exists()
        assert not account.attempts.exists()

    def test_its_customer_pays_and_support_charges(self):
        paying, charged = owing(), owing()
        for account in (paying, charged):
            close(account)

        collect(paying)
        charging.collect_all([charges.Request(charged.pk, of_closed_too=True)], as_of=AS_OF)

        assert due(paying) == due(charged) == 0

    def test_later_usage_is_invoiced_when_a_person_says_so(self):
        account = account_using("10.00")
        close(account)
        use(account, as_of=AS_OF)
        closure.preview(account_id=account.pk, as_of=AS_OF)
        sweeper.sweep(as_of=AS_OF)

        def invoice():
            return closure.invoice_later_usage(
                account_id=account.pk, because="they agree", actor=ANN, as_of=AS_OF
            )

        assert invoice().total_minor == 50
        assert invoice() is None
        assert decision_on(account, "INVOICE_LATER").because == "they agree"
        assert due(account) == 1050
        assert_books_hold()

    def test_of_an_open_account_its_close_invoices_it(self):
        with pytest.raises(closure.CannotClose, match="is open"):
            closure.invoice_later_usage(
                account_id=AccountFactory().pk, because="x", actor=ANN, as_of=AS_OF
            )


class TestTheWayBack:
    def test_the_next_close_takes_what_was_used_meanwhile(self):
        account = account_using("10.00")
        close(account)
        use(account, as_of=AS_OF)

        reopened = reopen(account)
        [run] = runs.start_due(as_of=DECEMBER)
        finish(run, as_of=DECEMBER)

        account.refresh_from_db()
        assert account.state == Account.State.ACTIVE
        assert (reopened.reopened_by, reopened.reopened_because) == (ANN, "they are back")
        # November had its invoice at the closing: what came after is late.
        assert due(account, as_of=DECEMBER) == 0
        assert UsageSummary.objects.filter(invoice=None).count() == 1
        january = datetime(2019, 1, 2, tzinfo=UTC)
        [run] = runs.start_due(as_of=january)
        finish(run, as_of=january)
        assert not UsageSummary.objects.filter(invoice=None).exists()
        assert_books_hold(as_of=january)

    def test_takes_back_the_charge_that_was_not_made_yet(self, provider):
        account = owing()
        close(account, debt=Debt.CHARGE)

        reopen(account)

        assert closure.charge_due(as_of=DECEMBER) == 0
        assert not provider.calls
        assert not account.attempts.exists()

    def test_is_gone_once(self):
        account = AccountFactory()
        close(account)
        reopen(account)

        with pytest.raises(closure.NotClosed):
            reopen(account)
        assert AccountClosure.objects.count() == 1


class TestTwice:
    def test_is_once(self):
        account = account_using("10.00")
        same = token()
        close(account, token=same)

        with pytest.raises(closure.AlreadyClosed):
            close(account, token=same)
        with pytest.raises(closure.AlreadyClosed):
            close(account)
        reopen(account)
        with pytest.raises(closure.AlreadyClosed, match="opened again"):
            close(account, token=same)

        assert Invoice.objects.count() == 1

    def test_at_once_closes_once(self):
        account = account_using("10.00")
        outcomes, together = [], threading.Barrier(2)

        def run():
            together.wait()
            try:
                outcomes.append(type(close(account)))
            except closure.AlreadyClosed as error:
                outcomes.append(type(error))
            finally:
                connection.close()

        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sorted(each.__name__ for each in outcomes) == ["AccountClosure", "AlreadyClosed"]
        assert Invoice.objects.count() == 1
        assert_books_hold()

    def test_is_refused_by_the_database(self):
        account = AccountFactory()
        close(account)
        standing = AccountClosure.objects.get()
        standing.pk, standing.token = None, token()

        with pytest.raises(IntegrityError, match="account_is_closed_once"), transaction.atomic():
            standing.save(force_insert=True)

    @pytest.mark.parametrize(
        ("changes", "constraint"),
        [
            ({"written_off_minor": -1}, "closure_amounts_are_not_negative"),
            ({"reopened_at": AS_OF, "reopened_by": ""}, "account_reopened_says_who_and_why"),
            (
                {
                    "reopened_at": AS_OF - timedelta(days=1),
                    "reopened_by": ANN,
                    "reopened_because": "they are back",
                },
                "account_is_reopened_after_it_closed",
            ),
        ],
    )
    def test_says_what_can_be(self, changes, constraint):
        close(AccountFactory())

        with pytest.raises(IntegrityError, match=constraint), transaction.atomic():
            AccountClosure.objects.update(**changes)


class TestWhatWasShown:
    @pytest.mark.parametrize("changed", ["invoiced_minor", "due_minor", "credit_minor"])
    def test_is_what_happens(self, changed):
        account = account_using("10.00")
        seen = closure.preview(account_id=account.pk, as_of=AS_OF)
        shown = {
            "invoiced_minor": seen.invoiced_minor,
            "due_minor": seen.due_minor,
            "credit_minor": seen.credit_minor,
        }

        with pytest.raises(closure.ChangedMeanwhile):
            close(account, **{**shown, changed: shown[changed] + 1})
        assert not Invoice.objects.exists()

        closed = close(account, **shown)
        assert closed.final_invoice.total_minor == 1000 == seen.invoiced_minor
        assert closed.final_invoice.number == "MC-000001"

    def test_writes_nothing(self):
        account = account_using("10.00")
        before = Message.objects.count(), TimelineEvent.objects.count()

        closure.preview(account_id=account.pk, as_of=AS_OF)

        assert (Message.objects.count(), TimelineEvent.objects.count()) == before
        assert not Invoice.objects.exists()


def test_is_written_down():
    account = account_using("10.00")

    closed = close(account, debt=Debt.WRITE_OFF)
    reopen(account)

    assert str(closed) == f"closed on 2018-11-02 by {ANN}: they have left"
    decision = decision_on(account, "CLOSE_ACCOUNT")
    assert decision.actor == ANN
    assert "they have left" in decision.because
    assert "debt: written off" in decision.because
    assert decision.saw["written_off_minor"] == 1000
    assert decision_on(account, "REOPEN_ACCOUNT").because == "they are back"
    kinds = TimelineEvent.objects.filter(account=account).values_list("kind", flat=True)
    assert {"account.closed", "account.reopened"} <= set(kinds)


class TestThePages:
    @pytest.fixture
    def staff(self, client):
        client.force_login(UserFactory(is_staff=True, is_superuser=True, email=ANN))
        return client

    def url(self, account, act="close"):
        return f"/admin/accounts/account/{account.pk}/{act}/"

    def form(self, seen, **said):
        return {
            "reason": "they have left",
            "token": str(token()),
            "invoiced_minor": seen.invoiced_minor,
            "due_minor": seen.due_minor,
            "credit_minor": seen.credit_minor,
            **said,
        }

    def test_say_what_happens_and_close(self, staff):
        account = account_using("10.00")
        page = staff.get(self.url(account)).content.decode()
        assert "A final invoice of <strong>€10.00</strong>" in page
        assert "Write it off" in page
        seen = closure.preview(account_id=account.pk, as_of=AS_OF)

        undecided = staff.post(self.url(account), self.form(seen)).content.decode()
        answer = staff.post(self.url(account), self.form(seen, debt="WRITE_OFF"), follow=True)

        assert "This field is required" in undecided
        assert "is closed" in answer.content.decode()
        assert "Open again" in answer.content.decode()
        assert ">Closed<" in staff.get("/admin/accounts/account/").content.decode()
        closed = AccountClosure.objects.get()
        assert (closed.debt, closed.written_off_minor, closed.closed_by) == ("WRITE_OFF", 1000, ANN)

    def test_charge_once_where_that_was_chosen(self, staff):
        account = owing()
        seen = closure.preview(account_id=account.pk, as_of=AS_OF)

        answer = staff.post(self.url(account), self.form(seen, debt="CHARGE"), follow=True)
        charging.drive_due(as_of=clock.now())

        assert "The charge was asked for" in answer.content.decode()
        assert account.attempts.count() == 1
        assert due(account) == 0

    def test_show_the_amounts_anew_where_they_have_changed(self, staff):
        account = account_using("10.00")
        seen = closure.preview(account_id=account.pk, as_of=AS_OF)
        SummaryFactory(account=account, item="late", quantity=Decimal(1), unit_price=Decimal(1))

        answer = staff.post(self.url(account), self.form(seen, debt="COLLECT"), follow=True)

        assert "the amounts have changed" in answer.content.decode()
        assert "€11.00" in answer.content.decode()
        assert not AccountClosure.objects.exists()

    def test_sent_twice_close_once(self, staff):
        account = account_using("10.00")
        form = self.form(closure.preview(account_id=account.pk, as_of=AS_OF), debt="COLLECT")

        answers = [staff.post(self.url(account), form, follow=True) for _ in range(2)]

        assert "Nothing was done" in answers[1].content.decode()
        assert AccountClosure.objects.count() == 1

    def test_say_why_it_cannot_be_closed(self, staff):
        account = AccountFactory()
        SummaryFactory(account=account, unit_price=None)

        assert "cannot be closed yet: no price" in staff.get(self.url(account)).content.decode()

    def test_say_what_cannot_go_back_by_itself(self, staff):
        account = owing("10.00")
        pay_by_hand(account, 1500)

        page = " ".join(staff.get(self.url(account)).content.decode().split())

        assert "<strong>€5.00</strong> of credit is unused then." in page
        assert "€5.00 cannot" in page

    def test_open_it_again(self, staff):
        account = AccountFactory()
        close(account)

        assert b"opens" in staff.get(self.url(account, "reopen")).content
        answers = [
            staff.post(
                self.url(account, "reopen"), {"reason": "back"}, follow=True
            ).content.decode()
            for _ in range(2)
        ]

        assert "is open again" in answers[0]
        assert "is open already" in answers[1]

    def test_invoice_what_came_later(self, staff):
        account = account_using("10.00")
        close(account)
        SummaryFactory(account=account, item="late", quantity=Decimal(1), unit_price=Decimal(1))
        url = self.url(account, "invoice-later")

        assert "€1.00" in staff.get(url).content.decode()
        answers = [
            staff.post(url, {"reason": "agreed"}, follow=True).content.decode() for _ in range(2)
        ]
        reopen(account)
        answers.append(staff.post(url, {"reason": "x"}, follow=True).content.decode())

        assert "of €1.00 is issued" in answers[0]
        assert "Nothing was used" in answers[1]
        assert "Nothing was invoiced: the account is open" in answers[2]

    def test_are_for_whoever_may(self, client):
        client.force_login(UserFactory(is_staff=True))

        for act in ("close", "reopen", "invoice-later"):
            assert client.get(self.url(AccountFactory(), act)).status_code == 403

    def test_of_customers_say_that_it_is_closed(self, client):
        member = MemberFactory(account=owing())
        close(member.account)
        client.force_login(member.user)

        page = client.get(f"/accounts/{member.account_id}/").content.decode()

        assert "This account is closed" in page
        assert "is charged when an invoice is issued" not in page
        assert "not charged automatically at the moment" not in page
        assert "2 November 2018" in page


def test_what_a_closing_wrote_off_says_so_among_the_grants():
    account = owing()
    close(account, debt=Debt.WRITE_OFF)

    assert CreditGrant.objects.get().kind == CreditGrant.Kind.WRITE_OFF
