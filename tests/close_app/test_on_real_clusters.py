"""The step joins the close by the setting alone: planned, worked, shown, timed, killed and resumed."""

import os
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone

from accounts.models import Account, TimelineEvent
from billing import locks
from billing.close.health import sweeper
from billing.models import CloseRun, Contribution, Decision, Step
from billing.reports import progress
from tests.close_app import thanks
from tests.close_app.conftest import WITH_ITS_OWN
from tests.closing import assert_books_hold, start_close
from tests.config.real_cluster import RealCluster, wait_until
from tests.crashes.test_close_is_killed import a_minute_passes, nobody_else_is_connected
from tests.factories import UserFactory, account_using
from tests.workers import wait_until_somebody_waits

pytestmark = pytest.mark.django_db(transaction=True)

# Three chunks of the step; a third of them declines, and so owes something at the end.
ACCOUNTS = 12
DECLINES = ACCOUNTS // 3


@pytest.fixture
def cluster(installed, settings, tmp_path) -> Iterator[Callable[..., RealCluster]]:
    """Starts one whose processes know the step from CLOSE_STEPS, and nothing else of it."""
    settings.SANDBOX_BOOK = tmp_path / "month-close-test-book.sqlite3"
    environment = {"TMPDIR": str(tmp_path), "CLOSE_STEPS": ",".join(WITH_ITS_OWN)}
    started: list[RealCluster] = []

    def start(*arguments: str) -> RealCluster:
        notes = tmp_path / f"notes-{len(started)}"
        started.append(RealCluster(notes, "--workers", "2", *arguments, **environment))
        wait_until(lambda: started[-1].is_standing(4), "the cluster standing")
        return started[-1]

    yield start
    for each in started:
        each.destroy()


@pytest.fixture
def accounts() -> list[Account]:
    cards = ("sandbox_visa", "sandbox_declined", "sandbox_mastercard")
    return [account_using(f"{n + 1}.00", card=cards[n % 3]) for n in range(ACCOUNTS)]


def states(run: CloseRun, kind: str) -> set[str]:
    return set(run.steps.filter(kind=kind).values_list("state", flat=True))


def ended(run: CloseRun, kind: str) -> int:
    return run.steps.filter(kind=kind, finished_at__isnull=False).count()


def kill(cluster: RealCluster) -> None:
    cluster.seen.update(cluster.main.children(recursive=True))
    os.killpg(cluster.process.pid, signal.SIGKILL)
    wait_until(lambda: not cluster.survivors(), "the end of the cluster")


def is_finished(run: CloseRun) -> bool:
    run.refresh_from_db()
    return run.is_finished


def finance() -> Client:
    client = Client()
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    return client


def test_a_step_of_an_installations_own_through_a_killed_close(cluster, accounts):
    began_at = timezone.now()
    of_ours = cluster("--queues", "default,charge,email")
    run = start_close(as_of=began_at)
    progress.refresh(run, as_of=began_at)

    # Planned, and ready when the hold step has ended; but nobody serves its queue yet.
    wait_until(lambda: ended(run, "HOLD") == ACCOUNTS, "the end of the hold steps")
    assert states(run, thanks.kind) == {"READY"}
    assert not is_finished(run)

    # Its own cluster is killed with a chunk in hand, and ours with it.
    with transaction.atomic():
        locks.accounts_for_update([accounts[-1].pk])
        of_its_own = cluster("--queues", "thanks")
        sweeper.ring_for_ready_steps()
        wait_until(lambda: ended(run, thanks.kind) > 0, "the first of its steps")
        wait_until_somebody_waits()
        kill(of_its_own)
        kill(of_ours)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    wait_until(nobody_else_is_connected, "the end of its connections")
    thanked = ended(run, thanks.kind)
    assert 0 < thanked < ACCOUNTS
    assert states(run, thanks.kind) == {"DONE", "SKIPPED", "READY"}

    # Timed and shown, in mid-close.
    seen = progress.refresh(run, as_of=began_at + timedelta(minutes=2))
    assert sum(seen["steps"][thanks.kind].values()) == ACCOUNTS
    assert seen["per_second"][thanks.kind] > 0
    assert seen["seconds_left"] > 0
    assert thanks.kind in {row["kind"] for row in seen["hosts"]}
    client = finance()
    assert client.get(f"/api/runs/{run.pk}/").json()["steps"][thanks.kind]["READY"]
    assert ">Thanks<" in client.get(f"/runs/{run.pk}/").content.decode()
    listed = client.get(f"/runs/{run.pk}/steps/?kind={thanks.kind}&state=READY").content.decode()
    assert listed.count(">Thanks</td>") == ACCOUNTS - thanked
    page = client.get(f"/admin/billing/step/?kind__exact={thanks.kind}").content.decode()
    assert f"{ACCOUNTS} steps" in page

    # Resumed, by a cluster that serves all queues.
    a_minute_passes()
    sweeper.sweep(as_of=timezone.now())
    cluster()
    wait_until(lambda: is_finished(run), "the end of the run")

    assert run.report["currencies"]
    assert states(run, thanks.kind) == {"DONE", "SKIPPED"}
    decided = Decision.objects.filter(run=run, act=thanks.kind)
    assert decided.filter(did="DONE").count() == ACCOUNTS - DECLINES
    assert decided.filter(did="SKIPPED").count() == DECLINES
    assert TimelineEvent.objects.filter(kind="thanked").count() == ACCOUNTS - DECLINES
    worked = Contribution.objects.filter(run=run, kind=thanks.kind).values_list("steps", flat=True)
    assert sum(worked) == ACCOUNTS
    assert not Step.objects.filter(run=run, state__in=Step.OPEN).exists()
    assert_books_hold(as_of=timezone.now())
