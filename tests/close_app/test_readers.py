"""Whatever reads the kinds of step reads the installed ones; and a row of another kind is listed, and waits."""

from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now
from django.test import Client
from django_q.models import OrmQ

from billing import books
from billing.books.checking import find
from billing.close import pipeline, runs, steering
from billing.close.engine import claiming
from billing.close.health import readiness, sweeper
from billing.close.steps import report
from billing.management import tables
from billing.models import CloseRun, PaymentAttempt, RunProgress, Step
from billing.reports import at_stake, kinds, pace, progress
from billing.step_kinds import Through
from billing.workers import doorbell, heartbeats
from config.cluster import parse_queues
from notifications import lanes
from notifications.models import Lane
from tests.close_app import thanks
from tests.close_app.conftest import OURS
from tests.closing import (
    ANN,
    assert_books_hold,
    cancel,
    decision_on,
    finish,
    retry,
    start_close,
    step_of,
    work,
    work_once,
)
from tests.factories import AS_OF, MandateFactory, UserFactory, account_using

pytestmark = pytest.mark.django_db(transaction=True)

KIND = thanks.kind


@pytest.fixture
def account():
    return account_using("12.34")


@pytest.fixture
def run(installed, account) -> CloseRun:
    """Of that account, planned with the step."""
    return start_close()


def finance() -> Client:
    client = Client()
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    return client


def page(path: str) -> str:
    response = finance().get(path)
    assert response.status_code == 200
    return response.content.decode()


def broken(name: str) -> list[dict[str, object]]:
    [promise] = books.promises([f"book_{name}"])
    with transaction.atomic():
        return [row for finding in find([promise]) for row in finding.rows]


class TestAnInstalledStep:
    def test_is_planned_for_every_account_and_waits_for_what_it_follows(self, run, account):
        step = step_of(account, KIND)
        assert (step.state, step.provider, str(step)) == ("WAITING", "", f"Thanks {account}")
        assert run.steps.filter(account=account).count() == 5

    def test_that_follows_nothing_is_ready_at_once_and_rung(self, installed, account, monkeypatch):
        monkeypatch.setattr(thanks, "follows", None)
        pipeline.install([*OURS[:-1], thanks.__name__, OURS[-1]])

        start_close()

        assert step_of(account, KIND).state == "READY"
        assert OrmQ.objects.filter(key="thanks").exists()

    def test_is_readied_rung_worked_and_decided(self, run, account):
        work("INVOICE", "CHARGE", "EMAIL", "HOLD")
        assert step_of(account, KIND).state == "READY"
        assert OrmQ.objects.filter(key="thanks").exists()
        assert not runs.release_report(run.pk)

        work(KIND)
        finish(run)

        assert run.is_finished
        assert decision_on(account, KIND).because == "owes nothing"
        assert account.timeline.filter(kind="thanked").count() == 1
        assert_books_hold()

    def test_is_blocked_cancelled_and_retried_with_what_it_follows(self, run, account):
        hold = step_of(account, "HOLD")
        cancel(hold)
        with_it = step_of(account, KIND)
        assert (with_it.state, with_it.because) == ("CANCELLED", "its hold step was cancelled")

        retry(hold)

        assert step_of(account, KIND).state == "WAITING"

    def test_is_named_in_words_where_what_follows_it_is_cancelled(self):
        assert steering.cancelled_with(KIND) == "its thank who owes nothing step was cancelled"

    def test_has_its_queue_served_rung_and_watched(self, installed):
        assert parse_queues("") == ("default", "charge", "email", "thanks")
        assert parse_queues("thanks") == ("thanks",)
        assert doorbell.queues()[-1] == "thanks"
        assert readiness.look().queues["thanks"].clusters == 0

    def test_leaves_no_queue_behind(self):
        with pytest.raises(doorbell.UnknownQueue):
            parse_queues("thanks")

    def test_is_shown_on_every_page_in_its_place(self, run, account):
        assert list(progress.steps(run)) == [
            "INVOICE", "CHARGE", "EMAIL", "HOLD", KIND, "REPORT",
        ]  # fmt: skip
        assert ">Thanks<" in page(f"/runs/{run.pk}/")
        steps = page(f"/runs/{run.pk}/steps/?kind={KIND}")
        assert f'<option value="{KIND}" selected>Thanks</option>' in steps
        assert steps.count(">Thanks</td>") == 1
        assert "Thanks Acme" in page(f"/admin/billing/step/?kind__exact={KIND}")
        assert "Thanks" in page(f"/admin/accounts/account/{account.pk}/change/")
        assert f'kind="{KIND}",month="2018-10",state="WAITING"' in page("/metrics")

    def test_waits_for_no_page_that_was_counted_before_it_was_installed(self, run, monkeypatch):
        monkeypatch.setattr(progress, "QUICK_MS", -1)
        progress.refresh(run, as_of=AS_OF)
        kept = RunProgress.objects.get()
        del kept.seen["steps"][KIND]
        kept.save()

        assert progress.current(run, as_of=AS_OF).seen["steps"][KIND] == {}

    def test_counts_for_the_time_left(self, installed):
        steps = {"HOLD": {"READY": 10}, KIND: {"WAITING": 10}}
        rates = {"HOLD": 10.0, KIND: 0.1}

        left = pace.time_left(steps=steps, later={}, rates=rates, limits={})

        assert left == pace.Left(100)

    def test_that_says_so_does_not_count_for_the_time_left(self, installed, monkeypatch):
        monkeypatch.setattr(thanks, "counts_for_time_left", False)
        pipeline.install([*OURS[:-1], thanks.__name__, OURS[-1]])
        steps = {"HOLD": {"READY": 10}, KIND: {"WAITING": 10}}

        left = pace.time_left(steps=steps, later={}, rates={"HOLD": 10.0, KIND: 0.1}, limits={})

        assert left == pace.Left(1)

    def test_has_its_place_in_the_books_without_a_migration(self, run, account):
        assert broken("close_step_starts_after_its_predecessor") == []
        run.steps.filter(kind=KIND).update(state="READY")

        [row] = broken("close_step_starts_after_its_predecessor")

        assert (row["kind"], row["follows"]) == (KIND, "HOLD")

    def test_left_waiting_is_a_broken_promise(self, run, account):
        work("INVOICE", "CHARGE", "EMAIL", "HOLD")
        run.steps.filter(kind=KIND).update(state="WAITING")

        [row] = broken("close_waiting_step_will_be_woken")

        assert (row["kind"], row["which_is"]) == (KIND, "SKIPPED")


