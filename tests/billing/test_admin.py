"""The admin: money is looked at by all and written by none; the acts ask first and happen once."""

import re
import uuid
from datetime import timedelta
from decimal import Decimal

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Group
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Account, BillingEntity, Hold, PaymentMethod, TimelineEvent
from billing import dunning, gateways, ledger
from billing.admin import close, groups
from billing.close import pipeline, runs
from billing.close.engine import runner
from billing.invoices import credits
from billing.models import (
    Allocation,
    BankStatement,
    BillingPeriod,
    CreditGrant,
    Decision,
    IncomingTransfer,
    Invoice,
    Payment,
    PaymentAttempt,
    PaymentReversal,
    Price,
    Refund,
    RepeatedTransfer,
    Step,
    UsageBatch,
)
from billing.payments import booking, charges
from notifications.models import Message
from tests import charging
from tests.billing.builders import pay_by_hand
from tests.factories import (
    AS_OF,
    OCTOBER,
    AccountFactory,
    CardFactory,
    PriceFactory,
    ProductFactory,
    SummaryFactory,
    UserFactory,
    account_using,
)

State = PaymentAttempt.State
ACCOUNTS = "/admin/accounts/account/"
MONEY = (
    "allocation", "billingperiod", "closerun", "creditgrant", "decision", "invoice",
    "ledgeraccount", "ledgerentry", "lineitem", "payment", "paymentattempt", "posting", "step",
    "usagebatch", "usagesummary", "bankstatement", "repeatedtransfer",
)  # fmt: skip


def signed_in(user):
    client = Client()
    client.force_login(user)
    return client


def staff(group=None, **of_user):
    user = UserFactory(is_staff=True, **of_user)
    if group:
        groups.create_groups()  # tests with real commits leave none behind
        user.groups.add(Group.objects.get(name=group))
    return signed_in(user)


@pytest.fixture
def superuser():
    return staff(is_superuser=True)


def text(response):
    return response.content.decode()


def start_run():
    run, _ = runs.start(
        entity=BillingEntity.objects.get(), month=OCTOBER, started_by="ann@example.com", as_of=AS_OF
    )
    return run


def invoiced(amount, **of_account):
    account = account_using(amount, **of_account)
    start_run()
    runner.work_once(pipeline.BY_KIND["INVOICE"], as_of=AS_OF)
    return account


def pay(account, amount_minor):
    return booking.record_payment(
        account_id=account.pk,
        token=uuid.uuid4(),
        amount_minor=amount_minor,
        currency=account.currency,
        method="Bank transfer 17",
        reason="statement",
        recorded_by="ann@example.com",
        as_of=AS_OF,
    )


def attempt_of(account, **details):
    method = account.payment_methods.get()
    defaults = {
        "kind": "AUTO",
        "currency": account.currency,
        "amount_minor": 1234,
        "payment_method": method,
        "gateway": method.gateway,
    }
    return PaymentAttempt.objects.create(account=account, **(defaults | details))


def message_of(account, **details):
    defaults = {
        "kind": "INVOICE",
        "fact": f"invoice:{account.pk}",
        "recipient": "books@acme.example",
        "locale": "en",
        "time_zone": "UTC",
        "subject": "Your invoice",
        "body_text": "12.34",
        "body_html": '<script>alert("x")</script><p>12.34</p>',
        "as_of": AS_OF,
    }
    return Message.objects.create(account=account, **(defaults | details))


@pytest.mark.django_db
class TestReadOnly:
    @pytest.fixture
    def account(self):
        """An account with a row of every kind of record."""
        account = invoiced("12.34")
        pay(account, 1000)
        credits.grant_credit(
            account_id=account.pk,
            token=uuid.uuid4(),
            amount_minor=500,
            currency="EUR",
            reason="sorry",
            granted_by="ann@example.com",
            as_of=AS_OF,
        )
        attempt_of(account, state=State.FAILED)
        UsageBatch.objects.create(source="csv", name="usage.csv", sha256="0" * 64)
        transfer = IncomingTransfer.objects.create(
            bank_ref="B1", received_on=AS_OF.date(), currency="EUR", amount_minor=100
        )
        statement = BankStatement.objects.create(name="november.csv", sha256="0" * 64)
        RepeatedTransfer.objects.create(
            statement=statement, file="november.csv", line=2, transfer=transfer
        )
        return account

    @pytest.mark.parametrize("name", MONEY)
    def test_money_is_shown_and_never_written_by_superusers_either(self, superuser, account, name):
        record = apps.get_model("billing", name).objects.last()
        page = f"/admin/billing/{name}/{record.pk}/"

        assert superuser.get(f"/admin/billing/{name}/?q=x").status_code == 200
        assert superuser.get(f"/admin/billing/{name}/").status_code == 200
        assert superuser.get(f"{page}change/").status_code == 200
        assert superuser.post(f"/admin/billing/{name}/add/").status_code == 403
        assert superuser.post(f"{page}change/", {"amount_minor": "1"}).status_code == 403
        assert superuser.post(f"{page}delete/").status_code == 403
        for row in (record, apps.get_model("billing", name).objects.get(pk=record.pk)):
            assert row.pk == record.pk

    @pytest.mark.parametrize("language", ["en", "hu"])
    def test_every_instant_says_its_zone(self, superuser, account, language):
        payment = Payment.objects.get()
        said = f", {payment.received_at:%H:%M} (UTC)"

        for page in ("/admin/billing/payment/", f"/admin/billing/payment/{payment.pk}/change/"):
            assert said in text(superuser.get(page, headers={"accept-language": language}))

    def test_deleting_many_is_not_offered(self, superuser, account):
        page = text(superuser.get("/admin/billing/invoice/"))

        assert "delete_selected" not in page

    def test_usage_events_are_not_listed(self):
        assert apps.get_model("billing", "UsageEvent") not in admin.site._registry

    def test_a_run_leads_to_its_page(self, superuser, account):
        run = account.steps.first().run

        assert f'href="/runs/{run.pk}/"' in text(superuser.get("/admin/billing/closerun/"))


