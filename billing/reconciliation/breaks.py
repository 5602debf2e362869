"""Breaks: differences between a provider's book and ours. Noted once, resolved when no longer found."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime

from django.db import transaction
from django.db.models import Exists, OuterRef, Q

from accounts.models import Account
from billing import decisions, gateways
from billing.charge_protocol import TOOK_MONEY
from billing.gateways import Misconfigured
from billing.models import (
    Decision,
    ListedObject,
    Payment,
    PaymentAttempt,
    Reconciliation,
    ReconciliationBreak,
)
from billing.money import money

Kind = ReconciliationBreak.Kind
State = ReconciliationBreak.State

BATCH = 100


@transaction.atomic(durable=True)
def note(
    reconciliation: Reconciliation,
    kind: str,
    listed: ListedObject,
    words: str,
    *,
    as_of: datetime,
    account: Account | None = None,
    attempt: PaymentAttempt | None = None,
) -> ReconciliationBreak:
    """
    Note a break. If it was found before, its row is opened again, unless a person has accepted it.
    """
    found, is_new = ReconciliationBreak.objects.get_or_create(
        kind=kind,
        gateway=reconciliation.gateway,
        provider_ref=listed.provider_ref,
        defaults={
            "object_at": listed.made_at,
            "account": account,
            "attempt": attempt,
            "words": words[:500],
            "currency": listed.currency,
            "amount_minor": listed.amount_minor,
            "reconciliation": reconciliation,
            "found_at": as_of,
        },
    )
    if not is_new:
        found.reconciliation, found.words = reconciliation, words[:500]
        if found.state == State.RESOLVED:
            found.state, found.resolved_at = State.OPEN, None
        found.save(update_fields=["reconciliation", "words", "state", "resolved_at"])
    return found


def resolve(found: ReconciliationBreak, *, as_of: datetime) -> None:
    """Resolve a break that needs no person."""
    ReconciliationBreak.objects.filter(pk=found.pk, state=State.OPEN).update(
        state=State.RESOLVED, resolved_at=as_of
    )


def resolve_what_is_gone(reconciliation: Reconciliation, *, as_of: datetime) -> None:
    """Resolve the open breaks that this reconciliation should have found again, and did not."""
    gone = ReconciliationBreak.objects.filter(
        gateway=reconciliation.gateway, state=State.OPEN
    ).exclude(reconciliation=reconciliation)
    if reconciliation.since is not None:
        gone = gone.filter(object_at__gte=reconciliation.since)
    if not reconciliation.compares_payouts:
        gone = gone.exclude(kind=Kind.PAYOUT_DIFFERS)
    gone.update(state=State.RESOLVED, resolved_at=as_of)


# --- acts of a person


class AlreadyEnded(Exception):
    """The break is not open any more."""


@transaction.atomic(durable=True)
def take_over(*, break_id: int, owner: str) -> ReconciliationBreak:
    """
    Note who looks after a break.

    :raises AlreadyEnded: if it is resolved or accepted.
    """
    found = _open_for_update(break_id)
    found.owner = owner
    found.save(update_fields=["owner"])
    return found


@transaction.atomic(durable=True)
def accept(*, break_id: int, owner: str, reason: str, as_of: datetime) -> ReconciliationBreak:
    """
    Accept a break: a person has looked at it, and it may stay as it is.

    :raises AlreadyEnded: if it is resolved or accepted.
    """
    found = _open_for_update(break_id)
    found.owner, found.note = owner, reason
    found.state, found.resolved_at = State.ACCEPTED, as_of
    found.save(update_fields=["owner", "note", "state", "resolved_at"])
    decisions.record(
        decisions.decision(
            act="ACCEPT_BREAK",
            did=Decision.Did.DONE,
            because=reason,
            account_id=found.account_id,
            saw={
                "kind": found.kind,
                "provider_ref": found.provider_ref,
                "amount_minor": found.amount_minor,
                "currency": found.currency,
            },
            attempt=found.attempt,
            actor=owner,
        )
    )
    return found


def _open_for_update(break_id: int) -> ReconciliationBreak:
    found = ReconciliationBreak.objects.select_for_update().get(pk=break_id)
    if found.state != State.OPEN:
        raise AlreadyEnded(f"{found} is {found.get_state_display().lower()}")
    return found


# --- what is left to compare


def compare(reconciliation: Reconciliation, *, as_of: datetime) -> Iterator[int]:
    """Note the differences that remain once everything that can be booked is booked."""
    _note_other_amounts(reconciliation, as_of=as_of)
    _note_unknown_objects(reconciliation, as_of=as_of)
    yield from _note_payments_not_taken(reconciliation, as_of=as_of)


def _note_other_amounts(reconciliation: Reconciliation, *, as_of: datetime) -> None:
    taken = {
        listed.provider_ref: listed
        for listed in reconciliation.objects_listed.filter(
            Exists(
                Payment.objects.filter(
                    gateway=reconciliation.gateway, provider_ref=OuterRef("provider_ref")
                ).exclude(amount_minor=OuterRef("amount_minor"), currency=OuterRef("currency"))
            ),
            status__in=TOOK_MONEY,
        )
    }
    for payment in _payments(reconciliation, list(taken)):
        listed = taken[payment.provider_ref]
        words = (
            f"The provider has taken {money(listed.amount_minor, listed.currency)},"
            f" our books have {money(payment.amount_minor, payment.currency)}"
        )
        note(
            reconciliation,
            Kind.AMOUNT_DIFFERS,
            listed,
            words,
            as_of=as_of,
            account=payment.account,
            attempt=payment.attempt,
        )


def _note_unknown_objects(reconciliation: Reconciliation, *, as_of: datetime) -> None:
    """Note objects that bear our installation's name, but no attempt's."""
    for listed in reconciliation.objects_listed.filter(attempt_id=None).exclude(
        status=ListedObject.FOREIGN
    ):
        words = f"It names no attempt of ours, and {listed.account_ref!r} as its account"
        note(reconciliation, Kind.OBJECT_UNKNOWN, listed, words, as_of=as_of)


def _note_payments_not_taken(reconciliation: Reconciliation, *, as_of: datetime) -> Iterator[int]:
    """Ask about each payment of ours that is not in the list: it may only be older than the list."""
    provider = gateways.get(reconciliation.gateway)
    listed = reconciliation.objects_listed.filter(
        provider_ref=OuterRef("provider_ref"), status__in=TOOK_MONEY
    )
    ours = Payment.objects.filter(~Exists(listed), gateway=reconciliation.gateway)
    if reconciliation.since is not None:
        ours = ours.filter(
            Q(attempt__created_at__gte=reconciliation.since)
            | Q(attempt=None, received_at__gte=reconciliation.since)
        )
    # The next reconciliation looks at what began after the list.
    ours = ours.exclude(attempt__created_at__gte=reconciliation.started_at)
    for payment in ours.select_related("account", "attempt").order_by("pk"):
        status = None
        with suppress(Misconfigured):
            status = provider.read(payment.provider_ref).status
        if status not in TOOK_MONEY:
            note(
                reconciliation,
                Kind.PAYMENT_UNKNOWN,
                _as_listed(payment),
                f"Booked as paid by {payment.method}; the provider says: {status or 'no such object'}",
                as_of=as_of,
                account=payment.account,
                attempt=payment.attempt,
            )
        yield 0


def _payments(reconciliation: Reconciliation, refs: list[str]) -> list[Payment]:
    return list(
        Payment.objects.filter(
            gateway=reconciliation.gateway, provider_ref__in=refs
        ).select_related("account", "attempt")
    )


def _as_listed(payment: Payment) -> ListedObject:
    return ListedObject(
        provider_ref=payment.provider_ref,
        made_at=payment.attempt.created_at if payment.attempt else payment.received_at,
        currency=payment.currency,
        amount_minor=payment.amount_minor,
    )
