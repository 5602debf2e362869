"""The customer's pages and finance's: who sees what, what each form refuses, twice is once."""

import csv
import io
import re
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest
from django.contrib.auth.models import Group
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import clock
from accounts.models import BillingEntity, Hold, PaymentMethod
from billing.admin import groups
from billing.close import pipeline, runs
from billing.close.engine import runner
from billing.gateways import OutcomeUnknown
from billing.invoices import credits
from billing.models import (
    CloseRun,
    Decision,
    DunningCase,
    Invoice,
    Payment,
    PaymentAttempt,
    RejectedRow,
    RunProgress,
    UsageBatch,
)
from billing.models.usage import Kind
from billing.payments import booking, charges
from billing.reports import progress
from billing.views.customer import pay
from billing.views.staff import run_steps
from billing.workers import halting, heartbeats
from notifications import formats, lanes
from notifications.models import Lane
from tests import charging
from tests.billing.builders import bill
from tests.billing.message_builders import close_gateway
from tests.factories import (
    AS_OF,
    OCTOBER,
    AccountFactory,
    CardFactory,
    MemberFactory,
    PeriodFactory,
    PriceFactory,
    ProductFactory,
    SummaryFactory,
    UserFactory,
    account_using,
)
from tests.workers import at_once

State = PaymentAttempt.State
TEMPLATES = Path(__file__).parents[2] / "templates"


def signed_in(user):
    client = Client()
    client.force_login(user)
    return client


def member_of(account, role="OWNER"):
    return signed_in(MemberFactory(account=account, role=role).user)


def staff(group=None, **of_user):
    user = UserFactory(is_staff=True, **of_user)
    if group:
        groups.create_groups()  # tests with real commits leave none behind
        user.groups.add(Group.objects.get(name=group))
    return signed_in(user)


def text(response):
    return response.content.decode()


def without_token(response):
    return re.sub(r'name="csrfmiddlewaretoken" value="\w+"', "", text(response))


def invoiced(amount, **of_account):
    """An account that owes this much for October."""
    account = account_using(amount, **of_account)
    start_run()
    runner.work_once(pipeline.BY_KIND["INVOICE"], as_of=AS_OF)
    return account


def start_run():
    run, _ = runs.start(
        entity=BillingEntity.objects.get(), month=OCTOBER, started_by="ann@example.com", as_of=AS_OF
    )
    return run


def attempt_of(account, **details):
    method = account.payment_methods.get()
    defaults = {
        "kind": "ON_SESSION",
        "currency": account.currency,
        "amount_minor": 1234,
        "payment_method": method,
        "gateway": method.gateway,
    }
    return PaymentAttempt.objects.create(account=account, **(defaults | details))


@pytest.mark.django_db
class TestWhoSeesAnAccount:
    PAGES = ("", "invoices/", "cards/")
    PAYER_PAGES = ("pay/", "cards/add/")

    @pytest.mark.parametrize("page", [*PAGES, *PAYER_PAGES])
    def test_strangers_sign_in_first(self, page):
        url = f"/accounts/{AccountFactory().pk}/{page}"

        response = Client().get(url)

        assert response.status_code == 302
        assert response.url == f"/sign-in/?next={url}"

    @pytest.mark.parametrize("page", [*PAGES, *PAYER_PAGES])
    def test_members_see_it_and_nobody_keeps_a_copy(self, page):
        account = AccountFactory()

        response = member_of(account).get(f"/accounts/{account.pk}/{page}")

        assert response.status_code == 200
        assert set(response["Cache-Control"].split(", ")) == {"private", "no-store"}

    @pytest.mark.parametrize("page", [*PAGES, *PAYER_PAGES])
    def test_to_anyone_else_it_does_not_exist(self, page):
        mine, theirs = AccountFactory(), AccountFactory()
        client = member_of(mine)

        not_mine = client.get(f"/accounts/{theirs.pk}/{page}")
        not_there = client.get(f"/accounts/{theirs.pk + 999}/{page}")

        assert (not_mine.status_code, not_there.status_code) == (404, 404)
        assert without_token(not_mine) == without_token(not_there)

    def test_staff_are_no_members(self):
        assert staff(is_superuser=True).get(f"/accounts/{AccountFactory().pk}/").status_code == 404

    def test_viewers_see_no_buttons_and_may_do_nothing(self):
        account = invoiced("12.34")
        card = account.payment_methods.get()
        client = member_of(account, "VIEWER")

        overview = text(client.get(f"/accounts/{account.pk}/"))
        cards = text(client.get(f"/accounts/{account.pk}/cards/"))

        assert "Pay now" not in overview
        assert "Remove" not in cards
        for page in ("pay/", "cards/add/", f"cards/{card.pk}/remove/", f"cards/{card.pk}/default/"):
            assert client.post(f"/accounts/{account.pk}/{page}").status_code == 403


@pytest.mark.django_db
class TestSignIn:
    def test_goes_to_the_first_account(self):
        account = AccountFactory()
        member = MemberFactory(account=account)

        response = Client().post(
            "/sign-in/", {"username": member.user.email, "password": "secret"}, follow=True
        )

        assert response.redirect_chain[-1][0] == f"/accounts/{account.pk}/"

    def test_says_when_the_password_is_wrong(self):
        response = Client().post("/sign-in/", {"username": "a@example.com", "password": "no"})

        assert "Please enter a correct email" in text(response)

    def test_signs_out(self):
        client = member_of(AccountFactory())

        assert client.post("/sign-out/").url == "/sign-in/"
        assert client.get("/").status_code == 302

    def test_strangers_are_asked_to_sign_in(self):
        assert Client().get("/").url == "/sign-in/?next=/"


@pytest.mark.django_db
class TestStart:
    def test_goes_to_the_account_looked_at_last(self):
        first, second = AccountFactory(name="A"), AccountFactory(name="B")
        member = MemberFactory(account=first)
        MemberFactory(account=second, user=member.user)
        client = signed_in(member.user)

        assert client.get("/").url == f"/accounts/{first.pk}/"
        switcher = text(client.get(f"/accounts/{second.pk}/"))
        assert client.get("/").url == f"/accounts/{second.pk}/"
        assert f'href="/accounts/{first.pk}/"' in switcher

    def test_staff_go_to_the_runs(self):
        assert staff().get("/").url == "/runs/"

    def test_says_so_where_there_is_no_account(self):
        assert "not a member of any account" in text(signed_in(UserFactory()).get("/"))


