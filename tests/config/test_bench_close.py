"""The benchmark of the close, small: that it measures, what it prints, and that it leaves nothing behind."""

import os
from collections.abc import Iterator

import pytest
from django.core.management import CommandError, call_command

from tests.config.benching import bench
from tests.config.embedded import a_place


@pytest.fixture(scope="module")
def document() -> Iterator[dict]:
    # Not pytest's own folder, which the server's user may not enter.
    with a_place() as folder:
        yield bench(
            *("bench_close", "--json", "--accounts", "40", "--steps", "20", "--workers", "1"),
            *("--baseline", "--baseline-accounts", "2", "--latency-ms", "1"),
            folder=folder,
        )


def test_closes_every_account_and_the_books_agree(document):
    assert document["accounts"] == 40
    assert document["close_seconds"] > 0
    assert document["accounts_per_second"] > 0
    assert document["outcomes"]["INVOICE"] == {"DONE": 40}
    assert document["check_books"]["violated"] == 0


def test_holds_each_step_against_the_same_rows_written_bare(document):
    invoice = document["steps"]["INVOICE"]
    # One invoice, five lines, an entry with two postings, a ledger account, an event, a decision; and
    # changed: five summaries, three steps.
    assert document["limits"]["INVOICE"]["rows"] == 20 * (1 + 5 + 1 + 2 + 1 + 1 + 1 + 5 + 3)
    assert invoice["accounts"] == 20
    assert invoice["rows_written"] >= document["limits"]["INVOICE"]["rows"]
    assert {"INVOICE_to_bare_insert", "HOLD_to_bare_insert", "close_to_baseline"} <= set(
        document["ratios"]
    )


def test_says_what_the_machine_is(document):
    assert document["cores"] == os.cpu_count()
    assert {"fsync", "synchronous_commit", "server_version"} <= set(document["database"])


def test_refuses_to_close_nobody():
    with pytest.raises(CommandError, match="at least 1"):
        call_command("bench_close", accounts=0)
