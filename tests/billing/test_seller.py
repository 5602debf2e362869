"""Customers see who sells to them: on pages and in mails, and nothing of the software that does it."""

from email.utils import parseaddr
from typing import Any

import pytest
from django.core import mail
from django.core.exceptions import ValidationError
from django.test import Client

from accounts.models import BillingEntity, User
from tests.billing.message_builders import issued, tell_of
from tests.factories import AccountFactory, EntityFactory, MemberFactory
from tests.mailing import deliver
from tests.notifications.builders import AS_OF, account

pytestmark = pytest.mark.django_db

SELLER = {
    "display_name": "Ács & Társa, Felhő",
    "logo_url": "https://acs.example/logo.png",
    "help_link": "mailto:help@acs.example",
}


def page(client: Client, path: str) -> str:
    return client.get(path, follow=True).content.decode()


class TestMails:
    def test_say_the_seller_s_name_logo_and_help(self, settings: Any) -> None:
        settings.DEFAULT_FROM_EMAIL = "Billing <billing@mail.example.com>"
        payer = account()
        BillingEntity.objects.filter(pk=payer.entity_id).update(**SELLER)
        payer.refresh_from_db()
        tell_of(issued(payer))
        deliver(as_of=AS_OF)

        [sent] = mail.outbox
        html = str(sent.alternatives[0][0])
        assert 'src="https://acs.example/logo.png" alt="Ács &amp; Társa, Felhő"' in html
        assert 'href="mailto:help@acs.example"' in html
        assert "\nÁcs & Társa, Felhő\n" in sent.body
        assert "Help: mailto:help@acs.example" in sent.body
        assert parseaddr(sent.from_email)[1] == "billing@mail.example.com"
        assert "Felh" in str(sent.message()["From"]) or "=?utf-8?" in str(sent.message()["From"])

    def test_of_who_has_set_nothing_stay_as_they_are(self, settings: Any) -> None:
        settings.DEFAULT_FROM_EMAIL = "Billing <billing@mail.example.com>"
        tell_of(issued(account()))
        deliver(as_of=AS_OF)

        [sent] = mail.outbox
        assert sent.from_email == "Billing <billing@mail.example.com>"
        assert "\nAcme Cloud & Co\n" in sent.body
        assert "Help" not in sent.body
        assert "<img" not in str(sent.alternatives[0][0])


class TestPages:
    def test_of_an_account_say_its_seller(self, client: Client) -> None:
        other = EntityFactory(slug="other", name="Other Ltd", invoice_prefix="OT", **SELLER)
        EntityFactory()
        member = MemberFactory(account=AccountFactory(entity=other))
        client.force_login(member.user)

        said = page(client, f"/accounts/{member.account_id}/")

        assert 'src="https://acs.example/logo.png" alt="Ács &amp; Társa, Felhő"' in said
        assert "· Ács &amp; Társa, Felhő</title>" in said
        assert 'href="mailto:help@acs.example"' in said
        assert "Month Close" not in said

    @pytest.mark.parametrize("path", ["/sign-in/", "/no-such-page/"])
    def test_before_signing_in_say_the_only_seller(self, client: Client, path: str) -> None:
        EntityFactory()
        BillingEntity.objects.update(**SELLER)

        said = page(client, path)

        assert "https://acs.example/logo.png" in said
        assert "Month Close" not in said

    def test_before_signing_in_say_none_of_several(self, client: Client) -> None:
        EntityFactory()
        EntityFactory(slug="other", name="Other Ltd", invoice_prefix="OT", **SELLER)

        said = page(client, "/sign-in/")

        assert "acs.example" not in said
        assert "Month Close" not in said

    def test_of_staff_say_the_software(self, client: Client) -> None:
        EntityFactory()
        BillingEntity.objects.update(**SELLER)
        client.force_login(
            User.objects.create_superuser(email="ops@example.com", password="secret")
        )

        said = page(client, "/runs/")

        assert "Month Close" in said
        assert "acs.example" not in said


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("logo_url", "http://acs.example/logo.png"),
        ("logo_url", "javascript:alert(1)"),
        ("help_link", "javascript:alert(1)"),
        ("help_link", "help@acs.example"),
    ],
)
def test_what_a_page_cannot_show_safely_is_refused(field: str, value: str) -> None:
    with pytest.raises(ValidationError) as refused:
        BillingEntity(slug="x", name="X", invoice_prefix="X", **{field: value}).full_clean()

    assert field in refused.value.error_dict
