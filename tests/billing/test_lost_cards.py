"""
A card that its provider has no more: found out by whichever phase of a charge, or told by an event.

Its customer is told, another card is charged where they allow it, dunning goes on; it is never a fault of ours.
"""

from datetime import timedelta

import pytest
from django.urls import reverse

from accounts.models import BillingEntity, Hold, PaymentMethod, TimelineEvent
from billing import gateways
from billing.close.health import sweeper
from billing.models import Decision, DunningCase, PaymentAttempt
from billing.payments import charges, methods
from notifications.models import Message
from tests import charging
from tests.billing.builders import collect
from tests.billing.stripe_builders import event, owing, told, using
from tests.closing import assert_books_hold, decision_on, start_close, step_of, work
from tests.factories import AS_OF, CardFactory, MemberFactory, account_using
from tests.stripe_provider import new_key

pytestmark = pytest.mark.django_db(transaction=True)

State, Kind = PaymentAttempt.State, PaymentAttempt.Kind
GONE = "payment_method_unusable"


@pytest.fixture(autouse=True)
def _books_hold():
    yield
    assert_books_hold()


@pytest.fixture(params=[[], [3, 5, 7, 14]], ids=["no schedule", "a schedule"])
def schedule(request) -> list[int]:
    return request.param


def detach(card: PaymentMethod) -> None:
    """On the provider's own pages; its event is on the way, or lost."""
    gateways.get(card.gateway).detach(card.token)


def default_of(account) -> PaymentMethod | None:
    return PaymentMethod.objects.default_of([account.pk]).first()


def with_other_card(stripe, account, *, allowed: bool) -> PaymentMethod:
    """A second card, which is charged instead of the first one where its holder allows that."""
    account.charges_other_cards = allowed
    account.save()
    customer = account.payment_methods.get().customer_ref
    return CardFactory(
        account=account,
        gateway="stripe",
        token=stripe.card(customer, "mastercard"),
        customer_ref=customer,
        brand="Mastercard",
        is_default=False,
    )


def mails(account) -> list[str]:
    return list(
        Message.objects.filter(account=account)
        .order_by("created_at")
        .values_list("kind", flat=True)
    )


class TestFoundOut:
    @pytest.mark.parametrize("how", ["detached", "customer deleted", "no such card"])
    def test_when_it_is_prepared_is_a_decline(self, stripe, schedule, how):
        account = owing(stripe)
        BillingEntity.objects.update(retry_days=schedule)
        card = account.payment_methods.get()
        match how:
            case "detached":
                detach(card)
            case "customer deleted":
                stripe.delete(f"customers/{card.customer_ref}")
            case _:
                PaymentMethod.objects.update(token="pm_gone")

        attempt = collect(account, kind=Kind.AUTO)

        card.refresh_from_db()
        assert (attempt.state, attempt.decline_code, attempt.provider_ref) == (
            State.FAILED,
            GONE,
            None,
        )
        assert (card.state, card.is_default, card.gone_at) == ("REMOVED", False, AS_OF)
        assert "The card can no longer be charged." in Message.objects.get().body_text
        case = DunningCase.objects.get()
        assert (case.next_try_at, case.decline_code) == (None, GONE)
        assert not Decision.objects.filter(did="BLOCKED").exists()

    def test_after_a_lost_reply_too(self, stripe):
        account = owing(stripe)
        stripe.fault("drop_before", "/v1/payment_intents")
        attempt = collect(account, kind=Kind.AUTO)
        assert attempt.state == State.RESERVED
        detach(account.payment_methods.get())

        charging.drive_due(as_of=AS_OF + timedelta(minutes=2))

        attempt.refresh_from_db()
        assert (attempt.state, attempt.decline_code) == (State.FAILED, GONE)

    def test_when_it_is_submitted(self, stripe, monkeypatch):
        account = owing(stripe)
        real = gateways.get("stripe").submit

        def submit(self, ref, *, key):
            detach(account.payment_methods.get())
            return real(ref, key=key)

        monkeypatch.setattr(type(gateways.get("stripe")), "submit", submit)

        attempt = collect(account, kind=Kind.AUTO)

        assert (attempt.state, attempt.decline_code) == (State.FAILED, GONE)
        assert default_of(account) is None
        assert DunningCase.objects.get().decline_code == GONE

    def test_when_its_holder_would_confirm(self, stripe):
        account = owing(stripe, card="authenticationRequired")
        attempt = collect(account, kind=Kind.AUTO)
        assert attempt.state == State.REQUIRES_ACTION
        detach(account.payment_methods.get())

        assert (
            charges.begin_authentication(attempt, return_url="https://us/", as_of=AS_OF)
            == "https://us/"
        )

        charging.drive_due(as_of=AS_OF)
        attempt.refresh_from_db()
        assert (attempt.state, attempt.decline_code) == (State.FAILED, GONE)
        assert stripe.intents()[0]["status"] == "canceled"

    def test_is_not_every_refusal(self, stripe):
        account = owing(stripe)
        # As with the key of another Stripe account, which knows neither customer nor card.
        PaymentMethod.objects.update(customer_ref="cus_elsewhere", token="pm_elsewhere")

        attempt = collect(account, kind=Kind.AUTO)

        assert default_of(account) is not None
        assert attempt.state == State.RESERVED or attempt.state == State.RELEASED
        assert not attempt.decline_code

    def test_a_card_that_is_there_is_not_gone_whatever_is_refused(self, stripe):
        with pytest.raises(gateways.Misconfigured) as refused:
            gateways.get("stripe").prepare(stripe.spec(amount_minor=49), key=new_key())

        assert not isinstance(refused.value, gateways.MethodGone)