@pytest.mark.django_db
class TestOverview:
    def test_says_what_is_due_and_as_of_when_in_the_accounts_words(self):
        account = invoiced("1234.50", language="hu", time_zone="Europe/Budapest")

        response = member_of(account).get(f"/accounts/{account.pk}/")

        assert '<html lang="hu">' in text(response)
        assert "1 234,50 EUR" in text(response).replace("\xa0", " ")
        assert "(Budapest)" in text(response)

    def test_writes_nothing_when_it_is_looked_at_again(self):
        account = invoiced("12.34")
        client = member_of(account)
        client.get(f"/accounts/{account.pk}/")

        with CaptureQueriesContext(connection) as asked:
            client.get(f"/accounts/{account.pk}/")

        assert {query["sql"].split()[0] for query in asked} == {"SELECT"}

    def test_is_empty_but_kind_for_a_new_account(self):
        account = AccountFactory()

        page = text(member_of(account).get(f"/accounts/{account.pk}/"))

        assert "There is no invoice yet." in page
        assert "There is no payment yet." in page
        assert "No usage since your last invoice." in page
        assert "No card is charged automatically." in page

    def test_shows_a_hold_with_the_way_out(self):
        account = invoiced("12.34")
        Hold.objects.create(account=account, reason="OVERDUE", placed_at=AS_OF)

        page = text(member_of(account).get(f"/accounts/{account.pk}/"))

        assert "It is lifted the moment they are paid." in page
        assert page.count("Pay now") == 1

    def test_shows_credit_payments_and_an_expired_card(self):
        account = account_using("10.00", card=None)
        CardFactory(account=account, expiry_year=2019)
        booking.record_payment(
            account_id=account.pk,
            token=uuid.uuid4(),
            amount_minor=777,
            currency="EUR",
            method="Bank transfer 17",
            reason="statement",
            recorded_by="ann@example.com",
            as_of=AS_OF,
        )

        page = text(member_of(account).get(f"/accounts/{account.pk}/"))

        assert "Bank transfer 17" in page
        assert "€7.77" in page
        assert "has expired" in page

    def test_says_nothing_of_a_decline_before_there_was_one(self):
        account = invoiced("12.34")
        DunningCase.objects.create(
            account=account,
            opened_at=AS_OF,
            decline_class="SOFT",
            decline_code="payment_method_unusable",
            ends_at=AS_OF + timedelta(days=14),
        )

        response = member_of(account).get(f"/accounts/{account.pk}/")

        assert response.status_code == 200
        assert response.context["dunning"] is None

    def test_shows_what_is_on_its_way_instead_of_the_button(self):
        account = invoiced("12.34")
        attempt_of(account, state=State.SUBMITTED)

        page = text(member_of(account).get(f"/accounts/{account.pk}/"))

        assert "You will not be charged twice." in page
        assert "Pay now" not in page


@pytest.mark.django_db
class TestUsageSinceTheLastInvoice:
    def test_estimates_as_the_invoice_would(self):
        account = AccountFactory()
        stated = ProductFactory(code="stated", name="Stated")
        by_item = ProductFactory(code="items", name="Items")
        period = PeriodFactory(account=account)
        SummaryFactory(account=account, unit_price=None, amount=Decimal("3.00"), product=stated)
        SummaryFactory(account=account, product=stated, kind=Kind.FEE)
        PriceFactory(
            product=by_item,
            unit_price=Decimal("0.50"),
            free_quantity=Decimal(110),
            monthly_fee=Decimal(5),
        )
        # 100 are free, then 10 of 20: together 10 × 0.50 and one fee.
        SummaryFactory(account=account, period=period, product=by_item, unit_price=None, item="a")
        SummaryFactory(
            account=account,
            period=period,
            product=by_item,
            unit_price=None,
            item="b",
            quantity=Decimal(20),
        )

        page = text(member_of(account).get(f"/accounts/{account.pk}/"))

        assert "€10.00" in page  # 5 of usage, 5 of fee
        assert "€13.00" in page  # 3 stated as a whole, 10 by the unit
        assert "€23.00" in page
        assert "120 hour" in page

    def test_says_what_has_no_price_yet(self):
        account = AccountFactory()
        product = ProductFactory(code="new", name="New")
        SummaryFactory(account=account, product=product, unit_price=None, item="a")
        SummaryFactory(account=account, product=product, item="b")

        page = text(member_of(account).get(f"/accounts/{account.pk}/"))

        assert "not priced yet" in page
        assert "Total, without what is not priced yet" in page

    def test_late_usage_pays_no_fee_and_gets_no_allowance_a_second_time(self):
        account = AccountFactory()
        PriceFactory(unit_price=1, free_quantity=100, monthly_fee=9)
        SummaryFactory(account=account, unit_price=None, quantity=80)
        bill(account)
        SummaryFactory(account=account, unit_price=None, quantity=50)
        november = PeriodFactory(account=account, month=date(2018, 11, 1))
        SummaryFactory(account=account, period=november, unit_price=None, quantity=101)

        page = text(member_of(account).get(f"/accounts/{account.pk}/"))

        # October's 50, of which 20 are free still, and no fee; November's fee, and 1 beyond its own 100.
        assert "€40.00" in page
        assert "151 hour" in page

    def test_is_rounded_line_by_line_as_the_invoice_is(self):
        account = AccountFactory()
        for item in ("a", "b", "c"):
            SummaryFactory(account=account, item=item, quantity=1, unit_price=Decimal("0.005"))

        page = text(member_of(account).get(f"/accounts/{account.pk}/"))

        assert page.count("€0.03") == 2  # the row and the sum

    def test_of_the_month_that_is_not_over_is_in_it_and_of_a_later_one_is_not(self, monkeypatch):
        account = AccountFactory()
        for month in (9, 10, 11):
            period = PeriodFactory(account=account, month=date(2018, month, 1))
            SummaryFactory(account=account, period=period, quantity=month, unit_price=1)
        monkeypatch.setattr(clock, "now", lambda: datetime(2018, 10, 31, 23, 59, tzinfo=UTC))

        page = text(member_of(account).get(f"/accounts/{account.pk}/"))

        assert page.count("€19.00") == 2
        assert "Counted from 1 September 2018" in page


