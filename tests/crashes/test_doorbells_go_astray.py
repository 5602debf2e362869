"""Doorbells that come twice, get lost, or are all gone: the close ends as if nothing had been."""

from collections.abc import Callable, Sequence
from decimal import Decimal

import pytest
from django.db.models import Sum
from django.db.models.functions import Now
from django.utils.module_loading import import_string
from django_q.models import OrmQ

from accounts import clock
from accounts.models import Hold
from billing import tasks
from billing.models import CloseRun, Decision, Invoice, Payment, PaymentAttempt
from notifications.models import Message
from tests.closing import assert_books_hold, start_close, states
from tests.factories import account_using

pytestmark = pytest.mark.django_db(transaction=True)

PAYING = ["12.00", "7.50", "0.99", "30.00"]
DECLINED = "5.00"
# Far more than a close of five accounts needs.
PATIENCE = 60


def as_they_come(rows: Sequence[OrmQ], _round: int) -> Sequence[OrmQ]:
    return rows


def each_twice(rows: Sequence[OrmQ], _round: int) -> Sequence[OrmQ]:
    return [row for row in rows for _ in range(2)]


def every_other_is_lost(rows: Sequence[OrmQ], number: int) -> Sequence[OrmQ]:
    return rows[number % 2 :: 2]


def all_are_gone_in_mid_close(rows: Sequence[OrmQ], number: int) -> Sequence[OrmQ]:
    if number in {1, 2, 4}:
        OrmQ.objects.all().delete()
        return []
    return rows


@pytest.mark.parametrize(
    "go_astray", [as_they_come, each_twice, every_other_is_lost, all_are_gone_in_mid_close]
)
def test_a_close_ends_the_same(
    go_astray: Callable[[Sequence[OrmQ], int], Sequence[OrmQ]], mailoutbox
) -> None:
    accounts = [account_using(amount) for amount in PAYING]
    held = account_using(DECLINED, card="sandbox_insufficient")
    run = start_close(as_of=clock.now())

    for number in range(PATIENCE):
        answer(go_astray(taken(), number))
        if not OrmQ.objects.exists():
            tasks.sweep()
            tasks.ring_email()
        run.refresh_from_db()
        if run.is_finished:
            break

    assert run.state == CloseRun.State.FINISHED
    answer(taken())
    # Who finds nothing left to do depends on who came first.
    assert set(states()) <= {"DONE", "SKIPPED"}
    assert Invoice.objects.count() == len(accounts) + 1
    collected = Payment.objects.aggregate(sum=Sum("amount_minor"))["sum"]
    assert collected == sum(int(Decimal(amount) * 100) for amount in PAYING)
    assert Payment.objects.count() == len(accounts)
    assert PaymentAttempt.objects.count() == len(accounts) + 1
    assert list(Hold.objects.values_list("account", flat=True)) == [held.pk]
    assert len(mailoutbox) == Message.objects.filter(state="SENT").count()
    assert Message.objects.filter(kind="RECEIPT", state="SENT").count() == len(accounts)
    for act in ("INVOICE", "CHARGE", "EMAIL", "HOLD"):
        assert Decision.objects.filter(act=act, run=run).count() == len(accounts) + 1
    assert_books_hold(as_of=clock.now())


def taken() -> list[OrmQ]:
    """What has been rung so far, taken out of the queue, as the broker acknowledges it."""
    rows = list(OrmQ.objects.filter(lock__lte=Now()).order_by("lock", "pk"))
    OrmQ.objects.filter(pk__in=[row.pk for row in rows]).delete()
    return rows


def answer(rows: Sequence[OrmQ]) -> None:
    for row in rows:
        task = row.task
        import_string(task["func"])(*task["args"], **task["kwargs"])