class TestAfterThat:
    def test_it_is_charged_no_more_and_held_at_the_end(self, stripe, schedule):
        account = owing(stripe)
        BillingEntity.objects.update(retry_days=schedule)
        detach(account.payment_methods.get())
        collect(account, kind=Kind.AUTO)
        assert not Hold.objects.exists()

        for days in range(1, 61):
            sweeper.sweep(as_of=AS_OF + timedelta(days=days))

        assert PaymentAttempt.objects.count() == 1
        assert mails(account).count("PAYMENT_FAILED") == 1
        held_at = AS_OF + timedelta(days=schedule[-1] if schedule else 1)
        assert Hold.objects.get().placed_at == held_at

    def test_another_card_is_charged_where_the_account_allows_it(self, stripe, schedule):
        account = owing(stripe)
        BillingEntity.objects.update(retry_days=schedule)
        other = with_other_card(stripe, account, allowed=True)
        detach(default_of(account))
        collect(account, kind=Kind.AUTO)
        assert default_of(account) == other

        sweeper.sweep(as_of=AS_OF + timedelta(minutes=1))
        charging.drive_due(as_of=AS_OF + timedelta(minutes=1))

        assert [a.state for a in PaymentAttempt.objects.order_by("created_at")] == [
            "FAILED",
            "SUCCEEDED",
        ]
        assert not DunningCase.objects.filter(closed_at=None).exists()

    def test_and_not_where_it_does_not(self, stripe):
        account = owing(stripe)
        with_other_card(stripe, account, allowed=False)
        detach(default_of(account))
        collect(account, kind=Kind.AUTO)

        sweeper.sweep(as_of=AS_OF + timedelta(minutes=1))

        assert PaymentAttempt.objects.count() == 1
        assert default_of(account) is None


