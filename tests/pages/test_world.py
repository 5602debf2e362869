"""The world that pages are timed on is one that this release can close."""

import pytest

from billing.reports import progress
from tests.billing.test_views import staff
from tests.closing import work_once
from tests.factories import AS_OF, EntityFactory
from tests.pages import world


@pytest.mark.django_db(transaction=True)
def test_a_close_in_the_middle_can_be_looked_at_and_goes_on():
    EntityFactory()
    run = world.build(accounts=20)

    assert work_once("INVOICE") == 2

    told = progress.of(run, as_of=AS_OF)
    assert told["steps"]["INVOICE"] == {"DONE": 18, "BLOCKED": 2}
    assert told["steps"]["HOLD"]["SKIPPED"] == 12
    assert {row["currency"] for row in told["answer"]["currencies"]} == {"EUR", "JPY", "USD"}
    assert staff(is_superuser=True).get(f"/runs/{run.pk}/").status_code == 200
