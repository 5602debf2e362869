"""
Book what the provider has taken and we have not booked, and restore what our database has lost.

Each object is read again before it is acted on: it may have changed since it was listed.
"""

import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta

from django.db import transaction
from django.db.models import Case, Exists, OuterRef, Q, QuerySet, When

from accounts import timeline
from accounts.models import Account, PaymentMethod
from billing import decisions, gateways, locks
from billing.charge_protocol import TOOK_MONEY, State
from billing.gateways import Gateway, Method, Observation, Status
from billing.models import (
    Decision,
    ListedObject,
    Payment,
    PaymentAttempt,
    PaymentReversal,
    Reconciliation,
    ReconciliationBreak,
)
from billing.money import money
from billing.payments import charges
from billing.reconciliation import breaks
from billing.reconciliation.listing import BATCH

logger = logging.getLogger(__name__)
Kind = ReconciliationBreak.Kind

CALLS_AT_ONCE = 16
# An object without money that is this old will not be submitted any more.
ORPHANED_AFTER = timedelta(hours=24)
# Not ended: it could still move money.
UNCONFIRMED = (Status.UNSUBMITTED, Status.NEEDS_CUSTOMER, Status.DECLINED)
# In place of a card that the provider does not name any more.
NO_CARD = Method("", "", "Card", "")
NEVER_EXPIRES = date.max
# Charges that took money, or will, and could not be written down: no gateway may open before they are.
STILL_LOST = "still_lost"
FOUND = "found at the provider: our database had lost it"


# --- attempts we know


def book_known(reconciliation: Reconciliation, *, as_of: datetime) -> Iterator[int]:
    """Apply what has ended at the provider and not in our books; yields after each batch."""
    provider = gateways.get(reconciliation.gateway)
    for batch in _in_batches(_ended_but_not_booked(reconciliation)):
        for listed, seen in _asked(batch, lambda each: provider.read(each.provider_ref)):
            _book(reconciliation, listed, seen, as_of=as_of)
        _save_counts(reconciliation)
        yield 0


def _ended_but_not_booked(reconciliation: Reconciliation) -> QuerySet[ListedObject]:
    attempts = PaymentAttempt.objects.filter(pk=OuterRef("attempt_id"))
    in_flight = attempts.filter(
        state__in=PaymentAttempt.IN_FLIGHT, provider_ref=OuterRef("provider_ref")
    )
    return reconciliation.objects_listed.filter(
        Q(Exists(attempts), ~Exists(_payment(reconciliation)), status__in=TOOK_MONEY)
        | Q(Exists(attempts), ~Exists(_reversal(reconciliation)), status=Status.REVERSED)
        | Q(Exists(in_flight), status=Status.CANCELED)
    ).order_by("made_at", "pk")


def _payment(reconciliation: Reconciliation) -> QuerySet[Payment]:
    return Payment.objects.filter(
        gateway=reconciliation.gateway, provider_ref=OuterRef("provider_ref")
    )


def _reversal(reconciliation: Reconciliation) -> QuerySet[PaymentReversal]:
    return PaymentReversal.objects.filter(
        gateway=reconciliation.gateway, provider_ref=OuterRef("provider_ref")
    )


def _book(
    reconciliation: Reconciliation, listed: ListedObject, seen: Observation, *, as_of: datetime
) -> None:
    assert listed.attempt_id is not None, f"{listed} is of an attempt we know"
    why = "see the attempt: a person has to look"
    try:
        charges.apply_provider_state({listed.attempt_id: seen}, as_of=as_of)
    except Exception as error:
        # One that cannot be written down stops no other's money.
        logger.exception("what the provider says of %s cannot be written down", listed)
        why = f"{type(error).__name__}: {error}"
    if seen.status not in TOOK_MONEY:
        return
    if Payment.objects.filter(
        gateway=reconciliation.gateway, provider_ref=listed.provider_ref
    ).exists():
        _count(reconciliation, "booked")
        return
    attempt = PaymentAttempt.objects.get(pk=listed.attempt_id)
    breaks.note(
        reconciliation,
        Kind.NOT_BOOKED,
        listed,
        f"Taken, but it cannot be booked: {attempt.because or why}",
        as_of=as_of,
        attempt=attempt,
        account=attempt.account,
    )


# --- attempts we have lost


def find_lost(reconciliation: Reconciliation, *, as_of: datetime) -> Iterator[int]:
    """
    Restore every attempt that only the provider still knows.

    Objects that could still move money are cancelled first: nobody is left to follow them up.
    """
    provider = gateways.get(reconciliation.gateway)
    for batch in _in_batches(_lost(reconciliation)):
        for listed, seen in _asked(batch, lambda each: _read_or_cancel(provider, each)):
            _find(reconciliation, provider, listed, seen, as_of=as_of)
        _save_counts(reconciliation)
        yield 0


