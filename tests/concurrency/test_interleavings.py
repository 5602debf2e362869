"""Two acts on one account's money, in every order of their steps; the books are right after each."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from functools import partial
from typing import Any

import pytest
from django.db import transaction

from accounts.models import Account, BillingEntity, Hold
from billing import decisions, locks
from billing.close import pipeline
from billing.close.engine import runner
from billing.close.step import FlowModule
from billing.gateways import EventHint, RefundRefused
from billing.gateways.base import About
from billing.models import (
    Decision,
    Dispute,
    Payment,
    PaymentAttempt,
    PaymentReversal,
    Refund,
    Step,
)
from billing.payments import charges, disputes, inbound, methods, refunds, reversals
from billing.payments.booking import AlreadyRecorded
from billing.payments.charges import CannotCollect, calls, settling
from billing.payments.refunds import CannotRefund, refund_kind
from tests import charging
from tests.billing.builders import (
    assert_books_balance,
    bill,
    collect,
    credit,
    due,
    grant,
    pay_by_hand,
    place_hold,
)
from tests.billing.dispute_builders import seen_of
from tests.closing import assert_books_hold, start_close, work
from tests.concurrency.interleavings import FEWER, Played, Table, orders, point, points
from tests.factories import (
    AS_OF,
    CardFactory,
    EntityFactory,
    PeriodFactory,
    SummaryFactory,
    account_using,
    token,
)
from tests.provider import Killed

pytestmark = [pytest.mark.concurrency, pytest.mark.django_db(transaction=True)]

NOVEMBER = date(2018, 11, 1)
SOON = AS_OF + timedelta(minutes=2)
# Overdue by then.
LATER = AS_OF + timedelta(days=30)
# Enough to act through, one after the other.
ONE_AFTER_THE_OTHER, THE_OTHER_FIRST = (0,) * 99 + (1,) * 99, (1,) * 99 + (0,) * 99
SEED = 20181102
MINOR = 1234

Act = Callable[[Account], Any]


def owing_accounts(count: int, **facts: object) -> list[Account]:
    accounts = [account_using("12.34", **facts) for _ in range(count)]
    bill(*accounts)
    return accounts


@pytest.fixture
def every_order(sandbox, record_property):
    """Play two acts in every order; each time on an account of its own. Returns what was played."""

    def play_all(
        first: Act,
        second: Act,
        *,
        on: Callable[[int], Sequence[Account]] = owing_accounts,
        arrange: Act | None = None,
        check: Callable[[Account, Played], None] | None = None,
        refusals: tuple[type[Exception], ...] = (),
        waiting: Sequence[str] = (),
        **how_many: int,
    ) -> list[Played]:
        def play(account: Account, turns: Sequence[int]) -> Played:
            if arrange:
                arrange(account)
            played = table.play([partial(first, account), partial(second, account)], turns)
            unexpected = [
                result
                for result in played.results
                if isinstance(result, BaseException) and not isinstance(result, refusals)
            ]
            assert not unexpected, (played.turns, unexpected)
            settle(account)
            if check:
                check(account, played)
            assert_books_balance(sandbox)
            return played

        with a_table() as table:
            serial = ONE_AFTER_THE_OTHER, THE_OTHER_FIRST
            played = [play(*each) for each in zip(on(2), serial, strict=True)]
            steps = played[0].points[0], played[1].points[1]
            mixed = list(orders(*steps, seed=SEED, **how_many))
            played += [play(*each) for each in zip(on(len(mixed)), mixed, strict=True)]
        assert_books_hold(as_of=LATER, waiting=waiting)
        record_property("schedules", len(played))
        return played

    return play_all


@contextmanager
def a_table() -> Iterator[Table]:
    table = Table(2)
    try:
        with points():
            yield table
    finally:
        table.leave()


def settle(account: Account) -> None:
    """What is on its way, or told and not heard, comes to its end, as the sweeper would see to."""
    while inbound.process_due(as_of=AS_OF + timedelta(hours=2)):
        pass
    if account.attempts.filter(state__in=PaymentAttempt.IN_FLIGHT).exists():
        charging.drive_due(as_of=AS_OF + timedelta(hours=2))
    assert not account.attempts.filter(state__in=PaymentAttempt.IN_FLIGHT).exists()
    if account.refunds.filter(state__in=Refund.IN_FLIGHT).exists():
        charging.drive_refunds_due(as_of=AS_OF + timedelta(hours=2))
    assert not account.refunds.filter(state__in=Refund.IN_FLIGHT).exists()


def killed_in(module: object, phase: str, account: Account) -> None:
    """Its charge is begun, and killed there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, phase, _die)
        with pytest.raises(Killed):
            collect(account)