@pytest.mark.django_db
class TestGroups:
    @pytest.fixture(autouse=True)
    def _groups(self):
        groups.create_groups()

    def test_are_there_after_a_migrate(self):
        support, finance = Group.objects.get(name="Support"), Group.objects.get(name="Finance")

        support_may = set(support.permissions.values_list("codename", flat=True))
        finance_may = set(finance.permissions.values_list("codename", flat=True))
        assert {"grant_credit", "change_step", "view_invoice", "place_hold"} <= support_may
        assert {"record_payment", "add_closerun", "view_posting"} <= finance_may
        assert "record_payment" not in support_may
        assert "change_user" not in support_may | finance_may

    def test_stay_as_the_operator_left_them(self):
        support = Group.objects.get(name="Support")
        support.permissions.clear()

        groups.create_groups()

        assert support.permissions.count() == 0

    def test_every_permission_named_exists(self):
        Group.objects.filter(name__in=groups.MAY).delete()

        groups.create_groups()

        for name, codenames in groups.MAY.items():
            has = set(Group.objects.get(name=name).permissions.values_list("codename", flat=True))
            assert set(codenames) <= has


@pytest.mark.django_db
class TestAccountList:
    def test_shows_where_each_stands(self, superuser):
        account = invoiced("1234.50")
        Hold.objects.create(account=account, reason="MANUAL", placed_at=AS_OF)
        Step.objects.filter(kind="CHARGE").update(state="SKIPPED", finished_at=AS_OF)
        attempt_of(account, state=State.SUBMITTED, amount_minor=700)
        other = AccountFactory(name="Other")
        pay(other, 55)

        page = text(superuser.get(ACCOUNTS))

        assert "€1,234.50" in page  # due
        assert re.search(r"Balances as of \d+ \w+ \d{4}, \d\d:\d\d \(UTC\)", page)
        assert "€1,227.50" in page  # overdue, beyond what is on its way
        assert "On hold" in page
        assert "€7.00" in page
        assert "€0.55" in page

    def test_asks_as_often_for_twenty_as_for_two(self, superuser):
        AccountFactory.create_batch(2)
        superuser.get(ACCOUNTS)
        with CaptureQueriesContext(connection) as for_two:
            superuser.get(ACCOUNTS)
        AccountFactory.create_batch(18)
        with CaptureQueriesContext(connection) as for_twenty:
            superuser.get(ACCOUNTS)

        assert len(for_two) == len(for_twenty)

    @pytest.mark.parametrize(
        "term", ["Wanted Ltd", "cust-17", "wanted@example.com", "MC-000001", "mc-000001", "0077"]
    )
    def test_finds_an_account_by_what_support_is_told(self, superuser, term):
        account = account_using(
            "1.00", name="Wanted Ltd", external_id="cust-17", email="wanted@example.com", card=None
        )
        start_run()
        runner.work_once(pipeline.BY_KIND["INVOICE"], as_of=AS_OF)
        CardFactory(account=account, last_four="0077")
        CardFactory(account=account, last_four="0077", token="other", is_default=False)
        AccountFactory(name="Elsewhere", email="else@example.com")

        page = text(superuser.get(ACCOUNTS, {"q": term}))

        assert page.count("Wanted Ltd</a>") == 1
        assert "Elsewhere" not in page

    @pytest.mark.parametrize(
        ("action", "url"),
        [
            ("grant_credit", "grant-credit/"),
            ("record_payment", "record-payment/"),
            ("charge", "charge/"),
            ("place_hold", "hold/"),
        ],
    )
    def test_an_action_leads_to_the_page_of_one(self, superuser, action, url):
        one, two = AccountFactory(), AccountFactory()

        of_one = superuser.post(ACCOUNTS, {"action": action, "_selected_action": [one.pk]})
        of_two = superuser.post(
            ACCOUNTS, {"action": action, "_selected_action": [one.pk, two.pk]}, follow=True
        )

        assert of_one.url == f"{ACCOUNTS}{one.pk}/{url}"
        assert "Choose one account for this." in text(of_two)

    def test_support_is_not_offered_what_it_may_not_do(self):
        AccountFactory()

        page = text(staff("Support").get(ACCOUNTS))

        assert "Grant credit" in page
        assert "Record payment" not in page


