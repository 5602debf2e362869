"""A trial says on every page that no real money moves; it says so only where that is true."""

import pytest
from django.urls import reverse

from tests.factories import AccountFactory, MemberFactory, UserFactory

pytestmark = pytest.mark.django_db
NOTICE = "Trial: no real money moves"


def shown(client, path: str, **headers: str) -> str:
    return client.get(path, headers=headers).content.decode()


@pytest.fixture
def member(client):
    account = AccountFactory()
    client.force_login(MemberFactory(account=account).user)
    page = reverse("account", args=[account.pk])
    return lambda: shown(client, page)


@pytest.fixture
def operator(client):
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    return lambda path: shown(client, path)


def test_customers_are_told(member, settings):
    assert NOTICE not in member()

    settings.TRIAL = True
    assert NOTICE in member()


def test_staff_are_told_on_their_pages_and_in_the_admin(operator, settings):
    settings.TRIAL = True

    for path in (reverse("runs"), reverse("admin:index")):
        assert NOTICE in operator(path)


def test_whoever_signs_in_is_told(client, settings):
    settings.TRIAL = True

    for path in (reverse("login"), reverse("admin:login")):
        assert NOTICE in shown(client, path)


def test_in_their_own_language(client, settings):
    settings.TRIAL = True

    page = shown(client, reverse("login"), **{"accept-language": "hu"})

    assert "Próbaüzem: valódi pénz nem mozog" in page


def test_nobody_is_told_where_real_money_moves_all_the_same(member, settings):
    settings.TRIAL = True
    settings.GATEWAYS = ["sandbox", "stripe"]
    settings.STRIPE_SECRET_KEY, settings.STRIPE_LIVE = "sk_live_1", True

    assert NOTICE not in member()
