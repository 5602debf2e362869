"""
The crash sweep, short: a close killed at every boundary it has. See tests/crashes/sweep.

Each boundary in one of the three ways, and a few double crashes; `make crash-sweep` does all of it.
"""

import os
import subprocess
import sys

import pytest
from django.conf import settings

# Of the sampled pairs: the same on every machine.
SEED = "20181102"
PATIENCE_SECONDS = 900


@pytest.mark.long
@pytest.mark.crashes
def test_killed_anywhere_a_close_ends_as_if_nothing_had_been() -> None:
    swept = subprocess.run(
        [
            *(sys.executable, "-m", "tests.crashes.sweep"),
            *("--one-mode", "--pairs", "12", "--seed", SEED),
        ],
        cwd=settings.BASE_DIR,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.crashes.sweep.settings"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )

    assert swept.returncode == 0, swept.stdout + swept.stderr
    assert swept.stdout.splitlines()[-1].endswith("violations: 0")