@pytest.mark.django_db
class TestAccountPage:
    def test_says_what_is_owed_as_of_when_and_why_it_is_held(self, superuser):
        account = invoiced("12.34")
        dunning.place_hold_by_hand(
            account_id=account.pk, reason="Looks like fraud", actor="ann@example.com", as_of=AS_OF
        )
        attempt_of(account, state=State.SUBMITTED, because="no answer yet")

        page = text(superuser.get(f"{ACCOUNTS}{account.pk}/change/"))

        assert "Owes <strong>€12.34</strong>" in " ".join(page.split())
        assert "(UTC)" in page
        assert "Looks like fraud, by ann@example.com" in page
        assert "no answer yet" in page
        assert "Invoice MC-000001 issued" in page
        assert "Place hold" not in page
        assert "Charge now" not in page

    def test_an_overdue_hold_without_a_decision_is_shown_too(self, superuser):
        account = AccountFactory()
        Hold.objects.create(account=account, reason="OVERDUE", placed_at=AS_OF)

        page = text(superuser.get(f"{ACCOUNTS}{account.pk}/change/"))

        assert "Overdue invoices, since" in page
        assert "Place hold" in page

    def test_offers_every_time_zone_with_its_own_chosen(self, superuser):
        account = AccountFactory(time_zone="Europe/Budapest")

        page = text(superuser.get(f"{ACCOUNTS}{account.pk}/change/"))

        assert '<option value="Europe/Budapest" selected>Europe/Budapest</option>' in page
        assert '<option value="Asia/Tokyo">Asia/Tokyo</option>' in page
        assert 'id="id_time_zone"' in page

    def test_is_kind_about_what_is_not_there(self, superuser):
        account = AccountFactory()

        page = text(superuser.get(f"{ACCOUNTS}{account.pk}/change/"))

        assert "No invoice yet." in page
        assert "It was never held." in page
        assert "Nobody was written to yet." in page

    def test_shows_every_kind_of_record(self, superuser):
        account = account_using("10.00", card=None)
        CardFactory(account=account, expiry_year=2019)
        start_run()
        runner.work_once(pipeline.BY_KIND["INVOICE"], as_of=AS_OF)
        pay(account, 1500)
        attempt_of(account, state=State.FAILED, decline_code="card_declined")
        message_of(account, state="DEAD")
        hold = Hold.objects.create(account=account, reason="MANUAL", placed_at=AS_OF)
        Hold.objects.filter(pk=hold.pk).update(lifted_at=AS_OF)
        BillingEntity.objects.update(payment_terms_days=0)
        other_month = BillingPeriod.objects.create(
            account=account,
            month=OCTOBER.replace(month=9),
            starts_at=AS_OF - timedelta(days=90),
            ends_at=AS_OF - timedelta(days=60),
        )
        Invoice.objects.create(
            entity=account.entity,
            account=account,
            period=other_month,
            account_name="Acme",
            currency="EUR",
        )

        page = text(superuser.get(f"{ACCOUNTS}{account.pk}/change/"))

        for words in (
            "Settled",
            "Draft",
            "card_declined",
            "Bank transfer 17",
            "Dead",
            "Paid too much",
        ):
            assert words in page

    def test_an_invoice_not_yet_due_is_due(self, superuser):
        BillingEntity.objects.update(payment_terms_days=30000)
        account = invoiced("10.00")

        page = text(superuser.get(f"{ACCOUNTS}{account.pk}/change/"))

        assert '<span class="tag warn">Due</span>' in page

    def test_asks_as_often_with_many_records_as_with_one(self, superuser):
        account = invoiced("12.34")
        url = f"{ACCOUNTS}{account.pk}/change/"
        superuser.get(url)
        with CaptureQueriesContext(connection) as before:
            superuser.get(url)
        for _ in range(5):
            pay(account, 10)
            attempt_of(account, state=State.FAILED)
            CardFactory(account=account, is_default=False, token=uuid.uuid4().hex)
            message_of(account, fact=uuid.uuid4().hex)
            account.payment_methods.exclude(token="sandbox_visa").delete()
        with CaptureQueriesContext(connection) as after:
            superuser.get(url)

        assert len(before) == len(after)

    def test_changes_what_is_not_money(self, superuser):
        account = AccountFactory()

        superuser.post(
            f"{ACCOUNTS}{account.pk}/change/",
            {
                "name": "New name",
                "email": "new@example.com",
                "language": "hu",
                "time_zone": "Europe/Budapest",
                "state": "ACTIVE",
                "currency": "USD",
                "members-TOTAL_FORMS": "0",
                "members-INITIAL_FORMS": "0",
            },
        )

        account.refresh_from_db()
        assert (account.name, account.language) == ("New name", "hu")
        assert account.currency == "EUR"

    @pytest.mark.parametrize(
        ("field", "value", "refusal"),
        [
            ("currency", "EUX", "is not an ISO 4217 code"),
            ("time_zone", "Europe/Atlantis", "is not one of the available choices"),
        ],
    )
    def test_refuses_what_does_not_exist(self, superuser, field, value, refusal):
        fields = {
            "entity": BillingEntity.objects.get().pk,
            "external_id": "new",
            "name": "New",
            "currency": "eur",
            "language": "en",
            "time_zone": "UTC",
            "state": "ACTIVE",
            "members-TOTAL_FORMS": "0",
            "members-INITIAL_FORMS": "0",
        }

        refused = superuser.post(f"{ACCOUNTS}add/", fields | {field: value})
        added = superuser.post(f"{ACCOUNTS}add/", fields)

        assert refusal in text(refused)
        assert added.status_code == 302
        assert Account.objects.get().currency == "EUR"

    def test_is_never_deleted(self, superuser):
        account = AccountFactory()

        assert superuser.post(f"{ACCOUNTS}{account.pk}/delete/").status_code == 403

    def test_one_that_is_not_there_leads_back(self, superuser):
        assert superuser.get(f"{ACCOUNTS}99999/change/").status_code == 302


@pytest.mark.django_db
class TestWhoMayAct:
    @pytest.mark.parametrize(
        ("act", "group", "status"),
        [
            ("grant-credit", "Support", 200),
            ("grant-credit", "Finance", 200),
            ("record-payment", "Support", 403),
            ("record-payment", "Finance", 200),
            ("charge", "Support", 200),
            ("hold", "Finance", 200),
            ("grant-credit", None, 403),
            ("charge", None, 403),
            ("hold", None, 403),
        ],
    )
    def test_goes_by_permission(self, act, group, status):
        account = AccountFactory()

        assert staff(group).get(f"{ACCOUNTS}{account.pk}/{act}/").status_code == status

    @pytest.mark.parametrize("act", ["grant-credit", "record-payment", "charge", "hold"])
    def test_is_not_for_customers(self, act):
        account = AccountFactory()

        response = signed_in(UserFactory()).get(f"{ACCOUNTS}{account.pk}/{act}/")

        assert response.status_code == 302
        assert response.url.startswith("/admin/login/")

    def test_an_account_that_is_not_there_is_not_found(self, superuser):
        assert superuser.get(f"{ACCOUNTS}99999/grant-credit/").status_code == 404


