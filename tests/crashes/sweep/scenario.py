"""
The close that is killed: two months, a customer of each kind, and a world that changes meanwhile.

Acts in their order. Each may be begun again after a kill, as its real counterpart would: the client
sends the same token, the operator imports the same file, the workers answer what doorbells there are.
"""

import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

from django.conf import settings
from django.db import connection
from django.db.models import F
from django.db.models.functions import Least, Now
from django.utils.module_loading import import_string
from django_q.models import OrmQ

from accounts.models import Account, BillingEntity, PaymentMethod
from billing import tasks
from billing.close import pipeline
from billing.gateways import About, EventHint, Observation, RefundStatus, Status
from billing.gateways.standins.sandbox import SandboxGateway
from billing.invoices import credits
from billing.models import Payment, PaymentAttempt, ProviderEvent, Refund, Step
from billing.payments import booking, charges, inbound, methods, refunds
from billing.usage import imports
from billing.workers import doorbell
from config.schedules import SCHEDULES
from notifications.models import Message
from tests.crashes.sweep import boundaries
from tests.factories import AccountFactory, CardFactory

# Each is named for what sets it apart, and used 12.34 in October.
CARDS = {
    "pays": "sandbox_visa",
    "declines": "sandbox_insufficient",
    "is-slow": "sandbox_slow",
    "loses-its-reply": "sandbox_lost_reply",
    "used-nothing": "sandbox_visa",
    "has-no-card": None,
    "has-credit": "sandbox_visa",
    "is-late": "sandbox_mastercard",
    "pays-by-bank": "sandbox_visa",
    "gets-credit": "sandbox_visa",
    "pays-now": "sandbox_visa",
    "pays-while-charged": "sandbox_visa",
    "removes-card": "sandbox_visa",
    "has-to-confirm": "sandbox_visa",
}
MINOR = 1234
BEGIN = datetime(2018, 11, 2, 9, 0, tzinfo=UTC)
NEXT_MONTH = datetime(2018, 12, 2, 9, 0, tzinfo=UTC)
# Of the customers' and the operators' forms: the same each time they are sent.
TOKENS = uuid.UUID("6f1d3f5e-0000-4000-8000-000000000000")
# A work that is not quiet by then never will be.
ROUNDS = 12


class NeverQuiet(Exception):
    """The workers did not come to rest by themselves."""


@dataclass
class Clock:
    """Virtual, and later each time one looks; the database's own clock plays no part in the result."""

    now_is: datetime = BEGIN

    def now(self) -> datetime:
        self.now_is += timedelta(seconds=5)
        return self.now_is

    def forward(self, by: timedelta) -> None:
        self.now_is += by

    def at_least(self, then: datetime) -> None:
        self.now_is = max(self.now_is, then)


@dataclass
class World:
    """Where one run of the scenario lives."""

    folder: Path
    clock: Clock = field(default_factory=Clock)

    def settle_in(self) -> None:
        """Point the process at this world's files and clock."""
        settings.SANDBOX_BOOK = self.folder / "book.sqlite3"
        settings.MAIL_SINK = self.folder / "mail.jsonl"
        tasks.clock = SimpleNamespace(now=self.clock.now)
        boundaries.hooks[:] = [self._meanwhile]

    def _meanwhile(self, call: str, account: str) -> None:
        """Between reserving and submitting: what the recheck is there for."""
        if call not in {"prepare", "find", "read"}:
            return
        try:
            if account == "has-to-confirm":
                self._confirm_once_asked(account)
            elif account == "pays-while-charged":
                pay_by_bank(self, account)
            elif account == "removes-card":
                remove_card(self, account)
        finally:
            # A thread of its own, that is about to end.
            connection.close()

    def _confirm_once_asked(self, account: str) -> None:
        """The customer confirms at their bank: when we know that they have to, and ask whether they have."""
        waiting = PaymentAttempt.objects.filter(
            account__external_id=account, state=PaymentAttempt.State.REQUIRES_ACTION
        )
        if waiting.exists():
            _change_in_the_book(account, Status.NEEDS_CUSTOMER, Status.SUCCEEDED)


