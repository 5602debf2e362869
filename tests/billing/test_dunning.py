"""Holds on accounts that do not pay; gone the moment nothing is overdue."""

from datetime import timedelta

import pytest

from accounts import holds
from accounts.models import Hold, TimelineEvent
from billing import dunning
from billing.models import Decision
from notifications.models import Message
from tests.billing.builders import bill, owing, pay_by_hand, place_hold
from tests.billing.test_invoicing import NOVEMBER, using
from tests.factories import AS_OF

pytestmark = pytest.mark.django_db


class TestPlaceHold:
    def test_places_it_and_tells_the_customer(self):
        account = owing("12.34")

        hold = place_hold(account)

        assert (hold.reason, hold.placed_at, hold.lifted_at) == ("OVERDUE", AS_OF, None)
        message = Message.objects.get(account=account)
        assert (message.kind, message.amounts["due_minor"]) == ("HOLD_PLACED", 1234)

    def test_places_it_where_there_is_nobody_to_tell(self):
        account = owing(email="")

        place_hold(account)

        assert not Message.objects.exists()
        assert TimelineEvent.objects.filter(kind="message.not_written").exists()

    def test_refuses_a_second_one(self):
        account = owing()
        place_hold(account)

        with pytest.raises(holds.AlreadyHeld):
            place_hold(account)


class TestHoldsByHand:
    """A person places it, and only a person lifts it."""

    def placed(self, account) -> Hold:
        return dunning.place_hold_by_hand(
            account_id=account.pk, reason="Fraud suspected", actor="ann@example.com", as_of=AS_OF
        )

    def lift(self, hold: Hold) -> Hold:
        return dunning.lift_hold_by_hand(
            hold_id=hold.pk, reason="It was nothing", actor="ann@example.com", as_of=AS_OF
        )

    def test_stay_whatever_is_paid(self):
        account = owing("12.34")
        hold = self.placed(account)

        pay_by_hand(account, 1234)

        hold.refresh_from_db()
        assert (hold.reason, hold.lifted_at) == ("MANUAL", None)

    def test_are_placed_once(self):
        account = owing()
        self.placed(account)

        with pytest.raises(holds.AlreadyHeld):
            self.placed(account)

    def test_are_lifted_once(self):
        hold = self.placed(owing())

        assert self.lift(hold).lifted_at == AS_OF
        with pytest.raises(dunning.NotHeld):
            self.lift(hold)

    def test_keep_who_and_why_and_tell_the_customer(self):
        account = owing()

        self.lift(self.placed(account))

        made = Decision.objects.order_by("pk").values_list("act", "because", "actor")
        assert list(made) == [
            ("PLACE_HOLD", "Fraud suspected", "ann@example.com"),
            ("LIFT_HOLD", "It was nothing", "ann@example.com"),
        ]
        assert Message.objects.filter(account=account).count() == 2


class TestLiftSettledHolds:
    def test_lifts_it_when_less_is_overdue_than_is_asked_for(self):
        account = owing("12.34")
        hold = place_hold(account)

        pay_by_hand(account, 1184)
        hold.refresh_from_db()
        assert hold.lifted_at is None

        pay_by_hand(account, 1)
        hold.refresh_from_db()
        assert hold.lifted_at == AS_OF

    def test_writes_down_why_and_tells_the_customer(self):
        account = owing("12.34")
        hold = place_hold(account)

        pay_by_hand(account, 1234)

        decision = Decision.objects.get(hold=hold)
        assert (decision.act, decision.did, decision.because) == ("LIFT_HOLD", "DONE", "paid")
        assert decision.saw["overdue_minor"] == 0
        assert Message.objects.filter(account=account, kind="HOLD_LIFTED").count() == 1

    def test_does_not_wait_for_what_is_due_but_not_overdue(self):
        account = owing("12.34")
        place_hold(account)
        using(account, "5.00", month=NOVEMBER)
        bill(account, month=NOVEMBER, as_of=AS_OF + timedelta(days=30))

        pay_by_hand(account, 1234)

        assert Hold.objects.get().lifted_at == AS_OF

    def test_leaves_a_hold_that_a_person_placed(self):
        account = owing("12.34")
        Hold.objects.create(account=account, reason="MANUAL", placed_at=AS_OF)

        pay_by_hand(account, 1234)

        assert Hold.objects.get().lifted_at is None

    def test_twice_is_the_same_as_once(self):
        account = owing("12.34")
        place_hold(account)
        pay_by_hand(account, 1234)

        assert dunning.lift_settled_holds([account.pk], because="paid", as_of=AS_OF) == []
        assert Decision.objects.count() == 1
