"""Where customers read how to pay by transfer, and where staff say whose a transfer is."""

import csv
import datetime as dt
import io

import pytest
from django.contrib.auth.models import Permission
from django.urls import reverse

from accounts.models import BillingEntity
from billing.models import (
    BankStatement,
    IncomingTransfer,
    Invoice,
    Payment,
    RepeatedTransfer,
)
from billing.references import reference_of
from tests.billing.builders import due, owing, pay_by_hand
from tests.closing import start_close, work
from tests.factories import AS_OF, AccountFactory, MemberFactory, UserFactory, account_using
from tests.mailing import deliver

pytestmark = pytest.mark.django_db(transaction=True)

BANK = "Month Close Ltd\nIBAN DE02 1203 0000 0000 2020 51"


@pytest.fixture
def account():
    account = owing("12.34", card=None)
    BillingEntity.objects.update(bank_details=BANK)
    return account


@pytest.fixture
def transfer() -> IncomingTransfer:
    return IncomingTransfer.objects.create(
        bank_ref="B1",
        received_on=dt.date(2018, 11, 2),
        currency="EUR",
        amount_minor=2000,
        reference="thanks",
        payer="Acme Ltd",
        because="it names no account",
    )


def clerk(client, *permissions: str):
    user = UserFactory(is_staff=True)
    names = ("view_incomingtransfer", *permissions)
    user.user_permissions.set(Permission.objects.filter(codename__in=names))
    client.force_login(user)
    return client


def url(act: str, transfer: IncomingTransfer) -> str:
    return reverse(f"admin:billing_incomingtransfer_{act}", args=[transfer.pk])


class TestCustomers:
    @pytest.fixture
    def member(self, client, account):
        client.force_login(MemberFactory(account=account).user)
        return client

    @pytest.mark.parametrize("page", ["pay", "invoice"])
    def test_read_where_to_pay_and_what_to_write(self, member, account, page):
        ids = [account.pk] + ([Invoice.objects.get().pk] if page == "invoice" else [])

        shown = member.get(reverse(page, args=ids)).content.decode()

        assert "IBAN DE02 1203" in shown
        assert reference_of(account.pk) in shown

        BillingEntity.objects.update(bank_details="")
        assert "bank transfer" not in member.get(reverse(page, args=ids)).content.decode()

    def test_read_it_in_the_mail_unless_a_card_is_charged(self, mailoutbox, account):
        by_card = account_using("5.00")
        by_transfer = account_using("6.00", card=None)
        start_close()
        work("INVOICE", "EMAIL")
        deliver(as_of=AS_OF)

        said = {mail.body for mail in mailoutbox}
        assert any(reference_of(by_transfer.pk) in body and "IBAN" in body for body in said)
        assert not any(reference_of(by_card.pk) in body for body in said)


class TestTheList:
    def test_says_why_each_waits_and_offers_what_can_be_done(self, client, transfer):
        shown = clerk(client).get(reverse("admin:billing_incomingtransfer_changelist"))

        assert "it names no account" in shown.content.decode()
        assert url("assign", transfer) in shown.content.decode()

    def test_is_a_table_for_finance_too(self, client, transfer):
        transfer.payer = "=HYPERLINK(1)"
        transfer.save()

        table = clerk(client).post(
            reverse("admin:billing_incomingtransfer_changelist"),
            {"action": "download", "_selected_action": [transfer.pk]},
        )

        [line] = csv.DictReader(io.StringIO(table.content.decode()))
        assert (line["amount"], line["state"], line["payer"]) == (
            "20.00",
            "WAITING",
            "'=HYPERLINK(1)",
        )

    def test_an_account_is_found_by_its_reference(self, admin_client, account):
        AccountFactory(name="Somebody else")

        shown = admin_client.get(
            reverse("admin:accounts_account_changelist"), {"q": reference_of(account.pk).lower()}
        )

        assert [found.pk for found in shown.context["cl"].result_list] == [account.pk]
        page = admin_client.get(account.get_absolute_url()).content.decode()
        assert reference_of(account.pk) in page


class TestAssign:
    def test_asks_shows_what_will_be_true_and_books_once(self, client, account, transfer):
        client = clerk(client, "assign_incomingtransfer")
        form = {"account": account.external_id, "reason": "They called"}

        assert "Assign to account" in client.get(url("assign", transfer)).content.decode()
        asked = client.post(url("assign", transfer), form).content.decode()
        assert "Book" in asked
        assert "7.66" in asked  # what is kept as credit
        assert not Payment.objects.exists()
        assert (
            "Book €"
            not in client.post(url("assign", transfer), {**form, "back": "yes"}).content.decode()
        )

        for _ in range(2):
            done = client.post(url("assign", transfer), {**form, "confirmed": "yes"}, follow=True)

        assert "is booked already" in done.content.decode()
        assert Payment.objects.get().reason == "They called: thanks"
        assert due(account) == 0

    @pytest.mark.parametrize(
        ("said", "refusal"),
        [("nobody", "There is no account"), ("forints", "is billed in HUF, this came in in EUR")],
    )
    def test_refuses_an_account_it_cannot_be_booked_to(self, client, transfer, said, refusal):
        AccountFactory(external_id="forints", currency="HUF")

        shown = clerk(client, "assign_incomingtransfer").post(
            url("assign", transfer), {"account": said, "reason": "x", "confirmed": "yes"}
        )

        assert refusal in shown.content.decode()
        assert not Payment.objects.exists()

    @pytest.mark.parametrize("act", ["assign", "aside"])
    def test_is_not_for_everybody_on_staff(self, client, transfer, act):
        assert clerk(client).get(url(act, transfer)).status_code == 403


