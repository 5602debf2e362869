"""Killed anywhere, the close charges nobody twice, loses nothing, and finishes: real processes, real kills."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.db import connection
from django.db.models.functions import Now
from django.utils import timezone

from accounts.models import BillingEntity
from billing.close.health import sweeper
from billing.models import CloseRun, Decision, Invoice, Payment, PaymentAttempt, Step
from notifications.models import Message
from tests.closing import assert_books_hold, finish, start_close
from tests.config.real_cluster import RealCluster, wait_until
from tests.factories import EntityFactory, account_using

pytestmark = pytest.mark.django_db(transaction=True)

# Enough for several batches of charges; a third declines.
ACCOUNTS = 24
# Of each answer of the provider, so that there is a middle to be killed in.
LATENCY = "0.03"
MANAGE = (sys.executable, str(django_settings.BASE_DIR / "manage.py"))


@pytest.fixture
def environment(settings, tmp_path) -> dict[str, str]:
    """For processes on the database and the sandbox book of this test."""
    settings.SANDBOX_BOOK = tmp_path / "month-close-test-book.sqlite3"
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "config.settings.test",
        "TEST_DATABASE_NAME": str(connection.settings_dict["NAME"]),
        "TMPDIR": str(tmp_path),
        "SANDBOX_LATENCY_SECONDS": LATENCY,
        "STEP_LEASE_SECONDS": "5",
        # So that a close has several batches.
        "CALLS_AT_ONCE": "4",
    }


@pytest.fixture
def accounts() -> None:
    use(EntityFactory())


def use(entity: BillingEntity) -> None:
    cards = ("sandbox_visa", "sandbox_declined", "sandbox_mastercard")
    for n in range(ACCOUNTS):
        account_using(f"{n + 1}.{n:02d}", entity=entity, card=cards[n % 3])


class CloseMonth:
    """A `close_month` in a process of its own."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [*MANAGE, "close_month", "2018-10", "--entity", "default", "--json"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def signal_when(self, signum: signal.Signals, condition: Callable[[], bool]) -> str:
        """Send a signal as soon as something is true, which must be before it ends. Its last words."""
        wait_until(lambda: condition() or self.process.poll() is not None, "the moment")
        assert self.process.poll() is None, f"too late: {self.process.communicate()}"
        self.process.send_signal(signum)
        return self.end()[1]

    def end(self) -> tuple[str, str]:
        said = self.process.communicate(timeout=60)
        wait_until(nobody_else_is_connected, "the end of its connections")
        return said


def nobody_else_is_connected() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            "   AND backend_type = 'client backend'"
        )
        return cursor.fetchone()[0] == 0


def a_minute_passes() -> None:
    """For leases, and for attempts and messages that somebody may still be working on."""
    Step.objects.filter(state="RUNNING").update(lease_until=Now())
    Step.objects.filter(state__in=Step.CLAIMABLE).update(run_at=Now())
    PaymentAttempt.objects.exclude(next_action_at=None).update(next_action_at=timezone.now())
    PaymentAttempt.objects.exclude(lease_until=None).update(lease_until=Now())
    Message.objects.filter(state="SENDING").update(lease_until=Now())


def the_run() -> CloseRun | None:
    return CloseRun.objects.filter(entity__slug="default").first()


def ended(kind: str) -> int:
    return Step.objects.filter(
        run__entity__slug="default", kind=kind, finished_at__isnull=False
    ).count()


def payments_made() -> int:
    return Payment.objects.filter(account__entity__slug="default").count()


def assert_as_if_nothing_had_happened() -> None:
    """The same as a twin's close that nobody touched."""
    run = the_run()
    assert run.is_finished
    twin = EntityFactory(slug="twin", name="Twin", invoice_prefix="TW")
    use(twin)
    undisturbed = finish(start_close(entity=twin, as_of=timezone.now()), as_of=timezone.now())
    assert run.report["currencies"] == undisturbed.report["currencies"]
    sequences = Invoice.objects.filter(entity=run.entity).values_list("sequence", flat=True)
    assert sorted(sequences) == list(range(1, ACCOUNTS + 1))
    decided = Decision.objects.filter(run=run, act__in=["INVOICE", "CHARGE", "EMAIL", "HOLD"])
    assert decided.count() == 4 * ACCOUNTS
    assert_books_hold(as_of=timezone.now())


