from decimal import Decimal

import pytest

from billing.views import numbers


@pytest.mark.parametrize(
    ("name", "value", "english", "hungarian"),
    [
        ("hour", "2", "hours", "óra"),
        ("hour", "1", "hour", "óra"),
        ("hour", "0.5", "hours", "óra"),
        ("Hrs", "1", "hour", "óra"),
        ("day", "30", "days", "nap"),
        ("server", "2", "servers", "server"),
        ("server", "1", "server", "server"),
        ("GB", "2", "GB", "GB"),
        ("GB-Mo", "2", "GB-Mo", "GB-Mo"),
        ("GB-month", "2", "GB-months", "GB-month"),
        ("Requests", "2", "Requests", "Requests"),
        ("query", "2", "queries", "query"),
        ("", "2", "", ""),
    ],
)
def test_a_unit_stands_beside_its_quantity_as_its_reader_says_it(
    name: str, value: str, english: str, hungarian: str
) -> None:
    said = [numbers.unit(name, Decimal(value), locale=locale) for locale in ("en", "hu")]

    assert said == [english, hungarian]
