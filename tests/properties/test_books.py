"""Any sequence of what can happen to an account's money, beside a small model of what must come of it."""

from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from accounts.models import PaymentMethod
from billing import gateways, ledger, periods
from billing.gateways import OutcomeUnknown
from billing.invoices import credits
from billing.payments.charges import AttemptInFlight, NothingDue
from tests import charging
from tests.billing.builders import assert_books_balance, bill, collect, grant, pay_by_hand
from tests.billing.test_invoicing import using
from tests.emptying import empty_tables
from tests.factories import AS_OF, OCTOBER, AccountFactory, CardFactory
from tests.provider import Provider

pytestmark = pytest.mark.django_db(transaction=True)

FOR_EVER = datetime.max.replace(tzinfo=AS_OF.tzinfo)
MINOR = st.integers(min_value=1, max_value=3000)
# Less than that is not charged, but carried to the next invoice.
LEAST = 50


class Model:
    """What an account owes, oldest first, and the credit it has: [expires at, what is left]."""

    def __init__(self) -> None:
        self.owed: list[int] = []
        self.credit: list[list] = []
        self.in_flight = 0

    @property
    def due(self) -> int:
        return sum(self.owed)

    @property
    def unused(self) -> int:
        return sum(left for _, left in self.credit)

    def issue(self, amount: int, now: datetime) -> None:
        if amount >= 0:
            self.owed.append(amount)
        else:
            self.credit.append([FOR_EVER, -amount])
        self.apply(now)

    def pay(self, amount: int) -> int:
        """Settle the oldest; what is left over."""
        for place, owed in enumerate(self.owed):
            settled = min(owed, amount)
            self.owed[place] -= settled
            amount -= settled
        return amount

    def receive(self, amount: int) -> None:
        if surplus := self.pay(amount):
            self.credit.append([FOR_EVER, surplus])

    def apply(self, now: datetime) -> None:
        self.expire(now)
        for one in sorted(self.credit, key=lambda one: one[0]):
            one[1] = self.pay(one[1])

    def expire(self, now: datetime) -> None:
        self.credit = [one for one in self.credit if one[0] > now]


class Account(RuleBasedStateMachine):
    provider: Provider

    def __init__(self) -> None:
        super().__init__()
        self.now, self.month, self.model = AS_OF, OCTOBER, Model()
        self.account = AccountFactory(email="")
        self.card = CardFactory(account=self.account)

    @rule(amount=st.integers(min_value=-1000, max_value=3000))
    def a_month_is_billed(self, amount):
        using(self.account, f"{amount / 100:.2f}", month=self.month)
        bill(self.account, month=self.month, as_of=self.now)
        self.month = periods.next_month(self.month)
        self.model.issue(amount, self.now)

    @rule(amount=MINOR)
    def the_customer_pays_by_hand(self, amount):
        pay_by_hand(self.account, amount, as_of=self.now)
        self.model.receive(amount)

    @rule(amount=MINOR, days=st.none() | st.integers(min_value=0, max_value=20))
    def support_grants_credit(self, amount, days):
        expires_at = None if days is None else self.now + timedelta(days=days)
        grant(self.account, amount, expires_at=expires_at, as_of=self.now)
        self.model.credit.append([expires_at or FOR_EVER, amount])
        self.model.apply(self.now)

    @rule(days=st.integers(min_value=1, max_value=10))
    def time_passes_and_credit_expires(self, days):
        self.now += timedelta(days=days)
        credits.expire_due_credits(as_of=self.now)
        self.model.expire(self.now)

    @rule(card=st.sampled_from(["sandbox_visa", "sandbox_declined"]))
    def the_card_is_charged(self, card):
        PaymentMethod.objects.filter(pk=self.card.pk).update(token=card)
        if self.model.in_flight:
            with pytest.raises(AttemptInFlight):
                collect(self.account, as_of=self.now)
        elif self.model.due < LEAST:
            with pytest.raises(NothingDue):
                collect(self.account, as_of=self.now)
        elif collect(self.account, as_of=self.now).state == "SUCCEEDED":
            self.model.receive(self.model.due)
        else:
            assert card == "sandbox_declined"

    @precondition(lambda self: self.model.due >= LEAST and not self.model.in_flight)
    @rule()
    def the_card_is_charged_but_its_reply_is_lost(self):
        PaymentMethod.objects.filter(pk=self.card.pk).update(token="sandbox_visa")
        self.provider.after("submit", OutcomeUnknown("the line went dead"))
        self.model.in_flight = self.model.due
        collect(self.account, as_of=self.now)

    @rule()
    def the_sweeper_comes_by(self):
        self.now += timedelta(minutes=1)
        assert charging.drive_due(as_of=self.now) == bool(self.model.in_flight)
        if self.model.in_flight:
            self.model.receive(self.model.in_flight)
            self.model.in_flight = 0

    @invariant()
    def the_books_say_what_the_model_says(self):
        standing = ledger.standing(self.account.pk, as_of=self.now)
        assert (standing.due_minor, standing.credit_minor) == (self.model.due, self.model.unused)
        assert standing.in_flight_minor == self.model.in_flight

    def teardown(self) -> None:
        try:
            charging.drive_due(as_of=self.now + timedelta(minutes=1))
            assert_books_balance(self.provider.sandbox)
        finally:
            empty_tables()
            self.provider.sandbox._book.unlink(missing_ok=True)
            self.provider.heals()


def test_the_books_of_an_account_follow_from_what_happened_to_it(provider, monkeypatch):
    monkeypatch.setattr(Account, "provider", provider, raising=False)
    assert gateways.get("sandbox") is provider

    run_machine(
        Account,
        settings=settings(
            max_examples=25,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