@pytest.mark.django_db
class TestInvoices:
    def test_says_its_total_before_its_lines(self):
        account = invoiced("12.34")
        invoice = Invoice.objects.get()

        page = text(member_of(account).get(f"/accounts/{account.pk}/invoices/{invoice.pk}/"))

        assert "€12.34" in page[: page.index("What it is for")]

    def test_lists_all_or_the_open_ones(self):
        account = invoiced("12.34")
        client = member_of(account)
        number = Invoice.objects.get().number

        assert number in text(client.get(f"/accounts/{account.pk}/invoices/"))
        assert number in text(client.get(f"/accounts/{account.pk}/invoices/?show=open"))
        Invoice.objects.update(settled_at=AS_OF)
        assert number in text(client.get(f"/accounts/{account.pk}/invoices/"))
        assert "No invoice is open." in text(
            client.get(f"/accounts/{account.pk}/invoices/?show=open")
        )
        assert client.get(f"/accounts/{account.pk}/invoices/?show=odd").status_code == 404

    def test_shows_due_and_credit_invoices_as_such(self):
        BillingEntity.objects.update(payment_terms_days=30000)
        due = invoiced("12.34")
        assert ">Due<" in text(member_of(due).get(f"/accounts/{due.pk}/invoices/"))

    def test_shows_an_invoice_below_zero_as_credit(self):
        account = AccountFactory()
        SummaryFactory(account=account, unit_price=None, amount=Decimal("-5.00"), kind=Kind.CREDIT)
        start_run()
        runner.work_once(pipeline.BY_KIND["INVOICE"], as_of=AS_OF)
        invoice = Invoice.objects.get()

        page = text(member_of(account).get(f"/accounts/{account.pk}/invoices/{invoice.pk}/"))

        assert ">Credit<" in page
        assert "-€5.00" in page.replace("−", "-")

    def test_lines_explain_themselves_and_say_what_paid_them(self):
        account = AccountFactory(name="Acme")
        PriceFactory(free_quantity=Decimal(40), unit_price=Decimal("0.0116"))
        SummaryFactory(account=account, unit_price=None)
        start_run()
        runner.work_once(pipeline.BY_KIND["INVOICE"], as_of=AS_OF)
        invoice = Invoice.objects.get()
        credits.grant_credit(
            account_id=account.pk,
            token=uuid.uuid4(),
            amount_minor=20,
            currency="EUR",
            reason="angry on the phone",
            granted_by="ann@example.com",
            as_of=AS_OF,
        )
        booking.record_payment(
            account_id=account.pk,
            token=uuid.uuid4(),
            amount_minor=50,
            currency="EUR",
            method="Bank transfer 17",
            reason="statement",
            recorded_by="ann@example.com",
            as_of=AS_OF,
        )

        page = text(member_of(account).get(f"/accounts/{account.pk}/invoices/{invoice.pk}/"))

        assert "100 hour" in page
        assert "40 hours free" in page
        assert "€0.0116" in page
        assert "€0.70" in page
        assert "Goodwill credit" in page
        assert "angry on the phone" not in page
        assert "Bank transfer 17" in page

    def test_shows_neither_drafts_nor_others(self):
        account, other = invoiced("12.34"), AccountFactory()
        issued = Invoice.objects.get()
        draft = Invoice.objects.create(
            entity=account.entity,
            account=account,
            period=PeriodFactory(account=account, month=datetime(2018, 9, 1, tzinfo=UTC).date()),
            account_name="Acme",
            currency="EUR",
        )

        for page in ("/", ".csv"):
            url = f"/accounts/{{}}/invoices/{{}}{page}"
            mine, theirs = member_of(account), member_of(other)
            assert mine.get(url.format(account.pk, issued.pk)).status_code == 200
            assert mine.get(url.format(account.pk, draft.pk)).status_code == 404
            assert theirs.get(url.format(account.pk, issued.pk)).status_code == 404
            assert theirs.get(url.format(other.pk, issued.pk)).status_code == 404

    def test_csv_holds_exact_numbers_and_no_formulas(self):
        account = AccountFactory()
        evil = ProductFactory(code="x", name="=cmd|' /C calc'!A0")
        SummaryFactory(account=account, product=evil, item="", quantity=Decimal("0.5"))
        SummaryFactory(account=account, unit_price=None, amount=Decimal("-1.00"), item="@SUM(1)")
        start_run()
        runner.work_once(pipeline.BY_KIND["INVOICE"], as_of=AS_OF)
        invoice = Invoice.objects.get()

        response = member_of(account).get(f"/accounts/{account.pk}/invoices/{invoice.pk}.csv")

        assert response["Content-Disposition"] == f'attachment; filename="{invoice.number}.csv"'
        rows = list(csv.DictReader(io.StringIO(text(response))))
        by_product = {row["product"]: row for row in rows}
        assert by_product["x"]["description"] == "'=cmd|' /C calc'!A0"
        assert by_product["x"]["quantity"] == "0.5"
        assert by_product["x"]["amount"] == "0.05"
        assert by_product["server"]["amount"] == "-1.00"
        assert by_product["server"]["unit_price"] == ""


def work_on_payments() -> None:
    """What a worker of the queue does, a moment later."""
    charging.drive_due(as_of=clock.now())