def _die(*_args: object, **_kwargs: object) -> None:
    raise Killed


def taken_from(account: Account, sandbox) -> list[int]:
    return [
        seen.amount_minor
        for seen in sandbox.book()
        if seen.status == "SUCCEEDED"
        and seen.own_reference in {str(attempt.pk) for attempt in account.attempts.all()}
    ]


@pytest.fixture
def charged_once(sandbox):
    def check(account: Account, played: Played) -> None:
        assert taken_from(account, sandbox) == [MINOR], played
        assert (due(account), credit(account)) == (0, 0), played

    return check


# --- charging


def test_charge_and_charge(every_order, charged_once):
    played = every_order(collect, collect, refusals=(CannotCollect,), check=charged_once)

    assert any(each.waited for each in played)


def test_charge_and_a_payment_by_hand(every_order, sandbox):
    def paid_once_or_kept_as_credit(account: Account, played: Played) -> None:
        assert due(account) == 0
        assert credit(account) == sum(taken_from(account, sandbox)), played

    played = every_order(
        collect,
        lambda account: pay_by_hand(account, MINOR),
        refusals=(CannotCollect,),
        check=paid_once_or_kept_as_credit,
    )

    assert any(each.waited for each in played)


def test_charge_and_the_card_removed(every_order, sandbox):
    def charged_or_not(account: Account, played: Played) -> None:
        assert due(account) + sum(taken_from(account, sandbox)) == MINOR, played

    def remove(account: Account) -> None:
        methods.remove_card(
            account_id=account.pk,
            method_id=account.payment_methods.get().pk,
            actor="them",
            as_of=AS_OF,
        )

    every_order(collect, remove, refusals=(CannotCollect,), check=charged_or_not)


def test_charge_and_another_card_made_the_default(every_order, charged_once):
    def arrange(account: Account) -> None:
        CardFactory(account=account, token="sandbox_mastercard", is_default=False)

    def change(account: Account) -> None:
        other = account.payment_methods.get(token="sandbox_mastercard")
        methods.make_default(account_id=account.pk, method_id=other.pk, actor="them", as_of=AS_OF)

    every_order(collect, change, arrange=arrange, check=charged_once)


def test_charge_and_credit_granted(every_order, sandbox):
    def never_more_than_was_due_then(account: Account, played: Played) -> None:
        taken = sum(taken_from(account, sandbox))
        assert due(account) == max(MINOR - 500 - taken, 0), played
        assert credit(account) == max(taken + 500 - MINOR, 0), played

    every_order(
        collect,
        lambda account: grant(account, 500),
        refusals=(CannotCollect,),
        check=never_more_than_was_due_then,
    )


# --- learning of a charge


def told_of_it(account: Account, *, times: int = 1) -> None:
    """Money has moved, we have not heard of it; the provider's event about it is here, not worked on."""
    killed_in(settling, "settle", account)
    attempt = account.attempts.get()
    inbound.receive(
        gateway="sandbox",
        hints=[
            EventHint(
                event_id=uuid.uuid4().hex,
                type="charge",
                about=About.CHARGE,
                object_ref=attempt.provider_ref or "",
                is_live=False,
            )
            for _ in range(times)
        ],
        body=b"{}",
        as_of=AS_OF,
    )


def work_on_an_event(_account: Account) -> int:
    return inbound.process_due(as_of=SOON, limit=1)


def sweep(account: Account) -> list[PaymentAttempt]:
    return charging.drive(list(account.attempts.all()), as_of=SOON)


def test_webhook_and_the_sweepers_question(every_order, charged_once):
    every_order(
        sweep,
        work_on_an_event,
        arrange=told_of_it,
        check=charged_once,
    )


def test_webhook_and_another_of_the_same_charge(every_order, charged_once):
    every_order(
        work_on_an_event,
        work_on_an_event,
        arrange=partial(told_of_it, times=2),
        check=charged_once,
    )


