"""
Bank transfers: imported from the bank's statement, matched by reference, or left to a person.

A transfer is booked only where what its payer wrote names one account and the currency is that
account's; whoever guesses with other people's money is wrong in the end. Everything else waits.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from django.db import transaction

from accounts.models import Account, BillingEntity
from billing import decisions, ledger, locks, references
from billing.models import Decision, IncomingTransfer, Invoice
from billing.money import money
from billing.payments import bank_statements, booking
from billing.payments.bank_statements import StatementRow
from billing.usage.imports.file_errors import FileRefused

State = IncomingTransfer.State


@dataclass
class Imported:
    """What became of the rows of a statement."""

    booked: list[IncomingTransfer] = field(default_factory=list)
    waiting: list[IncomingTransfer] = field(default_factory=list)
    # Imported before.
    known: int = 0


class AlreadyBooked(Exception):
    """Somebody else has booked it meanwhile."""


class WrongCurrency(ValueError):
    """It did not come in in the account's currency, which is what the account owes in."""


def import_statement(path: Path, *, as_of: datetime) -> Imported:
    """
    Import a statement: each transfer once, whatever was imported before.

    Each is written in a transaction of its own; killed, the same file again imports the rest.

    :raises FileRefused: if the file or a row of it is wrong: then nothing of it is imported.
    """
    rows = bank_statements.read(path)
    _check_known(path, rows)
    imported = Imported()
    for row in rows:
        transfer = _take(row, as_of=as_of)
        if transfer is None:
            imported.known += 1
        elif transfer.state == State.BOOKED:
            imported.booked.append(transfer)
        else:
            imported.waiting.append(transfer)
    return imported


def _check_known(path: Path, rows: Iterable[StatementRow]) -> None:
    """A bank's id that stood for another amount before would lose this one silently."""
    by_ref = {row.bank_ref: row for row in rows}
    for known in IncomingTransfer.objects.filter(bank_ref__in=by_ref):
        row = by_ref[known.bank_ref]
        if (row.amount_minor, row.currency) != (known.amount_minor, known.currency):
            was = money(known.amount_minor, known.currency)
            raise FileRefused(
                f"{path}: nothing was imported.\nline {row.number}: bank_ref {row.bank_ref!r}: was"
                f" imported over {was} before. Give every transfer its bank's own id."
            )


@transaction.atomic(durable=True)
def _take(row: StatementRow, *, as_of: datetime) -> IncomingTransfer | None:
    """Write one down, and book it if it says whose it is; None if that was done before."""
    account_id, because = _whose(row)
    account = locks.account_for_update(account_id) if account_id is not None else None
    transfer, is_new = IncomingTransfer.objects.get_or_create(
        bank_ref=row.bank_ref,
        defaults={
            "received_on": row.received_on,
            "currency": row.currency,
            "amount_minor": row.amount_minor,
            "reference": row.reference,
            "payer": row.payer,
            "because": because[:300],
        },
    )
    if not is_new:
        return None
    if account is not None:
        _book(transfer, account, because=because, actor="system", as_of=as_of)
    return transfer


def _whose(row: StatementRow) -> tuple[int | None, str]:
    """The account that a transfer names, or none; and why."""
    try:
        by_reference = references.account_ids_in(row.reference)
    except references.WrongCheckDigits as wrong:
        return None, f"the reference {wrong} was mistyped: its check digits are wrong"
    named = Account.objects.filter(pk__in=by_reference)
    because = "its reference"
    if by_reference and not named:
        return None, "no account has its reference"
    if not by_reference:
        named = Account.objects.filter(pk__in=_accounts_of_invoices(row.reference))
        because = "its invoice number"
    if len(named) > 1:
        return None, f"it names {len(named)} accounts"
    for account in named:
        if account.currency != row.currency:
            return None, f"it is in {row.currency}, {account} in {account.currency}"
        return account.pk, because
    return None, "it names no account"


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
        bank_ref=transfer.bank_ref,
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
            because=f"{money(transfer.amount_minor, transfer.currency)} by {transfer}: {because}",
            account_id=account.pk,
            saw=saw.facts,
            actor=actor,
        )
    )