def _lost(reconciliation: Reconciliation) -> QuerySet[ListedObject]:
    """Objects of lost attempts: those that took money first, then in the order they were made."""
    attempts = PaymentAttempt.objects.filter(pk=OuterRef("attempt_id"))
    took_money_first = Case(When(status__in=TOOK_MONEY, then=0), default=1)
    return reconciliation.objects_listed.filter(
        ~Exists(attempts), attempt_id__isnull=False
    ).order_by(took_money_first, "made_at", "pk")


def _read_or_cancel(provider: Gateway, listed: ListedObject) -> Observation:
    seen = provider.read(listed.provider_ref)
    if seen.status in UNCONFIRMED:
        return _cancelled(provider, listed.provider_ref)
    return seen


def _cancelled(provider: Gateway, ref: str) -> Observation:
    # A new key each time: a cancel is safe to repeat, and a cached error would help nobody.
    return provider.cancel(ref, key=uuid.uuid4().hex)


def _find(
    reconciliation: Reconciliation,
    provider: Gateway,
    listed: ListedObject,
    seen: Observation,
    *,
    as_of: datetime,
) -> None:
    if PaymentAttempt.objects.filter(pk__in=[listed.attempt_id]).exists():
        # Just restored from another of its objects: this one is applied to it next.
        return
    account = Account.objects.filter(external_id=seen.account_ref).first()
    amount = money(seen.amount_minor, seen.currency)
    if account is None:
        words = f"{amount} of account {seen.account_ref!r}, which we do not have: {seen.status}"
        found = breaks.note(reconciliation, Kind.ACCOUNT_UNKNOWN, listed, words, as_of=as_of)
        if seen.status is Status.CANCELED:
            # No money moved and none will: noted only so that the guard knows it.
            breaks.resolve(found, as_of=as_of)
        return
    try:
        if seen.status is Status.PROCESSING:
            _end_older_attempts(account, seen.currency, as_of=as_of)
        method = _card(provider, account, seen, removed_at=listed.made_at)
        attempt = _restore_attempt(reconciliation, listed, account, method, seen, as_of=as_of)
        charges.apply_provider_state({attempt.pk: seen}, as_of=as_of)
    except Exception as error:  # noqa: BLE001 - one that cannot be found again must not hide the others
        logger.warning("%s cannot be found again: %r", listed, error)
        words = f"{amount} of a charge that was lost cannot be written down: {error!r}"
        found = breaks.note(
            reconciliation, Kind.NOT_BOOKED, listed, words[:500], as_of=as_of, account=account
        )
        if _may_be_charged_again(seen, error, found):
            _count(reconciliation, STILL_LOST)
    else:
        _count(reconciliation, "found_again")


def _may_be_charged_again(seen: Observation, error: Exception, found: ReconciliationBreak) -> bool:
    """Whether the account could be charged again for the same debt: until a person has looked, no gateway opens."""
    has_money = seen.status is Status.PROCESSING or seen.status in TOOK_MONEY
    is_open = found.state == ReconciliationBreak.State.OPEN
    return has_money and is_open and not isinstance(error, InAnotherCurrency)


def _end_older_attempts(account: Account, currency: str, *, as_of: datetime) -> None:
    """
    End what the restored database has in flight beside a charge that is on its way.

    It had ended before that charge began. Only the provider is believed about it, and whatever could still
    move money is cancelled there first.
    """
    in_flight = account.attempts.filter(currency=currency, state__in=PaymentAttempt.IN_FLIGHT)
    for older in in_flight.select_related("account", "payment_method"):
        if older.state == State.RESERVED and not _moved_nothing(older, as_of=as_of):
            continue
        charges.give_up(older, because="another payment is on its way", as_of=as_of)
        charges.ask([older], as_of=as_of)


def _moved_nothing(reserved: PaymentAttempt, *, as_of: datetime) -> bool:
    """Cancel every object of a reserved attempt; return whether none has moved, or can still move, money."""
    provider = gateways.get(reserved.gateway)
    made = provider.find(charges.spec(reserved), since=reserved.created_at)
    ended = [
        _cancelled(provider, seen.ref) if seen.status in UNCONFIRMED else seen for seen in made
    ]
    for seen in ended:
        charges.apply_provider_state({reserved.pk: seen}, as_of=as_of)
    return all(seen.status is Status.CANCELED for seen in ended)


class InAnotherCurrency(ValueError):
    """The charge is not in the account's currency: it can be booked against none of the account's debts."""