@pytest.mark.django_db
class TestGrantCredit:
    def url(self, account):
        return f"{ACCOUNTS}{account.pk}/grant-credit/"

    def form(self, **fields):
        return {
            "amount": "20.00",
            "kind": "GOODWILL",
            "reason": "Outage on the 12th",
            "token": str(uuid.uuid4()),
        } | fields

    def test_shows_what_will_be_true_before_it_is(self):
        account = invoiced("12.34")

        page = " ".join(text(staff("Support").post(self.url(account), self.form())).split())

        assert "Nothing is booked yet." in page
        assert "<strong>€0.00</strong>" in page  # owes after
        assert "<strong>€7.66</strong>" in page  # credit after
        assert "MC-000001" in page
        assert "Goodwill" in page
        assert not CreditGrant.objects.exists()

    def test_grants_it_once_though_sent_twice(self):
        account = invoiced("12.34")
        client = staff("Support", email="ann@example.com")
        form = self.form(confirmed="yes", expires_on="2999-12-31")

        first = client.post(self.url(account), form, follow=True)
        second = client.post(self.url(account), form, follow=True)

        assert "Granted €20.00" in text(first)
        assert "The form was sent twice: the credit was granted once." in text(second)
        grant = CreditGrant.objects.get()
        assert (grant.granted_by, grant.remaining_minor) == ("ann@example.com", 766)
        assert f"{grant.expires_at:%Y-%m-%d %H:%M}" == "3000-01-01 00:00"

    def test_goes_back_with_everything_kept(self):
        account = invoiced("12.34")

        page = text(staff("Support").post(self.url(account), self.form(back="yes")))

        assert 'value="Outage on the 12th"' in page
        assert "Nothing is booked yet." not in page

    @pytest.mark.parametrize(
        ("currency", "fields", "refusal"),
        [
            (
                "EUR",
                {"amount": "1.234"},
                "1.234 is finer than EUR, which has 2 decimals: enter 1.23",
            ),
            ("JPY", {"amount": "1.5"}, "1.5 is finer than JPY, which has 0 decimals: enter 2"),
            ("EUR", {"amount": "0"}, "0 is not above zero"),
            ("EUR", {"amount": "-5"}, "-5 is not above zero"),
            ("EUR", {"amount": "10000000000001"}, "is more than we book at once"),
            ("EUR", {"amount": "NaN"}, "Enter a number."),
            ("EUR", {"reason": ""}, "This field is required."),
            ("EUR", {"kind": "SURPLUS"}, "SURPLUS is not one of the available choices"),
            ("EUR", {"expires_on": "2018-01-01"}, "2018-01-01 is over: enter a later day"),
            ("EUR", {"expires_on": "soon"}, "Enter a valid date."),
        ],
    )
    def test_refuses_with_field_value_and_fix(self, currency, fields, refusal):
        account = AccountFactory(currency=currency)

        page = text(
            staff("Support").post(
                self.url(account), self.form(**{"amount": "20", "confirmed": "yes"} | fields)
            )
        )

        assert refusal in page
        assert not CreditGrant.objects.exists()

    def test_refuses_an_empty_form(self):
        page = text(staff("Support").post(self.url(AccountFactory()), {}))

        assert "This field is required." in page

    def test_warns_when_a_charge_is_on_its_way(self):
        account = invoiced("12.34")
        attempt_of(account, state=State.SUBMITTED)
        client = staff("Support")

        for page in (client.get(self.url(account)), client.post(self.url(account), self.form())):
            assert "it may become a surplus" in text(page)

    def test_says_when_no_invoice_is_open(self):
        page = text(staff("Support").post(self.url(AccountFactory()), self.form()))

        assert "None is open: all of it is kept as credit." in page


@pytest.mark.django_db
class TestRecordPayment:
    def url(self, account):
        return f"{ACCOUNTS}{account.pk}/record-payment/"

    def form(self, **fields):
        return {
            "amount": "10.00",
            "method": "Bank transfer",
            "reference": "2018/1187",
            "reason": "Statement of 2 Nov",
            "token": str(uuid.uuid4()),
        } | fields

    def test_shows_which_invoice_it_would_settle_in_part(self):
        account = invoiced("12.34")

        page = " ".join(text(staff("Finance").post(self.url(account), self.form())).split())

        assert "<strong>€2.34</strong>" in page
        assert not Payment.objects.exists()

    def test_shows_a_transfer_that_may_be_that_money(self):
        account = invoiced("12.34")
        IncomingTransfer.objects.create(
            bank_ref="B1",
            received_on=timezone.now().date(),
            currency="EUR",
            amount_minor=1000,
            suggested_account=account,
        )

        page = text(staff("Finance").post(self.url(account), self.form()))
        other = text(staff("Finance").post(self.url(account), self.form(amount="9.00")))

        assert "Record this payment only if it is other money." in page
        assert "other money" not in other

    def test_shows_that_the_oldest_invoice_gets_it_first(self):
        account = invoiced("12.34")
        SummaryFactory(account=account, unit_price=Decimal("5.00"), quantity=Decimal(1))
        runs.start(
            entity=account.entity,
            month=OCTOBER.replace(month=11),
            started_by="ann@example.com",
            as_of=AS_OF + timedelta(days=60),
        )
        runner.work_once(pipeline.BY_KIND["INVOICE"], as_of=AS_OF + timedelta(days=60))

        response = staff("Finance").post(self.url(account), self.form(amount="12.34"))

        assert [row["number"] for row in response.context["forecast"]["settles"]] == ["MC-000001"]
        assert response.context["forecast"]["due_after"] == "€5.00"

    def test_records_it_once_though_sent_twice(self):
        account = invoiced("12.34")
        client = staff("Finance", email="bob@example.com")
        form = self.form(confirmed="yes")

        first = client.post(self.url(account), form, follow=True)
        second = client.post(self.url(account), form, follow=True)

        assert "Recorded €10.00" in text(first)
        assert "The form was sent twice: the payment was recorded once." in text(second)
        payment = Payment.objects.get()
        assert (payment.method, payment.recorded_by) == (
            "Bank transfer 2018/1187",
            "bob@example.com",
        )

    @pytest.mark.parametrize("amount", ["0", "-5", "0.001", "NaN", ""])
    def test_refuses_an_amount_that_cannot_be(self, amount):
        form = self.form(amount=amount, confirmed="yes")

        page = text(staff("Finance").post(self.url(invoiced("12.34")), form))

        assert "errorlist" in page
        assert not Payment.objects.exists()

    def test_needs_a_reference(self):
        page = text(
            staff("Finance").post(
                self.url(AccountFactory()), self.form(reference="", confirmed="y")
            )
        )

        assert "This field is required." in page


