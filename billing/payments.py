"""
Receive money exactly once: reserve → prepare → recheck → submit → settle.

    reserve   transaction: lock the account, read what is due now, write the attempt down
    prepare   no transaction: the provider makes an object that carries no money yet; its id is stored
    recheck   transaction: lock again; is it still due, is the card still there? else give up
    submit    no transaction: the provider may move the money, once for this object
    settle    transaction: what the provider says becomes payment, ledger, receipt, lifted hold

Every phase works on many attempts at once; a customer's own payment is a list of one. A phase that
does not get through leaves the attempt where it is, and `drive` goes on from there, in any process,
after asking the provider. An attempt is given up only when the provider says it is cancelled.
The protocol, its crash matrix and its proof: docs/payments.md.
"""

import hashlib
import logging
import uuid
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet

from accounts import pauses, timeline
from accounts.models import Account, PaymentMethod
from billing import (
    charge_protocol,
    decisions,
    dunning,
    gateways,
    guard,
    ledger,
    locks,
    messages,
    payment_methods,
    reversals,
    settlement,
)
from billing.charge_protocol import Move, State
from billing.gateways import Observation, Status, declines
from billing.ledger import Standing
from billing.models import (
    Allocation,
    CreditGrant,
    Decision,
    DeclineClass,
    Payment,
    PaymentAttempt,
)
from billing.money import money

logger = logging.getLogger(__name__)

# What the provider said of each attempt it was asked about; and of which it cannot be used, and why.
Answers = Mapping[PaymentAttempt, Observation]
Failures = dict[PaymentAttempt, Exception]

# The longest a driver may be at work on an attempt before the sweeper takes it for dead:
# two provider calls of at most 30 s each.
DRIVE_WINDOW = timedelta(seconds=60)
# When to ask the provider again after an answer that did not come, and then hourly.
ASK_AGAIN_AFTER = tuple(timedelta(seconds=s) for s in (5, 30, 120, 600))
ASK_AGAIN_LATER = timedelta(hours=1)
# An unknown this old goes to a person. It keeps blocking new attempts: late is better than twice.
REVIEW_AFTER = timedelta(hours=24)
# A customer whom the bank asks to confirm has a long weekend for it; then the account is free again.
CUSTOMER_MAY_TAKE = timedelta(hours=72)
NOT_CONFIRMED = "the customer did not confirm it in time"
SETTLED = "settled meanwhile"
LESS_DUE = "less is due meanwhile"
# Calls in flight at once per driver; each is a thread that only waits.
CALLS_AT_ONCE = 16


class CannotCollect(Exception):
    """Nothing was charged, and why. Carries what was seen under the lock."""

    def __init__(self, because: str, *, standing: Standing) -> None:
        super().__init__(because)
        self.because = because
        self.standing = standing


class NothingDue(CannotCollect):
    """The account owes nothing, or less than the gateway charges."""


class NoPaymentMethod(CannotCollect):
    """The account has no card, or one that has expired or is blocked."""


class BalanceChanged(CannotCollect):
    """What is due is not what was expected, and the run's policy is not to charge then."""


class ChargingStopped(CannotCollect):
    """Nothing is charged through this gateway now: our database may have lost charges. See guard.py."""


class ChargingPaused(CannotCollect):
    """Nothing is charged to this account by itself now, as after a dispute; its customer may pay."""


class AttemptInFlight(CannotCollect):
    """Another attempt of this account has not come to its end."""

    def __init__(self, because: str, *, standing: Standing, attempt: PaymentAttempt) -> None:
        super().__init__(because, standing=standing)
        self.attempt = attempt


@dataclass(frozen=True)
class Request:
    """Whose money to collect: what is due now, or only if it is `only_if_due_minor`."""

    account_id: int
    kind: str = PaymentAttempt.Kind.AUTO
    run_id: int | None = None
    only_if_due_minor: int | None = None


@dataclass
class Collected:
    """What became of each account's request: an attempt, wherever it stands, or why there is none."""

    attempts: dict[int, PaymentAttempt] = field(default_factory=dict)
    refused: dict[int, CannotCollect] = field(default_factory=dict)


# --- the acts


def collect(*, account_id: int, kind: str, as_of: datetime) -> PaymentAttempt:
    """
    This will collect what one account owes now with its default payment method.

    :raises NothingDue: if the balance was settled meanwhile.
    :raises NoPaymentMethod: if the card was removed meanwhile.
    :raises ChargingStopped: while nothing may be charged through the card's gateway.
    :raises ChargingPaused: while the account is not charged by itself, and this would.
    :raises AttemptInFlight: if another attempt of this account is unresolved.
    """
    collected = collect_all([Request(account_id, kind)], as_of=as_of)
    if account_id in collected.refused:
        raise collected.refused[account_id]
    return collected.attempts[account_id]


def collect_all(requests: Sequence[Request], *, as_of: datetime) -> Collected:
    """This will collect what several accounts owe now. One account's trouble does not touch another's."""
    stopped = guard.watch(_gateways_of(requests))
    collected = _reserve(requests, stopped, as_of=as_of)
    _drive(list(collected.attempts.values()), as_of=as_of, fresh=True)
    _reread(collected.attempts)
    return collected


def drive(attempts: Sequence[PaymentAttempt], *, as_of: datetime) -> list[PaymentAttempt]:
    """This will take unfinished attempts on from where they stand, asking the provider first."""
    stopped = guard.watch(attempt.gateway for attempt in attempts)
    claimed = _claim([a for a in attempts if a.gateway not in stopped], as_of=as_of)
    _drive(claimed, as_of=as_of, fresh=False)
    current = {attempt.account_id: attempt for attempt in claimed}
    _reread(current)
    return list(current.values())


