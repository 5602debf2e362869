"""Gateways that are switched off with money in flight, and pretended money in production, are refused."""

import pytest
from django.core.checks import registry
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connection
from django.utils import timezone

from billing.models import Dispute, PaymentAttempt, Refund
from config import checks_gateways
from config.checks_gateways import (
    gateways_are_set_up,
    nothing_is_in_flight_where_nobody_asks,
    pretended_money_is_a_trial,
)
from tests.billing.builders import collect, owing
from tests.factories import MandateFactory


def told(found) -> list[tuple[str, str]]:
    return [(message.id, message.msg) for message in found]


class TestSetUp:
    def test_is_looked_at_before_every_command(self):
        assert gateways_are_set_up in registry.registry.get_checks()
        assert gateways_are_set_up(None) == []

    def test_an_unknown_name_fails_check_with_the_names_that_there_are(self, settings):
        settings.GATEWAYS = ["paypal"]

        with pytest.raises(
            SystemCheckError, match=r"GATEWAYS is 'paypal', .* name some of sandbox"
        ):
            call_command("check", "--deploy")

    def test_a_gateway_that_lacks_its_setting_is_refused(self, settings):
        settings.GATEWAYS = ["stripe", "debit"]
        settings.STRIPE_SECRET_KEY = "sk_test_1"

        [(number, said)] = told(gateways_are_set_up(None))

        assert (number, said) == (
            "config.G002",
            "GATEWAYS names debit, but DEBIT_WEBHOOK_SECRETS is empty.",
        )


@pytest.mark.django_db(transaction=True)
class TestInFlight:
    @pytest.fixture
    def account(self, debit):
        account = owing("12.34", card=None)
        MandateFactory(account=account)
        assert collect(account, as_of=timezone.now()).is_in_flight
        return account

    def check(self, databases=("default",)):
        return told(nothing_is_in_flight_where_nobody_asks(None, databases=databases))

    def test_is_fine_at_a_gateway_that_is_switched_on(self, account):
        assert self.check() == []

    def test_at_one_that_is_switched_off_fails_check_with_how_many_and_what_to_do(
        self, account, settings
    ):
        settings.GATEWAYS = ["sandbox"]

        with pytest.raises(SystemCheckError) as refused:
            call_command("check", "--database", "default")

        said = str(refused.value)
        assert "The gateway debit is switched off" in said
        assert "(payment attempts: 1)" in said
        assert "manage.py reconcile --gateway debit" in said

    def test_at_one_whose_keys_were_taken_away_is_refused_as_well(self, account, settings):
        settings.DEBIT_WEBHOOK_SECRETS = []

        assert [number for number, _ in self.check()] == ["config.G003"]

    def test_counts_refunds_and_disputes(self, account, settings):
        attempt = PaymentAttempt.objects.get()
        payment = attempt.account.payments.create(
            gateway="debit", provider_ref="p-1", currency="EUR", amount_minor=500,
            method="Debit", received_at=timezone.now(),
        )  # fmt: skip
        Refund.objects.create(
            account=account, payment=payment, gateway="debit", currency="EUR", amount_minor=100,
            credit_minor=0, cost_minor=100, reason="test", requested_at=timezone.now(),
        )  # fmt: skip
        Dispute.objects.create(
            account=account, payment=payment, gateway="debit", provider_ref="d-1", currency="EUR",
            amount_minor=100, opened_at=timezone.now(),
        )  # fmt: skip
        settings.GATEWAYS = ["sandbox"]

        [(_, said)] = self.check()

        assert "(payment attempts: 1, refunds: 1, disputes: 1)" in said

    def test_what_has_ended_is_nobodys_concern(self, account, settings):
        PaymentAttempt.objects.update(state="RELEASED")
        settings.GATEWAYS = ["sandbox"]

        assert self.check() == []

    def test_is_not_asked_unless_databases_are_checked(self, account, settings):
        settings.GATEWAYS = ["sandbox"]

        assert nothing_is_in_flight_where_nobody_asks in registry.registry.get_checks()
        assert self.check(databases=None) == []

    def test_nothing_is_before_the_first_migration(self, account, settings, monkeypatch):
        settings.GATEWAYS = ["sandbox"]
        monkeypatch.setattr(connection.introspection, "table_names", list)

        assert self.check() == []


class TestProduction:
    @pytest.fixture
    def live(self, settings):
        settings.GATEWAYS = ["stripe"]
        settings.STRIPE_SECRET_KEY = "sk_live_1"
        settings.STRIPE_LIVE = True
        return settings

    def check(self) -> list[tuple[str, str]]:
        return told(pretended_money_is_a_trial(None))

    def test_is_looked_at_before_a_deployment_only(self):
        assert pretended_money_is_a_trial not in registry.registry.get_checks()
        assert pretended_money_is_a_trial in registry.registry.get_checks(
            include_deployment_checks=True
        )

    def test_with_real_money_is_fine(self, live):
        assert self.check() == []

    @pytest.mark.parametrize("stand_in", ["sandbox", "debit"])
    def test_refuses_a_stand_in_beside_it(self, live, debit, stand_in):
        live.GATEWAYS = ["stripe", stand_in]

        [(number, said)] = self.check()

        assert number == "config.G004"
        assert said.startswith(f"The gateway {stand_in} is a stand-in: it moves no money")

    def test_refuses_the_sandbox_that_is_on_because_nobody_said_otherwise(self, settings):
        with pytest.raises(SystemCheckError, match="sandbox is a stand-in") as refused:
            call_command("check", "--deploy")

        assert "set TRIAL=true" in str(refused.value)

    def test_refuses_test_keys(self, live):
        live.STRIPE_SECRET_KEY, live.STRIPE_LIVE = "sk_test_1", False

        [(number, said)] = self.check()

        assert (number, "on test keys" in said) == ("config.G004", True)

    def test_lets_a_trial_pretend(self, live, debit):
        live.GATEWAYS, live.STRIPE_LIVE, live.TRIAL = ["sandbox", "stripe", "debit"], False, True

        assert self.check() == []

    def test_refuses_to_call_it_a_trial_where_real_money_moves(self, live):
        live.TRIAL = True

        [(number, said)] = self.check()

        assert (number, said) == (
            "config.G005",
            "TRIAL says that no real money moves, but it does through stripe.",
        )

    def test_is_not_where_django_debugs(self, settings):
        settings.DEBUG = True

        assert self.check() == []

    def test_says_no_more_than_that_a_name_is_unknown(self, settings):
        settings.GATEWAYS = ["paypal"]

        assert self.check() == []
        assert checks_gateways.nothing_is_in_flight_where_nobody_asks(None, ["default"]) == []
