import io
import json
import subprocess
import sys

import pytest

from billing.management import progress_bar


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


class TestPlainLines:
    def test_a_line_every_few_seconds_and_one_at_the_end(self, clock):
        out = io.StringIO()

        with progress_bar.bar("Importing", total=4000, unit="B", stream=out, clock=clock) as bar:
            bar.advance(500)
            assert out.getvalue() == ""
            clock.now += 5
            bar.advance(500)
            bar.advance(1000)
            clock.now += 5
            bar.advance(2000)

        assert out.getvalue().splitlines() == [
            "Importing: 25 %, 1.0 kB of 4.0 kB, 200 B/s, 15 s left",
            "Importing: 100 %, 4.0 kB of 4.0 kB, 400 B/s",
            "Done: 100 %, 4.0 kB of 4.0 kB, 400 B/s",
        ]

    def test_what_is_done_now_is_said_at_once(self, clock):
        out = io.StringIO()

        with progress_bar.bar("Reading", stream=out, clock=clock) as bar:
            bar.say("Storing")
            clock.now += 6
            bar.advance()

        assert out.getvalue().splitlines()[:2] == ["Storing", "Storing: 1, 0/s"]

    def test_without_a_total_only_the_rate_is_known(self, clock):
        out = io.StringIO()

        with progress_bar.bar("Billing", unit="accounts", stream=out, clock=clock) as bar:
            clock.now += 10
            bar.advance(12_340)

        assert "Billing: 12,340 accounts, 1,234 accounts/s" in out.getvalue()

    def test_an_error_passes_through(self):
        with pytest.raises(ValueError, match="boom"), progress_bar.bar("x", stream=io.StringIO()):
            raise ValueError("boom")


class TestOnATerminal:
    def test_a_bar_shows_the_rate_and_the_time_left(self, clock, monkeypatch):
        monkeypatch.setenv("COLUMNS", "120")
        out = Terminal()

        with progress_bar.bar("Reading", total=10, unit="steps", stream=out, clock=clock) as bar:
            clock.now += 2
            bar.advance(4)
            bar.say("Storing")

        assert "Storing" in out.getvalue()
        assert "40 %, 4 steps of 10 steps, 2 steps/s, 3 s left" in out.getvalue()


def test_standard_output_is_left_to_the_answer():
    code = (
        "import json; from billing.management import progress_bar\n"
        "with progress_bar.bar('Importing', total=2) as bar: bar.advance(2)\n"
        "print(json.dumps({'rows': 2}))"
    )

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert json.loads(ran.stdout) == {"rows": 2}
    assert "Done: 100 %" in ran.stderr


@pytest.mark.parametrize(
    ("value", "written"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_800_000, "2.8 MB"), (3.21e9, "3.2 GB")],
)
def test_bytes_are_written_for_people(value, written):
    assert progress_bar.amount(value, "B") == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0.4, "0 s"), (59, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_times_are_written_for_people(seconds, written):
    assert progress_bar.duration(seconds) == written