@pytest.mark.django_db(transaction=True)
class TestPayNow:
    def form(self, client, account):
        """The form as the page shows it."""
        page = client.get(f"/accounts/{account.pk}/pay/")
        return {"due_minor": page.context["due_minor"], "seen": page.context["seen"]}

    def test_asks_first(self):
        account = invoiced("12.34")

        page = text(member_of(account).get(f"/accounts/{account.pk}/pay/"))

        assert "Pay €12.34" in page
        assert "Visa ···· 4242 will be charged." in page
        assert not PaymentAttempt.objects.exists()

    def test_charges_what_it_showed_and_says_so(self):
        account = invoiced("12.34")
        client = member_of(account)

        response = client.post(
            f"/accounts/{account.pk}/pay/", self.form(client, account), follow=True
        )

        page = response.content.decode()
        assert "Your payment is on its way" in page
        assert '<meta http-equiv="refresh" content="2">' in page
        assert not Payment.objects.exists()
        work_on_payments()
        page = client.get(response.request["PATH_INFO"]).content.decode()
        assert "Paid. Thank you!" in page
        assert "http-equiv" not in page
        assert Payment.objects.get().amount_minor == 1234
        decision = Decision.objects.get(act="PAY_NOW")
        assert (decision.did, decision.attempt) == ("DONE", PaymentAttempt.objects.get())
        # As it was under the lock, before the payment was on its way.
        assert (decision.saw["due_minor"], decision.saw["in_flight_minor"]) == (1234, 0)

    def test_twice_is_the_same_as_once(self):
        account = invoiced("12.34")
        client = member_of(account)
        form = self.form(client, account)

        first = client.post(f"/accounts/{account.pk}/pay/", form)
        second = client.post(f"/accounts/{account.pk}/pay/", form)

        assert first.url == second.url
        assert PaymentAttempt.objects.count() == 1

    def test_two_clicks_at_once_are_one_payment(self, sandbox):
        account = invoiced("12.34")
        user = MemberFactory(account=account).user
        form = self.form(signed_in(user), account)
        clients = [signed_in(user), signed_in(user)]

        answers = at_once(
            *(partial(client.post, f"/accounts/{account.pk}/pay/", form) for client in clients)
        )

        assert [answer.status_code for answer in answers] in ([302, 302], [302, 200], [200, 302])
        work_on_payments()
        assert [seen.amount_minor for seen in sandbox.book()] == [1234]
        assert PaymentAttempt.objects.count() == 1

    def test_calls_nobody(self, provider):
        """The provider may take a minute to answer: the customer's page does not."""
        account = invoiced("12.34")
        client = member_of(account)

        client.post(f"/accounts/{account.pk}/pay/", self.form(client, account), follow=True)

        assert sum(provider.calls.values()) == 0
        attempt = PaymentAttempt.objects.get()
        assert (attempt.claims, attempt.priority) == (0, charges.CUSTOMERS_OWN)

    def test_a_declined_one_sent_twice_is_tried_once(self):
        account = invoiced("12.34", card="sandbox_insufficient")
        client = member_of(account)
        form = self.form(client, account)

        client.post(f"/accounts/{account.pk}/pay/", form)
        work_on_payments()
        again = client.post(f"/accounts/{account.pk}/pay/", form, follow=True)

        assert "The card did not have enough funds." in text(again)
        assert "Try again" in text(again)
        assert PaymentAttempt.objects.count() == 1

    @pytest.mark.parametrize("due_minor", ["1", "", "x"])
    def test_shows_another_amount_again_instead_of_charging_it(self, due_minor):
        account = invoiced("12.34")

        response = member_of(account).post(
            f"/accounts/{account.pk}/pay/", {"due_minor": due_minor, "seen": ""}
        )

        assert "The amount has changed." in text(response)
        assert not PaymentAttempt.objects.exists()
        assert Decision.objects.get(act="PAY_NOW").because == "the balance has changed"

    def test_says_when_nothing_is_due_any_more(self):
        account = AccountFactory()
        CardFactory(account=account)

        response = member_of(account).post(f"/accounts/{account.pk}/pay/", {"due_minor": "1234"})

        assert "Nothing is due as of" in text(response)

    def test_says_when_the_card_is_gone(self):
        account = invoiced("12.34", card=None)

        response = member_of(account).post(f"/accounts/{account.pk}/pay/", {"due_minor": "1234"})

        assert "No card is chosen to be charged." in text(response)

    def test_says_when_payments_are_paused_and_charges_nothing(self):
        account = invoiced("12.34")
        client = member_of(account)
        form = self.form(client, account)
        close_gateway()

        page = text(client.post(f"/accounts/{account.pk}/pay/", form))

        assert "Payments are paused for a short while; nothing was charged." in page
        assert not PaymentAttempt.objects.exists()
        assert Decision.objects.get(act="PAY_NOW").did == "SKIPPED"

    def test_says_when_the_card_has_expired(self):
        account = invoiced("12.34")
        PaymentMethod.objects.update(expiry_year=2019)

        page = text(member_of(account).get(f"/accounts/{account.pk}/pay/"))

        assert "has expired" in page
        assert "Add a card" in page

    def test_shows_the_one_that_is_on_its_way(self):
        account = invoiced("12.34")
        client = member_of(account)
        flying = attempt_of(account, state=State.SUBMITTED)

        page = text(client.get(f"/accounts/{account.pk}/pay/"))
        posted = client.post(
            f"/accounts/{account.pk}/pay/", {"due_minor": "1234", "seen": str(flying.pk)}
        )

        assert "A payment is on its way." in page
        assert posted.url == f"/accounts/{account.pk}/payments/{flying.pk}/"

    def test_asks_the_bank_at_once_where_the_outcome_is_not_known(self):
        """Who looks at the page has it asked before its time; not each time they reload it."""
        account = invoiced("12.34", card="sandbox_lost_reply")
        client = member_of(account)
        response = client.post(
            f"/accounts/{account.pk}/pay/", self.form(client, account), follow=True
        )
        work_on_payments()
        page = response.request["PATH_INFO"]
        assert "We are asking your bank" in text(client.get(page))
        waits_until = PaymentAttempt.objects.get().next_action_at
        assert waits_until > clock.now()
        long_ago = clock.now() - timedelta(seconds=11)
        PaymentAttempt.objects.update(updated_at=long_ago)

        client.get(page)
        work_on_payments()

        assert "Paid. Thank you!" in text(client.get(page))

    def test_says_when_the_bank_does_not_say(self, provider):
        account = invoiced("12.34")
        client = member_of(account)
        provider.after("submit", OutcomeUnknown("the line went dead"))
        provider.before("read", OutcomeUnknown("still dead"))

        response = client.post(
            f"/accounts/{account.pk}/pay/", self.form(client, account), follow=True
        )
        work_on_payments()
        response = client.get(response.request["PATH_INFO"])

        assert "We are asking your bank" in text(response)
        assert "You will not be charged twice" in text(response)

    def test_goes_before_the_close_that_has_merely_begun_to(self):
        account = invoiced("12.34")
        client = member_of(account)
        in_a_minute = datetime.now(UTC) + timedelta(minutes=1)
        begun = attempt_of(account, state=State.RESERVED, kind="AUTO", next_action_at=in_a_minute)

        form = self.form(client, account)
        response = client.post(f"/accounts/{account.pk}/pay/", form, follow=True)
        work_on_payments()

        assert "Paid. Thank you!" in text(client.get(response.request["PATH_INFO"]))
        begun.refresh_from_db()
        assert begun.state == State.SUCCEEDED
        assert PaymentAttempt.objects.filter(account=account).count() == 1


