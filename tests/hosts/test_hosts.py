"""A short form of `make hosts` and of the close behind pgbouncer, where root may make namespaces."""

import subprocess
import sys

import pytest
from django.conf import settings

from tests.hosts.__main__ import PACKAGES, PROGRAMS
from tests.hosts.network import CannotRun, require

PATIENCE_SECONDS = 240


def run(module: str, *options: str) -> str:
    """The script as anyone would run it; its last line, once it has ended well."""
    done = subprocess.run(
        [sys.executable, "-m", module, *options],
        cwd=settings.BASE_DIR,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


def skip_unless(*programs: str, packages: str) -> None:
    try:
        require(*programs, packages=packages)
    except CannotRun as error:
        pytest.skip(str(error))


def test_a_close_on_hosts_that_die_vanish_and_come_charges_everybody_once():
    skip_unless(*PROGRAMS, packages=PACKAGES)

    last = run(
        "tests.hosts",
        *("--accounts", "48", "--latency-ms", "50", "--seed", "1"),
        *("--lease", "4", "--dead-after", "4", "--no-comparison"),
    )

    assert last == "accounts: 48, violations: 0"
