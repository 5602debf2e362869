"""
Bank transfers: imported from the bank's statement, matched by reference, or left to a person.

A transfer is booked only where what its payer wrote names one account by a reference whose check
digits are right, the currency is that account's, and nobody has recorded that money before. Whoever
guesses with other people's money is wrong in the end: everything else waits, with what is known.

An entry is known again by all that the bank says of it together, and by the how-manieth of equal
ones it is. So a statement holds each of them as often as it lists it: the same file again adds
nothing, and one that overlaps it adds what is new.
"""

import re
from collections.abc import Set
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

from django.db import transaction
from django.db.models import Max, Q

from accounts import timeline
from accounts.models import Account, BillingEntity
from billing import decisions, ledger, locks, references
from billing.models import (
    BankStatement,
    Decision,
    IncomingTransfer,
    Invoice,
    Payment,
    RepeatedTransfer,
)
from billing.money import money
from billing.payments import bank_statements, booking
from billing.payments.bank_statements import SAID, Entry, StatementRow, entry_of

State = IncomingTransfer.State

# A payment is recorded by hand when somebody sees it, before its statement is imported or after.
NEAR = timedelta(days=14)


@dataclass
class Imported:
    """What became of the rows of a statement."""

    booked: list[IncomingTransfer] = field(default_factory=list)
    waiting: list[IncomingTransfer] = field(default_factory=list)
    # Taken for transfers that were imported before.
    repeated: list[RepeatedTransfer] = field(default_factory=list)

    @property
    def known(self) -> int:
        """How many were imported before."""
        return len(self.repeated)


class AlreadyBooked(Exception):
    """Somebody else has decided about it meanwhile."""


class WrongCurrency(ValueError):
    """It did not come in in the account's currency, which is what the account owes in."""


class ResemblesNothing(ValueError):
    """It looks like no payment that was recorded before, or like one that another transfer is."""


@dataclass(frozen=True)
class Named:
    """Whose a transfer is, for sure or perhaps; and why."""

    because: str
    account_id: int | None = None
    # Whose it may be, if it is for sure nobody's.
    suggested_id: int | None = None


def import_statement(*paths: Path, as_of: datetime) -> Imported:
    """
    Import a statement, in one file or in several that are its parts: each transfer once.

    Each is written in a transaction of its own; killed, the same files again import the rest.

    :raises FileRefused: if a file or a row of it is wrong: then nothing of it is imported.
    """
    read = bank_statements.read(*paths)
    statement = BankStatement.objects.create(name=read.name, sha256=read.sha256)
    entries = {entry_of(row) for row, _ordinal in read.rows}
    imported = Imported()
    for row, ordinal in read.rows:
        taken = _take(row, ordinal, statement=statement, entries=entries, as_of=as_of)
        if isinstance(taken, RepeatedTransfer):
            imported.repeated.append(taken)
        elif taken.state == State.BOOKED:
            imported.booked.append(taken)
        else:
            imported.waiting.append(taken)
    return imported


@transaction.atomic(durable=True)
def _take(
    row: StatementRow,
    ordinal: int,
    *,
    statement: BankStatement,
    entries: Set[Entry],
    as_of: datetime,
) -> IncomingTransfer | RepeatedTransfer:
    """Write one down, and book it if it says whose it is; list it as a repeat if that was done before."""
    named = _whose(row)
    account = locks.account_for_update(named.account_id) if named.account_id is not None else None
    transfer, is_new = IncomingTransfer.objects.get_or_create(
        **_said(row),
        ordinal=ordinal,
        defaults={
            "statement": statement,
            "because": named.because[:300],
            "suggested_account_id": named.suggested_id,
        },
    )
    if not is_new:
        return RepeatedTransfer.objects.create(
            statement=statement, file=row.file, line=row.number, transfer=transfer
        )
    if account is None:
        _say_who_may_be_asked(transfer)
    elif doubt := _doubt(transfer, account, entries=entries):
        _ask(transfer, account, doubt, as_of=as_of)
    else:
        _book(transfer, account, because=named.because, actor="system", as_of=as_of)
    return transfer


