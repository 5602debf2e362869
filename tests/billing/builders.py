"""Accounts that owe money, and the acts that change it, each in one line; and whether the books balance."""

from datetime import datetime
from typing import Any

import pytest
from django.db import connection, transaction

from accounts.models import Account, Hold
from billing import dunning, ledger, locks, messages
from billing.invoices import credits, drafting, issuing
from billing.models import CreditGrant, Invoice, Payment, PaymentAttempt
from billing.payments import booking
from tests import charging
from tests.factories import AS_OF, OCTOBER, account_using, token


def bill(*accounts: Account, month=OCTOBER, as_of: datetime = AS_OF) -> list[Invoice]:
    """Draft and issue, as the close's invoice step does; the invoices in the order of the accounts."""
    with transaction.atomic():
        locked = locks.accounts_for_update([account.pk for account in accounts])
        drafted = drafting.draft_invoices(list(locked.values()), month=month)
        assert not drafted.unpriced, drafted.unpriced
        issuing.issue_invoices(list(drafted.invoices.values()), accounts=locked, as_of=as_of)
    return [drafted.invoices[account.pk] for account in accounts if account.pk in drafted.invoices]


def owing(amount: str = "12.34", **facts: object) -> Account:
    """An account with an issued invoice over this much, in major units; and a card that pays."""
    account = account_using(amount, **facts)
    bill(account)
    return account


def place_hold(account: Account, *, as_of: datetime = AS_OF) -> Hold:
    """Place a hold on a (locked) account as the close does, without the decision."""
    outlook = messages.outlooks({account.pk: account}, as_of=as_of)[account.pk]
    return dunning.place_hold(account, ledger.standing(account.pk, as_of=as_of), outlook)


def cannot_be_receipted(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no payment of this account be written down: its receipt fails, in the same transaction."""
    receipts = messages.payments_received

    def fail_for_one(told: Any, *, as_of: datetime) -> Any:
        if account.pk in {receipt.account.pk for receipt in told}:
            raise ValueError("no such time zone")
        return receipts(told, as_of=as_of)

    monkeypatch.setattr(messages, "payments_received", fail_for_one)


def pay_by_hand(
    account: Account, amount_minor: int, *, as_of: datetime = AS_OF, **facts: object
) -> Payment:
    return booking.record_payment(
        **{
            "account_id": account.pk,
            "token": token(),
            "amount_minor": amount_minor,
            "currency": account.currency,
            "method": "Bank transfer",
            "reason": "Reference 4711",
            "recorded_by": "ann@example.com",
            "as_of": as_of,
            **facts,
        }
    )


def grant(
    account: Account, amount_minor: int, *, as_of: datetime = AS_OF, **facts: object
) -> CreditGrant:
    return credits.grant_credit(
        **{
            "account_id": account.pk,
            "token": token(),
            "amount_minor": amount_minor,
            "currency": account.currency,
            "reason": "Sorry for the outage",
            "granted_by": "ann@example.com",
            "as_of": as_of,
            **facts,
        }
    )


def collect(
    account: Account, *, as_of: datetime = AS_OF, kind: str = PaymentAttempt.Kind.ON_SESSION
) -> PaymentAttempt:
    return charging.collect(account_id=account.pk, kind=kind, as_of=as_of)


def due(account: Account, *, as_of: datetime = AS_OF) -> int:
    return ledger.standing(account.pk, as_of=as_of).due_minor


def credit(account: Account, *, as_of: datetime = AS_OF) -> int:
    return ledger.standing(account.pk, as_of=as_of).credit_minor


def assert_books_balance(sandbox=None) -> None:
    """What must be true after anything, in the words of the rows and not of the code under test."""
    for claim, query in CLAIMS.items():
        with connection.cursor() as cursor:
            cursor.execute(query)
            assert not cursor.fetchall(), claim
    if sandbox is not None:
        taken = sorted(
            (seen.ref, seen.amount_minor) for seen in sandbox.book() if seen.status == "SUCCEEDED"
        )
        booked = sorted(
            Payment.objects.filter(gateway="sandbox").values_list("provider_ref", "amount_minor")
        )
        assert taken == booked, "what the provider took is what we booked"


CLAIMS = {
    "every entry sums to zero": """
        SELECT entry_id FROM billing_posting GROUP BY entry_id HAVING sum(amount_minor) <> 0""",
    "every running balance is the sum of its postings": """
        SELECT ledger_account_id, version FROM (
               SELECT ledger_account_id, version, balance_minor,
                      sum(amount_minor) OVER w AS total, row_number() OVER w AS place
                 FROM billing_posting WHERE version IS NOT NULL
               WINDOW w AS (PARTITION BY ledger_account_id ORDER BY version)) p
         WHERE balance_minor <> total OR version <> place""",
    "what is receivable is what invoices leave due": """
        SELECT a.id FROM accounts_account a
         WHERE (SELECT coalesce(sum(p.amount_minor), 0) FROM billing_posting p
                  JOIN billing_ledgeraccount l ON l.id = p.ledger_account_id
                 WHERE l.account_id = a.id AND l.kind = 'RECEIVABLE')
            <> (SELECT coalesce(sum(greatest(i.total_minor, 0) - coalesce(
                         (SELECT sum(amount_minor) FROM billing_allocation x WHERE x.invoice_id = i.id), 0)), 0)
                  FROM billing_invoice i WHERE i.account_id = a.id AND i.state = 'ISSUED')""",
    "customer credit is what grants have left": """
        SELECT a.id FROM accounts_account a
         WHERE (SELECT coalesce(-sum(p.amount_minor), 0) FROM billing_posting p
                  JOIN billing_ledgeraccount l ON l.id = p.ledger_account_id
                 WHERE l.account_id = a.id AND l.kind = 'CUSTOMER_CREDIT')
            <> (SELECT coalesce(sum(g.remaining_minor), 0) FROM billing_creditgrant g WHERE g.account_id = a.id)""",
    "a grant is what it gave, what expired and what is left": """
        SELECT g.id FROM billing_creditgrant g
         WHERE g.amount_minor <> g.remaining_minor + g.expired_minor + g.refunded_minor + g.reversed_minor + coalesce(
               (SELECT sum(amount_minor) FROM billing_allocation x WHERE x.grant_id = g.id), 0)""",
    "an invoice is settled exactly when nothing of it is due": """
        SELECT i.id FROM billing_invoice i
         WHERE i.state = 'ISSUED'
           AND (i.settled_at IS NOT NULL) <> (i.total_minor <= coalesce(
               (SELECT sum(amount_minor) FROM billing_allocation x WHERE x.invoice_id = i.id), 0))""",
    "no invoice is settled twice over": """
        SELECT i.id FROM billing_invoice i JOIN billing_allocation x ON x.invoice_id = i.id
         GROUP BY i.id HAVING sum(x.amount_minor) > i.total_minor""",
    "every payment is booked": """
        SELECT p.id FROM billing_payment p
         WHERE NOT EXISTS (SELECT FROM billing_ledgerentry e
                            WHERE e.kind = 'PAYMENT_RECEIVED' AND e.source = 'payment:' || p.id)""",
    "an attempt has a payment exactly when it succeeded": """
        SELECT t.id FROM billing_paymentattempt t LEFT JOIN billing_payment p ON p.attempt_id = t.id
         WHERE (t.state = 'SUCCEEDED') <> (p.id IS NOT NULL)""",
    "who owes has no credit": """
        SELECT i.account_id FROM billing_invoice i JOIN billing_creditgrant g USING (account_id)
         WHERE i.state = 'ISSUED' AND i.settled_at IS NULL AND g.remaining_minor > 0""",
}
