"""T1, reserve: lock the accounts, read what is due now, write the attempts down."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.db import transaction

from accounts import pauses
from accounts.models import Account, PaymentMethod
from billing import ledger, locks, messages
from billing.ledger import Standing
from billing.models import AccountClosure, PaymentAttempt
from billing.money import money
from billing.payments import guard, methods
from billing.payments.charges import amounts, debits, time_limits
from billing.payments.charges.refusals import (
    AccountClosed,
    AccountPaused,
    AttemptInFlight,
    BalanceChanged,
    CannotCollect,
    GatewayClosed,
    NoPaymentMethod,
    NothingDue,
)
from billing.workers import doorbell
from notifications import dispatcher

# Their own payments go first, and go on under a halt.
CUSTOMERS_OWN = 2 * dispatcher.URGENT


@dataclass(frozen=True)
class Request:
    """Whose money to collect: what is due now, or only if it is `only_if_due_minor`."""

    account_id: int
    kind: str = PaymentAttempt.Kind.AUTO
    run_id: int | None = None
    only_if_due_minor: int | None = None
    # Whether a person decided on this very charge: it is made of a closed account as well.
    of_closed_too: bool = False

    @property
    def is_a_persons(self) -> bool:
        """Whether a person waits for it: their own payment, or support's."""
        return self.run_id is None and self.kind != PaymentAttempt.Kind.RETRY

    @property
    def priority(self) -> int:
        """Before what it goes at the dispatcher."""
        if self.kind == PaymentAttempt.Kind.ON_SESSION:
            return CUSTOMERS_OWN
        return dispatcher.URGENT if self.is_a_persons else 0


@dataclass
class Collected:
    """What became of each account's request: an attempt, wherever it stands, or why there is none."""

    attempts: dict[int, PaymentAttempt] = field(default_factory=dict)
    # What was seen of each account under the lock.
    standings: dict[int, Standing] = field(default_factory=dict)
    refused: dict[int, CannotCollect] = field(default_factory=dict)
    # What could not be done for a fault of ours. There may be an attempt all the same, which goes on later.
    failed: dict[int, Exception] = field(default_factory=dict)


def gateways_of(requests: Sequence[Request]) -> list[str]:
    """The gateways that these would be charged through, as it looks before anything is locked."""
    cards = PaymentMethod.objects.default_of(request.account_id for request in requests)
    return list(cards.values_list("gateway", flat=True).distinct())


@transaction.atomic(durable=True)
def reserve(
    requests: Sequence[Request], stopped: dict[str, str], *, as_of: datetime, is_dispatched: bool
) -> Collected:
    """
    Reserve what is due of each account, or say why not. `stopped`: the gateways that are shut, and why.

    `is_dispatched`: the dispatcher takes them on at once. Else whoever reserves them has them in hand.
    """
    ids = [request.account_id for request in requests]
    accounts = locks.accounts_for_update(ids)
    standings = ledger.standings(ids, as_of=as_of)
    in_flight = {
        attempt.account_id: attempt
        for attempt in PaymentAttempt.objects.filter(
            account__in=ids, state__in=PaymentAttempt.IN_FLIGHT
        )
    }
    cards = {method.account_id: method for method in PaymentMethod.objects.default_of(ids)}
    blocked = methods.blocked_tokens(cards.values())
    stopped = stopped | guard.closed(method.gateway for method in cards.values())
    paused = pauses.because_of(ids)
    closed = AccountClosure.objects.accounts_among(ids)
    collected = Collected(standings=dict(standings))
    for request in requests:
        pk = request.account_id
        refusal = (
            _closed(request, closed, standings[pk])
            or _refusal(
                request,
                standings[pk],
                in_flight.get(pk),
                cards.get(pk),
                blocked,
                pausing(request.kind, paused.get(pk)),
                as_of=as_of,
            )
            or _stopped(stopped, standings[pk], cards[pk])
        )
        if refusal is not None:
            collected.refused[pk] = refusal
        else:
            attempt = _reserved(request, accounts[pk], standings[pk], cards[pk])
            if is_dispatched:
                _leave_to_the_dispatcher(attempt, request, as_of=as_of)
            collected.attempts[pk] = attempt
    PaymentAttempt.objects.bulk_create(collected.attempts.values())
    if is_dispatched and collected.attempts:
        doorbell.ring(doorbell.CHARGE)
    for pk, attempt in collected.attempts.items():
        if debits.waits_for_its_day(attempt, as_of=as_of):
            messages.charge_announced(
                attempt, account=accounts[pk], due_minor=standings[pk].due_minor, as_of=as_of
            )
    return collected


def _closed(request: Request, closed: Container[int], standing: Standing) -> AccountClosed | None:
    """Why nothing is charged of an account that is closed; its customer, and a person of ours, may."""
    is_asked_for = request.of_closed_too or request.kind == PaymentAttempt.Kind.ON_SESSION
    if is_asked_for or request.account_id not in closed:
        return None
    return AccountClosed("the account is closed", standing=standing)


def _refusal(
    request: Request,
    standing: Standing,
    in_flight: PaymentAttempt | None,
    method: PaymentMethod | None,
    blocked: Container[tuple[str, str]],
    paused: str | None,
    *,
    as_of: datetime,
) -> CannotCollect | None:
    """Why not to charge now; None where everything holds."""
    if in_flight is not None:
        return AttemptInFlight("a payment is on its way", standing=standing, attempt=in_flight)
    if standing.due_minor <= 0:
        return NothingDue("nothing is due", standing=standing)
    if paused is not None:
        return AccountPaused(paused, standing=standing)
    if request.only_if_due_minor not in {None, standing.due_minor}:
        return BalanceChanged("the balance has changed", standing=standing)
    if method is None:
        return NoPaymentMethod("there is no card", standing=standing)
    if method.has_expired(as_of):
        return NoPaymentMethod(f"{method} has expired", standing=standing)
    if (method.gateway, method.token) in blocked:
        return NoPaymentMethod(f"{method} is blocked on another account", standing=standing)
    if standing.is_too_little or not amounts.chargeable_minor(
        method.gateway, standing.due_minor, standing.currency
    ):
        due = money(standing.due_minor, standing.currency)
        return NothingDue(f"{due} is less than can be charged: carried forward", standing=standing)
    return None


def _leave_to_the_dispatcher(attempt: PaymentAttempt, request: Request, *, as_of: datetime) -> None:
    """It is due at once, nobody has claimed it yet, and what a person waits for goes first."""
    attempt.next_action_at, attempt.claims = as_of, 0
    attempt.priority = request.priority


def pausing(kind: str, paused: str | None) -> str | None:
    """Why an account's pause stops a charge of this kind; its customer's own it does not."""
    return None if kind == PaymentAttempt.Kind.ON_SESSION else paused


def _stopped(
    stopped: Mapping[str, str], standing: Standing, method: PaymentMethod
) -> GatewayClosed | None:
    if method.gateway not in stopped:
        return None
    because = f"charging through {method.gateway} is paused: {stopped[method.gateway]}"
    return GatewayClosed(because, standing=standing)


def _reserved(
    request: Request, account: Account, standing: Standing, method: PaymentMethod
) -> PaymentAttempt:
    return PaymentAttempt(
        account=account,
        run_id=request.run_id,
        kind=request.kind,
        currency=standing.currency,
        amount_minor=amounts.chargeable_minor(
            method.gateway, standing.due_minor, standing.currency
        ),
        payment_method=method,
        gateway=method.gateway,
        charge_date=debits.charge_date(account, method.gateway, as_of=standing.as_of),
        next_action_at=standing.as_of + time_limits.DRIVE_WINDOW,
    )