@pytest.mark.django_db
class TestAttemptPage:
    @pytest.mark.parametrize(
        ("state", "decline_code", "told"),
        [
            (State.SUCCEEDED, "", "paid"),
            (State.FAILED, "card_declined", "declined"),
            (State.CANCELING, "card_declined", "declined"),
            (State.CANCELING, "", "on_its_way"),
            (State.PROCESSING, "", "on_its_way"),
            (State.RELEASED, "", "given_up"),
            (State.REQUIRES_ACTION, "", "confirm_with_bank"),
            (State.RESERVED, "", "on_its_way"),
            (State.SUBMITTED, "", "on_its_way"),
            (State.REVIEW, "", "unknown"),
        ],
    )
    def test_says_what_became_of_it(self, state, decline_code, told):
        account = invoiced("12.34")
        attempt = attempt_of(account, state=state, decline_code=decline_code)

        response = member_of(account).get(f"/accounts/{account.pk}/payments/{attempt.pk}/")

        assert pay.outcome(attempt, as_of=clock.now()) == told
        assert response.context["outcome"] == told
        assert response.status_code == 200

    def test_says_that_nobody_knows_where_the_bank_did_not_say(self):
        account = invoiced("12.34")
        attempt = attempt_of(account, state=State.SUBMITTED, unknown_since=clock.now())

        assert pay.outcome(attempt, as_of=clock.now()) == "unknown"

    def test_asks_the_bank_of_who_comes_back_from_it(self):
        account = invoiced("12.34")
        later = clock.now() + timedelta(hours=1)
        attempt = attempt_of(account, state=State.REQUIRES_ACTION, next_action_at=later)
        url = f"/accounts/{account.pk}/payments/{attempt.pk}/"

        page = text(member_of(account).get(f"{url}confirmed/", follow=True))

        assert "Your payment is on its way" in page
        attempt.refresh_from_db()
        assert attempt.next_action_at <= clock.now()

    def test_is_not_for_others(self):
        account, other = invoiced("12.34"), AccountFactory()
        attempt = attempt_of(account)

        response = member_of(other).get(f"/accounts/{other.pk}/payments/{attempt.pk}/")

        assert response.status_code == 404


@pytest.mark.django_db
class TestCards:
    CARD = {"card": "sandbox_mastercard", "expiry_month": "12", "make_default": "on"}

    @pytest.fixture
    def year(self):
        return str(datetime.now(UTC).year + 1)

    def test_lists_them_and_what_is_due(self):
        account = invoiced("12.34")

        page = text(member_of(account).get(f"/accounts/{account.pk}/cards/"))

        assert "Visa ···· 4242" in page
        assert "Sandbox: moves no money" in page
        assert "€12.34 is due" in page

    def test_adds_a_sandbox_card_once(self, year):
        account = AccountFactory()
        client = member_of(account)
        form = self.CARD | {"expiry_year": year}

        for _ in range(2):
            response = client.post(f"/accounts/{account.pk}/cards/add/", form, follow=True)
            assert "Mastercard ···· 4444 is on the account." in text(response)

        card = account.payment_methods.get()
        assert (card.token, card.is_default) == ("sandbox_mastercard", True)

    def test_are_not_entered_where_no_gateway_takes_them_but_shown(self, settings):
        account = invoiced("12.34")
        client = member_of(account)
        settings.GATEWAYS = ["none"]

        page = client.get(f"/accounts/{account.pk}/cards/").content.decode()

        assert "Visa ···· 4242" in page
        assert "cards/add/" not in page
        assert client.get(f"/accounts/{account.pk}/cards/add/").status_code == 404
        assert client.get(f"/accounts/{account.pk}/cards/entered/?setup=1").status_code == 404
        assert client.get(f"/accounts/{account.pk}/pay/").status_code == 200

    def test_refuses_a_card_that_is_over_and_a_missing_choice(self):
        account = AccountFactory()
        client = member_of(account)
        url = f"/accounts/{account.pk}/cards/add/"
        now = datetime.now(UTC)

        nothing = text(client.post(url, {}))
        unknown = text(client.post(url, self.CARD | {"card": "4242424242424242"}))

        assert "This field is required." in nothing
        assert "is not one of the available choices" in unknown
        if now.month > 1:
            over = self.CARD | {"expiry_month": "1", "expiry_year": str(now.year)}
            assert f"01/{now.year} is over" in text(client.post(url, over))
        assert not account.payment_methods.exists()

    def test_makes_one_the_default(self):
        account = AccountFactory()
        CardFactory(account=account)
        other = CardFactory(account=account, token="sandbox_mastercard", is_default=False)

        response = member_of(account).post(
            f"/accounts/{account.pk}/cards/{other.pk}/default/", follow=True
        )

        other.refresh_from_db()
        assert other.is_default
        assert "will be charged from now on" in text(response)

    def test_one_that_is_blocked_elsewhere_is_neither_added_nor_made_the_default(self, year):
        CardFactory(token="sandbox_mastercard", state="BLOCKED", is_default=False, blocked_at=AS_OF)
        account = AccountFactory()
        same = CardFactory(account=account, token="sandbox_mastercard", is_default=False)
        client, other = member_of(account), AccountFactory()
        form = self.CARD | {"expiry_year": year}

        chosen = client.post(f"/accounts/{account.pk}/cards/{same.pk}/default/", follow=True)
        entered = member_of(other).post(f"/accounts/{other.pk}/cards/add/", form)

        assert "cannot be charged any more" in text(chosen)
        assert "cannot be charged any more" in text(entered)
        assert not PaymentMethod.objects.filter(is_default=True).exists()

    def test_asks_before_it_removes_one(self):
        account = AccountFactory()
        card = CardFactory(account=account)
        client = member_of(account)
        url = f"/accounts/{account.pk}/cards/{card.pk}/remove/"

        asked = text(client.get(url))
        assert PaymentMethod.objects.get().state == "ACTIVE"
        done = client.post(url, follow=True)

        assert "No other card takes its place by itself" in asked
        assert "was removed" in text(done)
        assert PaymentMethod.objects.get().state == "REMOVED"
        assert client.post(url).status_code == 404

    def test_says_when_none_is_charged(self):
        account = AccountFactory()
        CardFactory(account=account, is_default=False)

        page = text(member_of(account).get(f"/accounts/{account.pk}/cards/"))

        assert "Choose the one we should charge." in page

    def test_a_plain_card_is_removed_without_a_warning(self):
        account = AccountFactory()
        card = CardFactory(account=account, is_default=False)

        page = text(member_of(account).get(f"/accounts/{account.pk}/cards/{card.pk}/remove/"))

        assert "It will not be charged any more." in page

    def test_another_accounts_card_does_not_exist(self):
        account, card = AccountFactory(), CardFactory()
        client = member_of(account)

        for act in ("default", "remove"):
            url = f"/accounts/{account.pk}/cards/{card.pk}/{act}/"
            assert client.post(url).status_code == 404

    def test_a_card_removed_between_look_and_lock_does_not_exist(self, monkeypatch):
        account = AccountFactory()
        card = CardFactory(account=account)

        def gone(**_):
            from billing.payments.methods import NoSuchCard

            raise NoSuchCard(card.pk)

        monkeypatch.setattr("billing.payments.methods.remove_card", gone)

        response = member_of(account).post(f"/accounts/{account.pk}/cards/{card.pk}/remove/")

        assert response.status_code == 404


