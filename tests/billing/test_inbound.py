"""What providers tell us unasked: kept once, worked on later, and never believed."""

import itertools
import time
from datetime import timedelta

import pytest
from django_q.models import OrmQ

from accounts.models import PaymentMethod, TimelineEvent
from billing import gateways, tasks
from billing.close.health import sweeper
from billing.gateways import OutcomeUnknown
from billing.models import Payment, PaymentAttempt, ProviderEvent
from billing.payments import charges, inbound, methods
from billing.payments.charges import calls
from tests import charging
from tests.billing.builders import assert_books_balance, collect, due, pay_by_hand
from tests.billing.stripe_builders import deliver, event, outcomes, owing, told, with_card
from tests.closing import in_a_thread_of_the_provider
from tests.factories import AS_OF, AccountFactory
from tests.provider import Killed
from tests.stripe_provider import new_key
from tests.workers import at_once

pytestmark = pytest.mark.django_db(transaction=True)

State = PaymentAttempt.State
SUCCEEDED = "payment_intent.succeeded"


def assert_books_equal_the_providers(stripe) -> None:
    assert_books_balance()
    booked = Payment.objects.filter(gateway="stripe").values_list("provider_ref", "amount_minor")
    taken = [
        (intent["id"], intent["amount_received"])
        for intent in stripe.intents()
        if intent["status"] == "succeeded"
    ]
    assert sorted(booked) == sorted(taken)


class TestReceive:
    def test_keeps_an_event_as_it_was_signed_and_wakes_somebody(self, stripe):
        deliver(event(SUCCEEDED, "pi_1"))

        kept = ProviderEvent.objects.get()
        assert (kept.gateway, kept.type, kept.object_ref) == ("stripe", SUCCEEDED, "pi_1")
        assert '"pi_1"' in kept.body
        assert (kept.outcome, kept.next_try_at) == ("WAITING", AS_OF)
        assert OrmQ.objects.filter(key="charge").count() == 1

    def test_twice_is_the_same_as_once(self, stripe):
        told(event("balance.available", ""), event("balance.available", ""))

        assert told(event("balance.available", "")) == ["IGNORED"]

    def test_twenty_copies_at_once_are_one(self, stripe):
        copy = event(SUCCEEDED, "pi_1")

        at_once(*[lambda: deliver(copy)] * 20)

        assert ProviderEvent.objects.count() == 1


