"""The benchmark of the close, small: that it measures, what it prints, and that it leaves nothing behind."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command

from tests.config.embedded import a_place


@pytest.fixture(scope="module")
def measured() -> Iterator[tuple[dict, Path]]:
    # Not pytest's own folder, which the server's user may not enter.
    with a_place() as folder:
        yield measure(folder), folder


def measure(folder: Path) -> dict:
    environment = {**os.environ, "TMPDIR": str(folder)}
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    ran = subprocess.run(
        [
            *(sys.executable, str(settings.BASE_DIR / "manage.py"), "bench_close", "--json"),
            *("--accounts", "40", "--steps", "20", "--baseline", "--baseline-accounts", "2"),
            *("--latency-ms", "1", "--workers", "1"),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_closes_every_account_and_the_books_agree(measured):
    document, _ = measured

    assert document["accounts"] == 40
    assert document["close_seconds"] > 0
    assert document["accounts_per_second"] > 0
    assert document["outcomes"]["INVOICE"] == {"DONE": 40}
    assert document["check_books"]["violated"] == 0


def test_holds_each_step_against_the_same_rows_written_bare(measured):
    document, _ = measured

    invoice = document["steps"]["INVOICE"]
    # One invoice, five lines, an entry with two postings, a ledger account, an event, a decision; and
    # changed: five summaries, three steps.
    assert document["limits"]["INVOICE"]["rows"] == 20 * (1 + 5 + 1 + 2 + 1 + 1 + 1 + 5 + 3)
    assert invoice["accounts"] == 20
    assert invoice["rows_written"] >= document["limits"]["INVOICE"]["rows"]
    assert {"INVOICE_to_bare_insert", "HOLD_to_bare_insert", "close_to_baseline"} <= set(
        document["ratios"]
    )


def test_says_what_the_machine_is(measured):
    document, _ = measured

    assert document["cores"] == os.cpu_count()
    assert {"fsync", "synchronous_commit", "server_version"} <= set(document["database"])


def test_leaves_nothing_behind(measured):
    _, folder = measured

    assert list(folder.iterdir()) == []


def test_refuses_to_close_nobody():
    with pytest.raises(CommandError, match="at least 1"):
        call_command("bench_close", accounts=0)
