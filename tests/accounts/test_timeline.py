"""What happened to an account, in words for support."""

import pytest

from accounts import timeline
from accounts.models import TimelineEvent
from tests.factories import AccountFactory

pytestmark = pytest.mark.django_db


def test_an_event_is_saved_only_when_it_is_recorded():
    account = AccountFactory()

    event = timeline.event(account_id=account.pk, kind="card.added", summary="Card added", card=7)
    assert not TimelineEvent.objects.exists()
    timeline.record(event)

    saved = TimelineEvent.objects.get()
    assert (saved.account, saved.kind, saved.actor) == (account, "card.added", "system")
    assert saved.details == {"card": 7}
    assert saved.happened_at is not None


def test_many_are_recorded_at_once(django_assert_num_queries):
    account = AccountFactory()
    events = [timeline.event(account_id=account.pk, kind="test", summary=str(n)) for n in range(5)]

    with django_assert_num_queries(1):
        timeline.record(*events)

    assert account.timeline.count() == 5


def test_long_words_are_cut_rather_than_refused():
    account = AccountFactory()

    timeline.record(timeline.event(account_id=account.pk, kind="test", summary="x" * 600))

    assert len(TimelineEvent.objects.get().summary) == 500