class TestWhatItMayBe:
    @pytest.fixture
    def resembling(self, account, transfer):
        transfer.resembles = pay_by_hand(account, 2000)
        transfer.suggested_account = account
        transfer.save()
        return transfer

    def test_the_account_that_is_suggested_is_listed_and_filled_in(
        self, client, account, resembling
    ):
        client = clerk(client, "assign_incomingtransfer")

        listed = client.get(reverse("admin:billing_incomingtransfer_changelist")).content.decode()
        form = client.get(url("assign", resembling)).content.decode()

        assert account.get_absolute_url() in listed
        assert url("recorded", resembling) in listed
        assert f'value="{account.external_id}"' in form

    def test_the_payment_that_it_looks_like_is_shown_before_it_is_booked(
        self, client, account, transfer
    ):
        pay_by_hand(account, 2000)
        transfer.received_on = AS_OF.date()
        transfer.save()

        asked = clerk(client, "assign_incomingtransfer").post(
            url("assign", transfer), {"account": account.external_id, "reason": "They called"}
        )

        assert "Book this one only if it is other money." in asked.content.decode()
        assert Payment.objects.count() == 1

    def test_a_person_says_that_it_was_recorded_before(self, client, account, resembling):
        client = clerk(client, "assign_incomingtransfer")

        assert "nothing is booked" in client.get(url("recorded", resembling)).content.decode()
        for _ in range(2):
            said = client.post(url("recorded", resembling), {"reason": "Same money"}, follow=True)

        resembling.refresh_from_db()
        assert resembling.state == "RECORDED"
        assert "was recorded before" in said.content.decode()
        assert url("recorded", resembling) not in said.content.decode()

    def test_what_resembles_nothing_is_refused(self, client, transfer):
        said = clerk(client, "assign_incomingtransfer").post(
            url("recorded", transfer), {"reason": "x"}, follow=True
        )

        assert "looks like no payment" in said.content.decode()


class TestRepeats:
    @pytest.fixture
    def repeat(self, transfer):
        statement = BankStatement.objects.create(name="november.csv", sha256="0" * 64)
        return RepeatedTransfer.objects.create(
            statement=statement, file="november.csv", line=7, transfer=transfer
        )

    @pytest.fixture
    def client(self, client):
        clerk(
            client,
            "assign_incomingtransfer",
            "view_bankstatement",
            "view_repeatedtransfer",
        )
        return client

    def test_are_listed_with_their_statement(self, client, repeat):
        statements = client.get(reverse("admin:billing_bankstatement_changelist")).content.decode()
        listed = client.get(reverse("admin:billing_repeatedtransfer_changelist")).content.decode()

        assert f"?statement__id__exact={repeat.statement_id}" in statements
        assert "Another payment" in listed

    def test_one_is_counted_apart_with_a_reason_and_then_waits(self, client, repeat):
        page = reverse("admin:billing_repeatedtransfer_apart", args=[repeat.pk])

        assert "not the transfer that it was taken for" in client.get(page).content.decode()
        said = client.post(page, {"reason": "Two came"}, follow=True)

        other = IncomingTransfer.objects.get(ordinal=2)
        assert said.redirect_chain[0][0] == url("assign", other)
        assert (other.state, "Two came" in other.because) == ("WAITING", True)
        listed = client.get(reverse("admin:billing_repeatedtransfer_changelist")).content.decode()
        assert "counted apart" in listed

    def test_not_by_everybody_on_staff(self, client, repeat):
        page = reverse("admin:billing_repeatedtransfer_apart", args=[repeat.pk])

        assert clerk(client).get(page).status_code == 403


class TestNotOurs:
    def test_asks_why_and_puts_it_aside(self, client, transfer):
        client = clerk(client, "assign_incomingtransfer")

        assert "no customer" in client.get(url("aside", transfer)).content.decode()
        client.post(url("aside", transfer), {"reason": "A tax refund"})

        transfer.refresh_from_db()
        assert (transfer.state, transfer.because) == ("NOT_OURS", "A tax refund")

    def test_comes_too_late_for_one_that_is_booked(self, client, account, transfer):
        client = clerk(client, "assign_incomingtransfer")
        form = {"account": account.external_id, "reason": "x", "confirmed": "yes"}
        client.post(url("assign", transfer), form)

        said = client.post(url("aside", transfer), {"reason": "A tax refund"}, follow=True)

        assert "is booked already" in said.content.decode()