def let_the_bank_ask() -> None:
    """
    From now on the bank of one customer wants to be told by them that they want to pay: 3-D Secure.

    The sandbox has no such card. What it is asked to submit for this account waits in its book.
    """
    real, read = SandboxGateway.submit, SandboxGateway.read

    def submit(self: SandboxGateway, ref: str, *, key: str) -> Observation:
        if _account_of(ref) != "has-to-confirm":
            return real(self, ref, key=key)
        _change_in_the_book("has-to-confirm", Status.UNSUBMITTED, Status.NEEDS_CUSTOMER)
        return read(self, ref)

    SandboxGateway.submit = submit


def _account_of(ref: str) -> str:
    with closing(sqlite3.connect(settings.SANDBOX_BOOK, timeout=30)) as book:
        row = book.execute("SELECT account_ref FROM charge WHERE ref = ?", [ref]).fetchone()
    return str(row[0])


def _change_in_the_book(account: str, before: Status, after: Status) -> None:
    with closing(sqlite3.connect(settings.SANDBOX_BOOK, timeout=30)) as book, book:
        book.execute(
            "UPDATE charge SET status = ? WHERE account_ref = ? AND status = ?",
            [after, account, before],
        )


def _sent_back_in_the_book(account: str) -> str:
    """What was paid back to this account is with us again; the provider's name of it."""
    with closing(sqlite3.connect(settings.SANDBOX_BOOK, timeout=30)) as book, book:
        [(ref,)] = book.execute(
            "SELECT refund.ref FROM refund JOIN charge ON charge.ref = payment_ref"
            " WHERE account_ref = ?",
            [account],
        )
        book.execute("UPDATE refund SET status = ? WHERE ref = ?", [RefundStatus.RETURNED, ref])
    return str(ref)


def populate() -> None:
    """Make the entity and the customers."""
    BillingEntity.objects.get_or_create(
        slug="default", defaults={"name": "Month Close", "invoice_prefix": "MC"}
    )
    for name, card in CARDS.items():
        account = AccountFactory(external_id=name, name=name, email=f"{name}@example.com")
        if card is not None:
            CardFactory(account=account, token=card)


# --- the acts


def import_october(world: World) -> None:
    _import(world, "october", [name for name in CARDS if name != "used-nothing"])


def import_late_usage(world: World) -> None:
    """Of October, after October was invoiced: November's invoice takes it."""
    _import(world, "late", ["is-late"])


def give_credit(world: World) -> None:
    """More than October will cost."""
    grant_credit(world, "has-credit", 5000)


def start_the_month(world: World) -> None:
    tasks.start_due_closes()


def meddle(world: World) -> None:
    """Invoiced, not charged yet: the world goes on."""
    pay_by_bank(world, "pays-by-bank")
    grant_credit(world, "gets-credit", 234)
    pay_now(world, "pays-now")
    pay_now(world, "has-to-confirm")


def declined_customer_pays(world: World) -> None:
    """Which lifts the hold."""
    pay_by_bank(world, "declines")


def a_month_passes(world: World) -> None:
    world.clock.at_least(NEXT_MONTH)


def pay_back(world: World) -> None:
    """A part of what was paid for October, a month later."""
    refund(world, "pays-now", 500)


def bank_sends_it_back(world: World) -> None:
    """The account is closed, says an event long after we were told that the customer has it."""
    ref = _sent_back_in_the_book("pays-now")
    inbound.receive(
        gateway="sandbox",
        hints=[EventHint("evt_sent_back", "refund.failed", About.REFUND, ref, is_live=False)],
        body=b"{}",
        as_of=world.clock.now(),
    )


def working(*queues: str) -> Callable[[World], None]:
    def work_on(world: World) -> None:
        work(world, *queues)

    return work_on