def test_a_cancel_and_a_late_success(every_order, sandbox):
    """Paid by hand after it was sent; the request arrives while it is being cancelled."""

    def submitted_late(account: Account) -> None:
        attempt = account.attempts.get()
        point()
        seen = sandbox.submit(attempt.provider_ref, key="late")
        point()
        charges.apply_provider_state({attempt.pk: seen}, as_of=SOON)

    def sent_and_paid_by_hand(account: Account) -> None:
        killed_in(calls, "_submit", account)
        pay_by_hand(account, MINOR)

    def booked_if_it_moved(account: Account, played: Played) -> None:
        assert credit(account) == sum(taken_from(account, sandbox)), played
        state = account.attempts.get().state
        assert state == ("SUCCEEDED" if credit(account) else "RELEASED"), played

    every_order(
        sweep,
        submitted_late,
        arrange=sent_and_paid_by_hand,
        check=booked_if_it_moved,
    )


# --- payments by hand, credit, holds


def test_record_and_record_of_the_same_form(every_order):
    def record(account: Account) -> Payment:
        return pay_by_hand(account, MINOR, token=uuid.uuid5(uuid.NAMESPACE_OID, str(account.pk)))

    def once(account: Account, played: Played) -> None:
        assert account.payments.count() == 1, played

    every_order(record, record, refusals=(AlreadyRecorded,), check=once)


def test_credit_used_by_two_invoices(every_order):
    def accounts_with_credit(count: int) -> list[Account]:
        accounts = [account_using("12.34") for _ in range(count)]
        for account in accounts:
            november = PeriodFactory(account=account, month=NOVEMBER)
            SummaryFactory(account=account, period=november, quantity=100, unit_price="0.10")
            grant(account, 1500)
        return accounts

    def used_once(account: Account, played: Played) -> None:
        assert (due(account), credit(account)) == (MINOR + 1000 - 1500, 0), played

    every_order(
        bill,
        lambda account: bill(account, month=NOVEMBER),
        on=accounts_with_credit,
        check=used_once,
    )


# --- money that goes back


def paid(account: Account) -> None:
    """More than was due, so that there is credit to take back as well."""
    pay_by_hand(account, 1500)


def first_payment(account: Account, by: str) -> Payment:
    return account.payments.filter(gateway=by).earliest("pk")


def reversal(amount_minor: int, name: str, *, by: str = "manual") -> Act:
    @transaction.atomic
    def reverse(account: Account) -> PaymentReversal:
        locked = locks.account_for_update(account.pk)
        return reversals.reverse_payment(
            first_payment(account, by),
            account=locked,
            amount_minor=amount_minor,
            provider_ref=f"{name} {account.pk}",
            reason="returned by the bank",
            as_of=SOON,
        )

    return reverse


def test_a_reversal_and_the_same_again(every_order):
    def once(account: Account, played: Played) -> None:
        assert account.payments.get().reversals.count() == 1, played
        assert (due(account), credit(account)) == (MINOR, 0), played

    every_order(reversal(1500, "same"), reversal(1500, "same"), arrange=paid, check=once)


def test_a_reversal_and_another_that_is_too_much_with_it(every_order):
    def never_more_than_was_paid(account: Account, played: Played) -> None:
        (gone,) = account.payments.get().reversals.values_list("amount_minor", flat=True)
        assert gone == 1000, played
        assert due(account) == 1000 - (1500 - MINOR), played

    every_order(
        reversal(1000, "first"),
        reversal(1000, "second"),
        arrange=paid,
        check=never_more_than_was_paid,
        refusals=(reversals.MoreThanThePayment,),
    )


def test_a_reversal_and_a_new_payment(every_order):
    def as_if_the_first_had_never_come(account: Account, played: Played) -> None:
        assert (due(account), credit(account)) == (MINOR - 1000, 0), played

    every_order(
        reversal(1500, "all"),
        lambda account: pay_by_hand(account, 1000),
        arrange=paid,
        check=as_if_the_first_had_never_come,
    )


# --- money that we pay back, or that is disputed

FEW = {"all_up_to": FEWER, "sample": FEWER}
# By then its last day is over, and somebody is told.
UNANSWERED = ("dispute_unanswered",)


def wanted(account: Account, amount_minor: int, *, by: str = "sandbox") -> dict[str, Any]:
    return {
        "payment_id": first_payment(account, by).pk,
        "token": token(),
        "amount_minor": amount_minor,
        "reason": "Not what they wanted",
        "actor": "ann@example.com",
        "as_of": AS_OF,
    }


def refund(amount_minor: int, *, by: str = "sandbox") -> Act:
    return lambda account: charging.refund(**wanted(account, amount_minor, by=by))


def dispute(account: Account) -> Dispute | None:
    payment = first_payment(account, "sandbox")
    return disputes.apply_provider_state("sandbox", seen_of(payment), as_of=SOON)