class TestTold:
    """By its event, before a close: it is never held in that close."""

    def closed(self, account, schedule=()):
        start_close()
        BillingEntity.objects.update(retry_days=list(schedule))
        work("INVOICE", "CHARGE", "EMAIL", "HOLD")
        assert not Hold.objects.exists()
        assert step_of(account, "HOLD").state in {"DONE", "SKIPPED"}

    def lost(self, stripe, account) -> PaymentMethod:
        card = default_of(account)
        detach(card)
        assert told(event("payment_method.detached", card.token)) == ["APPLIED"]
        return card

    def test_their_customer_is_told_and_waited_for(self, stripe, schedule):
        account = using(stripe, "12.34")
        self.lost(stripe, account)
        assert "can no longer be charged" in Message.objects.get(kind="CARD_GONE").subject

        self.closed(account, schedule)

        case = DunningCase.objects.get()
        assert case.ends_at == AS_OF + timedelta(days=schedule[-1] if schedule else 1)
        assert decision_on(account, "HOLD").because.startswith("Visa ···· 4242 is gone: waits for")
        sweeper.sweep(as_of=case.ends_at)
        assert Hold.objects.get().placed_at == case.ends_at

    def test_is_waited_for_once(self, stripe):
        account = using(stripe, "12.34")
        self.lost(stripe, account)
        self.closed(account)
        sweeper.sweep(as_of=AS_OF + timedelta(days=2))

        assert methods.lost_untold([account.pk]) == {}

    def test_another_card_is_charged_by_the_close_where_the_account_allows_it(self, stripe):
        account = using(stripe, "12.34")
        other = with_other_card(stripe, account, allowed=True)
        self.lost(stripe, account)
        assert f"we charge {other} from now on" in Message.objects.get().body_text

        self.closed(account)

        assert PaymentAttempt.objects.get().payment_method == other
        assert PaymentAttempt.objects.get().state == State.SUCCEEDED

    def test_another_card_that_is_chosen_is_charged_at_once(self, stripe):
        account = using(stripe, "12.34")
        other = with_other_card(stripe, account, allowed=False)
        self.lost(stripe, account)
        self.closed(account)

        methods.make_default(account_id=account.pk, method_id=other.pk, actor="ann", as_of=AS_OF)
        sweeper.sweep(as_of=AS_OF)
        charging.drive_due(as_of=AS_OF)

        assert PaymentAttempt.objects.get().state == State.SUCCEEDED

    def test_what_waits_for_it_to_be_confirmed_is_given_up_at_once(self, stripe):
        account = owing(stripe, card="authenticationRequired")
        attempt = collect(account, kind=Kind.AUTO)

        self.lost(stripe, account)
        charging.drive_due(as_of=AS_OF)

        attempt.refresh_from_db()
        assert attempt.state == State.FAILED

    def test_that_is_not_the_default_is_removed_without_a_word(self, stripe):
        account = using(stripe, "12.34")
        other = with_other_card(stripe, account, allowed=False)
        detach(other)

        told(event("payment_method.detached", other.token))

        assert not Message.objects.exists()
        assert default_of(account) is not None

    def test_removed_by_its_holder_is_not_lost(self, stripe):
        account = using(stripe, "12.34")
        card = default_of(account)
        methods.remove_card(account_id=account.pk, method_id=card.pk, actor="ann", as_of=AS_OF)
        methods.detach(card)

        assert told(event("payment_method.detached", card.token)) == ["IGNORED"]
        assert methods.lost_untold([account.pk]) == {}


class TestTheirChoice:
    def test_is_made_on_the_page_of_the_cards_and_taken_back(self, client):
        account = account_using("12.34")
        CardFactory(account=account, token="sandbox_mastercard", is_default=False)
        client.force_login(MemberFactory(account=account).user)
        url = reverse("cards-others", args=[account.pk])

        said = [
            client.post(url, {"allowed": each}, follow=True).content.decode()
            for each in ("yes", "yes", "no")
        ]

        assert "Charge only the one I have chosen" in said[0]
        assert "Charge another one if that one can no longer be charged" in said[2]
        account.refresh_from_db()
        assert not account.charges_other_cards
        assert TimelineEvent.objects.filter(kind="card.others").count() == 2

    def test_is_nobody_elses(self, client):
        account = account_using("12.34")
        client.force_login(MemberFactory().user)

        client.post(reverse("cards-others", args=[account.pk]), {"allowed": "yes"})

        account.refresh_from_db()
        assert not account.charges_other_cards

    @pytest.mark.parametrize(
        "facts",
        [{"expiry_year": 2018, "expiry_month": 1}, {"state": "BLOCKED", "blocked_at": AS_OF}],
    )
    def test_charges_no_card_that_is_no_good(self, facts):
        account = account_using("12.34", charges_other_cards=True)
        CardFactory(account=account, token="sandbox_mastercard", is_default=False, **facts)
        card = default_of(account)

        methods.note_gone(account_id=account.pk, method_id=card.pk, as_of=AS_OF)

        assert default_of(account) is None
        assert "Please add another card" in Message.objects.get().body_text


def test_a_key_of_its_own_for_each_try_shows_the_refusal_again(stripe):
    spec = stripe.spec()
    gateways.get("stripe").detach(spec.token)

    for _ in range(2):
        with pytest.raises(gateways.MethodGone):
            gateways.get("stripe").prepare(spec, key=new_key())
