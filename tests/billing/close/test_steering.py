"""Steered by a person, a step, a selection or a whole run, without harm to what a worker has in hand."""

import threading
from datetime import timedelta

import pytest
from django.db import transaction
from django.db.models.functions import Now

from billing.close import runs, steering
from billing.models import CloseRun, Decision, Step
from tests.closing import (
    ANN,
    cancel,
    finish,
    retry,
    start_close,
    states,
    step_of,
    work,
    work_once,
)
from tests.factories import AS_OF, AccountFactory, SummaryFactory, account_using
from tests.workers import Aside

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def unpriced():
    """An account whose invoice is blocked for want of a price."""
    account = AccountFactory()
    SummaryFactory(account=account, unit_price=None)
    return account


class TestRetry:
    def test_readies_the_first_of_the_stuck_and_lets_the_others_wait(self, unpriced):
        finish(start_close())

        assert retry(*Step.objects.filter(account=unpriced)) == 4

        assert {step.kind: step.state for step in Step.objects.filter(account=unpriced)} == {
            "INVOICE": "READY",
            "CHARGE": "WAITING",
            "EMAIL": "WAITING",
            "HOLD": "WAITING",
        }
        step = step_of(unpriced, "INVOICE")
        assert (step.attempts, step.because, step.finished_at) == (
            0,
            f"retried by {ANN}: mended",
            None,
        )

    def test_of_the_first_alone_lets_the_others_wait_too(self, unpriced):
        finish(start_close())

        assert retry(step_of(unpriced, "INVOICE")) == 1

        assert states() == {"READY": 1, "WAITING": 4}

    def test_leaves_a_step_alone_that_is_stuck_because_another_is(self, unpriced):
        finish(start_close())

        assert retry(step_of(unpriced, "CHARGE"), step_of(unpriced, "HOLD")) == 0

        assert step_of(unpriced, "CHARGE").state == "BLOCKED"

    def test_of_a_finished_run_makes_its_report_anew(self, unpriced):
        run = finish(start_close())
        first_report = run.report

        retry(step_of(unpriced, "INVOICE"))
        run.refresh_from_db()
        assert (run.state, run.report, run.finished_at) == ("RUNNING", None, None)
        assert run.steps.get(kind="REPORT").state == "WAITING"
        run = finish(run, as_of=AS_OF + timedelta(hours=1))

        assert run.is_finished
        assert run.report["as_of"] > first_report["as_of"]
        assert Decision.objects.get(act="REOPEN").saw == first_report

    def test_takes_back_a_report_that_was_released_but_not_made(self, unpriced):
        run = start_close()
        work("INVOICE")
        assert runs.release_report(run.pk)

        retry(step_of(unpriced, "INVOICE"))

        assert run.steps.get(kind="REPORT").state == "WAITING"
        assert not Decision.objects.filter(act="REOPEN").exists()
        assert work_once("REPORT") == 0

    def test_of_a_dead_report_makes_it(self):
        run = start_close()
        run.steps.update(state="DEAD", finished_at=AS_OF, attempts=8)
        report = run.steps.get()

        assert retry(report) == 1
        work("REPORT")

        run.refresh_from_db()
        assert run.is_finished

    def test_of_a_dead_report_together_with_another_step_makes_it_wait_for_that(self, unpriced):
        run = start_close()
        work("INVOICE")
        run.steps.filter(kind="REPORT").update(state="DEAD", finished_at=AS_OF)

        assert retry(*run.steps.all()) == 4

        assert run.steps.get(kind="REPORT").state == "WAITING"

    def test_of_what_is_not_stuck_changes_nothing(self):
        account = account_using("1.00")
        finish(start_close())

        assert retry(*Step.objects.filter(account=account)) == 0
        assert CloseRun.objects.get().is_finished

    def test_of_a_cancelled_step_revives_what_was_cancelled_with_it(self):
        account = account_using("1.00")
        start_close()
        work("INVOICE")
        cancel(step_of(account, "CHARGE"))
        assert step_of(account, "HOLD").state == "CANCELLED"

        assert retry(step_of(account, "CHARGE")) == 1

        assert step_of(account, "CHARGE").state == "READY"
        assert step_of(account, "HOLD").state == "WAITING"

    def test_but_not_what_a_person_cancelled_by_itself(self):
        account = account_using("1.00")
        start_close()
        cancel(step_of(account, "HOLD"))
        work("INVOICE")
        cancel(step_of(account, "CHARGE"))

        retry(step_of(account, "CHARGE"))

        assert step_of(account, "HOLD").state == "CANCELLED"
        assert retry(step_of(account, "HOLD")) == 1
        assert step_of(account, "HOLD").state == "WAITING"


class TestCancel:
    def test_ends_a_step_and_what_follows_it_with_a_decision_that_names_who(self):
        account = account_using("1.00")
        run = start_close()

        assert cancel(step_of(account, "INVOICE")) == 1

        assert states() == {"WAITING": 1, "CANCELLED": 4}
        assert step_of(account, "INVOICE").because == f"cancelled by {ANN}: not theirs"
        assert step_of(account, "HOLD").because == "its invoice step was cancelled"
        decision = Decision.objects.get()
        assert (decision.actor, decision.did, decision.because) == (
            ANN,
            "SKIPPED",
            "cancelled: not theirs",
        )
        assert finish(run).is_finished

    def test_takes_a_blocked_account_off_the_list_of_the_stuck(self, unpriced):
        run = start_close()
        work("INVOICE")

        assert cancel(*run.steps.filter(state="BLOCKED")) == 4

        assert states() == {"WAITING": 1, "CANCELLED": 4}

    def test_leaves_a_running_step_to_its_worker(self):
        account = account_using("1.00")
        run = start_close()
        work("INVOICE")
        run.steps.filter(kind="CHARGE").update(
            state="RUNNING", lease_token="0" * 32, lease_until=AS_OF
        )

        assert cancel(step_of(account, "CHARGE")) == 0

        assert step_of(account, "CHARGE").state == "RUNNING"

    def test_never_takes_the_report(self):
        run = start_close()

        assert cancel(*run.steps.filter(kind="REPORT")) == 0

        assert finish(run).is_finished

    def test_refuses_when_the_report_is_made(self, unpriced):
        finish(start_close())

        with pytest.raises(steering.NotOpen, match="act on the account itself"):
            cancel(step_of(unpriced, "INVOICE"))

        assert step_of(unpriced, "INVOICE").state == "BLOCKED"


