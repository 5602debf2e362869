"""A host whose clock is an hour wrong, beside one whose clock is right: nothing runs early, twice, or for another."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.utils import timezone

from accounts import clock
from accounts.models import BillingEntity, Hold
from billing import reconciliation, tasks
from billing.close import runs
from billing.close.engine import runner
from billing.close.health import sweeper
from billing.gateways import OutcomeUnknown
from billing.models import DunningCase, Payment, PaymentAttempt
from billing.payments import inbound
from billing.reports import progress
from notifications import dispatcher
from notifications.models import Message
from tests.billing.builders import collect, owing
from tests.closing import assert_books_hold, start_close, states
from tests.factories import account_using

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(params=[1, -1], ids=["an hour fast", "an hour slow"])
def wrong(request) -> Iterator[time_machine.travel]:
    """The host whose clock is wrong."""
    return time_machine.travel(timezone.now() + timedelta(hours=request.param))


# What each task hands down, and to whom.
HAND_DOWN = [
    (tasks.sweep, sweeper, "sweep", {}),
    (tasks.count_runs, progress, "refresh_running", 0),
    (tasks.start_due_closes, runs, "start_due", []),
    (tasks.start_due_reconciliations, reconciliation, "start_due", []),
    (lambda: tasks.drain("charge"), inbound, "process_due", 0),
    (lambda: tasks.drain("email"), dispatcher, "run", 0),
    (lambda: tasks.drain("default"), reconciliation, "work_all", None),
    (lambda: tasks.drain("charge"), runner, "drain", 0),
]


@pytest.mark.parametrize(("task", "module", "name", "answer"), HAND_DOWN)
def test_every_task_goes_by_the_databases_clock(wrong, monkeypatch, task, module, name, answer):
    told: list[datetime] = []

    def hear(*_args: Any, **facts: Any) -> Any:
        told.append(facts["as_of"] if "as_of" in facts else facts["clock"]())
        return answer

    monkeypatch.setattr(module, name, hear)
    before = clock.now()

    with wrong:
        task()

    assert told
    assert all(before <= as_of <= clock.now() for as_of in told)


def test_a_close_that_both_hosts_work_on_is_as_if_both_were_right(wrong):
    accounts = [account_using("12.00") for _ in range(3)]
    declined = account_using("5.00", card="sandbox_insufficient")
    start_close(entity=declined.entity, as_of=clock.now())
    BillingEntity.objects.update(retry_days=[3])

    for queue in ("default", "charge", "email") * 2:
        with wrong:
            tasks.drain(queue)
        tasks.drain(queue)

    assert Payment.objects.count() == len(accounts)
    assert PaymentAttempt.objects.count() == len(accounts) + 1
    assert Message.objects.filter(kind="RECEIPT", state="SENT").count() == len(accounts)
    assert not Hold.objects.exists()
    case = DunningCase.objects.get()
    assert timedelta(days=2) < case.next_try_at - clock.now() < timedelta(days=4)
    assert "RUNNING" not in states()
    assert_books_hold(as_of=clock.now())


def test_nobody_is_tried_again_or_held_before_the_day(wrong):
    soon = clock.now() + timedelta(minutes=30)
    tried = [owing("5.00", card="sandbox_insufficient") for _ in range(2)]
    BillingEntity.objects.update(retry_days=[3])
    for account in tried:
        collect(account, kind=PaymentAttempt.Kind.AUTO)
    DunningCase.objects.update(next_try_at=soon)
    DunningCase.objects.filter(account=tried[1]).update(next_try_at=None, ends_at=soon)

    with wrong:
        assert tasks.sweep()["retries"] == 0

    assert PaymentAttempt.objects.count() == len(tried)
    assert not Hold.objects.exists()


def test_a_payment_that_another_host_drives_is_left_to_it(wrong, provider):
    provider.after("submit", OutcomeUnknown("no answer"))
    attempt = collect(owing("5.00"))
    theirs_until = clock.now() + timedelta(seconds=45)
    PaymentAttempt.objects.update(next_action_at=theirs_until)

    with wrong:
        assert tasks.sweep()["rows"] == 0

    state = attempt.state
    attempt.refresh_from_db()
    assert (attempt.state, attempt.next_action_at) == (state, theirs_until)