def ask(attempts: Sequence[PaymentAttempt], *, as_of: datetime) -> list[PaymentAttempt]:
    """
    This will take unfinished attempts on at once, asking the provider first, for a person who waits.

    `drive` waits for their time, this does not; another driver may be at work on the same, which does
    no harm (the object moves money once). Of one that got no answer, `unknown_since` and `because` say so.
    """
    taken = _take_on(attempts, as_of=as_of)
    _drive(taken, as_of=as_of, fresh=False)
    return list(PaymentAttempt.objects.filter(pk__in=[attempt.pk for attempt in taken]))


def begin_authentication(attempt: PaymentAttempt, *, return_url: str, as_of: datetime) -> str:
    """
    Where the customer confirms an attempt with their bank; `return_url` where there is nothing to confirm.

    It is the same object that they complete, so that it moves money once whoever else is at it; and what
    is due is looked at before, as before every send.
    """
    asked = ask([attempt], as_of=as_of)
    if [a.state for a in asked] != [State.REQUIRES_ACTION] or guard.shut([attempt.gateway]):
        return return_url
    try:
        gateway = gateways.get(attempt.gateway)
        return gateway.begin_authentication(_ref(asked[0]), return_url=return_url)
    except Exception as error:  # noqa: BLE001 - whatever the call raises: their page says how it stands
        logger.warning("attempt %s: nobody could be sent to the bank: %r", attempt.pk, error)
        return return_url


def drive_due(*, as_of: datetime, limit: int = 50) -> int:
    """This will drive the attempts whose time has come: crashed, unknown, or waiting for a bank."""
    # What waits for its gateway to open must not keep the others from their turn.
    waiting = [paused.gateway for paused in guard.paused()]
    due = list(
        PaymentAttempt.objects.filter(next_action_at__lte=as_of)
        .exclude(gateway__in=waiting)
        .order_by("next_action_at", "pk")[:limit]
    )
    driven = drive(due, as_of=as_of)
    _collect_the_rest(driven, as_of=as_of)
    return len(driven)


def _collect_the_rest(driven: Iterable[PaymentAttempt], *, as_of: datetime) -> None:
    """A debit that waited for its day was given up because less is due: nobody else would ask for that."""
    given_up = [a for a in driven if a.state == State.RELEASED and a.charge_date and a.provider_ref]
    if given_up:
        collect_all([Request(a.account_id, a.kind, a.run_id) for a in given_up], as_of=as_of)


@transaction.atomic(durable=True)
def record_payment(
    *,
    account_id: int,
    token: uuid.UUID,
    amount_minor: int,
    currency: str,
    method: str,
    reason: str,
    recorded_by: str,
    as_of: datetime,
) -> Payment:
    """
    This will book money that came in outside a gateway, in minor units: a bank transfer, cash.

    It settles the oldest invoices; what is left over becomes the customer's credit.

    :raises AlreadyRecorded: if the token was used: the form was sent twice.
    :raises ValueError: if the currency is not the account's.
    """
    account = locks.account_for_update(account_id)
    if currency != account.currency:
        raise ValueError(
            f"currency {currency}: account {account.external_id} is in {account.currency}"
        )
    if Payment.objects.filter(gateway="manual", provider_ref=str(token)).exists():
        raise AlreadyRecorded(token)
    return _book(
        Payment(
            account=account,
            gateway="manual",
            provider_ref=str(token),
            currency=currency,
            amount_minor=amount_minor,
            method=method,
            reason=reason,
            recorded_by=recorded_by,
            received_at=as_of,
        ),
        account=account,
        as_of=as_of,
    )


def book_transfer(
    *,
    account: Account,
    bank_ref: str,
    amount_minor: int,
    method: str,
    reason: str,
    recorded_by: str,
    as_of: datetime,
) -> Payment:
    """
    This will book a bank transfer, in minor units of the (locked) account's currency, in the caller's transaction.

    :raises IntegrityError: if one with the bank's id is booked.
    """
    return _book(
        Payment(
            account=account,
            gateway="transfer",
            provider_ref=bank_ref,
            currency=account.currency,
            amount_minor=amount_minor,
            method=method,
            reason=reason[:300],
            recorded_by=recorded_by,
            received_at=as_of,
        ),
        account=account,
        as_of=as_of,
    )


class AlreadyRecorded(Exception):
    """A payment with this token stands."""


# --- review


class NotInReview(Exception):
    """The attempt has come to its end meanwhile, or goes on by itself."""


@transaction.atomic(durable=True)
def take_review(*, attempt_id: uuid.UUID, owner: str) -> PaymentAttempt:
    """
    This will put a person's name on an attempt in review: theirs to look after, until a colleague takes it.

    :raises NotInReview: if it is in review no longer.
    """
    attempt = _locked(attempt_id)
    if attempt.state != State.REVIEW:
        raise NotInReview(str(attempt))
    if attempt.review_owner != owner:
        attempt.review_owner = owner
        attempt.save(update_fields=["review_owner", "updated_at"])
        summary = f"{owner} looks after the payment in review: {attempt.because}"
        _note_review(attempt, summary, actor=owner)
    return attempt


