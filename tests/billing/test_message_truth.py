"""
The table of docs/messages.md, a case for each cell: a message of each kind waits, something happens, it is sent.

What the cell says must come of it; and whatever the kind, no mail says what the cause has made untrue.
"""

import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as project
from django.core import mail
from django.db import transaction

from accounts.models import Account, ChargingPause, Hold, PaymentMethod
from billing import locks, messages
from billing.gateways.standins.sandbox import SandboxGateway
from billing.models import (
    CloseRun,
    CreditGrant,
    Decision,
    DunningCase,
    GatewayGuard,
    Invoice,
    Payment,
    PaymentAttempt,
    PaymentReversal,
    Refund,
    Step,
)
from billing.payments import reversals
from notifications import lanes
from notifications.models import Lane, Message
from tests.billing.message_builders import (
    LATER,
    card,
    grant,
    held,
    issued,
    pay,
    tell_of,
)
from tests.mailing import deliver
from tests.notifications.builders import AS_OF, account

pytestmark = pytest.mark.django_db

State = PaymentAttempt.State
PAGE = Path(project.BASE_DIR) / "docs/messages.md"
KEPT, ANEW, NOT_SENT = "as it is", "anew", "not sent"


@dataclass
class Scene:
    """An account that owes €10.00 of an invoice, and what its message is about."""

    account: Account
    card: PaymentMethod
    invoice: Invoice
    about: Any = None
    attempt: PaymentAttempt | None = None
    case: DunningCase | None = None
    payment: Payment | None = None
    refund: Refund | None = None
    hold: Hold | None = None
    message: Message | None = None


