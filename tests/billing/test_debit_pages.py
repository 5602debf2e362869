"""What a customer sees of a direct debit: set up, collected on a day, at the bank."""

import pytest
from django.urls import reverse
from django.utils import timezone

from billing.gateways import About
from billing.models import PaymentAttempt, ProviderEvent
from tests import charging
from tests.billing.builders import collect, owing
from tests.factories import MandateFactory, MemberFactory

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def account(debit):
    return owing("12.34", card=None)


@pytest.fixture
def member(client, account):
    client.force_login(MemberFactory(account=account).user)
    return client


def page(member, name: str, *ids) -> str:
    return member.get(reverse(name, args=ids)).content.decode()


class TestSettingUp:
    def test_stores_a_mandate_of_the_accounts_own(self, member, account):
        assert "Set up a direct debit" in page(member, "cards", account.pk)
        token = f"debit_pays.{account.external_id}"
        assert f'value="{token}"' in page(member, "mandate-add", account.pk)
        form = {"mandate": token, "make_default": "on"}

        for _ in range(2):
            shown = member.post(reverse("mandate-add", args=[account.pk]), form, follow=True)

        mandate = account.payment_methods.get()
        assert (mandate.token, mandate.mandate_status) == (token, "PENDING")
        assert (mandate.is_default, mandate.expiry_year) == (True, None)
        assert "mandate: waiting for the bank" in shown.content.decode()

    def test_refuses_one_that_was_ended(self, member, account, debit):
        token = f"debit_pays.{account.external_id}"
        debit.end_mandate(token)

        shown = member.post(
            reverse("mandate-add", args=[account.pk]), {"mandate": token}, follow=True
        )

        assert "set up another one" in shown.content.decode()
        assert not account.payment_methods.exists()

    def test_takes_no_mandate_of_somebody_elses(self, member, account):
        form = {"mandate": "debit_pays.somebody-else"}

        shown = member.post(reverse("mandate-add", args=[account.pk]), form)

        assert "Select a valid choice" in shown.content.decode()
        assert not account.payment_methods.exists()

    def test_is_not_offered_where_there_is_no_such_gateway(self, member, account, settings):
        settings.DEBIT_WEBHOOK_SECRETS = []

        assert member.get(reverse("mandate-add", args=[account.pk])).status_code == 404
        assert "direct debit" not in page(member, "cards", account.pk)


class TestOnItsWay:
    def test_says_the_day_then_that_the_bank_has_it_and_never_overdue(self, member, account):
        MandateFactory(account=account)
        now = timezone.now()
        attempt = collect(account, as_of=now)
        on_the_day = f"On {attempt.charge_date.day} {attempt.charge_date:%B %Y} we will collect"

        overview = page(member, "account", account.pk)
        assert on_the_day in overview
        assert "On its way" in overview
        assert "Overdue</span>" not in overview.split("what-is-due")[0]
        assert on_the_day in page(member, "attempt", account.pk, attempt.pk)

        PaymentAttempt.objects.update(charge_date=now.date(), next_action_at=now)
        charging.drive_due(as_of=now)
        assert "has been on its way since" in page(member, "account", account.pk)
        assert "Your payment is on its way" in page(member, "attempt", account.pk, attempt.pk)


class TestStaff:
    def test_charging_by_hand_says_when_it_is_collected(self, admin_client, account):
        MandateFactory(account=account)
        form = {"reason": "They asked", "seen": "", "due_minor": "1234"}

        said = admin_client.post(
            reverse("admin:accounts_account_charge", args=[account.pk]), form, follow=True
        ).content.decode()

        assert "€12.34 is being charged" in said


class TestTheDoorForEvents:
    def test_keeps_every_event_of_a_delivery_once(self, client, account, debit):
        debit.mandate("debit_pays.acme")
        debit.end_mandate("debit_pays.acme")
        debit.advance(1)
        [(headers, body)] = debit.deliveries(secret="whsec_debit")

        for _ in range(2):
            answer = client.post(
                reverse("webhook", args=["debit"]),
                body,
                content_type="application/json",
                headers=headers,
            )

        assert answer.status_code == 200
        assert set(ProviderEvent.objects.values_list("type", "about")) == {
            ("mandates.cancelled", About.METHOD)
        }
        forged = client.post(
            reverse("webhook", args=["debit"]), body, content_type="application/json"
        )
        assert forged.status_code == 400