def overpaid_by_card(account: Account) -> None:
    """12.34 by card, of which 10.00 is credit: it was paid by hand while the provider was at it."""
    killed_in(settling, "settle", account)
    pay_by_hand(account, 1000)
    charging.drive_due(as_of=SOON)


def using_in_november(account: Account) -> None:
    november = PeriodFactory(account=account, month=NOVEMBER)
    SummaryFactory(account=account, period=november, quantity=100, unit_price="0.10")


def bill_november(account: Account) -> None:
    bill(account, month=NOVEMBER)


@pytest.fixture
def paid_back(sandbox):
    """What of an account's first payment the provider has paid back; our rows say the same."""

    def look(account: Account) -> int:
        payment = first_payment(account, "sandbox")
        there = sum(seen.amount_minor for seen in sandbox.find_refunds(payment.provider_ref))
        succeeded = payment.refunds.filter(state=Refund.State.SUCCEEDED)
        assert there == sum(succeeded.values_list("amount_minor", flat=True))
        return there

    return look


def test_a_refund_by_hand_and_another_that_is_too_much_with_it(every_order):
    def never_more_than_was_paid(account: Account, played: Played) -> None:
        made = account.refunds.get()
        assert (made.amount_minor, made.state) == (1000, "SUCCEEDED"), played

    every_order(
        refund(1000, by="manual"),
        refund(1000, by="manual"),
        arrange=paid,
        check=never_more_than_was_paid,
        refusals=(CannotRefund,),
    )


def test_a_refund_and_another_that_is_too_much_with_it(every_order, paid_back):
    def never_more_than_was_paid(account: Account, played: Played) -> None:
        assert paid_back(account) == 1000, played

    every_order(
        refund(1000),
        refund(1000),
        arrange=collect,
        check=never_more_than_was_paid,
        refusals=(CannotRefund,),
        **FEW,
    )


def test_a_refund_and_a_dispute(every_order, paid_back):
    def not_sent_once_it_is_disputed(account: Account, played: Played) -> None:
        assert paid_back(account) in {0, 500}, played
        assert disputes.disputed_minor(account.payments.get()) == MINOR, played
        assert (due(account), credit(account)) == (0, 0), played

    played = every_order(
        refund(500),
        dispute,
        arrange=collect,
        check=not_sent_once_it_is_disputed,
        refusals=(CannotRefund,),
        waiting=UNANSWERED,
        **FEW,
    )

    assert [isinstance(each.results[0], Refund) for each in played[:2]] == [True, False]


def test_a_refund_and_the_reversal_of_its_payment(every_order, paid_back):
    def owed_again_and_no_credit_of_it_left(account: Account, played: Played) -> None:
        assert paid_back(account) in {0, MINOR}, played
        assert (due(account), credit(account)) == (MINOR - 1000, 0), played

    every_order(
        refund(MINOR),
        reversal(MINOR, "all", by="sandbox"),
        arrange=overpaid_by_card,
        check=owed_again_and_no_credit_of_it_left,
        refusals=(CannotRefund,),
        **FEW,
    )


def test_a_refund_that_is_refused_and_a_charge(every_order, sandbox):
    """The credit that it had taken is there again: while the invoice is charged, which needs less then."""

    def with_credit_and_an_invoice_without_it(account: Account) -> None:
        overpaid_by_card(account)
        using_in_november(account)
        refunds.refund(**wanted(account, 1000))
        bill_november(account)

    def refused(account: Account) -> None:
        made = account.refunds.get()
        point()
        with transaction.atomic():
            refund_kind.fail(made, RefundRefused("no"), as_of=SOON)

    def no_more_than_was_due_then(account: Account, played: Played) -> None:
        [_, *taken] = taken_from(account, sandbox)
        assert due(account) == (0 if taken else 1000 - 1000), played
        assert credit(account) == sum(taken), played

    every_order(
        collect,
        refused,
        arrange=with_credit_and_an_invoice_without_it,
        check=no_more_than_was_due_then,
        refusals=(CannotCollect,),
        **FEW,
    )


def test_a_dispute_and_a_charge_by_itself(every_order, sandbox):
    def paid_october_owes_november(account: Account) -> None:
        collect(account)
        using_in_november(account)
        bill_november(account)

    def not_sent_once_it_is_paused(account: Account, played: Played) -> None:
        [_, *taken] = taken_from(account, sandbox)
        assert due(account) == 1000 - sum(taken), played
        assert account.pauses.filter(resumed_at=None).exists()

    played = every_order(
        partial(collect, kind=PaymentAttempt.Kind.AUTO),
        dispute,
        arrange=paid_october_owes_november,
        check=not_sent_once_it_is_paused,
        refusals=(CannotCollect,),
        waiting=UNANSWERED,
        **FEW,
    )

    first, second = (each.results[0] for each in played[:2])
    assert (first.state, type(second)) == ("SUCCEEDED", charges.AccountPaused)


