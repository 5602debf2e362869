"""Staff look at a customer's pages as the customer: read only, told on the timeline, in words for staff."""

from datetime import timedelta

import pytest

from accounts import clock
from accounts.models import TimelineEvent, User
from billing.models import PaymentAttempt
from tests.billing.test_views import attempt_of, invoiced, member_of, staff, text
from tests.factories import AccountFactory

pytestmark = pytest.mark.django_db

CHANGES = (
    "pay/",
    "cards/add/",
    "cards/{card}/default/",
    "cards/{card}/remove/",
    "payments/{attempt}/confirm/",
)


def viewing(account, group="Support"):
    client = staff(group)
    client.post(f"/accounts/{account.pk}/view-as/")
    return client


class TestViewAsThisCustomer:
    def test_begins_at_the_accounts_page_and_asks_first(self):
        account = AccountFactory()
        client = staff("Support")

        page = text(client.get(f"/admin/accounts/account/{account.pk}/change/"))
        asked = text(client.get(f"/accounts/{account.pk}/view-as/"))

        assert f'href="/accounts/{account.pk}/view-as/"' in page
        assert "change nothing" in asked
        assert not TimelineEvent.objects.exists()
        assert client.get(f"/accounts/{account.pk}/").status_code == 404

    def test_shows_what_the_customer_sees_with_a_banner_and_a_line_on_the_timeline(self):
        account = invoiced("12.34", language="hu")
        client = viewing(account)
        invoice = account.invoices.get()

        for url in ("", "invoices/", f"invoices/{invoice.pk}/", "cards/"):
            page = client.get(f"/accounts/{account.pk}/{url}")
            assert page.status_code == 200, url
            assert "You view as the customer" in text(page), url
            assert '<html lang="hu">' in text(page), url
        told = TimelineEvent.objects.get(kind="account.viewed_as_customer")
        assert told.account == account
        assert told.actor in told.summary

    def test_changes_nothing(self):
        account = invoiced("12.34", card="sandbox_lost_reply")
        card = account.payment_methods.get()
        attempt = attempt_of(account, state="SUBMITTED", unknown_since=clock.now())
        client = viewing(account)
        before = PaymentAttempt.objects.values().get()

        for change in CHANGES:
            url = change.format(card=card.pk, attempt=attempt.pk)
            response = client.post(f"/accounts/{account.pk}/{url}")
            assert response.status_code == 403, url
            assert "Ask an owner" not in text(response), url
            assert "in the admin" in text(response), url
        # The customer's own look at it would ask the provider, and drive it on.
        assert client.get(f"/accounts/{account.pk}/payments/{attempt.pk}/").status_code == 200
        assert PaymentAttempt.objects.values().get() == before
        card.refresh_from_db()
        assert card.is_default

    def test_is_of_one_account_and_ends(self, monkeypatch):
        account, other = AccountFactory(), AccountFactory()
        client = viewing(account)

        assert client.get(f"/accounts/{other.pk}/").status_code == 404
        client.post(f"/accounts/{account.pk}/view-as/end/")
        assert client.get(f"/accounts/{account.pk}/").status_code == 404

        client = viewing(account)
        now = clock.now()
        monkeypatch.setattr(clock, "now", lambda: now + timedelta(hours=1))
        assert client.get(f"/accounts/{account.pk}/").status_code == 404

    def test_is_not_for_customers_nor_for_staff_who_may_not_see_accounts(self):
        account = AccountFactory()

        for client in (member_of(account), staff()):
            assert client.post(f"/accounts/{account.pk}/view-as/").status_code == 403
        assert not TimelineEvent.objects.exists()

    def test_ends_with_the_right_to_it(self):
        account = AccountFactory()
        client = viewing(account)
        user = TimelineEvent.objects.get().actor
        User.objects.get(email=user).groups.clear()

        assert client.get(f"/accounts/{account.pk}/").status_code == 404


class TestWordsForWhoReadsThem:
    def test_staff_are_told_how_to_see_a_customers_page(self):
        account = AccountFactory()

        page = staff("Support").get(f"/accounts/{account.pk}/")

        assert page.status_code == 404
        assert "View as this customer" in text(page)
        assert f"/admin/accounts/account/{account.pk}/change/" in text(page)
        assert "Ask an owner" not in text(page)

    def test_staff_who_may_not_are_sent_to_whoever_manages_staff(self):
        page = text(staff("Support").get("/runs/start/"))

        assert "Ask an owner" not in page
        assert "manages staff accounts" in page

    def test_a_member_is_sent_to_an_owner(self):
        account = AccountFactory()

        page = text(member_of(account, "VIEWER").get(f"/accounts/{account.pk}/pay/"))

        assert "Ask an owner of the account." in page
