"""Two executors, each with a connection of its own, at one lane."""

import pytest
from django.db import connection, transaction

from notifications.lanes import traffic
from notifications.models import Lane
from tests.workers import Aside, at_once, wait_until_somebody_waits

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.concurrency]


def ask_often() -> int:
    return sum(traffic.grant("cards", wanted=7).count for _ in range(40))


class TestRacers:
    def test_get_together_no_more_than_there_is(self, lane_of):
        # So slow that nothing comes while they race.
        lane_of(rate=0.011, burst=101, tokens=101)

        took = at_once(ask_often, ask_often, ask_often)

        assert sum(took) == 101

    def test_make_one_lane(self):
        assert at_once(*[lambda: traffic.grant("cards", wanted=3).count] * 3) == [3, 3, 3]
        assert Lane.objects.count() == 1

    def test_make_one_probe(self, lane_of):
        lane_of()
        traffic.note_answers("cards", unanswered=5)
        with connection.cursor() as cursor:
            cursor.execute("UPDATE notifications_lane SET probe_at = now() - interval '1 second'")

        took = at_once(*[lambda: traffic.grant("cards", wanted=50).count] * 3)

        assert sorted(took) == [0, 0, 1]

    def test_see_what_the_other_has_claimed_under_the_cap(self, lane_of):
        lane_of(cap=4)
        claimed: list[int] = []

        def claim() -> int:
            with transaction.atomic():
                count = traffic.grant("cards", wanted=3, in_flight=lambda: len(claimed)).count
                claimed.extend([1] * count)
            return count

        assert sorted(at_once(claim, claim)) == [1, 3]

    def test_give_back_everything_when_they_fail_before_their_claim_is_written(self, lane_of):
        lane_of(rate=0.011, burst=10, tokens=10)

        def claim() -> None:
            with transaction.atomic():
                assert traffic.grant("cards", wanted=6).count == 1
                raise ConnectionAbortedError

        with pytest.raises(ConnectionAbortedError):
            claim()

        assert Lane.objects.get().tokens == pytest.approx(10, abs=0.1)

    def test_wait_for_the_claim_of_the_one_before(self, lane_of):
        lane_of(rate=0.011, burst=1, tokens=1)

        with transaction.atomic():
            assert traffic.grant("cards", wanted=1).count == 1
            other = Aside(lambda: traffic.grant("cards", wanted=1).count)
            wait_until_somebody_waits()

        assert other.join() == 0