def resolve_review(
    *, attempt_id: uuid.UUID, reason: str, actor: str, as_of: datetime
) -> PaymentAttempt:
    """
    This will end an attempt in review: by what the provider says now, or else by what a person saw there.

    The provider is asked first, and what it says goes. What stays in review after that has no answer, or
    took money in a currency that cannot be booked: it is released, since a person says, with a reason,
    that nothing was taken or that it was given back. Should the provider say later that it has taken our
    own currency after all, that is booked as from any state.

    :raises NotInReview: if it is in review no longer.
    """
    attempt = PaymentAttempt.objects.get(pk=attempt_id)
    if attempt.state != State.REVIEW:
        raise NotInReview(str(attempt))
    ask([attempt], as_of=as_of)
    return _resolve(attempt_id, reason=reason, actor=actor, as_of=as_of)


@transaction.atomic(durable=True)
def _resolve(attempt_id: uuid.UUID, *, reason: str, actor: str, as_of: datetime) -> PaymentAttempt:
    attempt = _locked(attempt_id)
    if attempt.state == State.REVIEW:
        attempt.state = charge_protocol.moved(State.REVIEW, Move.RESOLVED)
        attempt.resolved_by = actor
        attempt.because = f"released by {actor}: {reason}"[:300]
        attempt.next_action_at = None
        attempt.unknown_since = None
        attempt.save()
    decisions.record(
        decisions.decision(
            act="REVIEW",
            did=Decision.Did.DONE,
            because=f"{attempt.get_state_display()}: {reason}",
            account_id=attempt.account_id,
            expected={"due_minor": attempt.amount_minor, "currency": attempt.currency},
            saw=ledger.standing(attempt.account_id, as_of=as_of).facts,
            attempt=attempt,
            actor=actor,
        )
    )
    summary = f"Payment in review resolved, {attempt.get_state_display().lower()}: {reason}"
    _note_review(attempt, summary, actor=actor)
    return attempt


def _locked(attempt_id: uuid.UUID) -> PaymentAttempt:
    locks.account_for_update(PaymentAttempt.objects.get(pk=attempt_id).account_id)
    return locks.attempt_for_update(attempt_id)


def _note_review(attempt: PaymentAttempt, summary: str, *, actor: str) -> None:
    timeline.record(
        timeline.event(
            account_id=attempt.account_id,
            kind="payment.review",
            summary=summary,
            actor=actor,
            attempt=str(attempt.pk),
        )
    )


# --- reserve


def _gateways_of(requests: Sequence[Request]) -> list[str]:
    """The gateways that these would be charged through, as it looks before anything is locked."""
    return list(
        PaymentMethod.objects.filter(
            account__in=[request.account_id for request in requests],
            is_default=True,
            state=PaymentMethod.State.ACTIVE,
        )
        .values_list("gateway", flat=True)
        .distinct()
    )


@transaction.atomic(durable=True)
def _reserve(requests: Sequence[Request], stopped: dict[str, str], *, as_of: datetime) -> Collected:
    ids = [request.account_id for request in requests]
    accounts = locks.accounts_for_update(ids)
    standings = ledger.standings(ids, as_of=as_of)
    in_flight = {
        attempt.account_id: attempt
        for attempt in PaymentAttempt.objects.filter(
            account__in=ids, state__in=PaymentAttempt.IN_FLIGHT
        )
    }
    methods = {
        method.account_id: method
        for method in PaymentMethod.objects.filter(
            account__in=ids, is_default=True, state=PaymentMethod.State.ACTIVE
        )
    }
    blocked = payment_methods.blocked_tokens(methods.values())
    stopped = stopped | guard.shut(method.gateway for method in methods.values())
    paused = pauses.because_of(ids)
    collected = Collected()
    for request in requests:
        pk = request.account_id
        refusal = _refusal(
            request,
            standings[pk],
            in_flight.get(pk),
            methods.get(pk),
            blocked,
            _pausing(request.kind, paused.get(pk)),
            as_of=as_of,
        ) or _stopped(stopped, standings[pk], methods[pk])
        if refusal is not None:
            collected.refused[pk] = refusal
        else:
            collected.attempts[pk] = _reserved(request, accounts[pk], standings[pk], methods[pk])
    PaymentAttempt.objects.bulk_create(collected.attempts.values())
    for pk, attempt in collected.attempts.items():
        if waits_for_its_day(attempt, as_of=as_of):
            messages.charge_announced(
                attempt, account=accounts[pk], due_minor=standings[pk].due_minor, as_of=as_of
            )
    return collected


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
        return ChargingPaused(paused, standing=standing)
    if request.only_if_due_minor not in {None, standing.due_minor}:
        return BalanceChanged("the balance has changed", standing=standing)
    if method is None:
        return NoPaymentMethod("there is no card", standing=standing)
    if method.has_expired(as_of):
        return NoPaymentMethod(f"{method} has expired", standing=standing)
    if (method.gateway, method.token) in blocked:
        return NoPaymentMethod(f"{method} is blocked on another account", standing=standing)
    if not chargeable_minor(method.gateway, standing.due_minor, standing.currency):
        due = money(standing.due_minor, standing.currency)
        return NothingDue(f"{due} is less than can be charged: carried forward", standing=standing)
    return None


def _pausing(kind: str, paused: str | None) -> str | None:
    """Why an account's pause stops a charge of this kind; its customer's own it does not."""
    return None if kind == PaymentAttempt.Kind.ON_SESSION else paused


def _stopped(
    stopped: Mapping[str, str], standing: Standing, method: PaymentMethod
) -> ChargingStopped | None:
    if method.gateway not in stopped:
        return None
    because = f"charging through {method.gateway} is paused: {stopped[method.gateway]}"
    return ChargingStopped(because, standing=standing)


