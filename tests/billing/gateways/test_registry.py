"""Which gateways are switched on, and what the others say to whoever asks for them."""

import subprocess
import sys

import pytest
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured

from billing import gateways
from billing.gateways import Misconfigured, registry


@pytest.fixture
def all_set_up(settings, debit):
    settings.STRIPE_SECRET_KEY = "sk_test_1"
    return settings


class TestNames:
    def test_are_those_that_are_set_up_where_nobody_says_otherwise(self, all_set_up):
        assert gateways.names() == ["sandbox", "stripe", "debit"]

        all_set_up.STRIPE_SECRET_KEY, all_set_up.DEBIT_WEBHOOK_SECRETS = "", []
        assert gateways.names() == ["sandbox"]

    def test_are_those_of_the_setting(self, all_set_up):
        all_set_up.GATEWAYS = ["debit", "stripe"]

        assert gateways.names() == ["stripe", "debit"]

    def test_may_be_none(self, all_set_up):
        all_set_up.GATEWAYS = ["none"]

        assert gateways.names() == []

    def test_one_that_there_is_not_is_said_with_what_there_is(self, all_set_up):
        all_set_up.GATEWAYS = ["sandbox", "strpie"]

        with pytest.raises(ImproperlyConfigured) as refused:
            gateways.names()

        assert str(refused.value) == (
            "GATEWAYS is 'sandbox,strpie', but there is no gateway 'strpie': name some of sandbox, stripe,"
            " debit, or none alone, or leave it out for those that are set up"
        )

    def test_none_is_not_named_beside_others(self, all_set_up):
        all_set_up.GATEWAYS = ["none", "sandbox"]

        with pytest.raises(ImproperlyConfigured, match="no gateway 'none'"):
            gateways.names()


class TestNewCardsAndMandates:
    def test_go_to_a_real_gateway_before_a_stand_in(self, all_set_up):
        assert (gateways.for_cards(), gateways.for_mandates()) == ("stripe", "debit")

    @pytest.mark.parametrize(
        ("switched_on", "cards", "mandates"),
        [
            (["sandbox"], "sandbox", ""),
            (["debit"], "", "debit"),
            (["sandbox", "stripe"], "stripe", ""),
            (["none"], "", ""),
        ],
    )
    def test_go_to_one_that_is_switched_on(self, all_set_up, switched_on, cards, mandates):
        all_set_up.GATEWAYS = switched_on

        assert (gateways.for_cards(), gateways.for_mandates()) == (cards, mandates)


class TestGet:
    def test_opens_every_one_by_its_name(self, all_set_up):
        assert [gateways.get(name).name for name in registry.KNOWN] == list(registry.KNOWN)

    def test_says_that_one_is_switched_off(self, all_set_up):
        all_set_up.GATEWAYS = ["stripe", "sandbox"]

        with pytest.raises(
            Misconfigured, match="'debit' is switched off: GATEWAYS is 'stripe,sand"
        ):
            gateways.get("debit")

    def test_says_what_one_lacks(self, settings):
        settings.GATEWAYS = ["debit"]

        with pytest.raises(Misconfigured, match="not set up: DEBIT_WEBHOOK_SECRETS is empty"):
            gateways.get("debit")

    def test_says_which_there_are(self):
        with pytest.raises(Misconfigured, match="'nowhere' is not one of sandbox, stripe, debit"):
            gateways.get("nowhere")


class TestMoney:
    def test_of_a_stand_in_is_never_real(self, settings):
        settings.STRIPE_LIVE = True

        assert [name for name in registry.KNOWN if gateways.is_stand_in(name)] == [
            "sandbox",
            "debit",
        ]
        assert [name for name in registry.KNOWN if gateways.moves_money(name)] == ["stripe"]
        assert not gateways.is_stand_in("transfer")

    def test_of_test_keys_is_not_real(self, settings):
        assert not gateways.moves_money("stripe")
        assert not gateways.is_stand_in("stripe")


class TestCode:
    def test_of_a_stand_in_is_loaded_by_nobody_who_does_not_use_it(self):
        """The whole site, its pages and its checks: none of them needs a stand-in that is switched off."""
        script = (
            "import sys, django; django.setup();"
            "from django.core.management import call_command; from django.conf import settings;"
            "settings.GATEWAYS, settings.STRIPE_SECRET_KEY = ['stripe'], 'sk_test_1';"
            "import config.urls; from django.urls import get_resolver; get_resolver().url_patterns;"
            "call_command('check');"
            "from billing import gateways; gateways.get('stripe');"
            "print([name for name in sys.modules if 'standins' in name])"
        )

        said = subprocess.run(
            [sys.executable, "-c", script],
            cwd=django_settings.BASE_DIR,
            env={"DJANGO_SETTINGS_MODULE": "config.settings.test"},
            capture_output=True,
            text=True,
        )

        assert said.stdout.strip().endswith("[]"), said
