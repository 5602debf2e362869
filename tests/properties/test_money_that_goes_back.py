"""Payments, refunds, disputes and returns in any order, on a bad line, beside a small model of the money."""

import os
import sqlite3
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from billing import ledger, locks, periods
from billing.gateways import DisputeStatus, OutcomeUnknown, RefundRefused, RefundSpec
from billing.models import Payment, Posting, Refund
from billing.payments import disputes, refunds, reversals
from tests import charging
from tests.billing.builders import assert_books_balance, bill, collect, grant, pay_by_hand
from tests.billing.dispute_builders import seen_of
from tests.billing.test_invoicing import using
from tests.closing import assert_books_hold
from tests.emptying import empty_tables
from tests.factories import AS_OF, OCTOBER, AccountFactory, CardFactory, token
from tests.properties import money_model
from tests.provider import Provider

pytestmark = pytest.mark.django_db(transaction=True)

# Longer: MONEY_EXAMPLES=500 pytest tests/properties/test_money_that_goes_back.py
EXAMPLES = int(os.environ.get("MONEY_EXAMPLES", "10"))
State = Refund.State
MINOR = st.integers(min_value=1, max_value=3000)
CHARGEABLE = st.integers(min_value=money_model.LEAST, max_value=3000)
# Which of several, and how much of what is left of it, in per cent: some, mostly all, a bit more than that.
WHICH = st.integers(min_value=0, max_value=5)
MEANWHILE = st.sampled_from(["taken back", "taken back", "paid back there", "disputed"])
SHARE = st.sampled_from([30, 100, 100, 100, 110])
LOST, UNSENT, REFUSED = (
    OutcomeUnknown("its reply is lost"),
    OutcomeUnknown("500"),
    RefundRefused("no"),
)