@pytest.mark.django_db
class TestWhoSeesRuns:
    @pytest.mark.parametrize(
        "page",
        [
            "",
            "{run}/",
            "{run}/changes/",
            "{run}/changes.csv",
            "{run}/invoiced.csv",
            "{run}/report.json",
        ],
    )
    def test_staff_with_the_permission_and_nobody_else(self, page):
        run = start_run_with_a_change()
        url = f"/runs/{page.format(run=run.pk)}"

        assert Client().get(url).status_code == 302
        assert signed_in(UserFactory()).get(url).status_code == 403
        assert staff().get(url).status_code == 403
        for group in ("Support", "Finance"):
            response = staff(group).get(url)
            assert response.status_code == 200
            assert set(response["Cache-Control"].split(", ")) == {"private", "no-store"}
        assert staff(is_superuser=True).get(url).status_code == 200

    def test_support_may_not_start_one(self):
        AccountFactory()

        assert staff("Support").get("/runs/start/").status_code == 403
        assert staff("Finance").get("/runs/start/").status_code == 200
        assert "Start a close" not in text(staff("Support").get("/runs/"))
        assert "Start a close" in text(staff("Finance").get("/runs/"))


def start_run_with_a_change():
    """A run in which one account paid by bank between its invoice and its charge."""
    account = invoiced("1234.50")
    credits.grant_credit(
        account_id=account.pk,
        token=uuid.uuid4(),
        amount_minor=123450,
        currency="EUR",
        reason="sorry",
        granted_by="ann@example.com",
        as_of=AS_OF,
    )
    run = CloseRun.objects.get()
    Decision.objects.create(
        act="CHARGE",
        did="SKIPPED",
        because="=settled meanwhile",
        expected={"due_minor": 123450, "currency": "EUR"},
        saw={"due_minor": 0, "credit_minor": 5, "overdue_minor": 0, "currency": "EUR"},
        world_changed=True,
        account=account,
        run=run,
    )
    Decision.objects.create(act="EMAIL", did="DONE", because="sent", world_changed=True, run=run)
    return run


