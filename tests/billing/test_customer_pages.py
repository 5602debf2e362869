"""What customers' pages say of their money: one figure for one thing, what is asked of them, and until when."""

import re
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from accounts import clock
from accounts.models import BillingEntity
from billing.models import CreditGrant, PaymentAttempt
from tests.billing.builders import bill, grant, pay_by_hand
from tests.billing.test_invoicing import NOVEMBER, using
from tests.billing.test_views import attempt_of, invoiced, member_of, text
from tests.factories import AS_OF, AccountFactory, SummaryFactory, UserFactory, account_using

State = PaymentAttempt.State
pytestmark = pytest.mark.django_db


def amounts_of(page: str, figure: str) -> list[Decimal]:
    """The amounts that a pattern finds, such as "€5.11"."""
    return [Decimal(amount.replace(",", "")) for amount in re.findall(figure, page, re.DOTALL)]


class TestWhatIsDue:
    """The rows of the overview sum to its headlines: what is due, what is overdue, what is on its way."""

    # What the account was billed, what of it is due already, what it paid by hand, and what is in flight.
    @pytest.mark.parametrize("paid", [0, 400])
    @pytest.mark.parametrize("in_flight", [0, 511, 3308, 3819, 5000, 9000])
    @pytest.mark.parametrize("later", [False, True])
    def test_rows_sum_to_the_headlines(self, paid, in_flight, later):
        account = account_using("33.08")
        bill(account)
        using(account, "5.11", month=NOVEMBER)
        if later:
            BillingEntity.objects.update(payment_terms_days=20_000)
        bill(account, month=NOVEMBER)
        if paid:
            pay_by_hand(account, paid)
        if in_flight:
            attempt_of(account, state=State.PROCESSING, amount_minor=in_flight)

        page = text(member_of(account).get(f"/accounts/{account.pk}/"))

        [due] = amounts_of(page, r'class="figure">€([\d,.]+)')
        rows = re.search(r'aria-labelledby="what-is-due".*?</table>', page, re.DOTALL)[0]
        body, foot = rows.split("<tfoot>")
        told = {
            state: sum(amounts_of(body, rf'">{state}</span>.*?class="number sum"[^>]*>€([\d,.]+)'))
            for state in ("Overdue", "On its way", "Due")
        }
        headline = {
            state: sum(amounts_of(page, rf'<span class="tag[^"]*">{state}</span>\s*€([\d,.]+)'))
            for state in ("Overdue", "On its way")
        }
        assert sum(told.values()) == due == sum(amounts_of(foot, r"€([\d,.]+)"))
        assert told["Overdue"] == headline["Overdue"]
        assert told["On its way"] == min(headline["On its way"], due)

    def test_all_of_it_is_listed_however_many_invoices_there_are(self):
        account = account_using("1.00")
        bill(account)
        for month in range(1, 8):
            using(account, "1.00", month=NOVEMBER.replace(year=2019, month=month))
            bill(account, month=NOVEMBER.replace(year=2019, month=month))

        page = member_of(account).get(f"/accounts/{account.pk}/")

        assert len(page.context["due_rows"]) == 8

    def test_an_invoice_says_of_itself_what_the_overview_says_of_it(self):
        account = account_using("33.08")
        [first] = bill(account)
        attempt_of(account, state=State.PROCESSING, amount_minor=3308)
        client = member_of(account)

        for page in ("", "invoices/", "invoices/?show=open", f"invoices/{first.pk}/"):
            shown = text(client.get(f"/accounts/{account.pk}/{page}"))
            assert ">On its way</span>" in shown, page
            assert ">Overdue</span>" not in shown, page


class TestAPaymentThatWaitsForItsCustomer:
    """3-D Secure: wherever the payment is spoken of stand what is asked, until when, and the button."""

    def waiting(self, **details):
        account = invoiced("12.34")
        attempt = attempt_of(
            account, state=State.REQUIRES_ACTION, submitted_at=AS_OF, kind="AUTO", **details
        )
        return account, attempt, account.invoices.get()

    def pages(self, account, attempt, invoice):
        return [
            f"/accounts/{account.pk}/{page}"
            for page in (
                "",
                "pay/",
                "cards/",
                "invoices/",
                f"invoices/{invoice.pk}/",
                f"payments/{attempt.pk}/",
            )
        ]

    def test_every_page_asks_and_has_the_button(self):
        account, attempt, invoice = self.waiting()
        client = member_of(account)

        for url in self.pages(account, attempt, invoice):
            page = " ".join(text(client.get(url)).split())
            assert "Your bank wants you to confirm" in page, url
            assert "5 November 2018" in page, url
            assert f'action="/accounts/{account.pk}/payments/{attempt.pk}/confirm/"' in page, url
            for untrue in ("been on its way", "payment is on its way", ">On its way<", ">Overdue<"):
                assert untrue not in page, (url, untrue)

    def test_who_may_only_look_is_told_who_can(self):
        account, attempt, invoice = self.waiting()
        client = member_of(account, "VIEWER")

        for url in self.pages(account, attempt, invoice):
            if url.endswith("/pay/"):
                continue
            page = text(client.get(url))
            assert "Your bank wants you to confirm" in page, url
            assert '<button class="button">Confirm' not in page, url

    def test_of_any_other_that_is_in_flight_nobody_is_asked(self):
        account = invoiced("12.34")
        attempt = attempt_of(account, state=State.SUBMITTED)
        client = member_of(account)

        for url in self.pages(account, attempt, account.invoices.get())[:-1]:
            assert "wants you to confirm" not in text(client.get(url)), url


class TestTheEstimate:
    @pytest.mark.parametrize(
        ("last_at", "told"),
        [
            (datetime(2018, 10, 17, 21, 30, tzinfo=UTC), "known up to 17 October 2018, 23:30"),
            # A whole month's fee, of which a part is to come.
            (datetime(2018, 11, 1, tzinfo=UTC), "known up to 20 October 2018, 14:00"),
        ],
    )
    def test_says_up_to_when_usage_is_known(self, monkeypatch, last_at, told):
        account = AccountFactory(time_zone="Europe/Budapest")
        SummaryFactory(account=account, last_at=datetime(2018, 10, 2, tzinfo=UTC), item="a")
        SummaryFactory(account=account, last_at=last_at, item="b")
        monkeypatch.setattr(clock, "now", lambda: datetime(2018, 10, 20, 12, tzinfo=UTC))

        page = text(member_of(account).get(f"/accounts/{account.pk}/"))

        assert told in page


class TestAnInvoiceThatAGrantSettled:
    @pytest.mark.parametrize("kind", CreditGrant.Kind.values)
    def test_is_called_paid_unless_it_was_written_off(self, kind):
        account = account_using("10.00")
        bill(account)
        grant(account, 1000, kind=kind)
        client, invoice = member_of(account), account.invoices.get()
        is_written_off = kind == CreditGrant.Kind.WRITE_OFF

        for url in ("invoices/", f"invoices/{invoice.pk}/"):
            page = text(client.get(f"/accounts/{account.pk}/{url}"))
            assert (">Written off<" in page, ">Paid<" in page) == (
                is_written_off,
                not is_written_off,
            ), url
        client.force_login(UserFactory(is_staff=True, is_superuser=True))
        looked_at = text(client.get(f"/admin/accounts/account/{account.pk}/change/"))
        assert (">Written off<" in looked_at) == is_written_off
