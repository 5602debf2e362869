"""Workers at once on one run, with real commits: each step once, and the money right however they meet."""

import random
from collections.abc import Callable
from functools import partial

import pytest
from django.db import OperationalError, connection

from accounts.models import Account
from billing.close import pipeline, runs, steering
from billing.close.engine import runner
from billing.close.step import FlowModule
from billing.models import Decision, Invoice, Payment, PaymentAttempt, Step
from billing.payments import charges
from tests.billing.builders import collect, grant, pay_by_hand
from tests.closing import (
    assert_books_hold,
    cancel,
    decision_on,
    retry,
    start_close,
    states,
    step_of,
    work,
    work_once,
)
from tests.factories import AS_OF, account_using
from tests.workers import at_once

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.concurrency]

KINDS = ("INVOICE", "CHARGE", "EMAIL", "HOLD")


@pytest.fixture
def small_chunks(monkeypatch):
    """So that many chunks of many workers meet."""
    for module in pipeline.STEPS:
        if not isinstance(module, FlowModule):
            monkeypatch.setattr(module, "batch", min(module.batch, 5))


def worker(seed: int) -> Callable[[], list[Exception]]:
    """One that takes whatever is ready, in an order of its own, until nothing is; returns what hit it."""
    order = random.Random(seed)

    def work_until_nothing_is_open() -> list[Exception]:
        troubles: list[Exception] = []
        while Step.objects.filter(state__in=Step.OPEN).exclude(kind="REPORT").exists():
            kind = order.choice(KINDS)
            try:
                runner.work_once(pipeline.BY_KIND[kind], as_of=AS_OF)
            except OperationalError as error:
                troubles.append(error)
        return troubles

    return work_until_nothing_is_open


class TestFourWorkers:
    def test_end_each_step_once_and_number_without_a_gap(self, small_chunks, sandbox):
        for n in range(30):
            card = ("sandbox_visa", "sandbox_declined", None)[n % 3]
            account_using("12.00", card=card)
        run = start_close()

        troubles = at_once(*(worker(seed) for seed in range(4)))

        assert troubles == [[], [], [], []]
        assert set(states()) == {"DONE", "SKIPPED", "WAITING"}
        decided = Decision.objects.filter(run=run).exclude(act="SUBMIT").count()
        assert decided == run.steps.exclude(kind="REPORT").count() == 120
        assert sorted(Invoice.objects.values_list("sequence", flat=True)) == list(range(1, 31))
        taken = [seen.amount_minor for seen in sandbox.book() if seen.status == "SUCCEEDED"]
        assert taken == [1200] * 10
        assert Payment.objects.count() == 10
        assert_books_hold()

    def test_and_one_more_release_the_report_once_and_make_it_once(self):
        account_using("12.00")
        run = start_close()
        work(*KINDS)

        released = at_once(*(lambda: runs.release_report(run.pk) for _ in range(16)))
        made = at_once(*(lambda: work_once("REPORT") for _ in range(16)))

        assert sorted(released) == [False] * 15 + [True]
        assert sorted(made) == [0] * 15 + [1]
        run.refresh_from_db()
        assert run.is_finished

    def test_sixteen_who_end_the_last_steps_at_once_make_one_report(self):
        for _ in range(16):
            account_using("1.00", card=None)
        run = start_close()
        work("INVOICE", "CHARGE", "EMAIL")
        last = list(run.steps.filter(kind="HOLD"))

        def complete(step: Step) -> tuple[bool, int]:
            runner._try(pipeline.BY_KIND["HOLD"], [], as_of=AS_OF, only=[step.pk])
            return runs.release_report(run.pk), work_once("REPORT")

        completed = at_once(*(partial(complete, step) for step in last))

        assert sum(released for released, _ in completed) == 1
        assert sum(made for _, made in completed) == 1
        run.refresh_from_db()
        assert run.is_finished
        assert run.steps.get(kind="REPORT").attempts == 0
        assert Decision.objects.filter(act="HOLD").count() == 16

    def test_start_the_same_month_as_the_same_run(self):
        account_using("12.00")

        started = at_once(*(start_close for _ in range(8)))

        assert len({run.pk for run in started}) == 1
        assert Step.objects.count() == 5


