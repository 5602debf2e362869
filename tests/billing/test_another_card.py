"""Another card is charged at once where something is overdue; a customer's no at the bank is an answer."""

from dataclasses import replace
from datetime import timedelta

import pytest
from django.test import Client

from accounts import clock
from accounts.models import Account, BillingEntity, ChargingPause, Hold, PaymentMethod
from billing.gateways import Status
from billing.models import DunningCase, PaymentAttempt
from billing.payments import charges, methods, unpaid
from tests import charging
from tests.billing.builders import bill, collect, due, owing
from tests.closing import assert_books_hold, decision_on, finish, start_close, step_of, work
from tests.factories import AS_OF, CardFactory, MemberFactory, account_using

pytestmark = pytest.mark.django_db(transaction=True)

State, Kind = PaymentAttempt.State, PaymentAttempt.Kind
LATER = AS_OF + timedelta(hours=2)


@pytest.fixture(autouse=True)
def _books_hold():
    yield
    assert_books_hold(as_of=LATER)


@pytest.fixture
def asks(provider, sandbox, monkeypatch):
    """The bank asks the customer about what is charged; called, it is told no."""
    with monkeypatch.context() as patch:
        patch.setattr(sandbox, "submit", lambda ref, key: sandbox.read(ref))
        provider.says("submit", status="NEEDS_CUSTOMER")
        provider.says("read", status="NEEDS_CUSTOMER")

        def refuse() -> None:
            heal()
            attempt = PaymentAttempt.objects.get(state=State.REQUIRES_ACTION)
            seen = sandbox.read(attempt.provider_ref)
            code = "payment_intent_authentication_failure"
            no = replace(seen, status=Status.DECLINED, decline_code=code)
            charges.apply_provider_state({attempt.pk: no}, as_of=AS_OF)
            gone = sandbox.cancel(attempt.provider_ref, key="test")
            charges.apply_provider_state({attempt.pk: gone}, as_of=AS_OF)

        def heal() -> None:
            provider.heals()
            patch.undo()

        refuse.heal = heal
        yield refuse


def held() -> Account:
    account = owing("12.34", card="sandbox_declined")
    collect(account, kind=Kind.AUTO)
    unpaid.follow_up(as_of=LATER)
    assert Hold.objects.filter(account=account, lifted_at=None).exists()
    return account


def add_card(account: Account, token: str = "sandbox_visa", *, as_of=LATER) -> PaymentMethod:
    return methods.add_card(
        account_id=account.pk,
        gateway="sandbox",
        token=token,
        brand="Visa",
        last_four="4242",
        expiry_month=12,
        expiry_year=2035,
        actor="ann@example.com",
        as_of=as_of,
        make_default=True,
    )


def sweep(*, as_of=LATER) -> None:
    """Those parts of a sweep that charge, in their order."""
    charging.drive_due(as_of=as_of)
    charging.retry_due(as_of=as_of)


class TestAHeldAccountThatAddsACard:
    def test_is_charged_at_once_and_its_hold_lifted(self):
        account = held()
        assert methods.charged_at_once(account.pk, as_of=LATER) == 1234

        add_card(account)
        sweep()

        assert due(account) == 0
        assert not Hold.objects.filter(lifted_at=None).exists()
        assert not DunningCase.objects.filter(closed_at=None).exists()

    def test_that_declines_too_stays_held_and_is_tried_on_its_days(self):
        account = held()
        BillingEntity.objects.update(retry_days=[3])

        add_card(account, "sandbox_insufficient")
        sweep()

        case = DunningCase.objects.get(closed_at=None)
        assert (case.decline_code, case.next_try_at) == (
            "insufficient_funds",
            LATER + timedelta(days=3),
        )
        assert Hold.objects.filter(account=account, lifted_at=None).count() == 1

    def test_by_choosing_one_it_has_is_charged_too(self):
        account = held()
        card = CardFactory(account=account, token="sandbox_mastercard", is_default=False)

        methods.make_default(
            account_id=account.pk, method_id=card.pk, actor="ann@example.com", as_of=LATER
        )
        sweep()

        assert due(account) == 0


class TestWhoseChargingIsPaused:
    def test_is_not_charged_by_adding_a_card_and_is_not_told_so(self):
        account = held()
        ChargingPause.objects.create(
            account=account, reason="MANUAL", because="they called", paused_at=AS_OF
        )

        assert methods.charged_at_once(account.pk, as_of=LATER) == 0
        add_card(account)
        sweep()

        assert due(account) == 1234