class Account(RuleBasedStateMachine):
    provider: Provider

    def __init__(self) -> None:
        super().__init__()
        self.now, self.month = AS_OF, OCTOBER
        self.model = money_model.Account()
        self.account = AccountFactory(email="")
        CardFactory(account=self.account)
        # Ours by the model's: what it stands for in the database.
        self.paid: dict[money_model.Payment, Payment] = {}
        self.under_way: tuple[money_model.Payment, money_model.Refund, bool] | None = None
        self.open_disputes: list[tuple[money_model.Payment, int, str]] = []
        self.moving = 0

    @initialize(amount=CHARGEABLE, meanwhile=MINOR)
    def an_invoice_is_paid_twice_at_once(self, amount, meanwhile):
        """So that the payment by card leaves credit."""
        self.a_month_is_billed(amount)
        self.the_card_is_charged(is_reply_lost=True)
        self.the_customer_pays_by_hand(meanwhile)
        self.the_sweeper_asks_about_the_charge()

    # --- money comes in

    @rule(amount=MINOR)
    def a_month_is_billed(self, amount):
        using(self.account, f"{amount / 100:.2f}", month=self.month)
        bill(self.account, month=self.month, as_of=self.tick())
        self.month = periods.next_month(self.month)
        self.model.issue(amount)

    @rule(amount=MINOR)
    def the_customer_pays_by_hand(self, amount):
        self.received(pay_by_hand(self.account, amount, as_of=self.tick()))

    @rule(amount=MINOR)
    def support_grants_credit(self, amount):
        grant(self.account, amount, as_of=self.tick())
        self.model.grant(amount)

    @precondition(lambda self: self.model.is_chargeable and not self.moving)
    @rule(is_reply_lost=st.booleans())
    def the_card_is_charged(self, is_reply_lost):
        amount = self.model.due
        if is_reply_lost:
            self.provider.after("submit", LOST)
        attempt = collect(self.account, as_of=self.tick())
        if is_reply_lost:
            self.moving = amount
        else:
            self.received(attempt.payment)

    @precondition(lambda self: self.moving)
    @rule()
    def the_sweeper_asks_about_the_charge(self):
        charging.drive_due(as_of=self.tick())
        self.moving = 0
        self.received(self.account.payments.latest("pk"))

    # --- and goes back

    @precondition(lambda self: self.paid)
    @rule(which=WHICH, share=SHARE, fault=st.sampled_from([None, LOST, UNSENT, UNSENT, REFUSED]))
    def support_pays_back(self, which, share, fault):
        payment, row = self.pick(which)
        amount = part(payment.left_to_refund, share)
        is_blocked = self.under_way is not None and self.under_way[0] is payment
        if self.under_way is not None and fault is not REFUSED:
            fault = None
        if fault is not None and row.gateway == "sandbox":
            (self.provider.after if fault is LOST else self.provider.before)("refund", fault)
        try:
            made = self.refund(row, amount)
        except refunds.CannotRefund:
            assert is_blocked or amount > payment.left_to_refund
            self.provider.heals()
            return
        assert not is_blocked
        refund = self.model.refund(payment, amount)
        if made.state == State.FAILED:
            assert fault is REFUSED
            self.model.undo(payment, refund)
        elif made.state == State.SUBMITTED:
            self.provider.heals()
            self.under_way = payment, refund, fault is LOST
        else:
            refund.is_succeeded = True

    @precondition(lambda self: self.under_way)
    @rule(is_refused=st.booleans())
    def the_sweeper_asks_about_the_refund(self, is_refused):
        """One that the provider has is found; another is sent again, if there is enough left for it."""
        assert self.under_way is not None
        payment, refund, is_there = self.under_way
        self.under_way = None
        if is_refused and not is_there:
            self.provider.before("refund", REFUSED)
        row = Refund.objects.get(payment=self.paid[payment], state=State.SUBMITTED)
        charging.drive_refunds_due(as_of=self.tick())
        self.provider.heals()
        if not is_there and payment.left_to_refund < 0:
            row.refresh_from_db()
            assert row.state == State.REVIEW
            refunds.resolve_review(refund_id=row.pk, reason="?", actor="ann", as_of=self.tick())
            is_refused = True
        row.refresh_from_db()
        if is_refused and not is_there:
            assert row.state == State.FAILED
            self.model.undo(payment, refund)
        else:
            assert row.state == State.SUCCEEDED
            refund.is_succeeded = True

    @precondition(lambda self: self.cards)
    @rule(which=WHICH, share=SHARE)
    def somebody_pays_back_on_the_providers_pages(self, which, share):
        payment, row = self.pick(which, self.cards)
        amount = part(payment.amount, share)
        spec = RefundSpec("", "acme", row.provider_ref, amount, "EUR")
        try:
            seen = self.provider.sandbox.refund(spec, key=str(token()))
        except RefundRefused:
            return
        assert refunds.learn("sandbox", seen, as_of=self.tick())
        refund = self.model.refund(payment, amount, made_at_provider=True)
        refund.is_succeeded = True

    @precondition(lambda self: self.cards)
    @rule(which=WHICH)
    def a_bank_sends_a_refund_back(self, which):
        payment, row = self.pick(which, self.cards)
        sent = [each for each in payment.refunds if each.is_succeeded and not each.is_over]
        if not sent:
            return
        refund = sent[which % len(sent)]
        made = Refund.objects.filter(payment=row, state=State.SUCCEEDED, amount_minor=refund.amount)
        ref = made.filter(credit_minor=refund.credit).earliest("requested_at").provider_ref
        with closing(sqlite3.connect(self.provider.sandbox._book)) as book, book:
            book.execute("UPDATE refund SET status = 'RETURNED' WHERE ref = ?", [ref])
        seen = self.provider.sandbox.read_refund(ref)
        assert refunds.learn("sandbox", seen, as_of=self.tick())
        self.model.send_back(payment, refund)

    @precondition(lambda self: self.paid)
    @rule(which=WHICH, share=SHARE)
    def a_bank_takes_a_payment_back(self, which, share):
        payment, row = self.pick(which)
        amount = part(payment.left_to_reverse, share)
        with transaction.atomic():
            account = locks.account_for_update(self.account.pk)
            if amount > payment.left_to_reverse:
                with pytest.raises(reversals.MoreThanThePayment):
                    self.reverse(row, account, amount)
            else:
                self.reverse(row, account, amount)
                self.model.reverse(payment, amount)

    @precondition(lambda self: self.cards and self.under_way is None)
    @rule(
        which=WHICH, shares=st.tuples(SHARE, SHARE), is_refused=st.booleans(), meanwhile=MEANWHILE
    )
    def a_refund_crosses_with_something_else(self, which, shares, is_refused, meanwhile):
        """Which the other rules come to as well, but seldom."""
        its_place = list(self.paid).index(self.pick(which, self.cards)[0])
        self.support_pays_back(its_place, shares[0], UNSENT)
        if meanwhile == "paid back there":
            self.somebody_pays_back_on_the_providers_pages(which, shares[1])
        elif meanwhile == "taken back":
            self.a_bank_takes_a_payment_back(its_place, shares[1])
        else:
            self.a_customer_disputes(which, shares[1])
        if self.under_way is not None:
            self.the_sweeper_asks_about_the_refund(is_refused)

    @precondition(lambda self: self.cards)
    @rule(which=WHICH, share=SHARE)
    def a_customer_disputes(self, which, share):
        payment, row = self.pick(which, self.cards)
        amount = part(payment.left_to_reverse - payment.disputed, share)
        ref = f"du_{token()}"
        if amount > payment.left_to_reverse - payment.disputed:
            with pytest.raises(reversals.MoreThanThePayment):
                self.tell(row, ref, amount, DisputeStatus.OPEN)
        else:
            self.tell(row, ref, amount, DisputeStatus.OPEN)
            payment.disputed += amount
            self.open_disputes.append((payment, amount, ref))

    @precondition(lambda self: self.open_disputes)
    @rule(which=WHICH, end=st.sampled_from([DisputeStatus.WON, DisputeStatus.LOST]))
    def a_dispute_is_decided(self, which, end):
        dispute = self.open_disputes[which % len(self.open_disputes)]
        payment, amount, ref = dispute
        if end is DisputeStatus.LOST and amount > payment.left_to_reverse:
            with pytest.raises(reversals.MoreThanThePayment):
                self.tell(self.paid[payment], ref, amount, end)
            return
        self.tell(self.paid[payment], ref, amount, end)
        self.open_disputes.remove(dispute)
        payment.disputed -= amount
        if end is DisputeStatus.LOST:
            self.model.reverse(payment, amount)

    # --- what must be true

    @invariant()
    def the_books_say_what_the_model_says(self):
        standing = ledger.standing(self.account.pk, as_of=self.now)
        assert (standing.due_minor, standing.credit_minor) == (self.model.due, self.model.unused)
        assert balance_of("REFUNDS") == self.model.gifts
        assert balance_of("DISPUTED") == sum(payment.disputed for payment in self.paid)
        for payment, row in self.paid.items():
            assert refunds.refundable_minor(row) == payment.left_to_refund

    def teardown(self) -> None:
        try:
            if self.under_way is not None:
                self.the_sweeper_asks_about_the_refund(is_refused=True)
            charging.drive_due(as_of=self.tick())
            assert_books_balance(self.provider.sandbox)
            assert_books_hold(as_of=self.now)
        finally:
            empty_tables()
            self.provider.sandbox._book.unlink(missing_ok=True)
            self.provider.heals()

    # --- in short

    @property
    def cards(self) -> list[tuple[money_model.Payment, Payment]]:
        return [each for each in self.paid.items() if each[1].gateway == "sandbox"]

    def pick(self, which: int, among: Any = None) -> tuple[money_model.Payment, Payment]:
        those = among or list(self.paid.items())
        return those[which % len(those)]

    def tick(self):
        self.now += timedelta(minutes=1)
        return self.now

    def received(self, row: Payment) -> None:
        self.paid[self.model.receive(money_model.Payment(row.amount_minor))] = row

    def refund(self, row: Payment, amount: int) -> Refund:
        return charging.refund(
            payment_id=row.pk,
            token=token(),
            amount_minor=amount,
            reason="Not what they wanted",
            actor="ann@example.com",
            as_of=self.tick(),
        )

    def reverse(self, row: Payment, account: Any, amount: int) -> None:
        reversals.reverse_payment(
            row,
            account=account,
            amount_minor=amount,
            provider_ref=str(token()),
            reason="returned by the bank",
            as_of=self.tick(),
        )

    def tell(self, row: Payment, ref: str, amount: int, status: DisputeStatus) -> None:
        seen = seen_of(row, status, ref=ref, amount_minor=amount)
        disputes.apply_provider_state("sandbox", seen, as_of=self.tick())


def part(of: int, share: int) -> int:
    return max(of * share // 100, 1)


def balance_of(kind: str) -> int:
    postings = Posting.objects.filter(ledger_account__kind=kind)
    return sum(postings.values_list("amount_minor", flat=True))


def test_a_payment_is_what_is_left_of_it_and_all_that_went_back(
    provider, monkeypatch, record_property
):
    record_property("sequences", EXAMPLES)
    monkeypatch.setattr(Account, "provider", provider, raising=False)

    run_machine(
        Account,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