SCRIPT: tuple[Callable[[World], None], ...] = (
    import_october,
    give_credit,
    start_the_month,
    working("default"),
    meddle,
    working("email"),
    working("charge"),
    import_late_usage,
    working("default"),
    working("email"),
    declined_customer_pays,
    a_month_passes,
    start_the_month,
    working("default"),
    working("charge"),
    pay_back,
    bank_sends_it_back,
    working("charge"),
    working("default"),
    working("email"),
    working("default", "charge", "email"),
)


# --- the workers


def work(world: World, *queues: str) -> None:
    """
    Answer the doorbells of the queues until nothing is left to do in them.

    Only a doorbell starts a drain, and only the sweeper rings one that was lost: as in a cluster.

    :raises NeverQuiet: if they do not come to rest.
    """
    for _ in range(ROUNDS):
        while _answer_a_doorbell(queues):
            pass
        with boundaries.recorder.paused():
            left = unfinished(queues)
        if not left:
            return
        heal(world)
    raise NeverQuiet(f"{', '.join(queues)}: {left}")


def heal(world: World) -> None:
    """What is scheduled each minute, some time later."""
    world.clock.forward(timedelta(minutes=10))
    with boundaries.recorder.paused():
        let_time_pass()
    for entry in SCHEDULES:
        if entry.minutes == 1:
            import_string(entry.func)()


def let_time_pass() -> None:
    """
    Leases and pauses that go by the database's clock run out.

    In place of waiting for them: the rows say what they would say some minutes later.
    """
    Step.objects.filter(state=Step.State.RUNNING).update(lease_until=Now())
    Step.objects.filter(state__in=Step.CLAIMABLE).update(run_at=Least(F("run_at"), Now()))
    for dispatched in (Message, PaymentAttempt, Refund):
        dispatched.objects.filter(lease_until__gt=Now()).update(lease_until=Now())
    Message.objects.update(next_attempt_at=Least(F("next_attempt_at"), Now()))


def _answer_a_doorbell(queues: tuple[str, ...]) -> bool:
    """As the cluster does: claimed for ten minutes, gone when answered, left lying by a killed worker."""
    with boundaries.recorder.paused():
        due = OrmQ.objects.filter(key__in=queues, lock__lte=Now()).order_by("lock", "pk")
        first = due.first()
        if first is None:
            return False
        # Several of a queue wake several workers; one is enough here.
        claimed = list(due.filter(key=first.key).values_list("pk", flat=True))
        OrmQ.objects.filter(pk__in=claimed).update(lock=Now() + timedelta(minutes=10))
    tasks.drain(first.key)
    with boundaries.recorder.paused():
        OrmQ.objects.filter(pk__in=claimed).delete()
    return True


def unfinished(queues: tuple[str, ...] = ()) -> list[str]:
    """What is still to be done in these queues, or in all, in words."""
    queues = queues or doorbell.queues()
    kinds = [step.kind for step in pipeline.STEPS if step.queue in queues]
    open_steps = Step.objects.filter(
        kind__in=kinds, state__in=[Step.State.READY, Step.State.RUNNING, Step.State.UNKNOWN]
    )
    left = [f"{step} {step.state}" for step in open_steps]
    if "charge" in queues:
        in_flight = PaymentAttempt.objects.filter(state__in=PaymentAttempt.IN_FLIGHT)
        left += [f"attempt of {attempt.account} {attempt.state}" for attempt in in_flight]
        on_their_way = Refund.objects.filter(state__in=Refund.IN_FLIGHT)
        left += [f"refund to {each.account} {each.state}" for each in on_their_way]
        left += [
            f"event {event.event_id}" for event in ProviderEvent.objects.filter(outcome="WAITING")
        ]
    if "email" in queues:
        waiting = Message.objects.filter(state__in=[Message.State.QUEUED, Message.State.SENDING])
        left += [f"{message} {message.state}" for message in waiting]
    return left


# --- the people