class TestARetryWhileTheRunEnds:
    @pytest.mark.parametrize("seed", range(4))
    def test_is_in_the_report_or_the_report_is_made_again(self, seed):
        account = account_using("12.00", card="sandbox_declined")
        run = start_close()
        work("INVOICE")
        cancel(step_of(account, "EMAIL"))
        work("CHARGE", "HOLD")
        email = step_of(account, "EMAIL")
        acts = [
            lambda: retry(email),
            lambda: runs.release_report(run.pk),
            lambda: work_once("REPORT"),
            lambda: work_once("REPORT"),
        ]
        random.Random(seed).shuffle(acts)

        at_once(*acts)
        run.refresh_from_db()
        assert not run.is_finished

        work("EMAIL")
        assert runs.release_report(run.pk)
        work("REPORT")
        run.refresh_from_db()
        assert run.is_finished
        assert_books_hold()


class TestSteeringWhileWorkersWork:
    def test_cancels_what_none_has_in_hand_and_nothing_that_was_done(
        self, small_chunks, sandbox, monkeypatch
    ):
        for _ in range(24):
            account_using("12.00")
        run = start_close()
        monkeypatch.setattr(steering, "CHUNK", 8)

        def steer(act):
            return act(run, actor="ann@example.com", reason="a look", as_of=AS_OF)

        happened = at_once(
            worker(1),
            worker(2),
            lambda: steer(steering.cancel_run),
            lambda: steer(steering.cancel_run),
        )

        assert [each for each in happened if isinstance(each, BaseException)] == []
        assert happened[:2] == [[], []]
        charged = Step.objects.filter(kind="CHARGE", state="DONE").values("account")
        assert set(Payment.objects.values_list("account", flat=True)) == {
            row["account"] for row in charged
        }
        assert len([seen for seen in sandbox.book() if seen.status == "SUCCEEDED"]) == len(charged)
        said = Step.objects.filter(state="CANCELLED", because__startswith="cancelled by").count()
        assert said == Decision.objects.filter(because="cancelled: a look").count()
        assert_books_hold()
        assert runs.release_report(run.pk)
        assert work_once("REPORT") == 1


class TestTheWorldChangesMeanwhile:
    @pytest.mark.parametrize("seed", [20181001, 20181101])
    def test_payments_credits_and_cards_meet_the_close_in_any_order(
        self, seed, small_chunks, sandbox
    ):
        chance = random.Random(seed)
        accounts = [account_using(f"{chance.randint(1, 50)}.00") for _ in range(24)]
        start_close()

        meddled = at_once(
            worker(seed),
            worker(seed + 1),
            *(meddler(accounts, random.Random(seed + n)) for n in (2, 3, 4)),
        )

        assert meddled[:2] == [[], []]
        assert [each for each in meddled if isinstance(each, BaseException)] == []
        assert set(states()) <= {"DONE", "SKIPPED", "WAITING"}
        # A payment made just before the invoice is credit; one made in between is not charged again.
        with connection.cursor() as cursor:
            cursor.execute(CHARGED_TOO_MUCH)
            assert cursor.fetchall() == []
        assert_books_hold()


def meddler(accounts: list[Account], chance: random.Random) -> Callable[[], None]:
    """Somebody who pays, credits, pays now and removes cards, as chance has it."""

    def meddle() -> None:
        for account in chance.sample(accounts, 12):
            match chance.randrange(4):
                case 0:
                    pay_by_hand(account, chance.randint(1, 3000))
                case 1:
                    grant(account, chance.randint(1, 2000))
                case 2:
                    try:
                        collect(account)
                    except charges.CannotCollect:
                        continue
                case 3:
                    account.payment_methods.filter(state="ACTIVE").update(
                        state="REMOVED", removed_at=AS_OF, is_default=False
                    )

    return meddle


# An attempt of the close took more than was due when its step looked.
CHARGED_TOO_MUCH = """
SELECT t.id FROM billing_paymentattempt t
  JOIN billing_decision d ON d.attempt_id = t.id AND d.act = 'CHARGE'
 WHERE t.state = 'SUCCEEDED'
   AND t.amount_minor > (SELECT total_minor FROM billing_invoice i WHERE i.account_id = t.account_id)
"""


class TestPayNowAndTheClose:
    def test_at_the_same_moment_charge_once(self, sandbox):
        account = account_using("12.00")
        start_close()
        work("INVOICE")

        def pay_now() -> object:
            try:
                return collect(account).state
            except charges.CannotCollect as refusal:
                return type(refusal).__name__

        paid, _ = at_once(pay_now, lambda: work_once("CHARGE"))
        work("CHARGE", as_of=AS_OF)

        assert paid in {"SUCCEEDED", "AttemptInFlight", "NothingDue"}
        assert [seen.amount_minor for seen in sandbox.book() if seen.status == "SUCCEEDED"] == [
            1200
        ]
        assert PaymentAttempt.objects.filter(state="SUCCEEDED").count() == 1
        assert decision_on(account, "CHARGE").because in {"charged", "settled meanwhile"}
