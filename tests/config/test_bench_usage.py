"""The benchmark of usage and of the books, small: that it measures, and what it prints."""

import pytest
from django.core.management import CommandError, call_command

from tests.config.benching import bench
from tests.config.embedded import a_place


def test_measures_the_tally_an_import_and_the_books():
    with a_place() as folder:
        document = bench(
            *("bench_usage", "--accounts", "20", "--events", "3000", "--rows", "200"),
            *("--postings", "400"),
            folder=folder,
        )

    assert document["tally"]["events"] == 3000
    assert document["import"]["rows"] == 200
    assert document["import"]["limit"]["bare_copy_seconds"] > 0
    # Two postings an entry, ten entries an account.
    assert (document["check_books"]["postings"], document["check_books"]["violated"]) == (400, 0)


def test_refuses_to_measure_nobody():
    with pytest.raises(CommandError, match="at least 1"):
        call_command("bench_usage", accounts=0)