def chargeable_minor(gateway: str, due_minor: int, currency: str) -> int:
    """
    What a gateway can charge of what is due, in minor units: no finer than it counts, and 0 below
    the least it takes. The rest stays due.
    """
    # A card of a gateway that is not set up must not stop the others' batch: `_prepare` will say so.
    with suppress(gateways.Misconfigured):
        provider = gateways.get(gateway)
        amount_minor = provider.chargeable_minor(due_minor, currency)
        return (
            amount_minor
            if amount_minor >= provider.capabilities.minimum_minor.get(currency, 1)
            else 0
        )
    return due_minor


def is_too_little(standing: Standing, gateway: str | None) -> bool:
    """Whether something is due, but less than the gateway of the default card can charge."""
    return (
        gateway is not None
        and standing.due_minor > 0
        and not chargeable_minor(gateway, standing.due_minor, standing.currency)
    )


def _reserved(
    request: Request, account: Account, standing: Standing, method: PaymentMethod
) -> PaymentAttempt:
    return PaymentAttempt(
        account=account,
        run_id=request.run_id,
        kind=request.kind,
        currency=standing.currency,
        amount_minor=chargeable_minor(method.gateway, standing.due_minor, standing.currency),
        payment_method=method,
        gateway=method.gateway,
        charge_date=_charge_date(account, method.gateway, as_of=standing.as_of),
        next_action_at=standing.as_of + DRIVE_WINDOW,
    )


def _charge_date(account: Account, gateway: str, *, as_of: datetime) -> date | None:
    """The first day on which a debit may be collected, where the account is; None: it is charged at once."""
    capabilities = _capabilities(gateway)
    if capabilities is None or not capabilities.typical_days:
        return None
    today = as_of.astimezone(ZoneInfo(account.time_zone)).date()
    return today + timedelta(days=capabilities.notice_days)


def _capabilities(gateway: str) -> gateways.Capabilities | None:
    """How a gateway behaves; None if it is not set up, which `_prepare` will say."""
    with suppress(gateways.Misconfigured):
        return gateways.get(gateway).capabilities
    return None


def waits_for_its_day(attempt: PaymentAttempt, *, as_of: datetime) -> bool:
    """Whether the day that its customer was told of has not come."""
    return attempt.charge_date is not None and as_of < _begins_at(attempt)


def _begins_at(attempt: PaymentAttempt) -> datetime:
    assert attempt.charge_date is not None, f"{attempt} is charged at once"
    zone = ZoneInfo(attempt.account.time_zone)
    return datetime.combine(attempt.charge_date, time.min, tzinfo=zone)


def on_its_way(attempt: PaymentAttempt, *, as_of: datetime) -> str:
    """
    How a debit goes on that waits for its day, or for the bank, as debits do: in words.

    Empty where it does not: it has ended, is being sent, or its provider answers at once.
    """
    capabilities = _capabilities(attempt.gateway)
    if attempt.charge_date is None or capabilities is None:
        return ""
    bank = f"the bank takes about {capabilities.typical_days} days"
    match attempt.state:
        case State.PREPARED if waits_for_its_day(attempt, as_of=as_of):
            return f"on its way: collected on {attempt.charge_date}, then {bank}"
        case State.PROCESSING:
            return f"on its way: {bank}"
        case _:
            return ""


@transaction.atomic(durable=True)
def _claim(attempts: Sequence[PaymentAttempt], *, as_of: datetime) -> list[PaymentAttempt]:
    """Move the sweeper's time ahead, so that one driver at a time works on an attempt."""
    claimed = list(_unlocked(attempts).filter(next_action_at__lte=as_of))
    return _moved_ahead(claimed, as_of=as_of)


@transaction.atomic(durable=True)
def _take_on(attempts: Sequence[PaymentAttempt], *, as_of: datetime) -> list[PaymentAttempt]:
    """The same, of all that have not come to their end, whether or not their time has come."""
    return _moved_ahead(
        list(_unlocked(attempts).filter(state__in=PaymentAttempt.IN_FLIGHT)), as_of=as_of
    )


def _unlocked(attempts: Sequence[PaymentAttempt]) -> QuerySet[PaymentAttempt]:
    return (
        PaymentAttempt.objects.select_for_update(skip_locked=True, of=("self",))
        .filter(pk__in=[attempt.pk for attempt in attempts])
        .select_related("account", "payment_method")
        .order_by("pk")
    )


def _moved_ahead(claimed: list[PaymentAttempt], *, as_of: datetime) -> list[PaymentAttempt]:
    PaymentAttempt.objects.filter(pk__in=[attempt.pk for attempt in claimed]).update(
        next_action_at=as_of + DRIVE_WINDOW
    )
    return claimed


# --- driving


def _drive(attempts: Sequence[PaymentAttempt], *, as_of: datetime, fresh: bool) -> None:
    """
    Take each attempt through the phases it has before it.

    `fresh`: nobody has driven it before, so there is nothing to ask the provider first.
    """
    answered = _ask([a for a in attempts if a.state in charge_protocol.ASKED_FIRST], as_of=as_of)
    to_prepare = [a for a in attempts if a.state in charge_protocol.TO_PREPARE]
    _prepare(to_prepare, as_of=as_of, fresh=fresh)
    _reread_each(attempts)
    # However often it is sent: never without looking whether it is still due.
    sendable = [a for a in attempts if a.state == State.PREPARED or a in answered]
    sendable = _recheck(sendable, as_of=as_of)
    _reread_each(attempts)
    _submit([a for a in sendable if a.state in charge_protocol.TO_SUBMIT], as_of=as_of)
    _reread_each(attempts)
    _cancel([a for a in attempts if a.state in charge_protocol.TO_CANCEL], as_of=as_of)