class TestACharge:
    def test_that_its_customer_confirmed_is_booked(self, stripe):
        account = owing(stripe, card="authenticationRequired")
        attempt = collect(account)
        stripe.authenticate(attempt.provider_ref)

        assert told(event(SUCCEEDED, attempt.provider_ref)) == ["APPLIED"]

        assert due(account) == 0
        assert_books_equal_the_providers(stripe)

    def test_is_not_believed_to_have_succeeded(self, stripe):
        account = owing(stripe, card="authenticationRequired")
        attempt = collect(account)

        told(event(SUCCEEDED, attempt.provider_ref, status="succeeded", amount_received=1234))

        attempt.refresh_from_db()
        assert attempt.state == State.REQUIRES_ACTION
        assert due(account) == 1234
        assert not Payment.objects.exists()

    def test_is_not_believed_to_be_somebody_elses(self, stripe):
        attempt, others = collect(owing(stripe)), collect(owing(stripe, "56.78"))

        told(
            event(
                SUCCEEDED,
                attempt.provider_ref,
                metadata={"attempt_id": str(others.pk)},
                amount_received=1,
            )
        )

        assert_books_equal_the_providers(stripe)

    def test_whose_reply_was_lost_is_booked_once(self, stripe):
        account = owing(stripe)
        stripe.fault("execute_then_drop", "/confirm$")
        attempt = collect(account)
        assert attempt.state == State.SUBMITTED

        told(event(SUCCEEDED, attempt.provider_ref))
        charging.drive_due(as_of=AS_OF + timedelta(hours=1))

        assert Payment.objects.get().amount_minor == 1234
        assert_books_equal_the_providers(stripe)

    def test_booked_by_the_event_while_its_own_reply_is_on_its_way(self, stripe, monkeypatch):
        account = owing(stripe)
        real = calls._submit

        def and_then_the_event(attempt):
            seen = real(attempt)
            in_a_thread_of_the_provider(lambda: told(event(SUCCEEDED, attempt.provider_ref)))()
            return seen

        monkeypatch.setattr(calls, "_submit", and_then_the_event)

        attempt = collect(account)

        assert (attempt.state, outcomes()) == (State.SUCCEEDED, ["APPLIED"])
        assert_books_equal_the_providers(stripe)

    @pytest.mark.parametrize(
        "order",
        list(itertools.permutations(("requires_action", "payment_failed", "succeeded"))),
        ids="-".join,
    )
    def test_ends_the_same_in_whatever_order_it_is_told(self, stripe, order):
        account = owing(stripe, card="authenticationRequired")
        ref = collect(account).provider_ref
        stripe.authenticate(ref)

        told(*(event(f"payment_intent.{kind}", ref) for kind in order))

        assert due(account) == 0
        assert_books_equal_the_providers(stripe)

    def test_that_ended_is_not_begun_again_by_a_late_event(self, stripe):
        account = owing(stripe, card="chargeCustomerFail")
        attempt = collect(account)
        assert attempt.state == State.FAILED

        told(event("payment_intent.payment_failed", attempt.provider_ref))

        attempt.refresh_from_db()
        assert attempt.state == State.FAILED

    def test_paid_by_hand_and_confirmed_late_becomes_credit(self, stripe):
        account = owing(stripe, card="authenticationRequired")
        attempt = collect(account)
        pay_by_hand(account, 1234)
        stripe.authenticate(attempt.provider_ref)

        told(event(SUCCEEDED, attempt.provider_ref))

        assert due(account) == 0
        assert account.grants.get().remaining_minor == 1234
        assert_books_equal_the_providers(stripe)

    def test_that_the_bank_takes_time_for_is_on_its_way(self, stripe, monkeypatch):
        attempt = collect(owing(stripe, card="authenticationRequired"))
        seen = gateways.get("stripe").read(attempt.provider_ref)
        processing = gateways.Observation(**{**vars(seen), "status": gateways.Status.PROCESSING})
        monkeypatch.setattr(inbound, "_answer", lambda question: processing)

        told(event("payment_intent.processing", attempt.provider_ref))

        attempt.refresh_from_db()
        assert attempt.state == State.PROCESSING


