"""The report step: the run's last word, as of the moment it is made."""

from datetime import timedelta

import pytest

from billing.close import runs
from tests.closing import start_close, work
from tests.factories import AS_OF, account_using

pytestmark = pytest.mark.django_db(transaction=True)


class TestReport:
    def test_finishes_the_run_with_its_numbers_as_of_now(self):
        account_using("12.00")
        run = start_close()
        work("INVOICE", "CHARGE", "EMAIL", "HOLD")
        runs.release_report(run.pk)
        at = AS_OF + timedelta(hours=1)

        work("REPORT", as_of=at)

        run.refresh_from_db()
        assert (run.state, run.finished_at) == ("FINISHED", at)
        assert run.report == {
            "month": "2018-10",
            "entity": "default",
            "as_of": "2018-11-02T10:00:00+00:00",
            "currencies": [
                {
                    "currency": "EUR",
                    "invoices": 1,
                    "invoiced": "12.00",
                    "collected": "12.00",
                    "credited": "0.00",
                    "outstanding": "0.00",
                    "in_flight": "0.00",
                    "overdue": "0.00",
                    "kept_as_credit": "0.00",
                    "reversed": "0.00",
                    "paid_back": "0.00",
                    "disputed": "0.00",
                    "in_hand": "12.00",
                }
            ],
        }
