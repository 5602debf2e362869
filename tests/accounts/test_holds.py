"""Holds: one per account and reason, on the timeline when placed and when lifted."""

import pytest

from accounts import holds
from accounts.models import Hold, TimelineEvent
from tests.factories import AS_OF, AccountFactory

pytestmark = pytest.mark.django_db


def place(account, reason: str = "MANUAL", **facts) -> Hold:
    return holds.place_hold(account_id=account.pk, reason=reason, as_of=AS_OF, **facts)


def test_a_hold_stands_from_now_and_on_the_timeline():
    account = AccountFactory()

    hold = place(account, actor="ann@example.com")

    assert (hold.placed_at, hold.lifted_at) == (AS_OF, None)
    event = TimelineEvent.objects.get(account=account)
    assert (event.kind, event.actor) == ("hold.placed", "ann@example.com")
    assert (event.summary, event.details) == ("Hold placed: Placed by hand", {"hold": hold.pk})


def test_a_second_one_for_the_same_reason_is_refused():
    account = AccountFactory()
    place(account)

    with pytest.raises(holds.AlreadyHeld, match="MANUAL"):
        place(account)

    assert Hold.objects.count() == TimelineEvent.objects.count() == 1


def test_another_reason_and_another_account_are_another_hold():
    account = AccountFactory()
    place(account)

    place(account, "OVERDUE")
    place(AccountFactory())

    assert Hold.objects.count() == 3


def test_lifting_it_says_why_and_makes_room_for_the_next():
    account = AccountFactory()
    hold = place(account)

    holds.lift_hold(hold=hold, as_of=AS_OF, because="paid", actor="ann@example.com")

    hold.refresh_from_db()
    assert hold.lifted_at == AS_OF
    event = TimelineEvent.objects.latest("pk")
    assert (event.kind, event.summary) == ("hold.lifted", "Hold lifted: paid")
    assert place(account).pk != hold.pk


def test_lifting_it_twice_is_a_defect_of_the_caller():
    hold = place(AccountFactory())
    holds.lift_hold(hold=hold, as_of=AS_OF, because="paid")

    with pytest.raises(AssertionError, match="was lifted already"):
        holds.lift_hold(hold=hold, as_of=AS_OF, because="paid")