class TestAnObjectThatNoRowKnowsYet:
    def reserved(self, stripe) -> PaymentAttempt:
        """An attempt whose object was made, but the reply did not come."""
        stripe.fault("execute_then_drop", "/v1/payment_intents$")
        attempt = collect(owing(stripe))
        assert (attempt.state, attempt.provider_ref) == (State.RESERVED, None)
        return attempt

    def object_of(self, stripe) -> str:
        (intent,) = stripe.intents()
        return intent["id"]

    def test_is_waited_for(self, stripe):
        attempt = self.reserved(stripe)
        ref = self.object_of(stripe)
        # As if it had been told before the reply could be stored.
        told(event("payment_intent.processing", ref))
        assert outcomes() == ["WAITING"]
        charging.drive_due(as_of=AS_OF + timedelta(minutes=2))

        inbound.process_due(as_of=AS_OF + timedelta(minutes=2))

        attempt.refresh_from_db()
        assert (attempt.state, attempt.provider_ref) == (State.SUCCEEDED, ref)
        assert outcomes() == ["APPLIED"]
        assert_books_equal_the_providers(stripe)

    def test_that_took_money_is_booked_by_our_reference(self, stripe):
        attempt = self.reserved(stripe)
        gateways.get("stripe").submit(self.object_of(stripe), key=new_key())

        assert told(event(SUCCEEDED, self.object_of(stripe))) == ["APPLIED"]

        attempt.refresh_from_db()
        assert attempt.state == State.SUCCEEDED
        assert_books_equal_the_providers(stripe)

    def test_left_behind_by_an_earlier_try_ends_without_the_attempt(self, stripe):
        attempt = collect(owing(stripe, card="authenticationRequired"))
        spec = calls.spec(PaymentAttempt.objects.get())
        orphan = gateways.get("stripe").prepare(spec, key=new_key()).ref
        gateways.get("stripe").cancel(orphan, key=new_key())

        assert told(event("payment_intent.canceled", orphan)) == ["IGNORED"]

        attempt.refresh_from_db()
        assert attempt.state == State.REQUIRES_ACTION

    @pytest.mark.parametrize("reference", ["6f1ed002-ab59-4db8-9d5f-0d5e3a3c7b11", "not an id"])
    def test_and_never_will_is_foreign_after_three_days(self, stripe, reference):
        ref = stripe.prepared(own_reference=reference)
        told(event(SUCCEEDED, ref))
        later = AS_OF + timedelta(hours=71)
        inbound.process_due(as_of=later)
        assert outcomes() == ["WAITING"]

        inbound.process_due(as_of=later + timedelta(hours=2))

        kept = ProviderEvent.objects.get()
        assert (kept.outcome, kept.tries) == ("FOREIGN", 3)
        assert reference in kept.error

    def test_made_by_somebody_else_is_foreign_at_once(self, stripe, caplog):
        made_by_hand = stripe.post("payment_intents", amount=999, currency="eur")["id"]

        assert told(event(SUCCEEDED, made_by_hand)) == ["FOREIGN"]

        assert made_by_hand in caplog.text
        assert not Payment.objects.exists()

    def test_that_does_not_exist_is_given_up_after_three_days(self, stripe, caplog):
        told(event(SUCCEEDED, "pi_forged"))
        inbound.process_due(as_of=AS_OF + timedelta(hours=73))

        assert outcomes() == ["FAILED"]
        assert "is given up" in caplog.text
        assert not PaymentAttempt.objects.exists()