class TestAStepThroughTheMailServer:
    def test_is_planned_in_its_lane_and_rung_when_that_is_resumed(
        self, installed, account, monkeypatch
    ):
        monkeypatch.setattr(thanks, "through", Through.MAIL_SERVER)
        monkeypatch.setattr(thanks, "touches_the_world", True)
        pipeline.install([*OURS[:-1], thanks.__name__, OURS[-1]])
        start_close()
        lanes.grant("smtp", wanted=0)
        lane = Lane.objects.get(provider="smtp")
        lanes.pause(lane.pk, by=ANN, because="they mend it")
        OrmQ.objects.all().delete()

        finance().post(f"/admin/notifications/lane/{lane.pk}/resume/", {"reason": "mended"})

        assert step_of(account, KIND).provider == "smtp"
        assert set(OrmQ.objects.values_list("key", flat=True)) == {"email", "thanks"}


class TestAStepThroughTheCard:
    @pytest.fixture(autouse=True)
    def _through(self, installed, monkeypatch):
        monkeypatch.setattr(thanks, "through", Through.CARD)
        monkeypatch.setattr(thanks, "touches_the_world", True)
        pipeline.install([*OURS[:-1], thanks.__name__, OURS[-1]])

    def test_is_planned_and_claimed_in_its_lane_as_it_is_now(self, debit, account):
        start_close()
        assert step_of(account, KIND).provider == "sandbox"
        account.payment_methods.update(is_default=False)
        MandateFactory(account=account)
        Step.objects.filter(kind=KIND).update(state="READY")

        [step] = claiming.lease(pipeline.BY_KIND[KIND], limit=5).steps

        assert step.provider == "debit"
        assert progress._limits([{"provider": "debit", "shut": "", "rate": 5.0}]) == {
            "CHARGE": 5.0,
            KIND: 5.0,
        }

    def test_goes_where_something_is_in_flight_before_it_goes_where_the_card_is(
        self, debit, account
    ):
        start_close()
        sandbox_card = account.payment_methods.get()
        account.payment_methods.update(is_default=False)
        MandateFactory(account=account)
        PaymentAttempt.objects.create(
            account=account,
            payment_method=sandbox_card,
            gateway="sandbox",
            amount_minor=1,
            next_action_at=AS_OF + timedelta(hours=1),
        )
        Step.objects.filter(kind__in=["CHARGE", KIND]).update(state="READY")

        for kind in ("CHARGE", KIND):
            [step] = claiming.lease(pipeline.BY_KIND[kind], limit=5).steps
            assert step.provider == "sandbox"