def pay_by_bank(world: World, account: str, minor: int = MINOR) -> None:
    try:
        booking.record_payment(
            account_id=_pk(account),
            token=uuid.uuid5(TOKENS, f"payment {account}"),
            amount_minor=minor,
            currency="EUR",
            method="Bank transfer",
            reason="By hand",
            recorded_by="ann@example.com",
            as_of=world.clock.now(),
        )
    except booking.AlreadyRecorded:
        return


def grant_credit(world: World, account: str, minor: int) -> None:
    try:
        credits.grant_credit(
            account_id=_pk(account),
            token=uuid.uuid5(TOKENS, f"credit {account}"),
            amount_minor=minor,
            currency="EUR",
            reason="Sorry for the outage",
            granted_by="ann@example.com",
            as_of=world.clock.now(),
        )
    except credits.AlreadyGranted:
        return


def pay_now(world: World, account: str) -> None:
    wanted = charges.Request(_pk(account), PaymentAttempt.Kind.ON_SESSION)
    refused = charges.begin([wanted], as_of=world.clock.now()).refused.get(_pk(account))
    match refused:
        case charges.NothingDue():
            # Killed the last time, and healed since.
            return
        case charges.GatewayClosed():
            # The database was put back: the customer tries again.
            pay_now(world, account)
            return
        case None | charges.AttemptInFlight():
            _wait_for_the_outcome(world, account)
        case _:
            raise refused


def _wait_for_the_outcome(world: World, account: str) -> None:
    """The customer looks at the page until it says how it ended; then the next thing happens."""
    for _ in range(ROUNDS):
        with boundaries.recorder.paused():
            attempts = PaymentAttempt.objects.filter(account__external_id=account)
            if not attempts.filter(state__in=PaymentAttempt.IN_FLIGHT).exists():
                return
            if attempts.filter(state=PaymentAttempt.State.REQUIRES_ACTION).exists():
                # Who has to confirm is asked about hourly.
                world.clock.forward(timedelta(hours=1))
        heal(world)
    raise NeverQuiet(f"the payment of {account} did not end")


def refund(world: World, account: str, minor: int) -> None:
    with boundaries.recorder.paused():
        payment = Payment.objects.get(account__external_id=account)
    try:
        refunds.refund(
            payment_id=payment.pk,
            token=uuid.uuid5(TOKENS, f"refund {account}"),
            amount_minor=minor,
            reason="Not what they wanted",
            actor="ann@example.com",
            as_of=world.clock.now(),
        )
    except refunds.AlreadyRequested:
        pass
    except refunds.RefundsStopped:
        # The provider did not say what it has: the colleague tries again.
        refund(world, account, minor)
        return
    for _ in range(ROUNDS):
        with boundaries.recorder.paused():
            if not Refund.objects.filter(state__in=Refund.IN_FLIGHT).exists():
                return
        heal(world)
    raise NeverQuiet(f"the refund of {account} did not end")


def remove_card(world: World, account: str) -> None:
    with boundaries.recorder.paused():
        card = PaymentMethod.objects.get(account__external_id=account)
    try:
        methods.remove_card(
            account_id=card.account_id,
            method_id=card.pk,
            actor=account,
            as_of=world.clock.now(),
        )
    except methods.NoSuchCard:
        return


def _pk(account: str) -> int:
    with boundaries.recorder.paused():
        return Account.objects.get(external_id=account).pk


def _import(world: World, name: str, accounts: list[str]) -> None:
    path = world.folder / f"{name}.csv"
    day = date(2018, 10, 5)
    rows = [
        f"{name}-{account},{account},server,hour,1,12.34,{day}T00:00:00Z" for account in accounts
    ]
    path.write_text(
        "event_id,account,product,unit,quantity,unit_price,starts_at\n" + "\n".join(rows) + "\n"
    )
    imports.import_usage(
        path=path,
        form=imports.FORMATS["csv"],
        as_of=world.clock.now(),
        rejects_path=world.folder / f"{name}-rejects.csv",
    )
