"""A short form of `make hosts` and of the close behind pgbouncer, where root may make namespaces."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings

from tests.hosts import behind_pgbouncer
from tests.hosts.__main__ import CANNOT_RUN

PATIENCE_SECONDS = 480
SHORT = {
    "tests.hosts": ("--accounts", "48", "--latency-ms", "50"),
    "tests.hosts.behind_pgbouncer": ("--accounts", "30", "--latency-ms", "20"),
}
ALIKE = ("--seed", "1", "--lease", "4", "--dead-after", "4", "--no-comparison")


@pytest.fixture(scope="module")
def last_line_of(tmp_path_factory) -> Iterator[Callable[[str], str]]:
    """
    The scripts as anyone would run them; the last line of one, once it has ended well.

    Both at once: for the most part they wait, for what was in the hands of those that were killed.
    """
    folder: Path = tmp_path_factory.mktemp("hosts")
    running: dict[str, subprocess.Popen] = {}
    for module, options in SHORT.items():
        with (folder / module).open("w") as said:
            running[module] = subprocess.Popen(
                [sys.executable, "-m", module, *options, *ALIKE],
                cwd=settings.BASE_DIR,
                stdout=said,
                stderr=said,
            )

    def last_line(module: str) -> str:
        code = running[module].wait(PATIENCE_SECONDS)
        said = (folder / module).read_text()
        last = said.splitlines()[-1]
        if last.startswith(CANNOT_RUN):
            pytest.skip(last)
        assert code == 0, said
        return last

    yield last_line
    for process in running.values():
        process.terminate()
        process.wait()


def test_a_close_on_hosts_that_die_vanish_and_come_charges_everybody_once(last_line_of):
    assert last_line_of("tests.hosts") == "accounts: 48, violations: 0"


def test_a_close_behind_pgbouncer_needs_no_session_and_charges_everybody_once(last_line_of):
    assert last_line_of("tests.hosts.behind_pgbouncer") == "accounts: 30, violations: 0"


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