def _ask(attempts: Sequence[PaymentAttempt], *, as_of: datetime) -> list[PaymentAttempt]:
    def read(attempt: PaymentAttempt) -> Observation:
        return gateways.get(attempt.gateway).read(_ref(attempt))

    return _call(attempts, read, _settle(as_of), as_of=as_of)


def _prepare(attempts: Sequence[PaymentAttempt], *, as_of: datetime, fresh: bool) -> None:
    def prepare(attempt: PaymentAttempt) -> Observation:
        gateway, spec = gateways.get(attempt.gateway), _spec(attempt)
        if not fresh:
            # The reply of an earlier try may have been lost: take its object over instead of
            # leaving it behind. One that has moved money first, should our row be an older copy.
            made = gateway.find(spec, since=attempt.created_at)
            found = [o for o in made if o.status is not Status.CANCELED]
            if found:
                return min(found, key=lambda o: o.status is Status.UNSUBMITTED)
        return gateway.prepare(spec, key=_key(attempt, "prepare"))

    _call(attempts, prepare, _store, as_of=as_of)


@transaction.atomic(durable=True)
def _store(answers: Answers) -> Failures:
    # In the order of every other transaction, so that no two wait for each other.
    for attempt in sorted(answers, key=lambda a: a.account_id):
        PaymentAttempt.objects.filter(pk=attempt.pk, state=State.RESERVED).update(
            state=charge_protocol.moved(State.RESERVED, Move.STORED),
            provider_ref=answers[attempt].ref,
            unknown_since=None,
        )
    return {}


@transaction.atomic(durable=True)
def _recheck(attempts: Sequence[PaymentAttempt], *, as_of: datetime) -> list[PaymentAttempt]:
    """
    Between reserving and now the world may have changed: is it still due, is the card still there?

    Returns those that were looked at; where a gateway has closed meanwhile, they wait as they are.
    """
    ids = [attempt.account_id for attempt in attempts]
    locks.accounts_for_update(ids)
    stopped = guard.shut(attempt.gateway for attempt in attempts)
    attempts = [attempt for attempt in attempts if attempt.gateway not in stopped]
    standings = ledger.standings(ids, as_of=as_of)
    paused = pauses.because_of(ids)
    blocked = payment_methods.blocked_tokens(attempt.payment_method for attempt in attempts)
    for attempt in sorted(attempts, key=lambda a: a.account_id):
        current = locks.attempt_for_update(attempt.pk)
        if current.state not in charge_protocol.RECHECKED:
            continue
        pausing = _pausing(current.kind, paused.get(current.account_id))
        because = _no_longer(current, standings[current.account_id], blocked, pausing)
        if because is not None:
            current.state = charge_protocol.moved(current.state, Move.NO_LONGER_DUE)
            current.because = because
            if because != pausing and (code := _as_good_as_a_no(current, because)):
                current.decline_code = code
                current.decline_class = DeclineClass.NEEDS_CUSTOMER
            decisions.record(_gave_up(current, standings[current.account_id], because))
        elif current.state == State.PREPARED and waits_for_its_day(current, as_of=as_of):
            current.next_action_at = _begins_at(current)
        else:
            current.state = charge_protocol.moved(current.state, Move.STILL_DUE)
            current.submitted_at = current.submitted_at or as_of
        current.save()
    return attempts


def _no_longer(
    attempt: PaymentAttempt,
    standing: Standing,
    blocked: Container[tuple[str, str]],
    pausing: str | None,
) -> str | None:
    """Why the reserved amount may not be charged any more; None where it may."""
    if standing.due_minor <= 0:
        return SETTLED
    if standing.due_minor < attempt.amount_minor:
        return LESS_DUE
    if pausing is not None:
        return pausing
    method = attempt.payment_method
    if (method.gateway, method.token) in blocked:
        return "card blocked meanwhile"
    if method.state != PaymentMethod.State.ACTIVE:
        return "card removed meanwhile"
    if method.has_expired(standing.as_of):
        return f"{method} has expired meanwhile"
    if attempt.state == State.REQUIRES_ACTION and _waits_in_vain(attempt, standing.as_of):
        return NOT_CONFIRMED
    return None


def _as_good_as_a_no(attempt: PaymentAttempt, because: str) -> str:
    """The decline code where dunning waits for the customer now, since no close asks again; else empty."""
    if attempt.kind == PaymentAttempt.Kind.ON_SESSION:
        return ""
    if because == NOT_CONFIRMED:
        return "authentication_required"
    if attempt.charge_date is None or because in {SETTLED, LESS_DUE}:
        return ""
    return ENDED_MANDATES.get(attempt.payment_method.mandate_status, "payment_method_missing")


ENDED_MANDATES: dict[str, str] = {
    PaymentMethod.MandateStatus.CANCELLED: "mandate_cancelled",
    PaymentMethod.MandateStatus.EXPIRED: "mandate_expired",
}


def _waits_in_vain(attempt: PaymentAttempt, as_of: datetime) -> bool:
    assert attempt.submitted_at is not None, f"{attempt} waits for the customer, but was never sent"
    return as_of - attempt.submitted_at >= CUSTOMER_MAY_TAKE


