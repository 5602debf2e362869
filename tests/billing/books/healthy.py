"""
Books in which everything has happened that may: built by the acts themselves, two months and a bit.

Who is in them stands in WHO. Each is named for what sets it apart.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from django.db import transaction

from accounts.models import Account
from billing import gateways, locks, waiting
from billing.close import pipeline, runs
from billing.close.engine import runner
from billing.gateways import DisputeStatus, RefundStatus
from billing.invoices import credits
from billing.models import (
    CloseRun,
    CreditGrant,
    PaymentAttempt,
    Refund,
    Step,
    UsageBatch,
    UsageEvent,
    WaitingLimit,
)
from billing.models.usage import Kind
from billing.payments import booking, disputes, refunds, reversals
from billing.usage import partitions, tallying
from tests import charging
from tests.billing.dispute_builders import seen_of
from tests.closing import cancel
from tests.factories import (
    AccountFactory,
    CardFactory,
    EntityFactory,
    PriceFactory,
    ProductFactory,
    token,
)

OCTOBER, NOVEMBER, DECEMBER = date(2018, 10, 1), date(2018, 11, 1), date(2018, 12, 1)

# What each account uses in October: a stated unit price, or {} for the catalogue's.
PRICED = {"unit_price": Decimal("0.333333333333")}
WHO: dict[str, tuple[dict[str, object], str | None, dict[str, object] | None]] = {
    # name: the account, its card, its usage
    "pays": ({}, "sandbox_visa", PRICED),
    "pays in yen": ({"currency": "JPY"}, "sandbox_visa", PRICED),
    "pays in dinars": ({"currency": "KWD"}, "sandbox_visa", PRICED),
    "is in Budapest": ({"time_zone": "Europe/Budapest"}, "sandbox_mastercard", PRICED),
    "has no email": ({"email": ""}, "sandbox_visa", PRICED),
    "loses the reply": ({}, "sandbox_lost_reply", PRICED),
    "declines": ({}, "sandbox_insufficient", PRICED),
    "declines, then transfers": ({}, "sandbox_declined", PRICED),
    "has no card": ({}, None, PRICED),
    "overpays": ({}, None, PRICED),
    "has some credit": ({}, "sandbox_visa", PRICED),
    "has much credit": ({}, None, PRICED),
    "had credit that expired": ({}, "sandbox_visa", PRICED),
    "is given back": ({}, None, {"amount": Decimal("-7.005"), "kind": Kind.CREDIT}),
    "is held, then given back": ({}, None, PRICED),
    "uses for nothing": ({}, None, {"amount": Decimal(0)}),
    "is priced by the catalogue": ({}, "sandbox_visa", {"item": "catalogued"}),
    "uses what has no price": ({}, None, {"item": "unheard of", "unit": "parsec"}),
    "uses nothing": ({}, None, None),
    "has its money taken back": ({}, None, PRICED),
    "disputes": ({}, "sandbox_visa", PRICED),
    "loses a dispute that the bank first asks about": ({}, "sandbox_visa", PRICED),
    "disputes, and we win": ({}, "sandbox_visa", PRICED),
}


class Month:
    """The books while they are made. `looked` is called after everything that commits."""

    def __init__(self, looked: Callable[[datetime], None] = lambda _: None) -> None:
        self.looked = looked
        self.now = datetime(2018, 10, 15, 12, 0, tzinfo=UTC)
        self.accounts: dict[str, Account] = {}
        self.events = 0

    def build(self) -> "Month":
        self.let_all_wait()
        self.open_accounts()
        self.use(OCTOBER)
        self.give_credit()
        self.close(OCTOBER, as_of=datetime(2018, 11, 2, 9, 0, tzinfo=UTC))
        self.pay_by_hand()
        self.use(NOVEMBER, *list(self.accounts)[:8], "has its money taken back")
        self.use(OCTOBER, "pays", "declines")
        self.use(NOVEMBER, "is held, then given back", usage=WHO["is given back"][2])
        self.close(NOVEMBER, as_of=datetime(2018, 12, 2, 9, 0, tzinfo=UTC))
        self.take_money_back()
        self.dispute()
        self.pay_money_back()
        self.use(OCTOBER, "pays")
        self.tally()
        self.leave_december_running()
        self.use(DECEMBER, "pays")
        self.pay_with_an_unknown_outcome()
        return self

    def let_all_wait(self) -> None:
        """Weeks pass in which nobody looks at what waits. How long it may is tested in tests/billing/test_waiting.py."""
        WaitingLimit.objects.bulk_create(
            [WaitingLimit(kind=wait.kind, seconds=10**9) for wait in waiting.WAITS],
            ignore_conflicts=True,
        )

    def open_accounts(self) -> None:
        PriceFactory(
            item="catalogued",
            unit_price=Decimal("0.0125"),
            free_quantity=Decimal("2.5"),
            monthly_fee=Decimal("4.99"),
        )
        for name, (facts, card, _) in WHO.items():
            account = AccountFactory(name=name, **facts)
            self.accounts[name] = account
            if card is not None:
                CardFactory(account=account, token=card)
        other = EntityFactory(slug="other", name="Other Ltd", invoice_prefix="OT")
        self.accounts["is billed by another entity"] = AccountFactory(entity=other)
        self.look()

    def use(self, month: date, *names: str, usage: dict[str, object] | None = None) -> None:
        """Three hours each, in three events; of the usage in WHO unless another is said."""
        partitions.ensure_partitions([month])
        batch = UsageBatch.objects.create(source="csv", name=f"{month}.csv", sha256="0" * 64)
        for name in names or WHO:
            facts = usage or WHO[name][2]
            if facts is not None:
                UsageEvent.objects.bulk_create(
                    self.event(batch, name, month, hour, facts) for hour in range(3)
                )
        self.look()

    def event(
        self, batch: UsageBatch, name: str, month: date, hour: int, facts: dict[str, object]
    ) -> UsageEvent:
        self.events += 1
        at = datetime(month.year, month.month, 10, hour, tzinfo=UTC)
        ordinary = {
            "item": "small",
            "unit": "hour",
            "quantity": Decimal("3.14159265358979"),
            "event_id": f"event-{self.events}",
            "source": "csv",
        }
        return UsageEvent(
            batch=batch,
            account=self.accounts[name],
            product=ProductFactory(),
            starts_at=at,
            ends_at=at + timedelta(hours=1),
            effective_at=at,
            **{**ordinary, **facts},
        )

    def tally(self) -> None:
        tallying.tally(as_of=self.now)
        self.look()

    def give_credit(self) -> None:
        self.grant("has some credit", 100)
        self.grant("has much credit", 100_00)
        self.grant("has much credit", 5_00)
        self.grant("pays in yen", 2)
        self.grant(
            "had credit that expired",
            500,
            kind=CreditGrant.Kind.PROMOTIONAL,
            expires_at=self.now + timedelta(days=5),
        )

    def grant(self, name: str, amount_minor: int, **facts: object) -> None:
        account = self.accounts[name]
        credits.grant_credit(
            account_id=account.pk,
            token=token(),
            amount_minor=amount_minor,
            currency=account.currency,
            reason="Sorry for the outage",
            granted_by="ann@example.com",
            as_of=self.now,
            **facts,
        )
        self.look()

    def close(self, month: date, *, as_of: datetime) -> None:
        """To its end, in one process, a minute passing between any two pieces of work."""
        run = self.start(month, as_of=as_of)
        cancelled = Step.objects.filter(run=run, account=self.accounts["pays"], kind="EMAIL")
        cancel(*cancelled, as_of=self.now)
        while True:
            self.now += timedelta(minutes=1)
            worked = [runner.work_once(step, as_of=self.now) for step in pipeline.STEPS]
            self.look()
            if not any(worked) and not runs.release_report(run.pk):
                break
        run.refresh_from_db()
        assert run.is_finished

    def start(self, month: date, *, as_of: datetime) -> CloseRun:
        self.now = as_of
        run, _ = runs.start(entity=EntityFactory(), month=month, started_by="test", as_of=as_of)
        self.look()
        return run

    def pay_by_hand(self) -> None:
        for name, amount_minor in (
            ("declines, then transfers", 314),
            ("overpays", 50_00),
            ("has its money taken back", 50_00),
        ):
            booking.record_payment(
                account_id=self.accounts[name].pk,
                token=token(),
                amount_minor=amount_minor,
                currency="EUR",
                method="Bank transfer",
                reason="",
                recorded_by="ann@example.com",
                as_of=self.now,
            )
            self.look()

    def take_money_back(self) -> None:
        """First more than was left of it as credit, so that what used the credit is owed again; then the rest."""
        for ref, amount_minor in (("return-1", 48_00), ("return-2", 2_00)):
            with transaction.atomic():
                account = locks.account_for_update(self.accounts["has its money taken back"].pk)
                reversals.reverse_payment(
                    account.payments.get(),
                    account=account,
                    amount_minor=amount_minor,
                    provider_ref=ref,
                    reason="returned by the bank",
                    as_of=self.now,
                )
            self.look()

    def dispute(self) -> None:
        open_, won, lost = DisputeStatus.OPEN, DisputeStatus.WON, DisputeStatus.LOST
        for name, *statuses in (
            ("disputes", open_),
            ("loses a dispute that the bank first asks about", DisputeStatus.INQUIRY, open_, lost),
            ("disputes, and we win", open_, won),
        ):
            for status in statuses:
                seen = seen_of(self.accounts[name].payments.get(), status, fee_minor=15_00)
                assert disputes.apply_provider_state("sandbox", seen, as_of=self.now)
                self.look()

    def pay_money_back(self) -> None:
        """Of credit first, then at our cost; one that the bank sent back."""
        self.refund("overpays", 1_00)
        self.refund("is in Budapest", 2)
        sent_back = self.refund("is in Budapest", 1)
        gateway = gateways.get("sandbox")
        seen = gateway.read_refund(sent_back.provider_ref or "")
        returned = replace(seen, status=RefundStatus.RETURNED)
        refunds.apply_provider_state(sent_back.pk, returned, as_of=self.now)
        self.look()

    def refund(self, name: str, amount_minor: int) -> Refund:
        made = charging.refund(
            payment_id=self.accounts[name].payments.earliest("pk").pk,
            token=token(),
            amount_minor=amount_minor,
            reason="Sorry for the outage",
            actor="ann@example.com",
            as_of=self.now,
        )
        self.look()
        return made

    def leave_december_running(self) -> None:
        self.start(DECEMBER, as_of=datetime(2019, 1, 2, 9, 0, tzinfo=UTC))

    def pay_with_an_unknown_outcome(self) -> None:
        """The provider has the money, and we have not heard of it yet."""
        account = self.accounts["has no card"]
        CardFactory(account=account, token="sandbox_lost_reply")
        kind = PaymentAttempt.Kind.ON_SESSION
        attempt = charging.collect(account_id=account.pk, kind=kind, as_of=self.now)
        assert attempt.is_in_flight
        self.look()

    def look(self) -> None:
        self.looked(self.now)
