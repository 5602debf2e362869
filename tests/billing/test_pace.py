"""What the numbers of a run say: never more than is known."""

from datetime import UTC, datetime, timedelta

import pytest

from billing.reports import pace
from billing.reports.pace import Left, Sample

STARTED = datetime(2018, 11, 2, tzinfo=UTC)


def sample(after_s, **ended):
    return Sample(STARTED + timedelta(seconds=after_s), ended)


class TestShareCollected:
    @pytest.mark.parametrize(
        ("collected", "outstanding", "share"),
        [
            ("0", "0", None),
            ("5.00", "5.00", "50.0"),
            ("999.99", "0.01", "99.9"),
            ("1", "0", "100.0"),
        ],
    )
    def test_is_rounded_down(self, collected, outstanding, share):
        assert pace.share_collected({"collected": collected, "outstanding": outstanding}) == share


class TestSpeed:
    def test_is_that_of_the_last_minutes(self):
        samples = [sample(0, CHARGE=0), sample(1000, CHARGE=10), sample(1100, CHARGE=510)]

        assert pace.per_second(samples, started_at=STARTED) == {"CHARGE": 5.0}

    def test_of_a_run_that_has_only_begun_is_that_since_then(self):
        assert pace.per_second([sample(4, INVOICE=80)], started_at=STARTED) == {"INVOICE": 20.0}

    def test_does_not_count_the_time_before_a_kind_began(self):
        samples = [sample(0), sample(60, CHARGE=0), sample(70, CHARGE=200)]

        assert pace.per_second(samples, started_at=STARTED) == {"CHARGE": 20.0}

    @pytest.mark.parametrize(
        "samples",
        [
            [],
            [sample(60, CHARGE=0), sample(64, CHARGE=80)],  # it has only just begun
            [sample(0, INVOICE=80)],  # started just now
            [sample(9000, INVOICE=80)],  # one number says nothing of an old run
            [sample(8000, INVOICE=80), sample(8100, INVOICE=80)],  # none ended
            [sample(8000, INVOICE=80), sample(8100, INVOICE=20)],  # retried meanwhile
        ],
    )
    def test_is_not_guessed(self, samples):
        assert pace.per_second(samples, started_at=STARTED) == {}

    def test_needs_only_the_samples_of_some_minutes_ten_seconds_apart(self):
        samples = []
        for second in range(0, 1200, 3):
            samples = pace.kept(samples, sample(second, CHARGE=second))

        assert len(samples) <= pace.KEPT / pace.APART + 2
        assert samples[-1].at - samples[0].at <= pace.KEPT
        assert pace.per_second(samples, started_at=STARTED) == {"CHARGE": 1.0}

    @pytest.mark.parametrize(
        ("per_second", "words"),
        [(None, ""), (0.0, ""), (1234.5, "1,234 a second"), (1.5, "90 a minute")],
    )
    def test_is_told_in_words(self, per_second, words):
        assert pace.speed_in_words(per_second) == words


class TestTimeLeft:
    def left(self, steps, *, later=None, rates=None, limits=None):
        return pace.time_left(
            steps=steps, later=later or {}, rates=rates or {}, limits=limits or {}
        )

    def test_is_that_of_the_slowest_kind(self):
        steps = {"INVOICE": {"READY": 100}, "CHARGE": {"READY": 50, "RUNNING": 10, "UNKNOWN": 40}}

        assert self.left(steps, rates={"INVOICE": 50, "CHARGE": 5}) == Left(20)

    def test_counts_what_the_step_before_will_bring(self):
        steps = {"INVOICE": {"READY": 100}, "CHARGE": {"READY": 20, "WAITING": 100}}

        assert self.left(steps, rates={"INVOICE": 100, "CHARGE": 10}) == Left(12)

    def test_is_never_shorter_than_the_lane_allows(self):
        steps = {"CHARGE": {"READY": 100}}

        assert self.left(steps, rates={"CHARGE": 50}, limits={"CHARGE": 10}) == Left(10)
        assert self.left(steps, limits={"CHARGE": 10}) == Left(10, at_least=True)

    def test_is_at_least_that_while_a_kind_has_not_begun(self):
        steps = {"INVOICE": {"READY": 100}, "CHARGE": {"WAITING": 100}}

        assert self.left(steps, rates={"INVOICE": 10}) == Left(10, at_least=True)

    def test_counts_neither_what_waits_for_its_time_nor_what_waits_for_that(self):
        steps = {"CHARGE": {"READY": 7}, "HOLD": {"READY": 5, "WAITING": 7}}

        assert self.left(steps, later={"CHARGE": 7, "HOLD": 5}, rates={"HOLD": 1}) is None

    def test_is_not_known_before_anything_has_ended(self):
        assert self.left({"INVOICE": {"READY": 100}}) is None

    def test_is_told_in_words(self):
        assert pace.in_words({"seconds_left": None, "left_is_at_least": False}) == ""
        assert pace.in_words({"seconds_left": 200, "left_is_at_least": False}) == "about 3 min 20 s"
        assert pace.in_words({"seconds_left": 5, "left_is_at_least": True}) == "at least 5 s"