@pytest.mark.django_db
class TestRunPage:
    def test_says_whether_we_collected_the_money(self):
        run = start_run_with_a_change()
        AccountFactory()

        page = text(staff(is_superuser=True).get(f"/runs/{run.pk}/"))

        assert "1,234.50" in page
        assert "Where the world had changed" in page
        assert "run.js" in page
        assert 'http-equiv="refresh"' in page

    def test_lists_what_is_stuck_with_a_way_to_it(self):
        account = AccountFactory()
        SummaryFactory(account=account, unit_price=None)
        run = start_run()
        runner.work_once(pipeline.BY_KIND["INVOICE"], as_of=AS_OF)

        page = text(staff(is_superuser=True).get(f"/runs/{run.pk}/"))

        assert "add one to the catalogue, then retry this step" in page
        assert f"/runs/{run.pk}/steps/?kind=INVOICE&amp;state=BLOCKED&amp;because=no+price" in page
        assert f"/admin/billing/closerun/{run.pk}/retry/" in page
        assert page.index("no price for") < page.index("its invoice step is blocked")

    def test_says_what_was_rejected_of_the_month_until_somebody_deals_with_it(self):
        run = start_run()
        batch = UsageBatch.objects.create(source="csv", name="late.csv", sha256="0" * 64)
        waits = RejectedRow.objects.create(
            batch=batch, number=3, field="quantity", currency="EUR", amount=Decimal("7.5")
        )

        page = text(staff("Finance").get(f"/runs/{run.pk}/"))
        document = staff("Finance").get(f"/runs/{run.pk}/report.json").json()

        assert "late.csv</a>: 1 row names EUR 7.50." in page
        assert document["rejected_rows"][0]["money"] == [{"currency": "EUR", "amount": "7.50"}]

        waits.again_in = UsageBatch.objects.create(source="csv", name="again.csv", sha256="0" * 64)
        waits.save()
        assert "late.csv" not in text(staff("Finance").get(f"/runs/{run.pk}/"))

    def test_says_how_it_goes_on_when_nobody_works(self):
        run = start_run()

        assert "with <code>manage.py cluster</code>" in text(
            staff("Finance").get(f"/runs/{run.pk}/")
        )

    def test_says_what_waits_who_is_held_and_who_works(self):
        account = account_using("1234.50")
        run = start_run()
        in_ten_days = timezone.now() + timedelta(days=10)
        run.steps.filter(kind="INVOICE").update(run_at=in_ten_days)
        run.steps.filter(kind="CHARGE").update(state="UNKNOWN", run_at=AS_OF, because="no answer")
        Hold.objects.create(account=account, reason="MANUAL", placed_at=AS_OF)
        heartbeats.beat(queues=["default"], workers=1, is_first=True)
        heartbeats.contribute(run_id=run.pk, kind="INVOICE", steps=1200)
        lanes.grant("sandbox", wanted=1)
        Lane.objects.update(rate=100, cap=32)
        client = staff(is_superuser=True)

        page = " ".join(text(client.get(f"/runs/{run.pk}/")).split())
        lanes.pause(Lane.objects.get().pk, by="ann@example.com", because="maintenance")
        paused = " ".join(text(client.get(f"/runs/{run.pk}/")).split())

        day = formats.in_full(in_ten_days.date(), "en")
        assert "its time has not come" in page
        assert "no answer" in page
        assert f"1 step waits for its time, such as a due date, until <strong>{day}" in page
        assert "Placed by hand" in page
        assert "1 worker for default" in page
        assert "1,200" in page
        assert "100 a second" in page
        assert "0 of 32" in page
        assert '<span class="tag good">Open</span>' in page
        assert "paused by ann@example.com: maintenance" in paused
        assert "were refused" not in page
        run.steps.filter(kind="CHARGE").update(fenced=2, deaths=1)
        halting.order(because="a release", by="ann@example.com")
        troubled = " ".join(text(client.get(f"/runs/{run.pk}/")).split())
        assert "2 outcomes came after their lease had run out, and were refused" in troubled
        assert "1 time a worker died" in troubled
        assert "Halted by ann@example.com: a release. Since" in troubled
        assert "manage.py halt --lift" in text(client.get("/runs/"))
        assert "as its lane lets it" not in page
        run.steps.filter(kind="CHARGE").update(provider="sandbox", state="READY")
        held_back = text(client.get(f"/runs/{run.pk}/"))
        assert "as its lane lets it" in held_back
        found = re.search(r'href="(/runs/[^"]+provider=sandbox)"', held_back).group(1)
        listed = text(client.get(found.replace("&amp;", "&")))
        assert "Those in the lane of sandbox." in listed
        assert "no answer" in listed

    def test_and_the_list_of_runs_say_how_many_wait_for_a_person(self):
        SummaryFactory(account=AccountFactory(), unit_price=None)
        run = start_run()
        runner.work_once(pipeline.BY_KIND["INVOICE"], as_of=AS_OF)
        client = staff(is_superuser=True)

        not_counted = text(client.get("/runs/"))
        page = text(client.get(f"/runs/{run.pk}/"))
        listed = text(client.get("/runs/"))

        assert "1 waits for a person</a>" in page
        assert "1 waits for a person</a>" in listed
        assert "4 of 5" in listed
        assert "wait for a person" not in not_counted

    def test_says_aloud_how_far_it_is(self):
        SummaryFactory(account=AccountFactory(), unit_price=None)
        account_using("12.34")
        run = start_run()
        runner.work_once(pipeline.BY_KIND["INVOICE"], as_of=AS_OF)

        page = text(staff(is_superuser=True).get(f"/runs/{run.pk}/"))

        assert 'data-said="5 of 9 steps have ended. 1 waits for a person."' in page

    def test_a_finished_one_stands_still(self):
        BillingEntity.objects.get()
        run = start_run()
        runs.release_report(run.pk)
        runner.work_once(pipeline.BY_KIND["REPORT"], as_of=AS_OF)

        page = text(staff(is_superuser=True).get(f"/runs/{run.pk}/"))
        listed = text(staff(is_superuser=True).get("/runs/"))

        assert "run.js" not in page
        assert "Finished on" in page
        assert "No invoice is issued yet." in page
        assert "Finished" in listed

    def test_shows_the_changes_by_step(self):
        run = start_run_with_a_change()
        client = staff(is_superuser=True)

        everything = text(client.get(f"/runs/{run.pk}/changes/"))
        charges = text(client.get(f"/runs/{run.pk}/changes/?act=CHARGE"))
        nothing = text(client.get(f"/runs/{run.pk}/changes/?act=HOLD"))

        assert "due €1,234.50" in charges
        assert "due €0.00, credit €0.05" in charges
        assert ">sent<" in everything
        assert ">sent<" not in charges
        assert "Every step found what it expected." in nothing

    def test_turns_pages(self):
        run = start_run_with_a_change()
        Decision.objects.bulk_create(
            Decision(act="CHARGE", did="DONE", because="x", world_changed=True, run=run)
            for _ in range(120)
        )

        page = text(staff(is_superuser=True).get(f"/runs/{run.pk}/changes/?page=2"))

        assert "Page 2 of 3" in page
        assert "Previous page" in page
        assert "Next page" in page

    def test_changes_as_csv_hold_no_formulas(self):
        run = start_run_with_a_change()

        response = staff(is_superuser=True).get(f"/runs/{run.pk}/changes.csv?act=CHARGE")

        [row] = csv.DictReader(io.StringIO(text(response)))
        assert row["because"] == "'=settled meanwhile"
        assert row["expected"] == "due €1,234.50"

    def test_what_was_invoiced_as_csv_and_json(self):
        run = start_run_with_a_change()
        client = staff(is_superuser=True)

        [row] = csv.DictReader(io.StringIO(text(client.get(f"/runs/{run.pk}/invoiced.csv"))))
        answer = client.get(f"/runs/{run.pk}/report.json").json()

        assert (row["product"], row["amount"]) == ("server", "1234.50")
        assert answer["lines"][0]["amount"] == "1234.50"
        assert answer["currencies"][0]["credited"] == "1234.50"


@pytest.mark.django_db
class TestStartClose:
    def form(self, month="2018-10"):
        return {
            "entity": BillingEntity.objects.get().pk,
            "month": month,
            "when_balance_changed": "SKIP",
        }

    def test_shows_what_it_means_before_it_starts(self):
        AccountFactory()
        client = staff("Finance")

        asked = text(client.post("/runs/start/", self.form()))
        assert not CloseRun.objects.exists()
        started = client.post("/runs/start/", self.form() | {"confirmed": "yes"})

        assert "Close October 2018 for Month Close?" in asked
        run = CloseRun.objects.get()
        assert started.url == f"/runs/{run.pk}/"
        assert (run.when_balance_changed, "@" in run.started_by) == ("SKIP", True)

    def test_twice_is_the_same_run(self):
        run = start_run()
        client = staff("Finance")

        asked = text(client.post("/runs/start/", self.form()))
        started = client.post("/runs/start/", self.form() | {"confirmed": "yes"}, follow=True)

        assert "was started already" in asked
        assert "was started already by ann@example.com" in text(started)
        assert CloseRun.objects.get() == run

    @pytest.mark.parametrize("sent", [{}, {"confirmed": "yes"}], ids=["looking", "confirmed"])
    def test_refuses_a_month_that_is_not_over(self, sent):
        AccountFactory()

        response = staff("Finance").post("/runs/start/", self.form("2999-01") | sent)

        assert "2999-01 is over in the last of its accounts" in text(response)

    @pytest.mark.parametrize("month", ["October", "2018-13", "2018-10-05"])
    def test_refuses_what_is_no_month(self, month):
        response = staff("Finance").post("/runs/start/", self.form(month))

        assert f"{month}&#x27; is no month: enter year and month" in text(response)


def test_every_table_that_scrolls_is_reached_by_keyboard_and_has_a_name():
    pages = {str(path): path.read_text() for path in TEMPLATES.rglob("*.html")}
    scrolling = [
        (name, tag)
        for name, page in pages.items()
        for tag in re.findall('<div class="scroll".*?>', page)
    ]

    assert len(scrolling) > 10
    assert [one for one in scrolling if 'tabindex="0" role="region" aria-label' not in one[1]] == []