def _whose(row: StatementRow) -> Named:
    """The account that a transfer names by its reference, or whom it may be from."""
    try:
        by_reference = references.account_ids_in(row.reference)
    except references.WrongCheckDigits as wrong:
        perhaps = _accounts_of_invoices(row.reference) or references.account_ids_near(row.reference)
        return Named(
            f"the reference {wrong} was mistyped: its check digits are wrong",
            suggested_id=_only(perhaps, currency=row.currency),
        )
    named = list(Account.objects.filter(pk__in=by_reference))
    if not named:
        by_number = _accounts_of_invoices(row.reference)
        return Named(
            _nobody(by_reference, by_number), suggested_id=_only(by_number, currency=row.currency)
        )
    if len(named) > 1:
        return Named(f"it names {len(named)} accounts")
    [account] = named
    if account.currency != row.currency:
        return Named(f"it is in {row.currency}, {account} in {account.currency}")
    return Named("its reference", account_id=account.pk)


def _nobody(by_reference: Set[int], by_number: Set[int]) -> str:
    if by_reference:
        return "no account has its reference"
    if len(by_number) > 1:
        return f"it names {len(by_number)} accounts, by invoice numbers alone"
    # One wrong digit in it is another customer's invoice.
    return "it names an invoice by its number alone" if by_number else "it names no account"


def _only(account_ids: Set[int], *, currency: str) -> int | None:
    """The one account of these that there is, in this currency; none of several."""
    found = list(
        Account.objects.filter(pk__in=account_ids, currency=currency).values_list("pk", flat=True)
    )
    return found[0] if len(found) == 1 else None


def _accounts_of_invoices(text: str) -> set[int]:
    """The accounts of the invoices whose numbers stand in a text: "mc-000017", "MC 17"."""
    accounts: set[int] = set()
    for entity in BillingEntity.objects.all():
        prefix = re.escape(entity.invoice_prefix.upper())
        numbers = re.findall(rf"(?<![0-9A-Z]){prefix}[ -]*([0-9]{{1,12}})(?![0-9])", text.upper())
        accounts |= set(
            Invoice.objects.filter(entity=entity, sequence__in=map(int, numbers)).values_list(
                "account", flat=True
            )
        )
    return accounts


@dataclass(frozen=True)
class Doubt:
    """Why money that names its account may be in the books already."""

    because: str
    payment: Payment | None


def _doubt(transfer: IncomingTransfer, account: Account, *, entries: Set[Entry]) -> Doubt | None:
    """Whether the (locked) account's money was booked before, from what another says of it."""
    payment = like_recorded_by_hand(transfer, account)
    if payment is not None:
        return Doubt(
            f"it looks like the payment recorded by hand on {payment.received_at:%Y-%m-%d} by"
            f" {payment.recorded_by}",
            payment,
        )
    other = _told_otherwise(transfer, account, entries=entries)
    if other is not None:
        return Doubt(
            f"the bank listed a transfer of its id, day and amount before, in other words:"
            f" {other.payer!r}, {other.reference!r}",
            other.payment,
        )
    return None


def like_recorded_by_hand(transfer: IncomingTransfer, account: Account) -> Payment | None:
    """A payment of this account recorded by hand, of its amount and about its day, if no transfer is it."""
    noon = datetime.combine(transfer.received_on, time(12), UTC)
    is_one = IncomingTransfer.objects.filter(
        resembles__isnull=False, state__in=[State.WAITING, State.RECORDED]
    ).exclude(pk=transfer.pk)
    return (
        Payment.objects.filter(
            account=account,
            gateway="manual",
            currency=transfer.currency,
            amount_minor=transfer.amount_minor,
            received_at__range=(noon - NEAR, noon + NEAR),
        )
        .exclude(pk__in=is_one.values("resembles"))
        .exclude(reversals__isnull=False)
        .order_by("pk")
        .first()
    )


def like_to_be_recorded(
    account: Account, *, amount_minor: int, as_of: datetime
) -> IncomingTransfer | None:
    """A transfer about now of the amount that a person records by hand: it may be that money."""
    return (
        IncomingTransfer.objects.filter(
            Q(payment__account=account) | Q(state=State.WAITING, suggested_account=account),
            currency=account.currency,
            amount_minor=amount_minor,
            received_on__range=((as_of - NEAR).date(), (as_of + NEAR).date()),
        )
        .order_by("-pk")
        .first()
    )


