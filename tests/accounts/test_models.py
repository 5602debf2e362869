"""Who we bill, and what their rows know by themselves."""

from datetime import UTC, datetime

import pytest

from accounts.models import Hold, Member, PaymentMethod, TimelineEvent, User
from tests.factories import AS_OF, AccountFactory, CardFactory, EntityFactory, MemberFactory

pytestmark = pytest.mark.django_db


class TestUser:
    def test_signs_in_by_email(self):
        user = User.objects.create_user("ann@EXAMPLE.com", "secret")

        assert user.email == "ann@example.com"
        assert user.check_password("secret")
        assert (user.is_staff, user.is_superuser) == (False, False)
        assert str(user) == "ann@example.com"

    def test_without_a_password_cannot_sign_in(self):
        assert not User.objects.create_user("ann@example.com").has_usable_password()

    def test_a_superuser_may_do_everything(self):
        user = User.objects.create_superuser("root@example.com", "secret")

        assert (user.is_staff, user.is_superuser) == (True, True)


class TestMember:
    @pytest.mark.parametrize(
        ("role", "may"), [("OWNER", True), ("BILLER", True), ("VIEWER", False)]
    )
    def test_owners_and_billers_may_pay(self, role, may):
        assert Member(role=role).may_pay is may

    def test_says_who_is_where(self):
        member = MemberFactory(account__name="Acme", account__external_id="acme")

        assert str(member) == f"{member.user.email} at Acme (acme)"


class TestPaymentMethod:
    def expires(self, month: int, year: int) -> PaymentMethod:
        return PaymentMethod(expiry_month=month, expiry_year=year)

    def test_is_good_through_the_last_day_of_its_month_anywhere_on_earth(self):
        card = self.expires(10, 2018)

        assert not card.has_expired(datetime(2018, 11, 1, 11, 59, tzinfo=UTC))
        assert card.has_expired(datetime(2018, 11, 1, 12, 0, tzinfo=UTC))

    def test_knows_a_leap_year(self):
        card = self.expires(2, 2020)

        assert not card.has_expired(datetime(2020, 3, 1, 11, 59, tzinfo=UTC))
        assert card.has_expired(datetime(2020, 3, 1, 12, 0, tzinfo=UTC))

    def test_is_known_by_its_last_four(self):
        assert str(CardFactory()) == "Visa ···· 4242"


class TestWords:
    def test_an_account_has_its_page_in_the_admin(self):
        account = AccountFactory(name="Acme", external_id="acme")

        assert str(account) == "Acme (acme)"
        assert account.get_absolute_url() == f"/admin/accounts/account/{account.pk}/change/"

    def test_an_entity_is_its_name(self):
        assert str(EntityFactory()) == "Month Close"

    def test_a_hold_says_why_and_since_when(self):
        assert str(Hold(reason="OVERDUE", placed_at=AS_OF)) == "Overdue invoices since 2018-11-02"

    def test_an_event_says_what_happened(self):
        assert str(TimelineEvent(kind="hold.lifted", summary="Paid")) == "hold.lifted: Paid"