class TestWhoOwesNothingOverdue:
    def test_is_not_charged_by_adding_a_card(self):
        account = account_using("12.34", card=None)
        BillingEntity.objects.update(payment_terms_days=14)
        finish(start_close())
        assert methods.charged_at_once(account.pk, as_of=LATER) == 0

        add_card(account)
        sweep()

        assert (due(account), PaymentAttempt.objects.count()) == (1234, 0)


class TestAPaymentThatWaitsForAnotherCard:
    @pytest.mark.parametrize(
        ("kind", "terms", "charged"),
        [
            (Kind.AUTO, 14, True),  # it was ours to charge
            (Kind.AUTO, None, True),
            (Kind.ON_SESSION, 14, False),  # theirs, and nothing is overdue
            (Kind.ON_SESSION, None, True),
        ],
    )
    def test_is_cancelled_first(self, asks, kind, terms, charged):
        account = account_using("12.34")
        BillingEntity.objects.update(payment_terms_days=terms)
        bill(account)
        collect(account, kind=kind)
        waiting = PaymentAttempt.objects.get(state=State.REQUIRES_ACTION)
        asks.heal()
        assert methods.charged_at_once(account.pk, as_of=LATER) == (1234 if charged else 0)

        add_card(account, "sandbox_mastercard")
        sweep()
        sweep(as_of=LATER + timedelta(minutes=1))

        waiting.refresh_from_db()
        assert (waiting.state, waiting.because) == (
            "RELEASED",
            "the customer has chosen another card",
        )
        assert due(account) == (0 if charged else 1234)
        assert not PaymentAttempt.objects.filter(state__in=PaymentAttempt.IN_FLIGHT).exists()


class TestANoAtTheBank:
    def test_is_the_closes_answer_too(self, asks):
        account = account_using("12.34")
        start_close()
        work("INVOICE")
        BillingEntity.objects.update(retry_days=[3])
        collect(account)
        asks()

        work("CHARGE", "HOLD")

        assert PaymentAttempt.objects.count() == 1
        step = step_of(account, "CHARGE")
        assert (step.state, step.because) == (
            "DONE",
            "declined: payment_intent_authentication_failure",
        )
        assert decision_on(account, "HOLD").because.startswith("in dunning")

    def test_leaves_dunning_to_its_day(self, asks):
        account = owing("12.34")
        asks.heal()
        PaymentMethod.objects.update(token="sandbox_insufficient")
        BillingEntity.objects.update(retry_days=[3, 7])
        collect(account, kind=Kind.AUTO)
        case = DunningCase.objects.get()
        assert case.next_try_at == AS_OF + timedelta(days=3)
        case.next_try_at = AS_OF
        case.save()

        PaymentMethod.objects.update(token="sandbox_declined")
        assert collect(account).state == State.FAILED
        sweep(as_of=AS_OF)

        case.refresh_from_db()
        assert case.next_try_at == AS_OF + timedelta(days=3)
        assert PaymentAttempt.objects.count() == 2


class TestThePages:
    def client(self, account: Account):
        member = MemberFactory(account=account)
        client = Client()
        client.force_login(member.user)
        return client

    @pytest.mark.parametrize("page", ["cards/", "cards/add/"])
    def test_say_so_before_it_is_added(self, page):
        account = held()
        CardFactory(account=account, token="sandbox_mastercard", is_default=False)

        said = self.client(account).get(f"/accounts/{account.pk}/{page}").content.decode()

        assert (
            "€12.34 is due: the card that you choose to be charged from now on is charged with it"
            in said
        )

    @pytest.mark.parametrize("page", ["cards/", "cards/add/"])
    def test_say_nothing_of_it_where_nothing_is_charged(self, page):
        account = account_using("12.34", card=None)
        BillingEntity.objects.update(payment_terms_days=14)
        bill(account, as_of=clock.now())

        said = self.client(account).get(f"/accounts/{account.pk}/{page}").content.decode()

        assert "at once" not in said

    @pytest.mark.parametrize("page", ["", "pay/"])
    @pytest.mark.parametrize("card", [None, "sandbox_visa"])
    def test_offer_no_card_for_too_little(self, page, card):
        account = owing("0.30", card=card)

        said = self.client(account).get(f"/accounts/{account.pk}/{page}").content.decode()

        assert "it is carried to your next invoice" in said
        assert "Pay now</a>" not in said
        assert "<button" not in said.split("<main")[1].split("</main")[0]