def _told_otherwise(
    transfer: IncomingTransfer, account: Account, *, entries: Set[Entry]
) -> IncomingTransfer | None:
    """
    A transfer imported before that the bank may be telling of again, with the text written otherwise.

    What this statement lists as it was told before is another one: a bank lists each of them once.
    """
    alike = (
        IncomingTransfer.objects.filter(
            Q(payment__account=account)
            | Q(payment=None, suggested_account=None)
            | Q(payment=None, suggested_account=account),
            bank_ref=transfer.bank_ref,
            received_on=transfer.received_on,
            amount_minor=transfer.amount_minor,
            currency=transfer.currency,
        )
        .exclude(pk=transfer.pk)
        .select_related("payment")
        .order_by("pk")
    )
    if transfer.bank_account:
        alike = alike.filter(bank_account__in=["", transfer.bank_account])
    return next((other for other in alike if entry_of(other) not in entries), None)


def _said(of: StatementRow | IncomingTransfer) -> dict[str, Any]:
    """The columns of what the bank says, as a query or a new row takes them."""
    return dict(zip(SAID, entry_of(of), strict=True))


def _ask(transfer: IncomingTransfer, account: Account, doubt: Doubt, *, as_of: datetime) -> None:
    """Leave it to a person, who can see whether it is the money that is booked."""
    transfer.because, transfer.resembles = doubt.because[:300], doubt.payment
    transfer.suggested_account = account
    transfer.save(update_fields=["because", "resembles", "suggested_account"])
    _say_who_may_be_asked(transfer, saw=ledger.standing(account.pk, as_of=as_of).facts)


def _say_who_may_be_asked(transfer: IncomingTransfer, *, saw: dict[str, Any] | None = None) -> None:
    """Tell the account that it may be from that it waits for a person, and why."""
    if transfer.suggested_account_id is None:
        return
    told = _told(transfer)
    decisions.record(
        decisions.decision(
            act="BOOK_TRANSFER",
            did=Decision.Did.BLOCKED,
            because=f"{told}: {transfer.because}",
            account_id=transfer.suggested_account_id,
            saw=saw or {},
        )
    )
    timeline.record(
        timeline.event(
            account_id=transfer.suggested_account_id,
            kind="transfer.waits",
            summary=f"{told} may be theirs, and waits for a person: {transfer.because}",
            transfer=transfer.pk,
        )
    )


@transaction.atomic(durable=True)
def assign(
    *, transfer_id: int, account_id: int, reason: str, actor: str, as_of: datetime
) -> IncomingTransfer:
    """
    Book a transfer to an account, because a person says whose it is.

    :raises AlreadyBooked: if it was booked meanwhile.
    :raises WrongCurrency: if it is not in the account's currency.
    """
    account = locks.account_for_update(account_id)
    transfer = _unbooked_for_update(transfer_id)
    if transfer.currency != account.currency:
        raise WrongCurrency(f"it is in {transfer.currency}, {account} in {account.currency}")
    _book(transfer, account, because=reason, actor=actor, as_of=as_of)
    return transfer


