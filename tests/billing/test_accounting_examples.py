"""
Every example of docs/accounting.md runs, and prints what the page says it prints.

A section of the page is one story: its ```python blocks run one after another in a fresh database,
and what they print is the ```text block below each.
"""

import contextlib
import io
import re
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from django.conf import settings
from django.db import IntegrityError, transaction

from accounts.models import Account
from billing import ledger, locks
from billing.gateways import DisputeSeen, DisputeStatus
from billing.invoices import credits, drafting, issuing
from billing.models import CreditGrant, Invoice, LedgerAccount, Payment, Posting
from billing.payments import booking, disputes, refunds, reversals
from tests import charging
from tests.billing.dispute_builders import seen_of
from tests.factories import AccountFactory, CardFactory, PeriodFactory, SummaryFactory

PAGE = settings.BASE_DIR / "docs" / "accounting.md"
SECTION = re.compile(r"^## (?P<title>.+?)$(?P<body>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
JANUARY = date(2026, 1, 1)
HEADER = f"{'':<17} {'':<30} {'debit':>7} {'credit':>7}"


class Books:
    """The words the examples use beside the real acts: a customer, the calendar, and what was posted."""

    def __init__(self) -> None:
        self.printed = 0
        # What earlier tests, if any, have left.
        self.before = set(Posting.objects.values_list("pk", flat=True))

    def words(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in ("postings", "balances", "customer")},
            "uses": uses,
            "issue": issue,
            "february": february,
            "token": uuid.uuid4,
            "credits": credits,
            "booking": booking,
            "charging": charging,
            "refunds": refunds,
            "reversals": reversals,
            "disputes": disputes,
            "disputed": disputed,
            "locks": locks,
            "ledger": ledger,
            "Posting": Posting,
            "IntegrityError": IntegrityError,
            "transaction": transaction,
            "CreditGrant": CreditGrant,
            "Invoice": Invoice,
        }

    @staticmethod
    def customer(name: str, *, currency: str = "EUR", card: str | None = None) -> Account:
        account: Account = AccountFactory(external_id=name.lower(), name=name, currency=currency)
        if card is not None:
            CardFactory(account=account, token=card)
        return account

    def postings(self) -> None:
        """Print the entries since the last call, debits in the left column and credits in the right."""
        new = (
            Posting.objects.exclude(pk__in=self.before)
            .select_related("entry", "ledger_account__account")
            .order_by("pk")[self.printed :]
        )
        print(HEADER)
        last_entry = None
        for posting in new:
            self.printed += 1
            said = posting.entry.get_kind_display() if posting.entry_id != last_entry else ""
            last_entry = posting.entry_id
            print(_row(said, _name(posting.ledger_account), posting.amount_minor))

    def balances(self) -> None:
        """Print what every ledger account comes to; together they are nothing."""
        print(HEADER)
        total = 0
        for account in LedgerAccount.objects.order_by("currency", "pk"):
            balance = sum(p.amount_minor for p in account.postings.exclude(pk__in=self.before))
            total += balance
            print(_row("Balance", _name(account), balance))
        print(_row("", "all together", total))


def uses(account: Account, amount: str) -> None:
    """The account used this much in January, in major units, at prices it was told."""
    SummaryFactory(
        account=account,
        period=PeriodFactory(account=account, month=JANUARY),
        quantity=Decimal(1),
        unit_price=Decimal(amount),
    )


@transaction.atomic
def issue(account: Account, *, as_of: datetime) -> Invoice:
    """What the invoice step of the close does, for one account."""
    locked = locks.accounts_for_update([account.pk])
    drafted = drafting.draft_invoices(list(locked.values()), month=JANUARY)
    issuing.issue_invoices(list(drafted.invoices.values()), accounts=locked, as_of=as_of)
    return drafted.invoices[account.pk]


def disputed(payment: Payment, status: str, *, fee_minor: int) -> DisputeSeen:
    return seen_of(payment, DisputeStatus(status), fee_minor=fee_minor)


def february(day: int) -> datetime:
    return datetime(2026, 2, day, 6, 0, tzinfo=UTC)


def _name(ledger_account: LedgerAccount) -> str:
    of = ledger_account.account.name if ledger_account.account else ledger_account.gateway
    return f"{ledger_account}{f' · {of}' if of else ''}"


def _row(said: str, name: str, amount_minor: int) -> str:
    debit = f"{amount_minor}" if amount_minor > 0 else ""
    credit = f"{-amount_minor}" if amount_minor < 0 else ""
    if not amount_minor:
        debit = "0"
    return f"{said:<17} {name:<30} {debit:>7} {credit:>7}".rstrip()


def stories() -> list[Any]:
    found = []
    for section in SECTION.finditer(PAGE.read_text()):
        blocks = [(b["language"], b["text"]) for b in BLOCK.finditer(section["body"])]
        if any(language == "python" for language, _ in blocks):
            found.append(pytest.param(blocks, id=section["title"]))
    return found


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("blocks", stories())
def test_the_page_is_right(blocks: list[tuple[str, str]]) -> None:
    words = Books().words()

    for (language, text), (following, expected) in pairwise([*blocks, ("", "")]):
        if language == "python":
            printed = _run(text, words)
            assert following == "text", f"says nothing of what it prints:\n{text}"
            assert printed.splitlines() == expected.splitlines()


def _run(text: str, words: dict[str, Any]) -> str:
    out = io.StringIO()
    run: Callable[..., None] = exec
    with contextlib.redirect_stdout(out):
        run(compile(text, str(PAGE), "exec"), words)
    return out.getvalue()


def test_the_page_has_its_examples() -> None:
    assert len(stories()) >= 8