def test_a_refund_and_the_use_of_the_credit_it_would_take(every_order):
    def used_or_paid_back(account: Account, played: Played) -> None:
        made = account.refunds.get()
        assert made.credit_minor in {0, 1500 - MINOR}, played
        assert due(account) == 1000 - (1500 - MINOR) + made.credit_minor, played
        assert credit(account) == 0, played

    def overpaid_by_hand(account: Account) -> None:
        paid(account)
        using_in_november(account)

    played = every_order(
        refund(1500 - MINOR, by="manual"),
        bill_november,
        arrange=overpaid_by_hand,
        check=used_or_paid_back,
        **FEW,
    )

    assert any(each.waited for each in played)


def steps_ready(kind: str, *, card: str | None = "sandbox_visa") -> Callable[[int], list[Account]]:
    """Accounts of one close in the order in which a worker takes their steps."""

    def make(count: int) -> list[Account]:
        number = BillingEntity.objects.count()
        entity = EntityFactory(slug=f"entity-{number}", invoice_prefix=f"E{number}")
        for _ in range(count):
            account_using("12.34", card=card, entity=entity)
        start_close(entity=entity)
        work("INVOICE", *(["CHARGE"] if kind == "HOLD" else []))
        ready = Step.objects.filter(kind=kind, state="READY").select_related("account")
        return [step.account for step in ready.order_by("-priority", "run_at", "pk")]

    return make


@pytest.fixture
def one_step_at_a_time(monkeypatch):
    for module in pipeline.STEPS:
        if not isinstance(module, FlowModule):
            monkeypatch.setattr(module, "batch", 1)


def work_on(kind: str, *, as_of=AS_OF) -> Act:
    return lambda _account: runner.work_once(pipeline.BY_KIND[kind], as_of=as_of)


def held_exactly_if_due(account: Account, played: Played) -> None:
    held = Hold.objects.filter(account=account, lifted_at=None).exists()
    assert held == (due(account, as_of=LATER) > 0), played


def test_hold_and_pay(every_order, one_step_at_a_time):
    every_order(
        work_on("HOLD", as_of=LATER),
        lambda account: pay_by_hand(account, MINOR, as_of=LATER),
        on=steps_ready("HOLD", card=None),
        check=held_exactly_if_due,
    )


def test_hold_and_a_payment_that_lifts_the_one_there_is(every_order, one_step_at_a_time):
    def hold(account: Account) -> None:
        with transaction.atomic():
            locked = locks.account_for_update(account.pk)
            hold = place_hold(locked, as_of=LATER)
            decisions.record(
                decisions.decision(
                    act="PLACE_HOLD",
                    did=Decision.Did.DONE,
                    because="last month",
                    account_id=account.pk,
                    hold=hold,
                )
            )

    every_order(
        work_on("HOLD", as_of=LATER),
        lambda account: pay_by_hand(account, MINOR, as_of=LATER),
        on=steps_ready("HOLD", card=None),
        arrange=hold,
        check=held_exactly_if_due,
    )


# --- the close


def test_two_workers_of_the_close_on_one_charge(every_order, one_step_at_a_time, sandbox):
    def once(account: Account, played: Played) -> None:
        step = Step.objects.get(account=account, kind="CHARGE")
        assert (step.state, taken_from(account, sandbox)) == ("DONE", [MINOR]), played

    def only_one_is_ready(account: Account) -> None:
        others = Step.objects.filter(kind="CHARGE", state="READY").exclude(account=account)
        others.update(run_at=LATER.replace(year=2099))
        Step.objects.filter(kind="CHARGE", account=account).update(run_at=AS_OF)

    every_order(
        work_on("CHARGE"),
        work_on("CHARGE"),
        on=steps_ready("CHARGE"),
        arrange=only_one_is_ready,
        check=once,
    )


def test_a_charge_of_the_close_and_the_customer_who_pays_now(
    every_order, one_step_at_a_time, charged_once
):
    every_order(
        work_on("CHARGE"),
        collect,
        on=steps_ready("CHARGE"),
        check=charged_once,
        refusals=(CannotCollect,),
    )