@pytest.mark.django_db
class TestListOfRuns:
    @pytest.mark.parametrize(
        ("now", "said"),
        [
            ("2018-11-02 09:00", "over since 1 November 2018, 00:00 (UTC), and starts by itself"),
            ("2018-10-31 23:00", "over since 1 October 2018, 00:00 (UTC)"),
        ],
    )
    def test_says_which_month_is_not_started_yet(self, now, said, monkeypatch):
        AccountFactory()
        finance = staff("Finance")

        monkeypatch.setattr(clock, "now", lambda: datetime.fromisoformat(f"{now}+00:00"))
        finance.force_login(UserFactory(is_staff=True, is_superuser=True))
        page = text(finance.get("/runs/"))

        assert said in page

    def test_of_the_month_that_goes_on_says_when_it_is_over(self, monkeypatch):
        start_run()
        nobody = text(staff(is_superuser=True).get("/runs/"))
        AccountFactory()

        monkeypatch.setattr(clock, "now", lambda: datetime(2018, 11, 2, 9, tzinfo=UTC))
        page = text(staff(is_superuser=True).get("/runs/"))

        assert "no account, nothing to close." in nobody
        assert "November 2018" in page
        assert "over on 1 December 2018, 00:00 (UTC)" in page


@pytest.mark.django_db
class TestALargeRunsPage:
    def test_shows_what_was_counted_last_and_counts_anew_once_it_is_out(self, monkeypatch):
        invoiced("12.34")
        run = CloseRun.objects.get()
        client = staff(is_superuser=True)
        monkeypatch.setattr(progress, "QUICK_MS", -1)
        client.get(f"/runs/{run.pk}/")
        first = RunProgress.objects.get()
        RunProgress.objects.update(counted_at=timezone.now() - timedelta(seconds=20))

        page = text(client.get(f"/runs/{run.pk}/"))

        assert f"{datetime.fromisoformat(first.seen['as_of']):%H:%M:%S} (UTC)" in page
        assert RunProgress.objects.get().seen["as_of"] > first.seen["as_of"]

    def test_is_out_even_if_it_cannot_be_counted(self, monkeypatch, caplog):
        invoiced("12.34")
        run = CloseRun.objects.get()
        client = staff(is_superuser=True)
        monkeypatch.setattr(progress, "QUICK_MS", -1)
        client.get(f"/runs/{run.pk}/")
        RunProgress.objects.update(counted_at=timezone.now() - timedelta(seconds=20))

        def fail(*_args, **_facts):
            raise OperationalError("the server is gone")

        monkeypatch.setattr(progress, "refresh", fail)

        assert client.get(f"/runs/{run.pk}/").status_code == 200
        assert "could not be counted" in caplog.text

    def test_asks_the_database_a_few_times_whatever_the_run_holds(
        self, monkeypatch, django_assert_max_num_queries
    ):
        for card in ("sandbox_visa", "sandbox_declined"):
            account_using("12.34", card=card)
        run = start_run()
        runner.work_once(pipeline.BY_KIND["INVOICE"], as_of=AS_OF)
        client = staff("Finance")
        client.get(f"/runs/{run.pk}/")

        # A small one is counted for each page.
        with django_assert_max_num_queries(35):
            client.get(f"/runs/{run.pk}/")
        monkeypatch.setattr(progress, "QUICK_MS", -1)
        # Session, user, permissions, run, what was counted, whether work is halted, paused gateways, restores,
        # rejected rows.
        with django_assert_max_num_queries(11):
            client.get(f"/runs/{run.pk}/")


@pytest.mark.django_db
class TestStepsOfARun:
    def test_are_filtered_by_step_state_and_reason(self):
        priced = account_using("12.34")
        unpriced = AccountFactory(name="Unpriced")
        SummaryFactory(account=unpriced, unit_price=None)
        run = start_run()
        runner.work_once(pipeline.BY_KIND["INVOICE"], as_of=AS_OF)
        client = staff("Finance")
        because = run.steps.get(kind="INVOICE", state="BLOCKED").because

        everything = text(client.get(f"/runs/{run.pk}/steps/"))
        blocked = text(client.get(f"/runs/{run.pk}/steps/?kind=INVOICE&state=BLOCKED"))
        for_that = text(client.get(f"/runs/{run.pk}/steps/", {"because": because}))
        nothing = text(client.get(f"/runs/{run.pk}/steps/?state=DEAD"))
        stuck = text(client.get(f"/runs/{run.pk}/steps/?state=STUCK"))
        nonsense = text(client.get(f"/runs/{run.pk}/steps/?state=ASLEEP&after=x"))

        assert "The run" in everything
        assert f'href="{priced.get_absolute_url()}"' in everything
        assert f'href="{priced.get_absolute_url()}"' not in blocked
        assert "no price for" in blocked
        assert "kind__exact=INVOICE&amp;state__exact=BLOCKED" in blocked
        assert for_that.count("Unpriced") == 1
        assert "There is no such step." in nothing
        assert (stuck.count(">Unpriced</a>"), stuck.count("state__exact")) == (4, 0)
        assert "The run" in nonsense

    def test_turn_pages_without_counting_them(self, monkeypatch):
        monkeypatch.setattr(run_steps, "STEPS_PER_PAGE", 3)
        account_using("12.34")
        run = start_run()
        client = staff(is_superuser=True)

        first = text(client.get(f"/runs/{run.pk}/steps/"))
        following = re.search(r'href="\?(after=\d+)"', first).group(1)
        second = text(client.get(f"/runs/{run.pk}/steps/?{following}"))

        assert "Next page" not in second
        assert "The run" in second
        assert "The run" not in first

    def test_as_csv_are_read_in_chunks_and_hold_no_formulas(self, monkeypatch):
        monkeypatch.setattr(run_steps, "CHUNK", 2)
        account_using("12.34", name="=1+1")
        run = start_run()

        response = staff(is_superuser=True).get(f"/runs/{run.pk}/steps.csv?kind=HOLD")
        whole = staff(is_superuser=True).get(f"/runs/{run.pk}/steps.csv")

        rows = list(csv.DictReader(io.StringIO(response.getvalue().decode())))
        assert [(row["kind"], row["account_name"]) for row in rows] == [("Hold", "'=1+1")]
        assert len(whole.getvalue().decode().splitlines()) == 6

    def test_are_for_staff_who_may(self):
        run = start_run()
        user = UserFactory(is_staff=True)

        assert signed_in(user).get(f"/runs/{run.pk}/steps/").status_code == 403
        assert Client().get(f"/runs/{run.pk}/steps.csv").status_code == 302
