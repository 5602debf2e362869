"""Where staff see that rows of usage were rejected, and set them aside with a reason."""

import pytest
from django.contrib.auth.models import Permission
from django.urls import reverse

from billing.models import RejectedRow, UsageBatch
from tests.factories import UserFactory

pytestmark = pytest.mark.django_db(transaction=True)

LIST = "/admin/billing/usagebatch/"


@pytest.fixture
def batch():
    batch = UsageBatch.objects.create(
        source="csv", name="usage.csv", sha256="0" * 64, rows_read=1, rows_rejected=1
    )
    RejectedRow.objects.create(
        batch=batch, number=3, field="kind", currency="EUR", amount="7.5", account="acme"
    )
    return batch


def clerk(client, *permissions: str):
    user = UserFactory(is_staff=True, email="ann@example.com")
    names = ("view_usagebatch", *permissions)
    user.user_permissions.set(Permission.objects.filter(codename__in=names))
    client.force_login(user)
    return client


def aside(batch) -> str:
    return reverse("admin:billing_usagebatch_aside", args=[batch.pk])


def test_the_list_says_which_imports_wait_and_since_when(client, batch):
    UsageBatch.objects.create(source="csv", name="clean.csv", sha256="1" * 64)
    client = clerk(client)

    page = client.get(f"{LIST}?rejects=waiting").content.decode()

    assert "Waiting for repair" in page
    assert aside(batch) in page
    assert "clean.csv" not in page
    assert "clean.csv" in client.get(LIST).content.decode()
    assert "1 row names EUR 7.50" in client.get(f"{LIST}{batch.pk}/change/").content.decode()


def test_rows_are_set_aside_with_a_reason_once(client, batch):
    client = clerk(client, "set_aside_rejects")

    asked = client.get(aside(batch)).content.decode()
    assert "1 row names EUR 7.50" in asked
    assert client.post(aside(batch), {"reason": ""}).status_code == 200
    for _ in range(2):
        said = client.post(aside(batch), {"reason": "A test row"}, follow=True).content.decode()

    assert "set aside by ann@example.com: A test row" in said
    assert "No rejected row of usage.csv waits." in said
    batch.refresh_from_db()
    assert (batch.set_aside_by, batch.set_aside_because) == ("ann@example.com", "A test row")


def test_rows_that_came_again_are_repaired(client, batch):
    again = UsageBatch.objects.create(source="csv", name="again.csv", sha256="1" * 64)
    batch.rejected_rows.update(again_in=again)

    assert "repaired" in clerk(client).get(LIST).content.decode()


def test_not_everybody_on_staff_sets_aside(client, batch):
    assert clerk(client).get(aside(batch)).status_code == 403
