"""What is written down as evidence is what was found, and tells nothing of the machine."""

import re

import pytest
from django.conf import settings

from tests.evidence import page
from tests.evidence.__main__ import _shown, _with_report
from tests.evidence.parts import PARTS, NoFigures

MODEL, SABOTAGE, INTERLEAVINGS, _, _, SWEEP, STORM = PARTS


def test_the_page_is_made_from_the_files():
    assert page.PAGE.read_text() == page.made(page.read())


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_part_that_was_run_found_nothing_wrong_and_names_no_machine(part):
    told = page.read().get(part.name)
    if told is None:
        return

    figures = told["figures"]
    assert figures.get("violations", 0) == 0
    assert figures.get("caught") == figures.get("patches")
    assert not re.search(r"/(tmp|home|root|work|Users)/", str(told))
    assert told["command"]


class TestFigures:
    def test_come_from_the_last_line(self, tmp_path):
        said = "caught  this\npatches: 19, caught: 19\n"

        assert SABOTAGE.figures(said, tmp_path) == {"patches": 19, "caught": 19}

    def test_are_not_made_up(self, tmp_path):
        for part in PARTS:
            with pytest.raises(NoFigures):
                part.figures("Traceback", tmp_path / "none")

    def test_of_the_sweep_tell_boundaries_from_runs(self, tmp_path):
        said = (
            "golden run: 254 boundaries, 900 rows; 762 runs\n200 double crashes, seed 1\n"
            "boundaries: 962, violations: 0\n"
        )

        assert SWEEP.figures(said, tmp_path) == {
            "boundaries": 254,
            "double crashes": 200,
            "runs": 962,
            "violations": 0,
        }

    def test_of_tests_are_summed(self, tmp_path):
        report = tmp_path / "report"
        noted = '<properties><property name="schedules" value="72"/></properties>'
        report.write_text(
            f"<testsuite><testcase>{noted}</testcase>"
            f"<testcase>{noted}<failure/></testcase></testsuite>"
        )

        assert INTERLEAVINGS.figures("", report) == {
            "tests": 2,
            "violations": 1,
            "schedules": 144,
        }


class TestCommands:
    def test_are_shown_as_one_would_type_them(self):
        assert " ".join(_shown(MODEL.short)) == "python -m tests.properties.charge_model"
        assert _shown(STORM.short)[-2:] == ["--seed", "20181102"]

    def test_name_what_there_is(self):
        for part in PARTS:
            module = part.long[0]
            path = part.long[2] if module == "pytest" else module.replace(".", "/")
            there = settings.BASE_DIR / path
            assert there.exists() or there.with_suffix(".py").exists()

    def test_report_where_they_are_told(self, tmp_path):
        assert f"--junitxml={tmp_path}" in _with_report(INTERLEAVINGS.long, tmp_path)
        assert str(tmp_path) in _with_report(STORM.long, tmp_path)