def _gave_up(attempt: PaymentAttempt, standing: Standing, because: str) -> Decision:
    return decisions.decision(
        act="SUBMIT",
        did=Decision.Did.SKIPPED,
        because=because,
        account_id=attempt.account_id,
        expected={"due_minor": attempt.amount_minor, "currency": attempt.currency},
        saw=standing.facts,
        world_changed=True,
        run_id=attempt.run_id,
        attempt=attempt,
    )


def _submit(attempts: Sequence[PaymentAttempt], *, as_of: datetime) -> None:
    def submit(attempt: PaymentAttempt) -> Observation:
        return gateways.get(attempt.gateway).submit(_ref(attempt), key=_key(attempt, "submit"))

    _call(attempts, submit, _settle(as_of), as_of=as_of)


def _cancel(attempts: Sequence[PaymentAttempt], *, as_of: datetime) -> None:
    def cancel(attempt: PaymentAttempt) -> Observation:
        return gateways.get(attempt.gateway).cancel(_ref(attempt), key=_key(attempt, "cancel"))

    _call(attempts, cancel, _settle(as_of), as_of=as_of)


def _call(
    attempts: Sequence[PaymentAttempt],
    ask: Callable[[PaymentAttempt], Observation],
    use: Callable[[Answers], Failures],
    *,
    as_of: datetime,
) -> list[PaymentAttempt]:
    """
    Ask the provider about each attempt, at once and with nothing open, then use the answers together.

    Returns the attempts that got through.
    """
    if not attempts:
        return []
    assert not transaction.get_connection().in_atomic_block, (
        "a network call with a transaction open"
    )
    with ThreadPoolExecutor(max_workers=min(CALLS_AT_ONCE, len(attempts))) as pool:
        said = dict(zip(attempts, pool.map(_answer_of(ask), attempts), strict=True))
    failed = {attempt: answer for attempt, answer in said.items() if isinstance(answer, Exception)}
    failed |= use({a: answer for a, answer in said.items() if isinstance(answer, Observation)})
    for attempt, error in failed.items():
        _note_unknown(attempt, error, as_of=as_of)
    return [attempt for attempt in attempts if attempt not in failed]


def _answer_of(
    ask: Callable[[PaymentAttempt], Observation],
) -> Callable[[PaymentAttempt], Observation | Exception]:
    def answer(attempt: PaymentAttempt) -> Observation | Exception:
        try:
            return ask(attempt)
        except Exception as error:  # noqa: BLE001 - whatever a provider call raises, the outcome is unknown
            return error

    return answer


def _settle(as_of: datetime) -> Callable[[Answers], Failures]:
    def settle(answers: Answers) -> Failures:
        """All in one transaction; or each in its own, so that one that fails stops no other's money."""
        try:
            apply_provider_state({a.pk: seen for a, seen in answers.items()}, as_of=as_of)
        except Exception as error:
            if len(answers) == 1:
                logger.exception("what the provider says cannot be written down")
                return dict.fromkeys(answers, error)
            logger.warning("settling %s attempts one by one: %r", len(answers), error)
            alone = [settle({attempt: seen}) for attempt, seen in answers.items()]
            return {attempt: error for failed in alone for attempt, error in failed.items()}
        return {}

    return settle


def _note_unknown(attempt: PaymentAttempt, error: Exception, *, as_of: datetime) -> None:
    """No answer: stay in this state and ask again later, but not for ever."""
    logger.warning("attempt %s: outcome unknown: %s: %s", attempt.pk, type(error).__name__, error)
    since = attempt.unknown_since or as_of
    changes: dict[str, Any] = {
        "unknown_since": since,
        "because": f"{type(error).__name__}: {error}"[:300],
        "key_generation": attempt.key_generation + 1,
        "next_action_at": as_of + _ask_again_after(as_of - since),
    }
    if isinstance(error, gateways.RateLimited):
        # Neither an attempt nor a failure.
        changes = {"next_action_at": as_of + timedelta(seconds=error.retry_after_seconds)}
    elif not isinstance(error, gateways.Misconfigured) and as_of - since < REVIEW_AFTER:
        if attempt.state == State.CANCELING:
            # Why it is given up matters more than why that takes a while.
            del changes["because"]
    else:
        then = charge_protocol.moved(attempt.state, Move.UNANSWERED)
        # While a person looks, so do we: it may have been a wrong key or a long outage.
        again_at = as_of + ASK_AGAIN_LATER if then in charge_protocol.IN_FLIGHT else None
        changes |= {"state": then, "next_action_at": again_at}
    PaymentAttempt.objects.filter(pk=attempt.pk, state=attempt.state).update(**changes)


def _ask_again_after(unknown_for: timedelta) -> timedelta:
    return next((pause for pause in ASK_AGAIN_AFTER if unknown_for < pause), ASK_AGAIN_LATER)


# --- settle


@transaction.atomic(durable=True)
def apply_provider_state(observations: Mapping[uuid.UUID, Observation], *, as_of: datetime) -> None:
    """
    This will write down what the provider says of attempts, by attempt id. The only place that ends one.

    Whoever learns something (a reply, the sweeper, support) comes here with what the provider says
    now. Applying the same twice changes nothing; money that moved is booked from any state.
    """
    attempts = PaymentAttempt.objects.in_bulk(list(observations))
    accounts = locks.accounts_for_update({attempt.account_id for attempt in attempts.values()})
    for pk in sorted(observations, key=lambda pk: (attempts[pk].account_id, pk)):
        attempt = locks.attempt_for_update(pk)
        _apply(attempt, observations[pk], account=accounts[attempt.account_id], as_of=as_of)


