"""A short form of `make hosts` and of the close behind pgbouncer, where root may make namespaces."""

import subprocess
import sys

import pytest
from django.conf import settings

from tests.hosts import behind_pgbouncer
from tests.hosts.__main__ import PACKAGES, PROGRAMS
from tests.hosts.network import CannotRun, require

PATIENCE_SECONDS = 480


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


def test_a_close_behind_pgbouncer_needs_no_session_and_charges_everybody_once():
    skip_unless(*behind_pgbouncer.PROGRAMS, packages=f"{PACKAGES} pgbouncer")

    last = run(
        "tests.hosts.behind_pgbouncer",
        *("--accounts", "30", "--latency-ms", "20", "--seed", "1"),
        *("--lease", "4", "--dead-after", "4", "--no-comparison"),
    )

    assert last == "accounts: 30, violations: 0"


@pytest.mark.parametrize(
    ("statement", "is_found"),
    [
        ("SELECT pg_advisory_lock(1)", True),
        ("SELECT pg_advisory_xact_lock(1)", False),
        ("SET statement_timeout = 5", True),
        ("SET LOCAL statement_timeout = 5", False),
        ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", False),
        ("UPDATE billing_step SET state = 'READY'", False),
        ("SELECT set_config('jit', 'off', false)", True),
        ("SELECT set_config('jit', 'off', true)", False),
        ("CREATE TEMPORARY TABLE t (id int)", True),
        ("CREATE TEMPORARY TABLE t\n ON COMMIT DROP AS SELECT 1", False),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", True),
        ("LISTEN news", True),
    ],
)
def test_what_needs_a_session_is_found_in_the_servers_log(tmp_path, statement, is_found):
    log = tmp_path / "postgres.log"
    log.write_text(
        "[template] LOG:  statement: SET work_mem = 1\n"
        f"[pooled] LOG:  statement: {statement}\n"
        "[pooled] LOG:  statement: COMMIT\n"
    )

    looked_at, found = behind_pgbouncer.needing_a_session(log)

    assert looked_at == 2
    assert bool(found) is is_found