@pytest.mark.django_db(transaction=True)
class TestChargeNow:
    def url(self, account):
        return f"{ACCOUNTS}{account.pk}/charge/"

    def form(self, client, account):
        page = client.get(self.url(account))
        return {
            "reason": "The customer called",
            "due_minor": page.context["due_minor"],
            "seen": page.context["seen"],
        }

    @pytest.mark.parametrize(
        ("card", "told"),
        [
            ("sandbox_visa", "SUCCEEDED"),
            ("sandbox_insufficient", "FAILED"),
            ("sandbox_lost_reply", "SUBMITTED"),
        ],
    )
    def test_is_begun_and_driven_by_a_worker(self, card, told):
        account = invoiced("12.34", card=card)
        client = staff("Support", email="ann@example.com")

        response = client.post(self.url(account), self.form(client, account), follow=True)

        assert "€12.34 is being charged to Visa ···· 4242" in text(response)
        assert PaymentAttempt.objects.get().state == State.RESERVED
        charging.drive_due(as_of=timezone.now())
        assert PaymentAttempt.objects.get().state == told
        decision = Decision.objects.get(act="CHARGE_NOW")
        assert (decision.actor, decision.because) == ("ann@example.com", "The customer called")
        assert decision.attempt == PaymentAttempt.objects.get()

    def test_twice_is_the_same_as_once(self):
        account = invoiced("12.34", card="sandbox_declined")
        client = staff("Support")
        form = self.form(client, account)

        client.post(self.url(account), form)
        charging.drive_due(as_of=timezone.now())
        again = client.post(self.url(account), form, follow=True)

        assert "A charge was tried meanwhile" in text(again)
        assert PaymentAttempt.objects.count() == 1

    def test_charges_nothing_when_the_balance_has_changed(self):
        account = invoiced("12.34")
        client = staff("Support")
        form = self.form(client, account)
        pay(account, 234)

        response = client.post(self.url(account), form, follow=True)

        assert "Nothing was charged: the balance has changed." in text(response)
        assert not PaymentAttempt.objects.exists()
        assert Decision.objects.get(act="CHARGE_NOW").did == "SKIPPED"

    def test_an_amount_that_is_no_number_matches_no_balance(self):
        account = invoiced("12.34")
        client = staff("Support")

        client.post(self.url(account), self.form(client, account) | {"due_minor": "x"})

        assert not PaymentAttempt.objects.exists()

    def test_needs_a_reason(self):
        account = invoiced("12.34")
        client = staff("Support")

        response = client.post(self.url(account), self.form(client, account) | {"reason": ""})

        assert "This field is required." in text(response)

    def test_says_why_it_cannot(self):
        client = staff("Support")
        owes_nothing = AccountFactory()
        no_card = invoiced("12.34", card=None)

        assert "there is nothing to charge" in text(client.get(self.url(owes_nothing)))
        assert "has no card to charge" in text(client.get(self.url(no_card)))
        CardFactory(account=no_card, expiry_year=2019)
        assert "has expired" in text(client.get(self.url(no_card)))
        PaymentMethod.objects.update(expiry_year=2035)
        attempt_of(no_card, state=State.SUBMITTED)
        assert "No other is made before its end is known." in text(client.get(self.url(no_card)))


@pytest.mark.django_db
class TestHoldsByHand:
    def test_places_one_with_a_reason(self):
        account = invoiced("12.34")
        client = staff("Support", email="ann@example.com")
        url = f"{ACCOUNTS}{account.pk}/hold/"

        assert "Paying does not lift it" in text(client.get(url))
        first = client.post(url, {"reason": "Looks like fraud"}, follow=True)
        second = client.post(url, {"reason": "Looks like fraud"}, follow=True)

        assert "is on hold" in text(first)
        assert "held by hand already" in text(second)
        hold = Hold.objects.get(account=account)
        decision = Decision.objects.get(act="PLACE_HOLD")
        assert (hold.reason, decision.hold, decision.actor) == ("MANUAL", hold, "ann@example.com")
        assert decision.saw["due_minor"] == 1234
        assert Message.objects.get(kind="HOLD_PLACED").account == account

    def test_paying_does_not_lift_it(self):
        account = invoiced("12.34")
        hold = dunning.place_hold_by_hand(
            account_id=account.pk, reason="fraud", actor="ann", as_of=AS_OF
        )

        pay(account, 1234)

        hold.refresh_from_db()
        assert hold.lifted_at is None

    @pytest.mark.parametrize("reason", ["MANUAL", "OVERDUE"])
    def test_lifts_one_with_a_reason(self, reason):
        account = invoiced("12.34")
        hold = Hold.objects.create(account=account, reason=reason, placed_at=AS_OF)
        client = staff("Support", email="ann@example.com")
        url = f"{ACCOUNTS}{account.pk}/holds/{hold.pk}/lift/"

        assert "This lifts the hold" in text(client.get(url))
        first = client.post(url, {"reason": "It was not"}, follow=True)
        second = client.post(url, {"reason": "It was not"}, follow=True)

        assert "is lifted." in text(first)
        assert "It was lifted already." in text(second)
        hold.refresh_from_db()
        assert hold.lifted_at is not None
        assert Decision.objects.get(act="LIFT_HOLD").actor == "ann@example.com"
        assert TimelineEvent.objects.filter(kind="hold.lifted").count() == 1

    def test_needs_a_reason(self):
        account = AccountFactory()
        hold = Hold.objects.create(account=account, reason="MANUAL", placed_at=AS_OF)
        client = staff("Support")

        for url in ("hold/", f"holds/{hold.pk}/lift/"):
            assert "This field is required." in text(
                client.post(f"{ACCOUNTS}{account.pk}/{url}", {})
            )

    def test_another_accounts_hold_is_not_found(self):
        hold = Hold.objects.create(account=AccountFactory(), reason="MANUAL", placed_at=AS_OF)

        response = staff("Support").get(f"{ACCOUNTS}{AccountFactory().pk}/holds/{hold.pk}/lift/")

        assert response.status_code == 404