@transaction.atomic(durable=True)
def _restore_attempt(
    reconciliation: Reconciliation,
    listed: ListedObject,
    account: Account,
    method: PaymentMethod,
    seen: Observation,
    *,
    as_of: datetime,
) -> PaymentAttempt:
    """
    Write down the attempt as it must have been, so that the provider's answer can be applied to it.

    :raises InAnotherCurrency: if it is not in the account's currency.
    :raises IntegrityError: if another payment of the account is on its way all the same.
    """
    assert listed.attempt_id is not None, f"{listed} names the attempt that is lost"
    locks.account_for_update(account.pk)
    if seen.currency != account.currency:
        raise InAnotherCurrency(f"the account is in {account.currency}")
    if method._state.adding:
        method.save()
    is_on_its_way = seen.status is Status.PROCESSING
    attempt = PaymentAttempt.objects.create(
        id=listed.attempt_id,
        account=account,
        kind=PaymentAttempt.Kind.AUTO,
        currency=seen.currency,
        amount_minor=seen.amount_minor,
        payment_method=method,
        gateway=reconciliation.gateway,
        provider_ref=seen.ref,
        state=State.SUBMITTED if is_on_its_way else State.RELEASED,
        next_action_at=as_of if is_on_its_way else None,
        submitted_at=listed.made_at,
        created_at=listed.made_at,
        because=FOUND,
    )
    decisions.record(
        decisions.decision(
            act="FIND_CHARGE",
            did=Decision.Did.DONE,
            because=FOUND,
            account_id=account.pk,
            saw={
                "provider_ref": seen.ref,
                "status": seen.status,
                "amount_minor": seen.amount_minor,
                "currency": seen.currency,
            },
            world_changed=True,
            attempt=attempt,
        )
    )
    timeline.record(
        timeline.event(
            account_id=account.pk,
            kind="payment.found",
            summary=f"A charge of {money(seen.amount_minor, seen.currency)} by {method} was {FOUND}",
            attempt=str(attempt.pk),
        )
    )
    return attempt


def _card(
    provider: Gateway, account: Account, seen: Observation, *, removed_at: datetime
) -> PaymentMethod:
    """The card that was charged. If it is lost as well, make a removed one, for the record only."""
    known = account.payment_methods.filter(gateway=provider.name, token=seen.token).last()
    if known is not None:
        return known
    card = provider.read_method(seen.token) if seen.token else NO_CARD
    return PaymentMethod(
        account=account,
        gateway=provider.name,
        token=card.token,
        customer_ref=seen.customer_ref,
        brand=card.brand,
        last_four=card.last_four,
        expiry_month=card.expiry_month or NEVER_EXPIRES.month,
        expiry_year=card.expiry_year or NEVER_EXPIRES.year,
        state=PaymentMethod.State.REMOVED,
        removed_at=removed_at,
    )


# --- objects that no attempt will submit


def cancel_orphans(reconciliation: Reconciliation, *, as_of: datetime) -> Iterator[int]:
    """Cancel what no attempt will submit any more, so that nothing can."""
    provider = gateways.get(reconciliation.gateway)
    attempts = PaymentAttempt.objects.filter(pk=OuterRef("attempt_id"))
    wanted = attempts.filter(
        Q(provider_ref=None) | Q(provider_ref=OuterRef("provider_ref")),
        state__in=PaymentAttempt.IN_FLIGHT,
    )
    orphans = reconciliation.objects_listed.filter(
        Exists(attempts),
        ~Exists(wanted),
        status__in=UNCONFIRMED,
        made_at__lt=as_of - ORPHANED_AFTER,
    ).order_by("made_at", "pk")
    for batch in _in_batches(orphans):
        for listed, seen in _asked(batch, lambda each: _cancelled(provider, each.provider_ref)):
            if seen.status in TOOK_MONEY:
                _book(reconciliation, listed, seen, as_of=as_of)
            else:
                _count(reconciliation, "cancelled")
        _save_counts(reconciliation)
        yield 0


def _in_batches(objects: QuerySet[ListedObject]) -> Iterator[list[ListedObject]]:
    """Read the objects in batches, each as it is then: acting on one changes which objects match."""
    ids = list(objects.values_list("pk", flat=True))
    for begin in range(0, len(ids), BATCH):
        rows = ListedObject.objects.in_bulk(ids[begin : begin + BATCH])
        yield [rows[pk] for pk in ids[begin : begin + BATCH]]


def _asked(
    batch: Sequence[ListedObject], ask: Callable[[ListedObject], Observation]
) -> Iterator[tuple[ListedObject, Observation]]:
    """
    Ask the provider about each, in parallel and with no transaction open; then raise the first error.
    """
    assert not transaction.get_connection().in_atomic_block, (
        "a network call with a transaction open"
    )

    def answer(listed: ListedObject) -> Observation | Exception:
        try:
            return ask(listed)
        except Exception as error:  # noqa: BLE001 - raised when the others' answers are used
            return error

    with ThreadPoolExecutor(max_workers=CALLS_AT_ONCE) as pool:
        answers = list(zip(batch, pool.map(answer, batch), strict=True))
    errors = []
    for listed, said in answers:
        if isinstance(said, Exception):
            errors.append(said)
            continue
        yield listed, said
        # Only now: the next process that goes on from here does not do it again.
        ListedObject.objects.filter(pk=listed.pk).update(status=said.status)
    if errors:
        raise errors[0]


def _count(reconciliation: Reconciliation, what: str) -> None:
    reconciliation.counts[what] = reconciliation.counts.get(what, 0) + 1


def _save_counts(reconciliation: Reconciliation) -> None:
    reconciliation.save(update_fields=["counts"])
