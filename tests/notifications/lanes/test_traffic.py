"""A lane: how many may begin, and what the answers make of it. Time is the test's own."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import IntegrityError

from notifications.lanes import bucket, traffic
from notifications.models import Lane, LaneTally

pytestmark = pytest.mark.django_db


def urgent(provider: str) -> str:
    """Why what a person waits for may not begin now; empty: it may."""
    return traffic.grant(provider, wanted=1, is_urgent=True).because


def granted(wanted: int = 1000, **facts: object) -> int:
    return traffic.grant("cards", wanted=wanted, **facts).count


def current() -> Lane:
    return Lane.objects.get(provider="cards")


def drain_for(virtual, seconds: float, *, every: float = 0.1) -> int:
    """Ask for as much as may be, all the time; how many that was."""
    total = 0
    for _ in range(round(seconds / every)):
        total += granted()
        virtual.pass_seconds(every)
    return total


def fail(times: int) -> None:
    for _ in range(times):
        traffic.note_answers("cards", unanswered=1)


class TestALaneIsMade:
    def test_with_the_limits_of_the_settings(self, settings):
        settings.LANES = {"cards": {"credential": "sk_1", "limits": {"rate": 8.0, "burst": 3}}}

        assert granted() == 3
        assert (current().rate, current().cap) == (8.0, None)

    def test_without_any_it_has_none(self, virtual):
        assert granted(500) == 500

    def test_anew_for_another_key_with_what_people_had_set(self, settings, lane_of):
        settings.LANES = {"cards": {"credential": "sk_1"}}
        lane_of(rate=2, burst=1)

        settings.LANES = {"cards": {"credential": "sk_2"}}
        granted()

        old, new = Lane.objects.order_by("pk")
        assert old.credential != new.credential
        assert (new.rate, new.burst) == (2, 1)
        assert "sk_" not in new.credential

    def test_one_for_each_provider_and_key(self, lane_of):
        lane = lane_of()

        with pytest.raises(IntegrityError, match="one_lane_per_provider_and_credential"):
            Lane.objects.create(provider="cards", credential=lane.credential)


class TestTheBucket:
    def test_gives_no_more_than_rate_times_time_and_the_burst(self, virtual, lane_of):
        lane_of(rate=100, burst=20)

        begun = drain_for(virtual, 10)

        assert 0.95 * 100 * 10 <= begun <= 100 * 10 + 20

    def test_gives_half_a_seconds_work_at_a_time(self, virtual, lane_of):
        lane_of(rate=10, burst=50, tokens=50)

        assert granted() == 5

    def test_gives_no_grant_of_more_than_fifty(self, virtual, lane_of):
        lane_of(rate=1000, burst=500, tokens=500)

        assert granted() == 50

    def test_gives_one_at_a_time_where_it_is_slow(self, virtual, lane_of):
        lane_of(rate=0.5, burst=1, tokens=0, refilled_at=virtual.at)

        assert granted() == 0
        virtual.pass_seconds(2)
        assert granted() == 1

    def test_says_why_not_and_when(self, virtual, lane_of):
        lane_of(rate=10, burst=5, tokens=0, refilled_at=virtual.at)

        refused = traffic.grant("cards", wanted=1)

        assert refused.because == "the rate of cards is used up"
        assert refused.wait_seconds == 0.5
        assert refused.again_at == virtual.at + timedelta(seconds=0.5)

    def test_saves_up_no_more_than_the_burst(self, virtual, lane_of):
        lane_of(rate=10, burst=5)
        virtual.pass_seconds(3600)

        granted(1)

        assert current().tokens == 4

    def test_takes_back_what_was_not_begun(self, virtual, lane_of):
        lane_of(rate=10, burst=5)
        grant = traffic.grant("cards", wanted=5)

        traffic.give_back(grant, unused=3)

        assert current().tokens == 3

    def test_takes_nothing_back_where_there_is_no_limit(self, virtual, lane_of):
        lane_of(cap=5)
        before = current().tokens

        traffic.give_back(traffic.grant("cards", wanted=5), unused=3)
        traffic.give_back(traffic.grant("cards", wanted=5), unused=0)

        assert current().tokens == before

    def test_owes_what_does_not_wait_and_the_waiting_work_waits_for_that(self, virtual, lane_of):
        lane_of(rate=10, burst=5, tokens=0, refilled_at=virtual.at)

        assert [urgent("cards") for _ in range(20)] == [""] * 20

        virtual.pass_seconds(2)
        assert granted() == 0
        virtual.pass_seconds(0.5)
        assert granted() == 5

    def test_lets_through_what_does_not_wait_where_there_is_no_limit(self, virtual, lane_of):
        lane_of(cap=1)

        assert urgent("cards") == ""
        assert urgent("another") == ""


class TestTheCap:
    def test_is_a_count_of_what_is_in_flight(self, virtual, lane_of):
        lane_of(cap=8)

        assert granted(20, in_flight=lambda: 5) == 3

    def test_refuses_when_all_are_taken(self, virtual, lane_of):
        lane_of(cap=8)

        refused = traffic.grant("cards", wanted=1, in_flight=lambda: 9)

        assert (refused.count, refused.because) == (0, "as many are in flight as may be")
        assert refused.again_at is None

    def test_costs_no_token(self, virtual, lane_of):
        lane_of(cap=8, rate=10, burst=5)

        granted(in_flight=lambda: 8)

        assert current().tokens == 5


class TestTheBreaker:
    def test_opens_after_five_without_an_answer(self, virtual, lane_of):
        lane_of()

        fail(4)
        assert granted(1) == 1
        fail(1)

        refused = traffic.grant("cards", wanted=1)
        assert (refused.count, refused.because) == (0, "cards does not answer")
        assert refused.again_at == virtual.at + timedelta(seconds=30)
        assert traffic.why_shut("cards") == "cards does not answer"
        assert urgent("cards") == "cards does not answer"

    def test_opens_after_a_batch_without_any_answer(self, virtual, lane_of):
        traffic.note_answers("cards", unanswered=16)

        assert granted() == 0

    def test_hears_nothing_in_a_batch_of_none(self, virtual):
        traffic.note_answers("cards")

        assert not LaneTally.objects.exists()

    def test_counts_those_in_a_row(self, virtual, lane_of):
        fail(4)
        traffic.note_answers("cards", answered=1, unanswered=3)
        fail(4)

        assert granted(1) == 1

    def test_lets_one_probe_through(self, virtual, lane_of):
        fail(5)
        virtual.pass_seconds(30)

        probe = traffic.grant("cards", wanted=50)

        assert (probe.count, probe.is_probe) == (1, True)
        assert granted() == 0

    def test_lets_a_customer_probe_as_well(self, virtual, lane_of):
        fail(5)
        virtual.pass_seconds(30)

        assert urgent("cards") == ""
        assert urgent("cards") == "cards does not answer"

    def test_probes_ever_more_seldom(self, virtual, lane_of):
        fail(5)
        pauses = []
        for _ in range(6):
            pauses.append((current().probe_at - virtual.at).total_seconds())
            virtual.at = current().probe_at
            assert granted() == 1
            fail(1)

        assert pauses == [30, 60, 120, 240, 300, 300]

    def test_does_not_count_calls_that_were_in_flight_as_a_probe(self, virtual, lane_of):
        fail(5)
        fail(10)

        assert current().probe_at == virtual.at + timedelta(seconds=30)

    def test_probes_again_after_one_whose_worker_was_killed(self, virtual, lane_of):
        fail(5)
        virtual.pass_seconds(30)
        granted()

        virtual.pass_seconds(59)
        assert granted() == 0
        virtual.pass_seconds(1)
        assert granted() == 1

    def test_probes_again_at_once_where_one_came_to_no_call(self, virtual, lane_of):
        fail(5)
        virtual.pass_seconds(30)

        traffic.give_back(traffic.grant("cards", wanted=1), unused=1)
        traffic.end_probe(traffic.grant("cards", wanted=1))

        assert granted() == 1

    def test_leaves_an_answered_probe_as_it_was_answered(self, virtual, lane_of):
        fail(5)
        virtual.pass_seconds(30)
        probe = traffic.grant("cards", wanted=1)
        fail(1)

        traffic.end_probe(probe)

        assert current().probe_at == virtual.at + timedelta(seconds=60)

    def test_ends_no_probe_where_there_was_none(self, virtual, lane_of):
        traffic.end_probe(traffic.grant("cards", wanted=1))

        assert current().opened_at is None

    def test_closes_on_an_answer_and_begins_slowly(self, virtual, lane_of):
        lane_of(rate=100, burst=50)
        fail(5)
        virtual.pass_seconds(6 * 3600)
        granted()
        traffic.note_answers("cards", answered=1)

        first = drain_for(virtual, 10)
        later = drain_for(virtual, 10)

        assert 40 <= first <= 10 * (5 + 5) <= later
        drain_for(virtual, 200, every=1)
        assert traffic.speed("cards").rate_now == 100
        granted()
        assert current().slowed_rate is None

    def test_begins_slowly_where_there_is_no_limit_too(self, virtual, lane_of):
        fail(5)
        traffic.note_answers("cards", answered=1)

        assert drain_for(virtual, 10) <= 100
        virtual.pass_seconds(300)
        assert granted(500) == 500

    def test_goes_on_with_its_pauses_where_it_opens_again_soon(self, virtual, lane_of):
        for expected in (30, 60, 120):
            fail(5)
            assert current().probe_at == virtual.at + timedelta(seconds=expected)
            traffic.note_answers("cards", answered=1)
        virtual.pass_seconds(600)
        fail(5)

        assert current().probe_at == virtual.at + timedelta(seconds=30)


class TestSlowDown:
    def test_waits_as_long_as_it_was_told(self, virtual, lane_of):
        lane_of(rate=100)
        traffic.note_answers("cards", throttled_for=7)

        refused = traffic.grant("cards", wanted=1)

        assert refused.because == "cards has asked us to slow down"
        assert refused.again_at == virtual.at + timedelta(seconds=7)

    def test_halves_the_rate_which_grows_back(self, virtual, lane_of):
        lane_of(rate=100, burst=50)
        traffic.note_answers("cards", throttled_for=7)
        virtual.pass_seconds(7)

        begun = drain_for(virtual, 10)

        assert 0.9 * 500 <= begun <= 10 * 55 + 50
        assert traffic.speed("cards").rate_now == pytest.approx(55, abs=1)
        virtual.pass_seconds(100)
        assert traffic.speed("cards").rate_now == 100

    def test_halves_once_for_a_whole_volley(self, virtual, lane_of):
        lane_of(rate=100)
        for _ in range(20):
            traffic.note_answers("cards", throttled_for=0.5)
            virtual.pass_seconds(0.02)

        assert current().slowed_rate == 50

    def test_halves_again_when_told_again(self, virtual, lane_of):
        lane_of(rate=100)
        for _ in range(3):
            traffic.note_answers("cards", throttled_for=1)
            virtual.pass_seconds(3)

        assert 12 <= current().slowed_rate <= 15

    def test_never_comes_to_nothing(self, virtual, lane_of):
        lane_of(rate=0.5)
        for _ in range(20):
            traffic.note_answers("cards", throttled_for=0)
            virtual.pass_seconds(1)

        assert current().slowed_rate == bucket.SLOWEST

    def test_halves_what_it_has_come_to_where_there_is_no_limit(self, virtual, lane_of):
        lane_of()
        for _ in range(10):
            traffic.note_answers("cards", answered=400)
            virtual.pass_seconds(1)
        traffic.note_answers("cards", throttled_for=2)

        virtual.pass_seconds(2)
        assert traffic.speed("cards").rate_now == 200
        assert granted() == 0
        virtual.pass_seconds(1)
        assert granted() == 50

    def test_is_an_answer_for_the_breaker(self, virtual, lane_of):
        fail(5)
        virtual.pass_seconds(30)
        granted()

        traffic.note_answers("cards", throttled_for=2)

        assert current().opened_at is None
        assert traffic.grant("cards", wanted=1).because == "cards has asked us to slow down"


class TestByHand:
    def test_nothing_begins_while_it_is_paused(self, virtual, lane_of):
        traffic.pause(lane_of(rate=10).pk, by="ops@example.com", because="they mend their API")

        refused = traffic.grant("cards", wanted=1)

        assert refused.because == "paused by ops@example.com: they mend their API"
        assert (refused.count, refused.again_at) == (0, None)
        assert urgent("cards") == traffic.why_shut("cards") == refused.because

    def test_twice_is_refused_and_keeps_the_first(self, virtual, lane_of):
        lane = lane_of()
        traffic.pause(lane.pk, by="a", because="first")

        with pytest.raises(traffic.AlreadyPaused, match="paused by a: first"):
            traffic.pause(lane.pk, by="b", because="second")

    def test_goes_on_when_resumed(self, virtual, lane_of):
        lane = lane_of()
        traffic.pause(lane.pk, by="a", because="first")

        traffic.resume(lane.pk)

        assert granted(7) == 7
        assert traffic.why_shut("cards") == ""
        with pytest.raises(traffic.NotPaused):
            traffic.resume(lane.pk)

    def test_says_who_and_why(self, lane_of):
        lane_of()

        with pytest.raises(IntegrityError, match="paused_lane_says_who_and_why"):
            Lane.objects.update(paused_by="somebody")


class TestSights:
    def test_say_how_fast_it_is_and_may_be(self, virtual, lane_of):
        lane_of(rate=20, burst=50)
        for _ in range(60):
            traffic.note_done("cards", 10)
            virtual.pass_seconds(1)

        [sight] = traffic.sights()

        assert (sight.speed.per_second, sight.speed.rate_now, sight.speed.rate) == (10, 20, 20)
        assert (sight.saturation, sight.why_shut, sight.slowed_because) == (0.5, "", "")
        assert sight.tokens == 50

    def test_say_nothing_of_a_limit_where_there_is_none(self, virtual, lane_of):
        lane_of()
        traffic.note_done("cards", 0)

        [sight] = traffic.sights()

        assert sight.saturation is None
        assert sight.speed == traffic.speed("cards")
        assert sight.speed.per_second == 0

    @pytest.mark.parametrize(
        ("happens", "slowed", "shut"),
        [
            (lambda: traffic.note_answers("cards", throttled_for=5), "cards has asked us to slow down", ""),
            (lambda: traffic.note_answers("cards", throttled_for=0), "its rate grows back", ""),
            (lambda: fail(5), "", "cards does not answer"),
        ],
    )  # fmt: skip
    def test_say_what_is_amiss(
        self, virtual, lane_of, happens: Callable[[], None], slowed: str, shut: str
    ):
        lane_of(rate=20)
        happens()

        [sight] = traffic.sights()

        assert (sight.slowed_because, sight.why_shut) == (slowed, shut)

    @pytest.mark.parametrize("keys", [("sk_1", "sk_2"), ("sk_1", "sk_2", "sk_1")])
    def test_are_of_the_key_that_is_set_up_and_of_no_other(self, settings, virtual, keys):
        for key in keys:
            settings.LANES = {"cards": {"credential": key}}
            granted()
            fail(5)
            virtual.pass_seconds(6 * 3600)
        traffic.note_answers("cards", answered=1)

        [sight] = traffic.sights()

        assert sight.lane == traffic._lane("cards")
        assert (sight.why_shut, traffic.why_shut("cards")) == ("", "")

    def test_are_of_the_last_key_where_none_is_set_up(self, settings, virtual):
        for key in ("sk_1", "sk_2"):
            settings.LANES = {"cards": {"credential": key}}
            granted()
        settings.LANES = {}

        assert [sight.lane for sight in traffic.sights()] == [Lane.objects.last()]

    def test_keep_a_day_of_tallies(self, virtual, lane_of):
        traffic.note_done("cards", 1)
        virtual.pass_seconds(24 * 3600 + 10)
        traffic.note_done("cards", 2)

        assert traffic.forget_old_tallies() == 1
        assert [tally.done for tally in LaneTally.objects.all()] == [2]


class TestRows:
    def test_bear_their_names(self, virtual, lane_of):
        traffic.note_answers("cards", answered=1)

        assert str(current()) == "cards"
        assert str(LaneTally.objects.get()) == "cards 09:00:00"