@pytest.fixture
def uninstalled(run, installed) -> CloseRun:
    """All of the run's other steps have ended, by workers that do not know the step."""
    installed()
    work("INVOICE", "CHARGE", "EMAIL", "HOLD")
    return run


class TestAStepThatIsNotInstalled:
    def test_is_listed_under_its_bare_name_and_waits(self, uninstalled, account):
        assert str(step_of(account, KIND)) == f"{KIND} {account}"
        assert list(progress.steps(uninstalled))[-1] == KIND
        assert f">{KIND}<" in page(f"/runs/{uninstalled.pk}/")
        steps = page(f"/runs/{uninstalled.pk}/steps/?kind={KIND}")
        assert f'<option value="{KIND}" selected>{KIND}</option>' in steps
        assert f">{KIND}</td>" in steps
        assert f"{KIND} Acme" in page(f"/admin/billing/step/?kind__exact={KIND}")
        step = step_of(account, KIND)
        assert KIND in page(f"/admin/billing/step/{step.pk}/change/")
        assert KIND in page(f"/admin/accounts/account/{account.pk}/change/")
        assert finance().get(f"/api/runs/{uninstalled.pk}/").json()["steps"][KIND] == {"WAITING": 1}
        assert f'kind="{KIND}",month="2018-10",state="WAITING"' in page("/metrics")
        assert kinds.listed(uninstalled)[-1] == KIND

    def test_keeps_its_run_open_and_is_told_to_the_operator(self, uninstalled):
        sweeper.sweep(as_of=AS_OF)

        assert not runs.release_report(uninstalled.pk)
        assert progress.counts(uninstalled).everything - progress.counts(uninstalled).ended == 2
        assert f"{KIND} steps wait, and CLOSE_STEPS lists no such step" in readiness.look().degraded

    def test_breaks_no_promise(self, uninstalled):
        assert_books_hold()

    def test_is_no_trouble_where_others_have_worked_on_it_or_died_of_it(self, uninstalled, account):
        heartbeats.contribute(run_id=uninstalled.pk, kind=KIND, steps=1)
        uninstalled.steps.filter(kind=KIND).update(
            state="RUNNING",
            lease_token="00000000-0000-0000-0000-000000000001",
            lease_until=Now() - timedelta(minutes=1),
            attempts=1,
            deaths=claiming.DEATHS_MAX,
        )

        assert sweeper.free_expired_leases(as_of=AS_OF) == 1

        step = step_of(account, KIND)
        assert (step.state, step.deaths) == ("UNKNOWN", claiming.DEATHS_MAX)
        assert readiness.look().queues.keys() == {"default", "charge", "email"}
        assert {row["kind"] for row in progress.of(uninstalled, as_of=AS_OF)["hosts"]} > {KIND}
        assert f">{KIND}</td>" in page(f"/runs/{uninstalled.pk}/")

    def test_that_is_stuck_is_shown_and_stays_as_it_is_when_it_is_retried(
        self, uninstalled, account
    ):
        uninstalled.steps.filter(kind=KIND).update(
            state="DEAD", because="it gave up", finished_at=AS_OF
        )
        assert f"{KIND}</th>" in page(f"/runs/{uninstalled.pk}/")
        finish(uninstalled)
        assert uninstalled.is_finished

        steered = steering.retry_run(uninstalled, actor=ANN, reason="again", as_of=AS_OF)

        assert (steered.chosen, steered.changed, steered.left) == (1, 0, 1)
        uninstalled.refresh_from_db()
        assert uninstalled.is_finished
        assert step_of(account, KIND).state == "DEAD"

    def test_can_be_cancelled_and_then_the_run_ends(self, uninstalled, account):
        cancel(step_of(account, KIND))

        finish(uninstalled)

        assert uninstalled.is_finished
        assert decision_on(account, KIND).did == "SKIPPED"

    def test_is_left_out_of_what_is_planned(self, installed, account):
        installed()
        run = start_close()

        assert not run.steps.filter(kind=KIND).exists()
        assert kinds.listed() == ["INVOICE", "CHARGE", "EMAIL", "HOLD", "REPORT"]
        assert readiness.look().not_installed == []

    def test_is_named_where_commands_and_forms_tell_of_steps(self, uninstalled):
        assert tables.steps(progress.steps(uninstalled))[-1] == {
            "step": KIND, "waiting": 1, "done": 0, "skipped": 0,
        }  # fmt: skip
        stake = at_stake.of(steering.not_started_of(uninstalled))
        assert stake["counts"] == [{"kind": KIND, "state": "Waiting", "steps": 1}]

    def test_that_ends_its_run_is_released_and_waits_too(self, installed, account, monkeypatch):
        installed()
        run = start_close()
        work("INVOICE", "CHARGE", "EMAIL", "HOLD")
        with monkeypatch.context() as patched:
            patched.setattr(report, "kind", "SUMMARY")
            pipeline.install(OURS)

            sweeper.sweep(as_of=AS_OF)

            assert run.steps.get(account=None).state == "READY"
            assert work_once("SUMMARY") == 0
            assert ">REPORT<" in page(f"/runs/{run.pk}/")
            assert readiness.look().not_installed == ["REPORT"]
        pipeline.install(OURS)
        assert finish(run).is_finished

    def test_goes_on_once_it_is_installed_again(self, uninstalled, account):
        pipeline.install([*OURS[:-1], thanks.__name__, OURS[-1]])
        OrmQ.objects.all().delete()

        assert sweeper.sweep(as_of=AS_OF)["woken"] == 1

        assert OrmQ.objects.filter(key="thanks").exists()
        step = step_of(account, KIND)
        assert (step.state, step.expected["due_minor"]) == ("READY", 0)
        work(KIND)
        finish(uninstalled)
        assert uninstalled.is_finished
        assert_books_hold()


