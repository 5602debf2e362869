"""A customer whose card is kept at the provider: entered there, confirmed at the bank, removed."""

from urllib.parse import urlsplit

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import BillingEntity, PaymentMethod
from billing import gateways
from billing.models import DunningCase, Payment, PaymentAttempt
from billing.payments import booking
from notifications.models import Message
from tests import charging
from tests.billing import stripe_builders
from tests.billing.builders import due
from tests.closing import assert_books_hold
from tests.factories import MemberFactory
from tests.mailing import deliver

pytestmark = pytest.mark.django_db(transaction=True)

State = PaymentAttempt.State


@pytest.fixture(autouse=True)
def _books_hold(stripe, settings):
    yield
    settings.STRIPE_API_BASE = stripe.url
    assert_books_hold()


class Browser:
    """A member of an account, who is sent from page to page."""

    def __init__(self, account) -> None:
        self.account = account
        self.client = Client()
        self.client.force_login(MemberFactory(account=account).user)

    def url(self, page: str = "") -> str:
        return f"/accounts/{self.account.pk}/{page}"

    def see(self, page: str = "") -> str:
        return self.client.get(self.url(page), follow=True).content.decode()

    def post(self, page: str, **said) -> str:
        """Where a button sends them."""
        return self.client.post(self.url(page), said).url

    def come_back(self, address: str) -> str:
        """From the provider, to one of our addresses."""
        parts = urlsplit(address)
        here = f"{parts.path}?{parts.query}"
        return self.client.get(here, follow=True).content.decode()

    def come_back_from_bank(self, attempt: PaymentAttempt, address: str) -> str:
        """The page says that the bank is asked; a worker asks it; and the page looks again by itself."""
        assert "Your payment is on its way" in self.come_back(address)
        charging.drive_due(as_of=timezone.now())
        return self.see(f"payments/{attempt.pk}/")

    def pay(self) -> PaymentAttempt:
        """Press the button, and wait until a worker has charged the card."""
        page = self.client.get(self.url("pay/"))
        said = {name: page.context[name] for name in ("due_minor", "seen")}
        self.client.post(self.url("pay/"), said)
        charging.drive_due(as_of=timezone.now())
        return PaymentAttempt.objects.filter(account=self.account).latest("created_at")


@pytest.fixture
def account(stripe):
    return stripe_builders.owing(stripe, card="authenticationRequired")


@pytest.fixture
def browser(account):
    return Browser(account)