def _apply(
    attempt: PaymentAttempt, seen: Observation, *, account: Account, as_of: datetime
) -> None:
    is_own_object = seen.ref == attempt.provider_ref
    if not charge_protocol.concerns(seen.status, is_own_object=is_own_object):
        return
    attempt.unknown_since = None
    if seen.status is Status.CANCELED and attempt.state == State.PREPARED and attempt.charge_date:
        # Not by us: a debit that waits for its day is cancelled with its mandate.
        attempt.decline_code = "mandate_cancelled"
        attempt.decline_class = DeclineClass.NEEDS_CUSTOMER
    was_declined = bool(attempt.decline_code)
    match charge_protocol.next_state(attempt.state, seen.status, was_declined=was_declined):
        case State.SUCCEEDED:
            _succeed(attempt, seen, account=account, as_of=as_of)
            if seen.status is Status.REVERSED:
                _reverse(attempt, seen, account=account, as_of=as_of)
        case State.FAILED | State.RELEASED as end:
            _end_unpaid(attempt, end, account=account, as_of=as_of)
        case State.CANCELING:
            _give_up(attempt, seen, as_of=as_of)
        case State.PROCESSING | State.REQUIRES_ACTION as waiting:
            if waiting is State.REQUIRES_ACTION and attempt.state != waiting:
                _ask_customer(attempt, account=account, as_of=as_of)
            attempt.state = waiting
            attempt.next_action_at = as_of + ASK_AGAIN_LATER
    attempt.save()


def _succeed(
    attempt: PaymentAttempt, seen: Observation, *, account: Account, as_of: datetime
) -> None:
    if Payment.objects.filter(gateway=attempt.gateway, provider_ref=seen.ref).exists():
        return
    if seen.currency != attempt.currency:
        if attempt.resolved_by:
            # A person has seen it, and that it was given back.
            return
        # Cannot be booked against this account's debts: a person must see it.
        attempt.state = charge_protocol.moved(attempt.state, Move.WRONG_CURRENCY)
        attempt.because = f"the provider took {seen.currency}, not {attempt.currency}"
        attempt.next_action_at = None
        return
    is_first = attempt.state != State.SUCCEEDED
    if is_first:
        attempt.because = (
            ""
            if seen.amount_minor == attempt.amount_minor
            else f"the provider took {money(seen.amount_minor, seen.currency)},"
            f" not {money(attempt.amount_minor, attempt.currency)}: booked as taken"
        )
        attempt.state = State.SUCCEEDED
        attempt.provider_ref = seen.ref
        attempt.next_action_at = None
    else:
        # Not by us: somebody submitted an object that was left behind. Real money all the same.
        attempt.because = f"the provider has taken money by {seen.ref} as well: booked as taken"
    _book(
        Payment(
            account=account,
            attempt=attempt if is_first else None,
            gateway=attempt.gateway,
            provider_ref=seen.ref,
            currency=seen.currency,
            amount_minor=seen.amount_minor,
            method=str(attempt.payment_method),
            received_at=as_of,
        ),
        account=account,
        as_of=as_of,
    )


def _ask_customer(attempt: PaymentAttempt, *, account: Account, as_of: datetime) -> None:
    """Who is not at it reads a mail; who is sees it on the page."""
    if attempt.kind == PaymentAttempt.Kind.ON_SESSION:
        return
    standing = ledger.standing(account.pk, as_of=as_of)
    messages.confirmation_needed(
        attempt,
        account=account,
        until=(attempt.submitted_at or as_of) + CUSTOMER_MAY_TAKE,
        due_minor=standing.due_minor,
        as_of=as_of,
    )


def _reverse(
    attempt: PaymentAttempt, seen: Observation, *, account: Account, as_of: datetime
) -> None:
    """The payer's bank has paid, and then taken all of it back: booked once, and dunning follows it up."""
    payment = Payment.objects.filter(gateway=attempt.gateway, provider_ref=seen.ref).first()
    left_minor = payment.amount_minor - reversals.reversed_minor(payment) if payment else 0
    if payment is None or not left_minor:
        # Taken in another currency, which a person looks at; or booked before.
        return
    reversals.reverse_payment(
        payment,
        account=account,
        amount_minor=left_minor,
        provider_ref=seen.ref,
        reason="returned by the payer's bank",
        as_of=as_of,
    )
    attempt.because = "returned by the payer's bank after it had paid"
    attempt.decline_code = "returned_by_bank"
    attempt.decline_class = DeclineClass.NEEDS_CUSTOMER
    standing = ledger.standing(account.pk, as_of=as_of)
    attempt.case = dunning.note_failure(attempt, account=account, standing=standing)


def _give_up(attempt: PaymentAttempt, seen: Observation, *, as_of: datetime) -> None:
    """The provider has moved no money and still could: it is cancelled next."""
    attempt.state = State.CANCELING
    attempt.next_action_at = as_of + DRIVE_WINDOW
    if seen.status is Status.DECLINED:
        _decline(attempt, seen, as_of=as_of)
    else:
        attempt.because = "not submitted in time"


def _decline(attempt: PaymentAttempt, seen: Observation, *, as_of: datetime) -> None:
    """Keep what the bank said, and what it means; after "never again" the card is blocked at once."""
    attempt.decline_code = seen.decline_code or "declined"
    attempt.advice_code = seen.advice_code
    attempt.decline_class = DeclineClass(
        declines.decline_class(attempt.decline_code, advice_code=attempt.advice_code)
    )
    if attempt.decline_class == DeclineClass.STOP:
        because = f"its bank said {attempt.decline_code}"
        if attempt.advice_code:
            because += f", and advised {attempt.advice_code}"
        payment_methods.block_card(attempt.payment_method, because=because, as_of=as_of)