class TestWorking:
    def test_leaves_types_that_it_does_not_know(self, stripe):
        assert told(event("invoice.created", "in_1"), event("payment_intent.odd", "pi_1")) == [
            "IGNORED",
            "IGNORED",
        ]

    def test_asks_once_about_an_object_that_several_are_about(self, stripe):
        ref = collect(owing(stripe)).provider_ref
        path = f"/v1/payment_intents/{ref}"

        told(event(SUCCEEDED, ref), event("payment_intent.processing", ref))

        asked = [said for said in stripe.dump()["requests"] if said["path"] == path]
        assert len(asked) == 1

    def test_one_that_cannot_be_worked_on_stops_no_other(self, stripe, monkeypatch):
        bad, good = (collect(owing(stripe, card="authenticationRequired")) for _ in range(2))
        for attempt in (bad, good):
            stripe.authenticate(attempt.provider_ref)
        real = charges.apply_provider_state

        def fail(observations, *, as_of):
            if bad.pk in observations:
                raise RuntimeError("poison")
            real(observations, as_of=as_of)

        monkeypatch.setattr(charges, "apply_provider_state", fail)

        came = told(event(SUCCEEDED, bad.provider_ref), event(SUCCEEDED, good.provider_ref))

        assert came == ["WAITING", "APPLIED"]
        assert ProviderEvent.objects.get(outcome="WAITING").error == "RuntimeError: poison"

    def test_tries_again_after_longer_and_longer(self, stripe):
        deliver(event(SUCCEEDED, "pi_forged"))
        at, pauses = AS_OF, []

        for _ in range(6):
            inbound.process_due(as_of=at)
            next_at = ProviderEvent.objects.get().next_try_at
            pauses.append((next_at - at).total_seconds())
            at = next_at

        assert pauses == [5, 30, 120, 600, 3600, 3600]

    def test_comes_back_when_the_provider_says(self, stripe):
        ref = stripe.prepared()
        stripe.fault("429", ref, method="GET", retry_after=17)

        told(event(SUCCEEDED, ref))

        assert ProviderEvent.objects.get().next_try_at == AS_OF + timedelta(seconds=17)

    def test_waits_while_the_gateway_has_no_key(self, stripe, settings):
        deliver(event(SUCCEEDED, "pi_1"))
        settings.STRIPE_SECRET_KEY = ""

        inbound.process_due(as_of=AS_OF)

        assert outcomes() == ["WAITING"]

    def test_two_at_once_do_not_take_the_same(self, stripe):
        deliver(*(event("balance.available", "", event_id=f"evt_{n}") for n in range(20)))

        done = at_once(*[lambda: inbound.process_due(as_of=AS_OF, limit=10)] * 4)

        assert sum(done) == 20
        assert set(outcomes()) == {"IGNORED"}

    def test_killed_before_it_could_say_so_it_is_done_again(self, stripe, monkeypatch):
        attempt = collect(owing(stripe, card="authenticationRequired"))
        stripe.authenticate(attempt.provider_ref)

        def die(*args, **facts):
            raise Killed("after apply")

        with monkeypatch.context() as patch:
            patch.setattr(inbound, "_end", die)
            with pytest.raises(Killed):
                told(event(SUCCEEDED, attempt.provider_ref))
        inbound.process_due(as_of=AS_OF + timedelta(minutes=2))

        assert outcomes() == ["APPLIED"]
        assert_books_equal_the_providers(stripe)

    def test_a_provider_that_hangs_is_asked_no_more_than_there_is_time_for(
        self, stripe, monkeypatch
    ):
        asked = []

        def hang(question):
            asked.append(question)
            time.sleep(0.05)
            return OutcomeUnknown("the read timed out")

        monkeypatch.setattr(inbound, "_answer", hang)
        monkeypatch.setattr(inbound, "ASK_WITHIN_SECONDS", 0.01)
        deliver(*(event(SUCCEEDED, f"pi_{n}") for n in range(60)))

        inbound.process_due(as_of=AS_OF)

        assert 0 < len(asked) <= inbound.CALLS_AT_ONCE
        told = len(asked)
        left = ProviderEvent.objects.filter(next_try_at=AS_OF)
        assert set(left.values_list("tries", flat=True)) == {0}
        assert left.count() == 60 - len(asked)
        # What was silent has shut the lane: the next bell asks nothing.
        assert inbound.process_due(as_of=AS_OF) == 0
        assert len(asked) == told

    def test_nothing_due_is_nothing_done(self):
        assert inbound.process_due(as_of=AS_OF) == 0

    def test_the_lane_that_was_rung_works_on_them(self, stripe):
        deliver(event("balance.available", ""))

        tasks.drain("charge")

        assert outcomes() == ["IGNORED"]

    def test_the_sweeper_works_on_those_whose_doorbell_was_lost(self, stripe):
        deliver(event("balance.available", ""))

        assert sweeper.sweep(as_of=AS_OF)["events"] == 1


