"""`manage.py close_sweep`: what died is healed and what is due begins, with no cluster and no queue."""

import time
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.db.models.functions import Now
from django_q.models import OrmQ

from billing import reconciliation
from billing.close.health import sweeper
from billing.models import CloseRun, Step, Sweep
from billing.workers import halting
from tests.closing import start_close, work
from tests.factories import account_using

pytestmark = pytest.mark.django_db(transaction=True)


def close_sweep(*arguments: str) -> tuple[str, int]:
    out = StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("close_sweep", *arguments, stdout=out)
    return out.getvalue(), ended.value.code


def broken(**_facts):
    raise LookupError("a defect")


class TestOnce:
    def test_heals_starts_what_is_due_and_notes_that_it_was_there(self):
        account_using("1.00")
        start_close()
        work("INVOICE")
        OrmQ.objects.all().delete()

        said, code = close_sweep()

        assert code == 0
        assert "2 doorbells" in said
        assert "Started: " in said
        # October was closed by hand; the latest month that is over, by the schedule's words.
        assert CloseRun.objects.filter(started_by="schedule").count() == 1
        assert not Sweep.objects.get().failed

    def test_says_when_there_was_nothing_to_do(self):
        assert close_sweep() == ("Swept: nothing to heal.\n", 0)

    def test_says_by_its_exit_code_that_a_part_failed_and_does_the_others(self, monkeypatch):
        monkeypatch.setattr(sweeper, "take_rows", broken)
        monkeypatch.setattr(reconciliation, "start_due", broken)
        account_using("1.00")

        said, code = close_sweep()

        assert code == 1
        assert "Started: " in said
        assert Sweep.objects.get().failed == "rows"

    def test_under_a_halt_says_so(self):
        account_using("1.00")
        halting.order(because="release 1.4", by="ann")

        said, code = close_sweep()

        assert said == "Swept nothing: workers are halted; `manage.py halt` says why.\n"
        assert code == 0
        assert not CloseRun.objects.exists()

    def test_twice_is_once(self):
        account_using("1.00")
        close_sweep()
        steps = Step.objects.count()

        close_sweep()

        assert Step.objects.count() == steps


class TestOnAndOn:
    def test_sweeps_until_it_is_stopped(self, monkeypatch):
        pauses = []

        def pause(seconds):
            pauses.append(seconds)
            if len(pauses) > 1:
                raise KeyboardInterrupt

        monkeypatch.setattr(time, "sleep", pause)
        out = StringIO()

        with pytest.raises(KeyboardInterrupt):
            call_command("close_sweep", "--every", "7", stdout=out)

        assert pauses == [7, 7]
        assert out.getvalue().count("Swept") == 2


class TestTheLastOne:
    def test_is_young(self):
        close_sweep()

        said, code = close_sweep("--younger-than", "60")

        assert code == 0
        assert said.startswith("The last sweep was ")

    def test_is_too_old(self):
        close_sweep()
        Sweep.objects.update(ended_at=Now() - timedelta(seconds=100))

        assert close_sweep("--younger-than", "60")[1] == 1

    def test_never_was(self):
        assert close_sweep("--younger-than", "60") == ("There never was a sweep.\n", 1)