def _end_unpaid(attempt: PaymentAttempt, end: State, *, account: Account, as_of: datetime) -> None:
    """The provider says it never will move money: declined, or given up by us."""
    attempt.state = end
    attempt.next_action_at = None
    if end is State.RELEASED:
        return
    attempt.because = f"declined: {attempt.decline_code}"
    standing = ledger.standing(account.pk, as_of=as_of)
    attempt.case = dunning.note_failure(attempt, account=account, standing=standing)
    if attempt.decline_class == DeclineClass.OURS:
        _leave_to_an_operator(attempt, standing)
        return
    timeline.record(
        timeline.event(
            account_id=account.pk,
            kind="payment.failed",
            summary=f"{attempt.payment_method} declined"
            f" {money(attempt.amount_minor, attempt.currency)}: {attempt.decline_code}",
            attempt=str(attempt.pk),
        )
    )
    if dunning.is_news(attempt, as_of=as_of):
        messages.payment_failed(attempt, account=account, due_minor=standing.due_minor, as_of=as_of)


def _leave_to_an_operator(attempt: PaymentAttempt, standing: Standing) -> None:
    """What we asked for was wrong, not the card: its holder can do nothing about it and is not written to."""
    logger.error("attempt %s: refused for a fault of ours: %s", attempt.pk, attempt.decline_code)
    decisions.record(
        decisions.decision(
            act="SUBMIT",
            did=Decision.Did.BLOCKED,
            because=f"our set-up or request is wrong: {attempt.decline_code}",
            account_id=attempt.account_id,
            expected={"due_minor": attempt.amount_minor, "currency": attempt.currency},
            saw=standing.facts,
            run_id=attempt.run_id,
            attempt=attempt,
        )
    )


def _book(payment: Payment, *, account: Account, as_of: datetime) -> Payment:
    """Money is here: settle the oldest invoices with it, keep the rest as credit, say so."""
    payment.save(force_insert=True)
    # A debit that waits for its day need not wait to learn that it is not needed.
    PaymentAttempt.objects.filter(
        account=account, state=State.PREPARED, charge_date__isnull=False
    ).update(next_action_at=as_of)
    source = settlement.Source(account.pk, payment.amount_minor, payment=payment)
    allocations = settlement.allocate(
        sources=[source], invoices=locks.open_invoices_for_update([account.pk]), as_of=as_of
    )
    surplus_minor = source.available_minor
    ledger.post(
        [
            ledger.payment_received(
                payment,
                allocated_minor=payment.amount_minor - surplus_minor,
                entity_id=account.entity_id,
            )
        ]
    )
    if surplus_minor:
        CreditGrant.objects.create(
            account=account,
            kind=CreditGrant.Kind.SURPLUS,
            payment=payment,
            currency=payment.currency,
            amount_minor=surplus_minor,
            remaining_minor=surplus_minor,
            reason=f"Left over from the payment by {payment.method}"[:300],
        )
    timeline.record(
        timeline.event(
            account_id=account.pk,
            kind="payment.received",
            summary=f"{money(payment.amount_minor, payment.currency)} received by {payment.method}",
            actor=payment.recorded_by,
            payment=payment.pk,
            reason=payment.reason,
        )
    )
    dunning.lift_settled_holds([account.pk], because="paid", as_of=as_of)
    _send_receipt(payment, allocations, account=account, as_of=as_of)
    return payment


def _send_receipt(
    payment: Payment, allocations: Iterable[Allocation], *, account: Account, as_of: datetime
) -> None:
    standing = ledger.standing(account.pk, as_of=as_of)
    messages.payment_received(
        payment,
        account=account,
        allocations=[(a.invoice, a.amount_minor) for a in allocations],
        due_minor=standing.due_minor,
        credit_minor=standing.credit_minor,
        as_of=as_of,
    )


# --- small truths


def _spec(attempt: PaymentAttempt) -> gateways.AttemptSpec:
    return gateways.AttemptSpec(
        own_reference=str(attempt.pk),
        account_ref=attempt.account.external_id,
        token=attempt.payment_method.token,
        amount_minor=attempt.amount_minor,
        currency=attempt.currency,
        customer_ref=attempt.payment_method.customer_ref,
        charge_date=attempt.charge_date,
    )


def _key(attempt: PaymentAttempt, call: str) -> str:
    """The idempotency key of one call: from our row, so that a repeat carries the same one."""
    name = f"{settings.INSTALLATION_ID}|{attempt.pk}|{call}|{attempt.key_generation}"
    return hashlib.sha256(name.encode()).hexdigest()


def _ref(attempt: PaymentAttempt) -> str:
    assert attempt.provider_ref, f"{attempt} is past prepare without a provider's object"
    return attempt.provider_ref


def _reread(attempts: dict[int, PaymentAttempt]) -> None:
    for account_id, attempt in attempts.items():
        attempts[account_id] = PaymentAttempt.objects.get(pk=attempt.pk)


def _reread_each(attempts: Sequence[PaymentAttempt]) -> None:
    """Bring the rows in hand up to what the database says now."""
    current = PaymentAttempt.objects.in_bulk([attempt.pk for attempt in attempts])
    for attempt in attempts:
        for name in ("state", "provider_ref", "unknown_since", "key_generation", "because"):
            setattr(attempt, name, getattr(current[attempt.pk], name))