@transaction.atomic(durable=True)
def take_as_recorded(
    *, transfer_id: int, reason: str, actor: str, as_of: datetime
) -> IncomingTransfer:
    """
    Say that a transfer is the payment that it looks like: nothing is booked. It may still be assigned.

    :raises AlreadyBooked: if it was booked meanwhile.
    :raises ResemblesNothing: if it looks like no payment, or another transfer is that payment.
    """
    account_id = (
        IncomingTransfer.objects.filter(pk=transfer_id)
        .values_list("resembles__account", flat=True)
        .get()
    )
    if account_id is None:
        raise ResemblesNothing("it looks like no payment that was recorded before")
    account = locks.account_for_update(account_id)
    transfer = _unbooked_for_update(transfer_id)
    same = IncomingTransfer.objects.filter(resembles=transfer.resembles, state=State.RECORDED)
    if other := same.exclude(pk=transfer.pk).first():
        raise ResemblesNothing(f"{other} is that payment: assign this one, or put it aside")
    transfer.state, transfer.because, transfer.decided_by = State.RECORDED, reason[:300], actor
    transfer.save(update_fields=["state", "because", "decided_by"])
    told = _told(transfer)
    decisions.record(
        decisions.decision(
            act="BOOK_TRANSFER",
            did=Decision.Did.SKIPPED,
            because=f"{told} is payment {transfer.resembles_id}, recorded before: {reason}",
            account_id=account.pk,
            saw=ledger.standing(account.pk, as_of=as_of).facts,
            actor=actor,
        )
    )
    timeline.record(
        timeline.event(
            account_id=account.pk,
            kind="transfer.recorded_before",
            summary=f"{told} is the payment recorded before: {transfer.resembles}",
            actor=actor,
            transfer=transfer.pk,
            payment=transfer.resembles_id,
            reason=reason,
        )
    )
    return transfer


@transaction.atomic(durable=True)
def count_apart(*, repeat_id: int, reason: str, actor: str) -> IncomingTransfer:
    """
    Say that what was taken for a repeat is another transfer: it waits for a person to say whose.

    Twice is once. Its statement again adds nothing, as long as no other lists one more of them.
    """
    repeat = locks.repeated_transfer_for_update(repeat_id)
    if repeat.counted_apart_as is not None:
        return repeat.counted_apart_as
    known = locks.transfer_for_update(repeat.transfer_id)
    equal = IncomingTransfer.objects.filter(**_said(known))
    newest = equal.aggregate(Max("ordinal"))["ordinal__max"]
    payment = known.payment
    repeat.counted_apart_as = IncomingTransfer.objects.create(
        **_said(known),
        ordinal=newest + 1,
        because=f"{actor} says that it is another transfer: {reason}"[:300],
        suggested_account=payment.account if payment else known.suggested_account,
    )
    repeat.save(update_fields=["counted_apart_as"])
    _say_who_may_be_asked(repeat.counted_apart_as)
    return repeat.counted_apart_as


@transaction.atomic(durable=True)
def put_aside(*, transfer_id: int, reason: str, actor: str) -> IncomingTransfer:
    """
    Say that a transfer is no customer's payment: it waits no longer. It may still be assigned.

    :raises AlreadyBooked: if it was booked meanwhile.
    """
    transfer = _unbooked_for_update(transfer_id)
    transfer.state, transfer.because, transfer.decided_by = State.NOT_OURS, reason[:300], actor
    transfer.save(update_fields=["state", "because", "decided_by"])
    return transfer


def _unbooked_for_update(transfer_id: int) -> IncomingTransfer:
    transfer = locks.transfer_for_update(transfer_id)
    if transfer.state == State.BOOKED:
        raise AlreadyBooked(f"{transfer} is booked already")
    return transfer


def _book(
    transfer: IncomingTransfer, account: Account, *, because: str, actor: str, as_of: datetime
) -> None:
    saw = ledger.standing(account.pk, as_of=as_of)
    transfer.payment = booking.book_transfer(
        account=account,
        # Banks use their ids anew; which of ours it is does not change.
        bank_ref=f"{transfer.bank_ref}#{transfer.pk}",
        amount_minor=transfer.amount_minor,
        method=f"Bank transfer of {transfer.received_on}",
        reason=f"{because}: {transfer.reference}" if transfer.reference else because,
        recorded_by=actor,
        as_of=as_of,
    )
    transfer.state, transfer.because, transfer.decided_by = State.BOOKED, because[:300], actor
    transfer.save(update_fields=["state", "because", "decided_by", "payment"])
    decisions.record(
        decisions.decision(
            act="BOOK_TRANSFER",
            did=Decision.Did.DONE,
            because=f"{_told(transfer)}: {because}",
            account_id=account.pk,
            saw=saw.facts,
            actor=actor,
        )
    )


def _told(transfer: IncomingTransfer) -> str:
    """As Decisions and the timeline name it: how much, and by whom."""
    return f"{money(transfer.amount_minor, transfer.currency)} by {transfer}"