@pytest.fixture(autouse=True)
def _least_amount(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway charges no less than €0.50."""
    least = replace(SandboxGateway.capabilities, minimum_minor={"EUR": 50})
    monkeypatch.setattr(SandboxGateway, "capabilities", least)


def scene(*, by: dict[str, Any] | None = None, overdue: bool = False) -> Scene:
    payer = account()
    return Scene(
        account=payer,
        card=card(payer, **(by or {})),
        invoice=issued(payer, due_at=AS_OF - timedelta(days=1))
        if overdue
        else issued(payer, due_at=AS_OF + timedelta(days=14)),
    )


MANDATE = {
    "gateway": "debit",
    "token": "debit_pays.1",
    "brand": "Direct debit",
    "last_four": "3000",
    "expiry_month": None,
    "expiry_year": None,
    "mandate_status": "ACTIVE",
}


def attempt_of(on: Scene, **said: Any) -> PaymentAttempt:
    made = PaymentAttempt.objects.create(
        **{
            "account": on.account,
            "kind": PaymentAttempt.Kind.AUTO,
            "currency": "EUR",
            "amount_minor": 1000,
            "payment_method": on.card,
            "gateway": on.card.gateway,
            "submitted_at": AS_OF,
            "case": on.case,
            **said,
        }
    )
    PaymentAttempt.objects.filter(pk=made.pk).update(created_at=said.get("created_at", AS_OF))
    made.refresh_from_db()
    return made


def case_of(on: Scene) -> DunningCase:
    return DunningCase.objects.create(
        account=on.account,
        opened_at=AS_OF,
        decline_class="SOFT",
        decline_code="insufficient_funds",
        next_try_at=AS_OF + timedelta(days=3),
        ends_at=AS_OF + timedelta(days=14),
    )


# --- a message of each kind, that waits


def invoice() -> Scene:
    on = scene()
    on.message = tell_of(on.invoice)
    return on


def receipt() -> Scene:
    on = scene()
    earlier = issued(on.account)
    on.payment = pay(earlier, 1000)
    [on.message] = messages.payments_received(
        [messages.Receipt(on.payment, on.account, [(earlier, 1000)], 1000, 0)], as_of=AS_OF
    )
    return on


def payment_failed() -> Scene:
    on = scene()
    on.case = case_of(on)
    on.attempt = attempt_of(
        on, state=State.FAILED, decline_code="card_declined", decline_class="SOFT"
    )
    on.message = messages.payment_failed(
        on.attempt, account=on.account, due_minor=1000, as_of=AS_OF
    )
    return on


def confirmation_needed() -> Scene:
    on = scene()
    on.attempt = attempt_of(on, state=State.REQUIRES_ACTION)
    on.message = messages.confirmation_needed(
        on.attempt,
        account=on.account,
        until=AS_OF + timedelta(hours=72),
        due_minor=1000,
        as_of=AS_OF,
    )
    return on


def charge_announced() -> Scene:
    on = scene(by=MANDATE)
    on.attempt = attempt_of(
        on,
        state=State.PREPARED,
        submitted_at=None,
        charge_date=(AS_OF + timedelta(days=2)).date(),
    )
    on.message = messages.charge_announced(
        on.attempt, account=on.account, due_minor=1000, as_of=AS_OF
    )
    return on


def payment_reversed() -> Scene:
    on = scene()
    on.payment = pay(issued(on.account), 1000)
    reversal = PaymentReversal.objects.create(
        account=on.account,
        payment=on.payment,
        gateway="manual",
        provider_ref="return-1",
        amount_minor=1000,
        credit_minor=0,
        owed_minor=1000,
        lost_minor=0,
        reason="returned",
        reversed_at=AS_OF,
    )
    on.message = messages.payment_reversed(
        reversal, account=on.account, due_minor=1000, as_of=AS_OF
    )
    return on


def refund_of(on: Scene, state: str) -> Refund:
    assert on.payment is not None
    return Refund.objects.create(
        account=on.account,
        payment=on.payment,
        gateway="manual",
        currency="EUR",
        amount_minor=500,
        credit_minor=500,
        cost_minor=0,
        state=state,
        provider_ref=f"refund-{uuid.uuid4()}",
        token=uuid.uuid4(),
        reason="asked",
        requested_by="ann@example.com",
        requested_at=AS_OF,
    )


def refund_sent() -> Scene:
    on = scene()
    on.payment = pay(issued(on.account), 1000)
    on.refund = refund_of(on, Refund.State.SUCCEEDED)
    on.message = messages.refund_sent(on.refund, account=on.account, due_minor=1000, as_of=AS_OF)
    return on


def refund_returned() -> Scene:
    on = scene()
    on.payment = pay(issued(on.account), 1000)
    on.refund = refund_of(on, Refund.State.RETURNED)
    CreditGrant.objects.create(
        account=on.account,
        token=on.refund.pk,
        kind=CreditGrant.Kind.RETURNED,
        payment=on.payment,
        currency="EUR",
        amount_minor=500,
        remaining_minor=500,
        reason="sent back",
    )
    on.message = messages.refund_returned(
        on.refund, account=on.account, due_minor=1000, as_of=AS_OF
    )
    return on


def hold_placed() -> Scene:
    on = scene(overdue=True)
    on.hold = held(on.account)
    on.message = messages.hold_placed(on.hold, account=on.account, due_minor=1000, as_of=AS_OF)
    return on


def hold_lifted() -> Scene:
    on = hold_placed()
    assert on.hold is not None
    deliver(as_of=AS_OF)
    lift(on)
    on.message = messages.hold_lifted(on.hold, account=on.account, due_minor=1000, as_of=AS_OF)
    return on


KINDS: dict[str, Callable[[], Scene]] = {
    "INVOICE": invoice,
    "RECEIPT": receipt,
    "PAYMENT_FAILED": payment_failed,
    "CONFIRMATION_NEEDED": confirmation_needed,
    "CHARGE_ANNOUNCED": charge_announced,
    "PAYMENT_REVERSED": payment_reversed,
    "REFUND_SENT": refund_sent,
    "REFUND_RETURNED": refund_returned,
    "HOLD_PLACED": hold_placed,
    "HOLD_LIFTED": hold_lifted,
}


# --- what happens before it is sent


def lift(on: Scene) -> None:
    Hold.objects.filter(account=on.account, reason="OVERDUE", lifted_at=None).update(
        lifted_at=LATER
    )


def settled(on: Scene) -> None:
    """What the transaction that brings a debt to nothing does besides."""
    lift(on)
    DunningCase.objects.filter(account=on.account, closed_at=None).update(
        closed_at=LATER, next_try_at=None
    )


def paid_in_full(on: Scene) -> None:
    pay(on.invoice, 1000)
    settled(on)


def paid_in_part(on: Scene) -> None:
    pay(on.invoice, 400)


def settled_by_credit(on: Scene) -> None:
    grant(on.invoice, 1000)
    settled(on)


def earlier_payment_goes_back(on: Scene) -> None:
    """What it had paid is owed again."""
    payment = on.payment
    if payment is None or payment.reversals.exists():
        payment = pay(issued(on.account), 1000)
    with transaction.atomic():
        reversals.reverse_payment(
            payment,
            account=locks.account_for_update(on.account.pk),
            amount_minor=1000,
            provider_ref="return-2",
            reason="returned",
            as_of=LATER,
        )


def new_invoice(on: Scene) -> None:
    issued(on.account)


def own_payment_in_flight(on: Scene) -> None:
    end_what_is_in_flight(on)
    attempt_of(on, kind=PaymentAttempt.Kind.ON_SESSION, state=State.PROCESSING, created_at=LATER)


def close_is_charging(on: Scene) -> None:
    end_what_is_in_flight(on)
    attempt_of(on, state=State.SUBMITTED, created_at=LATER)


def close_has_passed_by(on: Scene) -> None:
    """Its charge step has ended without a charge: nothing is charged by itself before the next close."""
    run = CloseRun.objects.create(
        entity=on.account.entity,
        month=date(2026, 10, 1),
        started_by="ann@example.com",
        started_at=AS_OF,
    )
    Step.objects.create(
        run=run, account=on.account, kind="CHARGE", state=Step.State.SKIPPED, finished_at=AS_OF
    )


def bank_asks(on: Scene) -> None:
    end_what_is_in_flight(on)
    attempt_of(on, state=State.REQUIRES_ACTION, created_at=LATER)


def debit_announced(on: Scene) -> None:
    end_what_is_in_flight(on)
    other = card(on.account, is_default=False, **MANDATE | {"token": "debit_pays.2"})
    attempt_of(
        on,
        payment_method=other,
        gateway="debit",
        state=State.PREPARED,
        submitted_at=None,
        charge_date=(AS_OF + timedelta(days=2)).date(),
        created_at=LATER,
    )


def end_what_is_in_flight(on: Scene) -> None:
    """At most one attempt of an account is in flight."""
    PaymentAttempt.objects.filter(account=on.account, state__in=PaymentAttempt.IN_FLIGHT).update(
        state=State.RELEASED
    )


def declined(on: Scene) -> None:
    """What was in flight, or the close's charge; the case tries again in three days."""
    end_what_is_in_flight(on)
    on.case = on.case or case_of(on)
    later = attempt_of(
        on,
        state=State.FAILED,
        decline_code="insufficient_funds",
        decline_class="SOFT",
        created_at=LATER,
    )
    messages.payment_failed(later, account=on.account, due_minor=1000, as_of=LATER)


def declined_without_retries(on: Scene) -> None:
    end_what_is_in_flight(on)
    DunningCase.objects.filter(account=on.account).update(closed_at=LATER, next_try_at=None)
    attempt_of(
        on, state=State.FAILED, decline_code="card_declined", decline_class="SOFT", created_at=LATER
    )


def went_through_after_all(on: Scene) -> None:
    """The provider took the money of what it had called declined, or released; a new invoice is open."""
    PaymentAttempt.objects.filter(account=on.account).update(state=State.SUCCEEDED)


def card_removed(on: Scene) -> None:
    PaymentMethod.objects.filter(pk=on.card.pk).update(
        state="REMOVED", removed_at=LATER, is_default=False
    )


def card_replaced(on: Scene) -> None:
    PaymentMethod.objects.filter(pk=on.card.pk).update(is_default=False)
    card(on.account, token="tok_2", brand="Mastercard", last_four="5100")


def card_removed_and_replaced(on: Scene) -> None:
    card_removed(on)
    card(on.account, token="tok_2", brand="Mastercard", last_four="5100")


def card_expired(on: Scene) -> None:
    if on.card.is_mandate:
        PaymentMethod.objects.filter(pk=on.card.pk).update(mandate_status="EXPIRED")
    else:
        PaymentMethod.objects.filter(pk=on.card.pk).update(expiry_year=2026, expiry_month=9)


def card_blocked(on: Scene) -> None:
    PaymentMethod.objects.filter(pk=on.card.pk).update(
        state="BLOCKED", blocked_at=LATER, blocked_because="stolen", is_default=False
    )


def gateway_closed(on: Scene) -> None:
    GatewayGuard.objects.create(
        gateway=on.card.gateway,
        database_identity="another",
        server_started_at=LATER,
        checked_at=LATER,
        paused_at=LATER,
        paused_because="the database was restored",
    )


def lane_paused(on: Scene) -> None:
    """By hand, or because its provider does not answer."""
    lanes.grant(on.card.gateway, wanted=0)
    lane = Lane.objects.get(provider=on.card.gateway)
    lanes.pause(lane.pk, by="ops@example.com", because="maintenance")


def account_paused(on: Scene) -> None:
    ChargingPause.objects.create(
        account=on.account, reason="MANUAL", because="asked for", paused_at=LATER
    )


def hold_is_placed(on: Scene) -> None:
    """By hand: one for overdue invoices is another cause."""
    held(on.account, Hold.Reason.MANUAL)


def hold_is_lifted(on: Scene) -> None:
    Hold.objects.filter(account=on.account, lifted_at=None).update(lifted_at=LATER)


def case_closed_by_a_hold(on: Scene) -> None:
    DunningCase.objects.filter(account=on.account).update(closed_at=LATER, next_try_at=None)
    if not on.account.holds.filter(reason="OVERDUE", lifted_at=None).exists():
        held(on.account)


def hold_was_never_told(on: Scene) -> None:
    Message.objects.filter(account=on.account, kind="HOLD_PLACED").exclude(
        pk=getattr(on.message, "pk", None)
    ).update(state="CANCELLED", sent_at=None)


def refund_came_back(on: Scene) -> None:
    Refund.objects.filter(account=on.account).update(state="RETURNED")


def refunded_again(on: Scene) -> None:
    CreditGrant.objects.filter(account=on.account, kind="RETURNED").update(
        remaining_minor=0, refunded_minor=500
    )


def too_little_is_left(on: Scene) -> None:
    """€0.30, of which the gateway charges nothing."""
    pay(on.invoice, 970)


def language_changed(on: Scene) -> None:
    Account.objects.filter(pk=on.account.pk).update(language="hu")


CAUSES: dict[str, Callable[[Scene], None]] = {
    "nothing": lambda _on: None,
    "paid in full": paid_in_full,
    "settled by credit": settled_by_credit,
    "paid in part": paid_in_part,
    "too little is left to be charged": too_little_is_left,
    "an earlier payment goes back": earlier_payment_goes_back,
    "another invoice is issued": new_invoice,
    "the close is charging the card": close_is_charging,
    "the close has ended its charge step": close_has_passed_by,
    "their own payment is on its way": own_payment_in_flight,
    "their bank asks them to confirm": bank_asks,
    "a debit is announced": debit_announced,
    "declined, tried again on a day": declined,
    "declined, not tried again": declined_without_retries,
    "it went through after all": went_through_after_all,
    "card removed": card_removed,
    "card replaced": card_replaced,
    "card removed, another added": card_removed_and_replaced,
    "card expired": card_expired,
    "card blocked by its bank": card_blocked,
    "gateway closed": gateway_closed,
    "the provider's lane is shut": lane_paused,
    "account paused": account_paused,
    "a hold is placed by hand": hold_is_placed,
    "the hold is lifted": hold_is_lifted,
    "the dunning case ends in a hold": case_closed_by_a_hold,
    "the hold's message was cancelled": hold_was_never_told,
    "the refund came back": refund_came_back,
    "refunded again": refunded_again,
    "another language": language_changed,
}

VISA = "Visa ···· 4242"
WILL_CHARGE = "will be charged"
NOTHING_TO_DO = "You need not do anything"
ASKS = "Please pay here"
TRY_AGAIN = "We will try again on"
ASK_BANK = "ask your bank"
COLLECT = "we will collect"
TEN = "Your balance is €10.00"
CONFIRM = "Please confirm"

# What no mail may say after it, whatever its kind.
UNTRUE: dict[str, tuple[str, ...]] = {
    "paid in full": (TEN, ASKS, WILL_CHARGE, TRY_AGAIN, COLLECT, CONFIRM, "is on hold"),
    "settled by credit": (TEN, ASKS, WILL_CHARGE, TRY_AGAIN, COLLECT, CONFIRM, "is on hold"),
    "paid in part": (TEN, COLLECT, CONFIRM),
    "too little is left to be charged": (TEN, WILL_CHARGE, TRY_AGAIN, COLLECT, CONFIRM),
    "an earlier payment goes back": (TEN,),
    "another invoice is issued": (TEN,),
    "the close is charging the card": (ASKS, TRY_AGAIN, COLLECT, CONFIRM),
    "the close has ended its charge step": (WILL_CHARGE,),
    "their own payment is on its way": (ASKS, WILL_CHARGE, TRY_AGAIN, COLLECT, CONFIRM, ASK_BANK),
    "their bank asks them to confirm": (ASKS, WILL_CHARGE, TRY_AGAIN, NOTHING_TO_DO),
    "a debit is announced": (ASKS, WILL_CHARGE, TRY_AGAIN, CONFIRM),
    "declined, tried again on a day": (WILL_CHARGE, NOTHING_TO_DO, COLLECT, CONFIRM),
    "declined, not tried again": (WILL_CHARGE, NOTHING_TO_DO, COLLECT, CONFIRM, TRY_AGAIN),
    "it went through after all": ("did not go through", "could not charge", CONFIRM, COLLECT),
    "card removed": (WILL_CHARGE, NOTHING_TO_DO, TRY_AGAIN, ASK_BANK, COLLECT, CONFIRM),
    "card replaced": (f"Your card {VISA} will be charged", "again on 4 November 2026."),
    "card removed, another added": (
        f"Your card {VISA} will be charged",
        "again on 4 November 2026.",
        ASK_BANK,
        COLLECT,
        CONFIRM,
    ),
    "card expired": (WILL_CHARGE, NOTHING_TO_DO, TRY_AGAIN, ASK_BANK, COLLECT, CONFIRM),
    "card blocked by its bank": (WILL_CHARGE, NOTHING_TO_DO, TRY_AGAIN, ASK_BANK, COLLECT, CONFIRM),
    "gateway closed": (f"Your card {VISA} will be charged",),
    "the provider's lane is shut": (f"Your card {VISA} will be charged",),
    "account paused": (WILL_CHARGE, NOTHING_TO_DO, TRY_AGAIN, COLLECT, CONFIRM),
    "a hold is placed by hand": ("is lifted.",),
    "the hold is lifted": ("is on hold",),
    "the dunning case ends in a hold": (TRY_AGAIN, "puts the account on hold", "is lifted."),
    "the hold's message was cancelled": ("is lifted.",),
    "the refund came back": ("We have paid €5.00 back",),
    "refunded again": ("It is your credit now",),
    "another language": ("Your balance is",),
}


def cells() -> Iterator[Any]:
    """Each cell of the page's table, as a case."""
    heads: list[str] = []
    for line in PAGE.read_text().splitlines():
        columns = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if columns and columns[0] == "What happens before it is sent":
            heads = columns[1:]
        elif heads and not columns:
            return
        elif heads and not columns[0].startswith("---"):
            for kind, becomes in zip(heads, columns[1:], strict=True):
                yield pytest.param(columns[0], kind, becomes, id=f"{kind}: {columns[0]}")


CELLS = list(cells())


def test_the_table_names_every_kind_and_every_cause_there_is() -> None:
    named = {(case.values[0], case.values[1]) for case in CELLS}

    assert named == {(cause, kind) for cause in CAUSES for kind in KINDS}


@pytest.mark.parametrize(("cause", "kind", "becomes"), CELLS)
def test_a_mail_says_what_is_true_just_before_it_is_sent(
    cause: str, kind: str, becomes: str
) -> None:
    on = KINDS[kind]()
    assert on.message is not None
    before = on.message.body_text
    mail.outbox.clear()
    CAUSES[cause](on)

    for _however_slow in range(5):
        # What could not be sent within ten seconds of its recheck is handed back, and asked about again.
        deliver(as_of=LATER, message_ids=[on.message.pk])
        on.message.refresh_from_db()
        if on.message.state != Message.State.QUEUED:
            break

    sent = [each.body for each in mail.outbox]
    if on.message.state == Message.State.CANCELLED:
        became = NOT_SENT
        assert sent == []
        assert on.message.because
    else:
        assert on.message.state == Message.State.SENT
        became = KEPT if sent == [before] else ANEW
    assert became == becomes
    assert bool(on.message.because) == (became != KEPT)
    for said in sent:
        assert not [untrue for untrue in UNTRUE.get(cause, ()) if untrue in said], said
    if became == ANEW:
        assert Decision.objects.filter(act="EMAIL", did="DONE", account=on.account).exists()
