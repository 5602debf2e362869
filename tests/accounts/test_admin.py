"""People in the admin: by email; what the system writes, read-only."""

import pytest
from django.test import Client

from accounts.models import BillingEntity, Hold, TimelineEvent, User
from tests.factories import AS_OF, AccountFactory, CardFactory, MemberFactory, UserFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin():
    client = Client()
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    return client


class TestUserAdmin:
    def test_adds_a_person_by_email(self, admin):
        fields = {
            "email": "ann@example.com",
            "usable_password": "true",
            "password1": "correct horse battery",
            "password2": "correct horse battery",
        }

        response = admin.post("/admin/accounts/user/add/", fields)

        assert response.status_code == 302
        assert User.objects.get(email="ann@example.com").check_password("correct horse battery")

    def test_shows_a_person(self, admin):
        person = UserFactory(email="ann@example.com")

        assert (
            "ann@example.com"
            in admin.get(f"/admin/accounts/user/{person.pk}/change/").content.decode()
        )

    def test_lists_and_finds_people(self, admin):
        UserFactory(email="ann@example.com")

        assert "ann@example.com" in admin.get("/admin/accounts/user/?q=ann").content.decode()


class TestBillingEntityAdmin:
    def test_keeps_the_prefix_of_numbers_already_given(self, admin):
        entity = BillingEntity.objects.get()

        admin.post(
            f"/admin/accounts/billingentity/{entity.pk}/change/",
            {"name": "New name", "payment_terms_days": "14", "invoice_prefix": "XX", "slug": "x"},
        )

        entity.refresh_from_db()
        assert (entity.name, entity.payment_terms_days) == ("New name", 14)
        assert (entity.invoice_prefix, entity.slug) == ("MC", "default")

    @pytest.mark.parametrize(
        ("days", "says"),
        [
            ("3,5,5", "Day 5 does not come after day 5"),
            ("7,3", "Day 3 does not come after day 7"),
            ("0,3", "Day 0 does not come after day 0"),
            ("1,2,3,4,5", "no more than 4"),
            ("-1", "greater than or equal to 0"),
            ("soon", "Enter a whole number"),
        ],
    )
    def test_refuses_a_schedule_of_retries_that_is_none(self, admin, days, says):
        BillingEntity.objects.update(retry_days=[3, 9])
        entity = BillingEntity.objects.get()

        page = admin.post(
            f"/admin/accounts/billingentity/{entity.pk}/change/",
            {"name": entity.name, "payment_terms_days": "0", "retry_days": days},
        )

        assert says in page.content.decode()
        entity.refresh_from_db()
        assert entity.retry_days == [3, 9]

    def test_takes_no_schedule_too(self, admin):
        entity = BillingEntity.objects.get()

        admin.post(
            f"/admin/accounts/billingentity/{entity.pk}/change/",
            {"name": entity.name, "payment_terms_days": "0", "retry_days": ""},
        )

        entity.refresh_from_db()
        assert entity.retry_days == []

    def test_asks_for_everything_of_a_new_one(self, admin):
        page = admin.get("/admin/accounts/billingentity/add/").content.decode()

        assert 'name="invoice_prefix"' in page

    def test_is_never_deleted(self, admin):
        entity = BillingEntity.objects.get()

        assert admin.post(f"/admin/accounts/billingentity/{entity.pk}/delete/").status_code == 403


class TestMemberAdmin:
    def test_shows_who_may_do_what(self, admin):
        member = MemberFactory()

        page = admin.get("/admin/accounts/member/").content.decode()

        assert member.user.email in page


class TestReadOnly:
    @pytest.fixture
    def records(self):
        account = AccountFactory()
        card = CardFactory(account=account, token="sandbox_declined")
        hold = Hold.objects.create(account=account, reason="MANUAL", placed_at=AS_OF)
        event = TimelineEvent.objects.create(account=account, kind="test", summary="It happened")
        return {"paymentmethod": card, "hold": hold, "timelineevent": event}

    @pytest.mark.parametrize("name", ["paymentmethod", "hold", "timelineevent"])
    def test_is_shown_and_never_written(self, admin, records, name):
        pk = records[name].pk

        assert admin.get(f"/admin/accounts/{name}/").status_code == 200
        assert admin.get(f"/admin/accounts/{name}/{pk}/change/").status_code == 200
        assert admin.post(f"/admin/accounts/{name}/add/").status_code == 403
        assert admin.post(f"/admin/accounts/{name}/{pk}/change/").status_code == 403
        assert admin.post(f"/admin/accounts/{name}/{pk}/delete/").status_code == 403

    def test_a_cards_token_is_nobodys_to_read(self, admin, records):
        card = records["paymentmethod"]

        page = admin.get(f"/admin/accounts/paymentmethod/{card.pk}/change/").content.decode()

        assert card.token not in page