@pytest.mark.django_db
class TestSteps:
    URL = "/admin/billing/step/"

    def dead_step(self):
        account_using("12.34")
        start_run()
        step = Step.objects.get(kind="INVOICE")
        Step.objects.filter(pk=step.pk).update(state="DEAD", finished_at=AS_OF)
        return step

    def send(self, client, step, action, **fields):
        form = {"action": action, "_selected_action": [step.pk]} | fields
        return client.post(self.URL, form, follow=True)

    def test_retry_asks_first(self):
        step = self.dead_step()
        client = staff("Support")

        asked = self.send(client, step, "retry")
        step.refresh_from_db()
        assert step.state == "DEAD"
        done = self.send(client, step, "retry", confirmed="yes", reason="price added")

        step.refresh_from_db()
        assert f'name="_selected_action" value="{step.pk}"' in text(asked)
        assert "1 step</strong> of 1 account" in text(asked)
        assert "None of the accounts owes anything" in text(asked)
        assert "Retried: 1 of 1." in text(done)
        assert step.state == "READY"
        assert Decision.objects.get(act="RETRY_STEP").because == "invoice step retried: price added"

    def test_says_which_were_in_no_state_to_be_retried(self):
        step = self.dead_step()
        Step.objects.filter(pk=step.pk).update(state="READY", finished_at=None)

        done = self.send(staff("Support"), step, "retry", confirmed="yes", reason="x")

        assert "Retried: 0 of 1." in text(done)
        assert "Left as they were: 1." in text(done)

    def test_cancel_needs_a_reason(self):
        step = self.dead_step()
        client = staff("Support")

        asked = self.send(client, step, "cancel")
        refused = self.send(client, step, "cancel", confirmed="yes", reason="")
        done = self.send(client, step, "cancel", confirmed="yes", reason="Closed by contract")

        step.refresh_from_db()
        assert "Cancel steps" in text(asked)
        assert "a payment that is at the provider already: it comes to its end" in text(asked)
        assert "This field is required." in text(refused)
        assert "Cancelled: 1 of 1." in text(done)
        assert (step.state, "Closed by contract" in step.because) == ("CANCELLED", True)

    def test_of_a_finished_run_none_is_cancelled(self):
        step = self.dead_step()
        run = step.run
        run.state, run.finished_at, run.report = "FINISHED", AS_OF, {}
        run.save()

        done = self.send(staff("Support"), step, "cancel", confirmed="yes", reason="x")

        assert "is finished: its report was made" in text(done)

    def test_is_for_those_who_may(self):
        step = self.dead_step()
        user = UserFactory(is_staff=True)
        groups.create_groups()
        user.user_permissions.add(
            *Group.objects.get(name="Support").permissions.filter(codename="view_step")
        )

        self.send(signed_in(user), step, "retry", confirmed="yes", reason="x")
        of_the_run = signed_in(user).post(f"{self.RUNS}{step.run_id}/retry/", {"reason": "x"})

        step.refresh_from_db()
        assert step.state == "DEAD"
        assert of_the_run.status_code == 403

    RUNS = "/admin/billing/closerun/"

    def test_says_whose_money_it_is_about_and_how_many(self):
        accounts = [account_using("12.34"), account_using("900", currency="JPY")]
        run = start_run()
        runner.work_once(pipeline.BY_KIND["INVOICE"], as_of=AS_OF)
        Allocation.objects.create(
            amount_minor=234,
            invoice=Invoice.objects.get(account=accounts[0]),
            payment=pay_by_hand(accounts[1], 1000),
        )

        asked = text(staff("Support").get(f"{self.RUNS}{run.pk}/cancel/"))

        assert "6 steps</strong> of 2 accounts" in asked
        assert "2 × charge, ready" in asked
        assert "<strong>€10.00</strong>" in asked
        assert "Email Acme" in asked

    def test_of_a_run_that_are_stuck_are_retried_at_once(self):
        step = self.dead_step()
        client = staff("Support")

        empty = client.post(f"{self.RUNS}{step.run_id}/retry/", {"reason": ""})
        done = client.post(
            f"{self.RUNS}{step.run_id}/retry/", {"reason": "price added"}, follow=True
        )
        again = client.get(f"{self.RUNS}{step.run_id}/retry/")

        step.refresh_from_db()
        assert step.state == "READY"
        assert "This field is required." in text(empty)
        assert done.redirect_chain[-1][0] == f"/runs/{step.run_id}/"
        assert "Retried: 1 of 1." in text(done)
        assert "There is no such step (any more)." in text(again)
        assert Decision.objects.get(act="RETRY_RUN").saw == {"steps": 1, "changed": 1}

    def test_that_take_longer_than_a_request_go_on_when_it_is_sent_again(self, monkeypatch):
        step = self.dead_step()
        monkeypatch.setattr(close, "REQUEST_SECONDS", -1)
        client = staff("Support")

        of_the_run = client.post(f"{self.RUNS}{step.run_id}/retry/", {"reason": "price added"})
        chosen = self.send(client, step, "retry", confirmed="yes", reason="price added")

        for page in (of_the_run, chosen):
            assert "Still to do: 1. Send it again to go on." in text(page)
            assert 'value="price added"' in text(page)


@pytest.mark.django_db(transaction=True)
class TestAskTheProvider:
    def send(self, *attempts):
        """The action, and a worker a moment later."""
        response = staff("Support").post(
            "/admin/billing/paymentattempt/",
            {
                "action": "ask_the_provider",
                "_selected_action": [str(attempt.pk) for attempt in attempts],
            },
            follow=True,
        )
        charging.drive_due(as_of=timezone.now())
        return response

    def test_learns_what_became_of_a_lost_reply_at_once(self):
        account = invoiced("12.34", card="sandbox_lost_reply")
        attempt = charging.collect(account_id=account.pk, kind="AUTO", as_of=timezone.now())
        assert attempt.state == State.SUBMITTED

        response = self.send(attempt)

        attempt.refresh_from_db()
        assert attempt.state == State.SUCCEEDED
        assert "One payment is being asked about." in text(response)

    def test_frees_one_that_has_killed_its_workers(self):
        account = invoiced("12.34")
        attempt = attempt_of(account, parked_at=timezone.now(), deaths=3, next_action_at=AS_OF)
        charging.drive_due(as_of=timezone.now())
        attempt.refresh_from_db()
        assert attempt.state == State.RESERVED

        self.send(attempt)

        attempt.refresh_from_db()
        assert (attempt.state, attempt.parked_at) == (State.SUCCEEDED, None)

    def test_takes_one_out_of_review(self):
        account = invoiced("12.34", card="sandbox_lost_reply")
        attempt = charging.collect(account_id=account.pk, kind="AUTO", as_of=timezone.now())
        PaymentAttempt.objects.update(state=State.REVIEW, next_action_at=None)

        self.send(attempt)

        attempt.refresh_from_db()
        assert attempt.state == State.SUCCEEDED
        assert ledger.standing(account.pk, as_of=timezone.now()).due_minor == 0

    def test_drives_on_one_that_never_reached_the_provider(self):
        account = invoiced("12.34")
        attempt = attempt_of(account, next_action_at=AS_OF)

        self.send(attempt)

        attempt.refresh_from_db()
        assert attempt.state == State.SUCCEEDED

    def test_says_when_there_is_no_answer(self):
        account = invoiced("12.34")
        attempt = attempt_of(account, state=State.REVIEW, provider_ref="sb_unknown")

        self.send(attempt)

        attempt.refresh_from_db()
        assert attempt.unknown_since is not None
        assert "the sandbox book has no charge" in attempt.because

    def test_leaves_those_alone_that_have_ended(self):
        account = invoiced("12.34")
        attempt = attempt_of(account, state=State.FAILED)

        response = self.send(attempt)

        assert "1 have come to their end" in text(response)