class TestWaking:
    """Whoever ended what a step follows did not know it."""

    @pytest.mark.parametrize(
        ("became", "state", "because"),
        [
            ("BLOCKED", "BLOCKED", "its hold step is blocked"),
            ("DEAD", "BLOCKED", "its hold step gave up"),
            ("CANCELLED", "CANCELLED", "its hold step was cancelled"),
            ("DONE", "READY", ""),
        ],
    )
    def test_ends_it_with_what_it_follows_or_readies_it(self, run, account, became, state, because):
        run.steps.filter(kind="HOLD").update(state=became, finished_at=AS_OF)

        sweeper.sweep(as_of=AS_OF)

        step = step_of(account, KIND)
        assert (step.state, step.because) == (state, because)
        assert broken("close_waiting_step_will_be_woken") == []

    def test_tells_it_what_another_was_told_that_follows_the_same(self, run, account):
        work("INVOICE")
        told = step_of(account, "EMAIL").expected
        run.steps.filter(kind="CHARGE").update(state="WAITING", expected={})

        assert sweeper.sweep(as_of=AS_OF)["woken"] == 1

        assert step_of(account, "CHARGE").expected == told
        assert told["invoice"]

    def test_leaves_what_waits_for_what_is_open(self, run, account):
        assert sweeper.sweep(as_of=AS_OF)["woken"] == 0

        assert step_of(account, KIND).state == "WAITING"


def test_the_docs_show_this_step():
    shown = (settings.BASE_DIR / "docs" / "extending.md").read_text(encoding="utf-8")

    assert Path(thanks.__file__).read_text(encoding="utf-8") in shown
