"""What the database itself refuses of a lane, each broken on purpose."""

from datetime import UTC, datetime

import pytest
from django.db import IntegrityError

from notifications.models import Lane, LaneTally

pytestmark = pytest.mark.django_db

AT = datetime(2018, 11, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("facts", "constraint"),
    [
        ({"paused_at": AT}, "paused_lane_says_who_and_why"),
        ({"opened_at": AT}, "open_breaker_says_when_it_probes"),
        ({"is_probing": True}, "open_breaker_says_when_it_probes"),
        ({"slowed_rate": 5}, "slowed_lane_says_since_when"),
        ({"rate": 0}, "lane_rate_is_positive"),
    ],
)
def test_a_lane_is_of_one_piece(facts, constraint):
    with pytest.raises(IntegrityError, match=constraint):
        Lane.objects.create(provider="cards", credential="x", **facts)


def test_ten_seconds_of_a_lane_are_told_once():
    lane = Lane.objects.create(provider="cards", credential="x")
    LaneTally.objects.create(lane=lane, starts_at=AT)

    with pytest.raises(IntegrityError, match="one_tally_per_lane_and_ten_seconds"):
        LaneTally.objects.create(lane=lane, starts_at=AT)