class TestEnteringACard:
    def test_happens_at_the_provider_and_it_is_charged_from_then_on(self, stripe, browser):
        assert "We never see its number." in browser.see("cards/add/")

        came_back = stripe.enter_card(browser.post("cards/add/"), "pm_card_mastercard")
        page = browser.come_back(came_back)

        assert "Mastercard ···· 4444 is on the account." in page
        card = PaymentMethod.objects.get(account=browser.account, is_default=True)
        assert (card.gateway, card.last_four) == ("stripe", "4444")
        assert browser.pay().state == State.SUCCEEDED

    def test_looked_at_twice_adds_it_once(self, stripe, browser):
        came_back = stripe.enter_card(browser.post("cards/add/"))

        for _ in range(2):
            assert "is on the account." in browser.come_back(came_back)

        assert browser.account.payment_methods.count() == 2

    def test_told_by_its_event_first_adds_it_once_and_charges_it(self, stripe, browser):
        came_back = stripe.enter_card(browser.post("cards/add/"))
        intents = stripe.dump()["checkout_sessions"][-1]["setup_intent"]
        stripe_builders.told(stripe_builders.event("setup_intent.succeeded", intents))

        browser.come_back(came_back)

        entered = browser.account.payment_methods.get(last_four="4242", is_default=True)
        assert browser.account.payment_methods.filter(token=entered.token).count() == 1

    def test_given_up_adds_none(self, browser):
        browser.post("cards/add/")

        assert "is on the account." not in browser.see("cards/entered/")
        assert browser.account.payment_methods.count() == 1

    def test_of_another_account_adds_none(self, stripe, browser):
        other = Browser(stripe_builders.owing(stripe))
        came_back = stripe.enter_card(other.post("cards/add/"))

        page = browser.come_back(came_back.replace(other.url(), browser.url()))

        assert "No card was entered." in page
        assert browser.account.payment_methods.count() == 1

    def test_that_is_blocked_says_so(self, stripe, browser):
        came_back = stripe.enter_card(browser.post("cards/add/"))
        browser.come_back(came_back)
        PaymentMethod.objects.filter(account=browser.account, last_four="4242").update(
            state="BLOCKED", is_default=False, blocked_at=timezone.now()
        )

        assert "cannot be charged any more" in browser.come_back(came_back)
        assert "Blocked by its bank" in browser.see("cards/")

    def test_is_asked_for_where_all_are_blocked(self, browser):
        PaymentMethod.objects.update(state="BLOCKED", is_default=False, blocked_at=timezone.now())

        assert "Please add another card." in browser.see("cards/")

    def test_cannot_begin_while_the_provider_is_away(self, stripe, browser, settings):
        settings.STRIPE_API_BASE = "http://127.0.0.1:1"

        assert browser.post("cards/add/") == browser.url("cards/")
        assert "Cards cannot be entered just now." in browser.see("cards/")

    def test_comes_by_its_event_where_the_provider_is_away_afterwards(
        self, stripe, browser, settings
    ):
        came_back = stripe.enter_card(browser.post("cards/add/"))
        settings.STRIPE_API_BASE = "http://127.0.0.1:1"

        assert "Your card will be here in a moment." in browser.come_back(came_back)


class TestRemovingACard:
    def test_detaches_it_at_the_provider(self, browser):
        card = browser.account.payment_methods.get()

        browser.post(f"cards/{card.pk}/remove/")

        assert gateways.get("stripe").read_method(card.token).customer_ref == ""

    def test_leaves_one_that_another_account_has(self, browser):
        card = browser.account.payment_methods.get()
        other = stripe_builders.CardFactory(
            gateway="stripe", token=card.token, customer_ref=card.customer_ref
        )

        browser.post(f"cards/{card.pk}/remove/")

        assert gateways.get("stripe").read_method(other.token).customer_ref

    def test_is_done_though_the_provider_is_away(self, browser, settings, caplog):
        card = browser.account.payment_methods.get()
        settings.STRIPE_API_BASE = "http://127.0.0.1:1"

        browser.post(f"cards/{card.pk}/remove/")

        card.refresh_from_db()
        assert card.state == "REMOVED"
        assert "is removed, but not detached" in caplog.text