@pytest.mark.django_db
class TestMessages:
    URL = "/admin/notifications/message/"

    def test_shows_the_mail_where_it_can_do_no_harm(self, superuser):
        message = message_of(AccountFactory())

        page = text(superuser.get(f"{self.URL}{message.pk}/change/"))

        assert 'sandbox="" srcdoc="&lt;script&gt;' in page
        assert '<script>alert("x")' not in page

    def test_says_its_amounts_with_their_currency(self, superuser):
        message = message_of(AccountFactory(), amounts={"currency": "EUR", "due_minor": 1234})

        page = text(superuser.get(f"{self.URL}{message.pk}/change/"))

        assert "due €12.34" in page
        assert "due_minor" not in page

    def test_is_never_written(self, superuser):
        message = message_of(AccountFactory())

        assert superuser.post(f"{self.URL}{message.pk}/change/").status_code == 403
        assert superuser.post(f"{self.URL}add/").status_code == 403

    def test_tries_dead_ones_again_and_says_which_were_not(self):
        account = AccountFactory()
        dead = message_of(account, state="DEAD")
        queued = message_of(account, fact="invoice:2")

        page = text(
            staff("Support").post(
                self.URL,
                {"action": "retry", "_selected_action": [str(dead.pk), str(queued.pk)]},
                follow=True,
            )
        )

        dead.refresh_from_db()
        assert dead.state == "QUEUED"
        assert "Queued again: Your invoice" in page
        assert "is not dead: left as it is." in page


@pytest.mark.django_db
class TestCatalogue:
    def test_a_price_that_was_used_stays_as_it_is(self, superuser):
        account = AccountFactory()
        used = PriceFactory()
        unused = PriceFactory(product=ProductFactory(code="other", name="Other"))
        SummaryFactory(account=account, unit_price=None)
        start_run()
        runner.work_once(pipeline.BY_KIND["INVOICE"], as_of=AS_OF)

        for price, status in ((used, 403), (unused, 302)):
            url = f"/admin/billing/price/{price.pk}"
            assert superuser.get(f"{url}/change/").status_code == 200
            response = superuser.post(f"{url}/delete/", {"post": "yes"})
            assert response.status_code == status
        assert Price.objects.get() == used

    def test_finance_adds_a_price_and_support_does_not(self):
        product = ProductFactory()
        form = {
            "product": product.pk,
            "item": "",
            "unit": "hour",
            "currency": "EUR",
            "unit_price": "0.0116",
            "free_quantity": "0",
            "monthly_fee": "0",
            "starts_at_0": "2018-01-01",
            "starts_at_1": "00:00:00",
        }

        assert staff("Support").post("/admin/billing/price/add/", form).status_code == 403
        assert staff("Finance").post("/admin/billing/price/add/", form).status_code == 302
        assert Price.objects.get().unit_price == Decimal("0.0116")

    def test_lists(self, superuser):
        PriceFactory()

        assert superuser.get("/admin/billing/price/").status_code == 200
        assert superuser.get("/admin/billing/product/?q=server").status_code == 200


@pytest.mark.django_db(transaction=True)
class TestReviews:
    @pytest.fixture
    def reviewed(self, provider):
        """The provider has taken another currency."""
        account = invoiced("12.34")
        provider.says("submit", currency="USD")
        provider.says("read", currency="USD")
        attempt = charging.collect(account_id=account.pk, kind="AUTO", as_of=timezone.now())
        assert attempt.state == State.REVIEW
        return attempt

    def resolve(self, client, attempt, **sent):
        return client.post(
            f"/admin/billing/paymentattempt/{attempt.pk}/resolve/", sent, follow=True
        )

    def act(self, client, attempt, action):
        chosen = {"action": action, "_selected_action": [str(attempt.pk)]}
        return text(client.post("/admin/billing/paymentattempt/", chosen, follow=True))

    def test_have_an_owner(self, reviewed):
        client = staff("Support")

        for _ in range(2):
            assert "is yours to look after" in self.act(client, reviewed, "take_review")

        reviewed.refresh_from_db()
        assert reviewed.review_owner
        event = TimelineEvent.objects.get(account=reviewed.account_id, kind="payment.review")
        assert event.actor == reviewed.review_owner

    def test_lead_to_being_resolved_from_their_own_page(self, reviewed):
        page = f"/admin/billing/paymentattempt/{reviewed.pk}/"

        assert f'href="{page}resolve/"' in text(staff("Support").get(f"{page}change/"))
        PaymentAttempt.objects.update(state=State.RELEASED)
        assert f'href="{page}resolve/"' not in text(staff("Support").get(f"{page}change/"))

    def test_say_their_amount_once(self, reviewed):
        page = text(staff("Support").get(f"/admin/billing/paymentattempt/{reviewed.pk}/change/"))

        assert "€12.34" in page
        assert not re.search(r"\b1234\b(?!\))", page)

    def test_are_resolved_with_a_reason_by_who_has_looked(self, reviewed):
        client = staff("Finance")
        page = self.act(client, reviewed, "resolve_review")
        assert "the provider took USD, not EUR" in page
        assert "look at the provider" in page

        self.resolve(client, reviewed)
        reviewed.refresh_from_db()
        assert reviewed.state == State.REVIEW, "a reason is asked for"
        self.resolve(client, reviewed, reason="Refunded there, re_17")

        reviewed.refresh_from_db()
        assert (reviewed.state, bool(reviewed.resolved_by)) == (State.RELEASED, True)
        decision = Decision.objects.get(act="REVIEW")
        assert (decision.because, decision.actor) == (
            "Released: Refunded there, re_17",
            reviewed.resolved_by,
        )

    def test_once_resolved_stay_so_whatever_is_told_of_that_money(self, reviewed, provider):
        self.resolve(staff("Finance"), reviewed, reason="Refunded there")
        seen = provider.read(reviewed.provider_ref)

        charges.apply_provider_state({reviewed.pk: seen}, as_of=timezone.now())

        reviewed.refresh_from_db()
        assert reviewed.state == State.RELEASED
        provider.heals()
        charges.apply_provider_state(
            {reviewed.pk: provider.read(reviewed.provider_ref)}, as_of=timezone.now()
        )
        assert ledger.standing(reviewed.account_id, as_of=timezone.now()).due_minor == 0

    def test_end_by_what_the_provider_says_if_it_does(self, reviewed, provider):
        provider.heals()

        page = self.resolve(staff("Finance"), reviewed, reason="Looked at it")

        reviewed.refresh_from_db()
        assert (reviewed.state, reviewed.resolved_by) == (State.SUCCEEDED, "")
        assert "Succeeded." in text(page)

    def test_that_have_ended_meanwhile_are_said_to(self, reviewed):
        client = staff("Finance")
        self.resolve(client, reviewed, reason="Refunded there")

        assert "is not in review" in text(self.resolve(client, reviewed, reason="Again"))
        assert "is not in review" in self.act(client, reviewed, "take_review")
        assert Decision.objects.filter(act="REVIEW").count() == 1

    def test_are_resolved_one_at_a_time(self, reviewed):
        other = attempt_of(invoiced("1.00"), state=State.REVIEW)
        chosen = {
            "action": "resolve_review",
            "_selected_action": [str(reviewed.pk), str(other.pk)],
        }
        page = staff("Finance").post("/admin/billing/paymentattempt/", chosen, follow=True)

        assert "Choose one payment for this." in text(page)

    def test_are_for_those_who_may(self, reviewed):
        user = UserFactory(is_staff=True)

        page = self.resolve(signed_in(user), reviewed, reason="x")

        assert page.status_code == 403


