"""
The row locks on money, and the one order they are taken in:

    account (by id) → payment attempt or refund → invoices (by id) → number series

A bank transfer that a person decides about is locked right after the account it may be booked to.
Claims of steps, events and messages lock their own rows where they claim them (docs/locking.md).

Functions return locked rows, never querysets: a queryset that is not evaluated locks nothing.
Take locks late, recheck on the next line, never hold one across a gateway call.

Accounts are locked with no_key=True: a plain FOR UPDATE would block the foreign-key check of
every row that names the account. Code that holds the account's lock may write all of its money.
"""

import uuid
from collections.abc import Iterable

from accounts.models import Account, BillingEntity
from billing.models import (
    IncomingTransfer,
    Invoice,
    NumberSeries,
    PaymentAttempt,
    Refund,
    RepeatedTransfer,
    UsageBatch,
)


def account_for_update(account_id: int) -> Account:
    """
    Lock the money of one account.

    :raises Account.DoesNotExist: if there is none.
    """
    return Account.objects.select_for_update(no_key=True).get(pk=account_id)


def accounts_for_update(account_ids: Iterable[int]) -> dict[int, Account]:
    """Lock the money of several accounts, in id order, and return them by id."""
    locked = (
        Account.objects.select_for_update(no_key=True).filter(pk__in=account_ids).order_by("pk")
    )
    return {account.pk: account for account in locked}


def open_invoices_for_update(account_ids: Iterable[int]) -> list[Invoice]:
    """Lock what the (locked) accounts have not settled, oldest due first within an account."""
    invoices = list(
        Invoice.objects.select_for_update()
        .filter(account__in=account_ids, state=Invoice.State.ISSUED, settled_at=None)
        .order_by("pk")
    )
    return sorted(invoices, key=lambda invoice: (invoice.due_at, invoice.pk))


def invoices_for_update(invoice_ids: Iterable[int]) -> list[Invoice]:
    """Lock some invoices of one (locked) account, settled or not, in id order."""
    return list(Invoice.objects.select_for_update().filter(pk__in=list(invoice_ids)).order_by("pk"))


def attempt_for_update(attempt_id: uuid.UUID) -> PaymentAttempt:
    """Lock one attempt; its account must be locked already."""
    return PaymentAttempt.objects.select_for_update().get(pk=attempt_id)


def attempts_for_update(attempt_ids: Iterable[uuid.UUID]) -> list[PaymentAttempt]:
    """Lock attempts of accounts that are locked already, by account and id, each with its card."""
    return list(
        PaymentAttempt.objects.select_for_update(of=("self",))
        .filter(pk__in=list(attempt_ids))
        .select_related("payment_method")
        .order_by("account", "pk")
    )


def refund_for_update(refund_id: uuid.UUID) -> Refund:
    """Lock one refund; its account must be locked already."""
    return (
        Refund.objects.select_for_update(of=("self",)).select_related("payment").get(pk=refund_id)
    )


def transfer_for_update(transfer_id: int) -> IncomingTransfer:
    """Lock one bank transfer, to decide about it once; after the account it may be booked to."""
    return IncomingTransfer.objects.select_for_update(of=("self",)).get(pk=transfer_id)


def repeated_transfer_for_update(repeat_id: int) -> RepeatedTransfer:
    """Lock one entry that was taken for a repeat, to count it apart once."""
    return RepeatedTransfer.objects.select_for_update(of=("self",)).get(pk=repeat_id)


def usage_batch_for_update(batch_id: int) -> UsageBatch:
    """Lock one import, to set its rejected rows aside once."""
    return UsageBatch.objects.select_for_update().get(pk=batch_id)


def number_series_for_update(entity: BillingEntity) -> NumberSeries:
    """Lock the invoice numbers of an entity. Taken last: every issuing chunk waits here."""
    NumberSeries.objects.bulk_create([NumberSeries(entity=entity)], ignore_conflicts=True)
    return NumberSeries.objects.select_for_update().get(entity=entity)
