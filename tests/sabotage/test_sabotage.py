"""The sabotages stay what they are: each applies to the code as it is, and names tests that are there."""

import os
import subprocess
import sys

import pytest
from django.conf import settings

from tests.sabotage.__main__ import cases
from tests.sabotage.patches import PATCHES, Change, DoesNotApply

# Run here as well; `make sabotage` runs all of them.
QUICK = ("the recheck takes no lock", "a second success is not booked")


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
class TestASabotage:
    def test_applies_to_the_code_as_it_is(self, patch):
        for change in patch.changes:
            compile(change.made_to(settings.BASE_DIR), change.file, "exec")

    def test_names_tests_that_are_there(self, patch):
        assert patch.caught_by
        for test in patch.caught_by:
            assert cases(settings.BASE_DIR, test), test


def test_one_that_does_not_apply_says_what_it_looked_for():
    with pytest.raises(DoesNotApply, match="0 times, not once:\nno such line"):
        Change("billing/payments/charges/calls.py", "no such line", "").made_to(settings.BASE_DIR)


@pytest.mark.long
def test_some_are_caught():
    done = subprocess.run(
        [sys.executable, "-m", "tests.sabotage", "--only", *QUICK],
        cwd=settings.BASE_DIR,
        env={name: value for name, value in os.environ.items() if not name.startswith("COV_")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

    assert done.stdout.splitlines()[-1] == "patches: 2, caught: 2", done.stdout + done.stderr
    assert done.returncode == 0