@pytest.mark.django_db(transaction=True)
class TestRefund:
    @pytest.fixture
    def payment(self):
        return pay(invoiced("12.34"), 1234)

    def page(self, payment):
        return f"/admin/billing/payment/{payment.pk}/refund/"

    def form(self, **fields):
        return {"amount": "5.00", "reason": "Reference 4711", "token": uuid.uuid4(), **fields}

    def test_offers_all_that_is_left_then_asks_then_pays_back_once(self, payment):
        support = staff("Support")
        assert 'value="12.34"' in text(support.get(self.page(payment)))
        form = self.form()

        asked = text(support.post(self.page(payment), form))
        assert "Refund €5.00" in " ".join(asked.split()).replace("\xa0", "")
        assert not Refund.objects.exists()
        for _ in range(2):
            done = support.post(self.page(payment), {**form, "confirmed": "yes"}, follow=True)

        assert "The form was sent twice: it is one refund." in text(done)
        made = Refund.objects.get()
        assert (made.amount_minor, made.state, made.reason) == (500, "SUCCEEDED", "Reference 4711")
        assert made.requested_by.startswith("person")

    @pytest.mark.parametrize("amount", ["12.35", "0", "-1", "0.001", "x"])
    def test_refuses_an_amount_that_cannot_be(self, payment, amount):
        form = self.form(amount=amount, confirmed="yes")

        page = text(staff("Support").post(self.page(payment), form))

        assert "errorlist" in page
        assert not Refund.objects.exists()

    def test_says_so_when_it_cannot_be_done(self, payment):
        PaymentReversal.objects.create(
            account=payment.account, payment=payment, gateway="manual", provider_ref="1",
            amount_minor=1234, credit_minor=0, owed_minor=0, lost_minor=1234, reversed_at=AS_OF,
        )  # fmt: skip

        page = text(staff("Support").get(self.page(payment)))

        assert "Look at what will be true" not in page

    def test_is_not_for_everybody(self, payment):
        assert staff().get(self.page(payment)).status_code == 403

    def test_says_why_nothing_was_paid_back(self, provider):
        account = invoiced("12.34")
        charging.collect(account_id=account.pk, kind="AUTO", as_of=timezone.now())
        payment, support = account.payments.get(), staff("Support")
        provider.after("refund", gateways.OutcomeUnknown("lost"))

        said = [
            text(
                support.post(
                    self.page(payment), self.form(amount="1.00", confirmed="yes"), follow=True
                )
            )
            for _ in range(2)
        ]

        assert "€1.00 is being paid back" in said[0]
        assert "Nothing was paid back: another refund" in said[1]

    def test_through_a_gateway_that_is_switched_off_is_shown_and_says_so(self, settings):
        account = invoiced("12.34")
        charging.collect(account_id=account.pk, kind="AUTO", as_of=timezone.now())
        payment, support = account.payments.get(), staff("Support")
        settings.GATEWAYS = ["none"]
        assert support.get(self.page(payment)).status_code == 200

        said = text(support.post(self.page(payment), self.form(confirmed="yes"), follow=True))

        assert "Nothing was paid back: gateway" in said
        assert "is switched off: GATEWAYS is" in said

    def test_through_a_gateway_that_is_gone_says_so(self, payment):
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE billing_payment DISABLE TRIGGER USER")
            cursor.execute("UPDATE billing_payment SET gateway = 'gone'")
            cursor.execute("ALTER TABLE billing_payment ENABLE TRIGGER USER")
        support, form = staff("Support"), self.form(confirmed="yes")
        assert support.get(self.page(payment)).status_code == 200

        said = text(support.post(self.page(payment), form, follow=True))

        assert "is not one of" in said

    def test_review_is_resolved_one_at_a_time_and_not_by_everybody(self):
        chosen = {"action": "resolve_review", "_selected_action": [uuid.uuid4(), uuid.uuid4()]}

        said = text(staff("Support").post("/admin/billing/refund/", chosen, follow=True))

        assert "Choose one refund for this." in said
        page = f"/admin/billing/refund/{uuid.uuid4()}/resolve/"
        assert staff().get(page).status_code == 403

    def test_in_review_is_ended_with_a_reason(self, provider):
        account = invoiced("12.34")
        charging.collect(account_id=account.pk, kind="AUTO", as_of=timezone.now())
        provider.before("refund", gateways.Misconfigured("wrong key"))
        made = charging.refund(
            payment_id=account.payments.get().pk, token=uuid.uuid4(), amount_minor=100,
            reason="", actor="ann@example.com", as_of=timezone.now(),
        )  # fmt: skip
        assert made.state == Refund.State.REVIEW
        own_page = text(staff("Finance").get(f"/admin/billing/refund/{made.pk}/change/"))
        assert f'href="/admin/billing/refund/{made.pk}/resolve/"' in own_page
        support = staff("Support")
        chosen = {"action": "resolve_review", "_selected_action": [made.pk]}

        to = support.post("/admin/billing/refund/", chosen).url
        assert "wrong key" in text(support.get(to))
        said = text(support.post(to, {"reason": "not there"}, follow=True))

        assert "Failed. released by" in said
        again = text(support.post(to, {"reason": "not there"}, follow=True))
        assert "is not in review" in again