class TestACard:
    def test_that_was_detached_is_removed(self, stripe):
        account = AccountFactory()
        card = with_card(stripe, account)
        gateways.get("stripe").detach(card.token)

        assert told(event("payment_method.detached", card.token)) == ["APPLIED"]

        card.refresh_from_db()
        assert (card.state, card.is_default) == (PaymentMethod.State.REMOVED, False)
        assert TimelineEvent.objects.get(kind="card.removed").actor == "provider"

    def test_is_not_believed_to_be_detached(self, stripe):
        card = with_card(stripe, AccountFactory())

        told(event("payment_method.detached", card.token, customer=None))

        card.refresh_from_db()
        assert card.state == PaymentMethod.State.ACTIVE

    def test_that_its_bank_renewed_looks_as_it_does_now(self, stripe):
        card = with_card(stripe, AccountFactory())
        assert card.expiry_year == 2035

        told(event("payment_method.automatically_updated", card.token))

        card.refresh_from_db()
        assert (card.expiry_month, card.expiry_year) == (12, 2034)
        assert TimelineEvent.objects.get(kind="card.updated").summary.endswith("12/2034")

    def test_told_of_again_changes_nothing(self, stripe):
        card = with_card(stripe, AccountFactory())
        told(event("payment_method.updated", card.token, event_id="evt_1"))

        told(event("payment_method.updated", card.token, event_id="evt_2"))

        assert TimelineEvent.objects.filter(kind="card.updated").count() == 1

    def test_that_nobody_has_is_ignored(self, stripe):
        token = stripe.card(stripe.customer())

        assert told(event("payment_method.updated", token)) == ["IGNORED"]

    def test_removed_meanwhile_stays_removed(self, stripe, monkeypatch):
        card = with_card(stripe, AccountFactory())
        real = methods.update_card

        def after_removal(**facts):
            methods.remove_card(
                account_id=card.account_id, method_id=card.pk, actor="ann", as_of=AS_OF
            )
            return real(**facts)

        monkeypatch.setattr(methods, "update_card", after_removal)

        assert told(event("payment_method.updated", card.token)) == ["IGNORED"]


class TestACardThatWasEntered:
    def entered(self, stripe, account_ref: str, card: str = "visa") -> str:
        ref = stripe.setup_intent(account_ref, stripe.customer())
        stripe.post(f"setup_intents/{ref}/confirm", payment_method=f"pm_card_{card}")
        return ref

    def test_is_added_though_its_page_was_closed(self, stripe):
        account = AccountFactory()
        ref = self.entered(stripe, account.external_id)

        assert told(event("setup_intent.succeeded", ref)) == ["APPLIED"]

        card = account.payment_methods.get()
        assert (card.gateway, card.last_four, card.is_default) == ("stripe", "4242", True)
        assert gateways.get("stripe").read_method(card.token).customer_ref == card.customer_ref

    def test_can_be_charged(self, stripe):
        account = owing(stripe)
        account.payment_methods.all().delete()
        told(event("setup_intent.succeeded", self.entered(stripe, account.external_id)))

        assert collect(account).state == State.SUCCEEDED

    def test_is_added_once(self, stripe):
        account = AccountFactory()
        ref = self.entered(stripe, account.external_id)

        came = told(
            event("setup_intent.succeeded", ref, event_id="evt_1"),
            event("setup_intent.succeeded", ref, event_id="evt_2"),
        )

        assert came == ["APPLIED", "IGNORED"]
        assert account.payment_methods.count() == 1

    def test_does_not_come_back_after_it_was_removed(self, stripe):
        account = AccountFactory()
        ref = self.entered(stripe, account.external_id)
        told(event("setup_intent.succeeded", ref, event_id="evt_1"))
        card = account.payment_methods.get()
        methods.remove_card(account_id=account.pk, method_id=card.pk, actor="ann", as_of=AS_OF)

        told(event("setup_intent.succeeded", ref, event_id="evt_2"))

        assert account.payment_methods.get().state == PaymentMethod.State.REMOVED

    def test_added_by_its_page_at_the_same_moment_is_added_once(self, stripe, monkeypatch):
        account = AccountFactory()
        ref = self.entered(stripe, account.external_id)

        def already(**facts):
            raise methods.AlreadyAdded(PaymentMethod(brand="Visa", last_four="4242"))

        monkeypatch.setattr(methods, "add_card", already)

        assert told(event("setup_intent.succeeded", ref)) == ["IGNORED"]

    def test_and_not_finished_is_no_card(self, stripe):
        account = AccountFactory()
        ref = stripe.setup_intent(account.external_id, stripe.customer())

        assert told(event("setup_intent.succeeded", ref)) == ["IGNORED"]

    def test_for_nobody_of_ours_is_foreign(self, stripe):
        assert told(event("setup_intent.succeeded", self.entered(stripe, "nobody"))) == ["FOREIGN"]