class TestConfirmingAPayment:
    def begin(self, browser) -> tuple[PaymentAttempt, str]:
        attempt = browser.pay()
        assert attempt.state == State.REQUIRES_ACTION
        assert "Confirm with your bank" in browser.see(f"payments/{attempt.pk}/")
        return attempt, browser.post(f"payments/{attempt.pk}/confirm/")

    def test_approved_completes_the_same_payment(self, stripe, browser):
        attempt, bank = self.begin(browser)

        page = browser.come_back_from_bank(attempt, stripe.answer_bank(bank, "approve"))

        assert "Paid. Thank you!" in page
        payment = Payment.objects.get(account=browser.account)
        assert (payment.attempt, payment.amount_minor) == (attempt, 1234)
        assert len(stripe.intents()) == 1
        assert stripe.taken() == 1234

    def test_refused_is_said_and_frees_the_account(self, stripe, browser):
        attempt, bank = self.begin(browser)

        page = browser.come_back_from_bank(attempt, stripe.answer_bank(bank, "refuse"))

        assert "The payment was not confirmed with your bank." in page
        attempt.refresh_from_db()
        assert attempt.state == State.FAILED
        assert browser.pay().pk != attempt.pk

    def test_twice_goes_to_the_same_page_and_pays_once(self, stripe, browser):
        attempt, bank = self.begin(browser)
        again = browser.post(f"payments/{attempt.pk}/confirm/")

        assert again == bank
        stripe.answer_bank(bank, "approve")
        browser.post(f"payments/{attempt.pk}/confirm/")
        assert (stripe.taken(), due(browser.account)) == (1234, 0)

    def test_of_what_was_paid_by_hand_meanwhile_is_given_up_before(self, stripe, browser):
        attempt = browser.pay()
        booking.record_payment(
            account_id=browser.account.pk,
            token=attempt.pk,
            amount_minor=1234,
            currency="EUR",
            method="Bank transfer",
            reason="statement",
            recorded_by="ann@example.com",
            as_of=timezone.now(),
        )

        back = browser.post(f"payments/{attempt.pk}/confirm/")

        assert back.endswith(browser.url(f"payments/{attempt.pk}/confirmed/"))
        assert "Nothing was charged" in browser.come_back(back)
        assert stripe.taken() == 0

    def test_that_nobody_can_be_sent_to_shows_the_payment_again(self, stripe, browser, monkeypatch):
        attempt = browser.pay()
        stripe.fault("drop_before", "/confirm$")

        back = browser.post(f"payments/{attempt.pk}/confirm/")

        assert "Confirm with your bank" in browser.come_back_from_bank(attempt, back)

    def test_of_another_account_does_not_exist(self, stripe, browser):
        attempt = Browser(stripe_builders.owing(stripe, card="authenticationRequired")).pay()

        for page in ("confirm/", "confirmed/"):
            url = browser.url(f"payments/{attempt.pk}/{page}")
            assert browser.client.post(url).status_code in {404, 405}
            assert browser.client.get(url).status_code in {404, 405}


class TestAnAutomaticPaymentThatTheBankAsksAbout:
    @pytest.fixture
    def asked(self, account):
        BillingEntity.objects.update(retry_days=[3])
        return charging.collect(account_id=account.pk, kind="AUTO", as_of=timezone.now())

    def test_is_mailed_with_the_way_to_confirm_it(self, stripe, browser, asked):
        (mail,) = Message.objects.filter(account=browser.account)
        assert mail.kind == "CONFIRMATION_NEEDED"
        assert f"{browser.url()}payments/{asked.pk}/" in mail.body_text

        bank = browser.post(f"payments/{asked.pk}/confirm/")
        browser.come_back_from_bank(asked, stripe.answer_bank(bank, "approve"))

        asked.refresh_from_db()
        assert asked.state == State.SUCCEEDED

    def test_is_not_mailed_once_it_is_confirmed(self, stripe, browser, asked):
        bank = browser.post(f"payments/{asked.pk}/confirm/")
        browser.come_back_from_bank(asked, stripe.answer_bank(bank, "approve"))

        deliver(as_of=timezone.now())

        mail = Message.objects.get(kind="CONFIRMATION_NEEDED")
        assert (mail.state, mail.because) == (
            "CANCELLED",
            "there is nothing to confirm any more",
        )

    def test_is_mailed_as_long_as_it_waits(self, asked):
        deliver(as_of=timezone.now())

        assert Message.objects.get(kind="CONFIRMATION_NEEDED").state == "SENT"

    def test_refused_opens_a_case_without_a_second_mail(self, stripe, browser, asked):
        bank = browser.post(f"payments/{asked.pk}/confirm/")
        browser.come_back_from_bank(asked, stripe.answer_bank(bank, "refuse"))

        case = DunningCase.objects.get(account=browser.account)
        assert (case.decline_class, case.next_try_at) == ("NEEDS_CUSTOMER", None)
        assert Message.objects.filter(account=browser.account).count() == 1
        assert "Your last payment did not go through" in browser.see()