class TestCloseMonthIsKilled:
    def test_at_every_stage_and_the_last_one_finds_nothing_amiss(self, environment, accounts):
        def in_flight() -> bool:
            return PaymentAttempt.objects.filter(state="SUBMITTED").exists()

        moments: list[Callable[[], bool]] = [
            lambda: the_run() is not None,
            lambda: ended("INVOICE") > 0,
            in_flight,
            lambda: payments_made() > 8,
            lambda: ended("CHARGE") > 16,
            lambda: ended("HOLD") > 0,
        ]

        for moment in moments:
            CloseMonth(environment).signal_when(signal.SIGKILL, moment)
            a_minute_passes()
        told, _ = CloseMonth(environment).end()

        assert json.loads(told)["resumed"]
        assert_as_if_nothing_had_happened()


class TestCtrlC:
    def test_says_how_to_resume_and_the_next_goes_on_with_the_same_run(self, environment, accounts):
        first = CloseMonth(environment)
        last_words = first.signal_when(signal.SIGINT, lambda: payments_made() > 3)

        assert first.process.returncode == 130
        assert "resume with: manage.py close_month 2018-10 --entity default" in last_words
        assert not Step.objects.filter(state="RUNNING").exists()
        run = the_run()
        assert not run.is_finished
        told, _ = CloseMonth(environment).end()
        assert (json.loads(told)["run"], json.loads(told)["resumed"]) == (run.pk, True)
        assert the_run().is_finished
        assert_books_hold(as_of=timezone.now())


class TestTheClusterIsKilled:
    @pytest.fixture
    def cluster(self, environment, tmp_path) -> Iterator[Callable[[], RealCluster]]:
        started: list[RealCluster] = []

        def start() -> RealCluster:
            notes: Path = tmp_path / f"notes-{len(started)}"
            started.append(RealCluster(notes, "--workers", "2", **environment))
            wait_until(lambda: started[-1].is_standing(4), "the cluster standing")
            return started[-1]

        yield start
        for each in started:
            each.destroy()

    def test_a_worker_then_all_of_it_and_close_month_finishes_alone(
        self, cluster, environment, accounts
    ):
        first = cluster()
        start_close(as_of=datetime.now(UTC))
        wait_until(lambda: payments_made() > 3, "the first payments")
        first.role("worker").kill()
        assert first.exit_code() != 0
        wait_until(nobody_else_is_connected, "the end of its connections")
        a_minute_passes()

        second = cluster()
        sweeper.sweep(as_of=timezone.now())
        so_far = payments_made()
        wait_until(lambda: payments_made() > so_far or ended("HOLD") > 0, "progress")
        os.killpg(second.process.pid, signal.SIGKILL)
        wait_until(lambda: not second.survivors(), "the end of the cluster")
        wait_until(nobody_else_is_connected, "the end of its connections")
        a_minute_passes()

        CloseMonth(environment).end()

        assert_as_if_nothing_had_happened()

    def test_told_to_stop_it_leaves_the_rest_as_it_stands_and_the_next_goes_on(
        self, cluster, environment, accounts
    ):
        # Two at a time, and slowly: told to, it does not finish all of them first.
        environment |= {"CALLS_AT_ONCE": "2", "SANDBOX_LATENCY_SECONDS": "0.3"}
        running = cluster()
        start_close(as_of=datetime.now(UTC))
        wait_until(lambda: payments_made() > 1, "the first payments")

        running.process.send_signal(signal.SIGTERM)

        assert running.exit_code() == 0
        assert ended("CHARGE") < ACCOUNTS
        assert not Step.objects.filter(state="RUNNING").exists()
        environment |= {"SANDBOX_LATENCY_SECONDS": "0"}
        CloseMonth(environment).end()
        assert_as_if_nothing_had_happened()


class TestAWorkerIsPaused:
    def test_past_its_lease_and_what_it_writes_then_is_refused_and_counted(
        self, environment, accounts
    ):
        slow = CloseMonth(environment | {"SANDBOX_LATENCY_SECONDS": "0.5"})
        wait_until(PaymentAttempt.objects.filter(state="SUBMITTED").exists, "a charge on its way")
        slow.process.send_signal(signal.SIGSTOP)
        a_minute_passes()
        sweeper.sweep(as_of=timezone.now())

        told, _ = CloseMonth(environment).process.communicate(timeout=60)
        slow.process.send_signal(signal.SIGCONT)
        slow.end()

        assert json.loads(told)["resumed"]
        assert sum(Step.objects.values_list("fenced", flat=True)) > 0
        assert_as_if_nothing_had_happened()