class TestWhatAWorkerHasInHand:
    def test_is_left_and_counted_as_left(self):
        held, free = account_using("1.00"), account_using("2.00")
        run = start_close()
        asked, answered = threading.Event(), threading.Event()

        def hold_one() -> None:
            with transaction.atomic():
                Step.objects.select_for_update().get(account=held, kind="INVOICE")
                asked.set()
                answered.wait(10)

        worker = Aside(hold_one)
        asked.wait(10)
        steered = steering.cancel_all(
            run.steps.filter(kind="INVOICE"), actor=ANN, reason="moved", as_of=AS_OF
        )
        answered.set()
        worker.join()

        assert (steered.chosen, steered.changed, steered.left) == (2, 1, 1)
        assert step_of(held, "INVOICE").state == "READY"
        assert step_of(free, "HOLD").state == "CANCELLED"


class TestAWholeRun:
    def test_cancelled_ends_with_what_had_begun_and_says_so(self):
        begun, fresh = account_using("1.00"), account_using("2.00")
        run = start_close()
        run.steps.filter(account=fresh, kind="INVOICE").update(run_at=Now() + timedelta(days=1))
        work_once("INVOICE")
        run.steps.filter(account=begun, kind="CHARGE").update(
            state="RUNNING", lease_token="0" * 32, lease_until=Now() + timedelta(minutes=1)
        )

        steered = steering.cancel_run(run, actor=ANN, reason="wrong month", as_of=AS_OF)

        assert (steered.chosen, steered.changed, steered.left) == (6, 6, 0)
        assert states() == {"WAITING": 1, "RUNNING": 1, "DONE": 1, "CANCELLED": 6}
        noted = Decision.objects.get(act="CANCEL_RUN")
        assert (noted.actor, noted.because) == (ANN, "wrong month")
        assert noted.saw == {"steps": 6, "changed": 6}
        assert Decision.objects.filter(because="cancelled: wrong month").count() == 6
        run.steps.filter(state="RUNNING").update(state="READY", lease_token=None, lease_until=None)
        assert finish(run).is_finished

    def test_cancelled_twice_changes_nothing_more(self):
        account_using("1.00")
        run = start_close()
        steering.cancel_run(run, actor=ANN, reason="wrong month", as_of=AS_OF)

        again = steering.cancel_run(run, actor=ANN, reason="wrong month", as_of=AS_OF)

        assert (again.chosen, again.changed) == (0, 0)
        assert Decision.objects.filter(act="CANCEL_RUN").last().did == "SKIPPED"

    def test_retried_takes_up_all_that_is_stuck_in_chunks_of_whole_accounts(
        self, unpriced, monkeypatch
    ):
        for _ in range(4):
            SummaryFactory(account=AccountFactory(), unit_price=None)
        run = finish(start_close())
        assert states() == {"DONE": 1, "BLOCKED": 20}
        monkeypatch.setattr(steering, "CHUNK", 6)

        steered = steering.retry_run(run, actor=ANN, reason="priced", as_of=AS_OF)

        assert (steered.chosen, steered.changed) == (20, 20)
        assert states() == {"READY": 5, "WAITING": 16}
        assert Decision.objects.filter(act="REOPEN").count() == 1
        decided = Decision.objects.filter(act="RETRY_STEP", account=unpriced).first()
        assert decided.saw["state"] == "BLOCKED"

    def test_stops_when_the_time_is_up_and_says_how_much_is_left(self, unpriced, monkeypatch):
        SummaryFactory(account=AccountFactory(), unit_price=None)
        run = finish(start_close())
        monkeypatch.setattr(steering, "CHUNK", 1)
        looks = iter([False, True])

        steered = steering.retry_run(
            run, actor=ANN, reason="priced", as_of=AS_OF, until=lambda: next(looks)
        )

        assert (steered.changed, steered.not_reached, steered.left) == (4, 4, 0)


class TestHowARunEnds:
    def test_every_end_is_counted_and_what_is_throttled_is_none(self):
        accounts = [account_using("1.00") for _ in range(5)]
        run = start_close()
        work("INVOICE", "CHARGE", "EMAIL")
        ends = ("DONE", "SKIPPED", "BLOCKED", "DEAD", "CANCELLED")
        for account, end in zip(accounts, ends, strict=True):
            Step.objects.filter(account=account, kind="HOLD").update(state=end, finished_at=AS_OF)
        throttled = Step.objects.filter(account=accounts[0], kind="EMAIL")
        throttled.update(
            state="READY", finished_at=None, because="throttled", run_at=AS_OF + timedelta(days=9)
        )
        assert not runs.release_report(run.pk)
        throttled.update(state="UNKNOWN")
        assert not runs.release_report(run.pk)

        throttled.update(state="DONE", finished_at=AS_OF)
        run = finish(run)

        assert run.is_finished
        ended = {state: count for state, count in states().items() if state not in Step.OPEN}
        assert sum(ended.values()) == run.steps.count() == 21
        assert set(ended) == set(ends)
