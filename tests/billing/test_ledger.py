"""The books: balanced at commit, never edited, and right about what an account owes at any instant."""

from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction

from billing import ledger
from billing.ledger import Event, Leg
from billing.models import LedgerAccount, LedgerEntry, PaymentAttempt, Posting
from tests.billing.builders import (
    assert_books_balance,
    bill,
    grant,
    owing,
    pay_by_hand,
)
from tests.billing.test_invoicing import NOVEMBER, using
from tests.factories import AS_OF, AccountFactory, CardFactory

pytestmark = pytest.mark.django_db


def event(account, *legs: Leg, **facts) -> Event:
    return Event(
        **{
            "kind": LedgerEntry.Kind.INVOICE_ISSUED,
            "source": "invoice:1",
            "account_id": account.pk,
            "entity_id": account.entity_id,
            "currency": "EUR",
            "description": "a sale",
            "effective_at": AS_OF,
            "legs": legs,
            **facts,
        }
    )


def sale(account, amount_minor: int = 100, **facts) -> Event:
    return event(account, Leg("RECEIVABLE", amount_minor), Leg("REVENUE", -amount_minor), **facts)


def commit() -> None:
    """Let the deferred triggers speak, as a commit would."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET CONSTRAINTS ALL DEFERRED")


@transaction.atomic
def commit_after(*acts) -> None:
    for act in acts:
        act()
    commit()


class TestPost:
    def test_books_an_event_and_its_running_balance(self):
        account = AccountFactory()

        ledger.post([sale(account, 100), sale(account, 50, source="invoice:2")])
        commit()

        receivable = Posting.objects.filter(ledger_account__kind="RECEIVABLE").order_by("version")
        assert list(receivable.values_list("version", "amount_minor", "balance_minor")) == [
            (1, 100, 100),
            (2, 50, 150),
        ]

    def test_keeps_no_running_balance_of_the_companys_side(self):
        ledger.post([sale(AccountFactory())])

        revenue = Posting.objects.get(ledger_account__kind="REVENUE")
        assert (revenue.version, revenue.balance_minor) == (None, None)

    def test_opens_each_ledger_account_once(self):
        account = AccountFactory()

        ledger.post([sale(account)])
        ledger.post([sale(account, source="invoice:2"), sale(AccountFactory(), source="invoice:3")])

        kinds = LedgerAccount.objects.order_by("kind", "pk").values_list("kind", flat=True)
        assert list(kinds) == ["RECEIVABLE", "RECEIVABLE", "REVENUE"]

    def test_keeps_cash_per_gateway(self):
        account = AccountFactory()

        for number, gateway in enumerate(("sandbox", "manual")):
            legs = Leg("CASH", 100, gateway), Leg("RECEIVABLE", -100)
            ledger.post([event(account, *legs, source=f"payment:{number}")])

        cash = LedgerAccount.objects.filter(kind="CASH").order_by("pk")
        assert list(cash.values_list("gateway", flat=True)) == ["sandbox", "manual"]

    def test_nothing_is_nothing(self):
        ledger.post([])

        assert not LedgerEntry.objects.exists()

    def test_refuses_the_same_event_twice(self):
        account = AccountFactory()
        ledger.post([sale(account)])

        with (
            pytest.raises(IntegrityError, match="one_entry_per_business_event"),
            transaction.atomic(),
        ):
            ledger.post([sale(account)])

    @pytest.mark.parametrize("amounts", [(100, -99), (100, -100, 1), (100,)])
    def test_refuses_at_commit_what_does_not_sum_to_zero(self, amounts):
        legs = [
            Leg(kind, amount)
            for kind, amount in zip(("RECEIVABLE", "REVENUE", "CASH"), amounts, strict=False)
        ]
        unbalanced = event(AccountFactory(), *legs)

        with pytest.raises(IntegrityError, match="does not sum to zero"):
            commit_after(lambda: ledger.post([unbalanced]))

    def test_refuses_at_commit_an_entry_without_postings(self):
        empty = event(AccountFactory())

        with pytest.raises(IntegrityError, match="does not sum to zero"):
            commit_after(lambda: ledger.post([empty]))

    def test_refuses_at_commit_to_mix_currencies(self):
        account = AccountFactory()
        ledger.post([sale(account)])
        entry = LedgerEntry.objects.get()
        dollars = LedgerAccount.objects.create(
            kind="CASH", currency="USD", entity_id=account.entity_id
        )
        euros = Posting.objects.filter(version=None).get().ledger_account

        mixed = [
            Posting(entry=entry, ledger_account=dollars, amount_minor=100),
            Posting(entry=entry, ledger_account=euros, amount_minor=-100),
        ]

        with pytest.raises(IntegrityError, match="mixes currencies"):
            commit_after(*(posting.save for posting in mixed))


class TestBalance:
    """What stood in the books at an instant, whatever was booked after."""

    def test_is_what_stood_then(self):
        account = AccountFactory()
        ledger.post([sale(account, 100)])
        first = Posting.objects.exclude(version=None).get()
        ledger.post([sale(account, 50, source="invoice:2")])
        second = Posting.objects.exclude(version=None).get(version=2)

        def at(instant) -> int:
            return ledger.balance("RECEIVABLE", account_id=account.pk, as_of=instant)

        assert at(first.posted_at - timedelta(microseconds=1)) == 0
        assert at(first.posted_at) == 100
        assert at(second.posted_at) == 150

    def test_is_one_accounts_and_one_kinds(self):
        account = AccountFactory()
        ledger.post([sale(account), sale(AccountFactory(), 5, source="invoice:2")])
        now = Posting.objects.latest("posted_at").posted_at

        assert ledger.balance("RECEIVABLE", account_id=account.pk, as_of=now) == 100
        assert ledger.balance("CUSTOMER_CREDIT", account_id=account.pk, as_of=now) == 0

    def test_is_in_the_accounts_currency(self):
        account = AccountFactory()
        ledger.post([sale(account)])
        account.currency = "USD"
        account.save()
        now = Posting.objects.latest("posted_at").posted_at

        assert ledger.balance("RECEIVABLE", account_id=account.pk, as_of=now) == 0
        assert ledger.standing(account.pk, as_of=now).due_minor == 0


class TestStandings:
    def test_say_what_an_account_owes_and_has(self):
        account = owing("12.34")
        using(account, "5.00", month=NOVEMBER)
        bill(account, month=NOVEMBER, as_of=AS_OF + timedelta(days=30))
        pay_by_hand(account, 1000)

        standing = ledger.standing(account.pk, as_of=AS_OF)

        assert standing.due_minor == 734
        assert standing.overdue_minor == 234
        assert standing.credit_minor == 0
        assert standing.in_flight_minor == 0
        assert standing.facts == {
            "due_minor": 734,
            "overdue_minor": 234,
            "credit_minor": 0,
            "in_flight_minor": 0,
            "currency": "EUR",
            "as_of": AS_OF.isoformat(),
        }

    def test_count_credit_and_what_is_in_flight(self):
        account = AccountFactory()
        grant(account, 500)
        card = CardFactory(account=account)
        for state in ("RELEASED", "REVIEW"):
            PaymentAttempt.objects.create(
                account=account,
                kind="AUTO",
                currency="EUR",
                amount_minor=300,
                payment_method=card,
                gateway="sandbox",
                state=state,
            )

        standing = ledger.standing(account.pk, as_of=AS_OF)

        assert (standing.credit_minor, standing.in_flight_minor) == (500, 300)

    def test_are_zero_for_an_account_with_no_history(self):
        account = AccountFactory(currency="JPY")

        standing = ledger.standing(account.pk, as_of=AS_OF)

        assert (standing.due_minor, standing.credit_minor, standing.currency) == (0, 0, "JPY")

    def test_of_many_are_each_ones_own(self):
        debtor, creditor, neither = owing("12.34"), AccountFactory(), AccountFactory()
        grant(creditor, 500)

        standings = ledger.standings([debtor.pk, creditor.pk, neither.pk], as_of=AS_OF)

        assert {pk: (s.due_minor, s.credit_minor) for pk, s in standings.items()} == {
            debtor.pk: (1234, 0),
            creditor.pk: (0, 500),
            neither.pk: (0, 0),
        }
        assert_books_balance()
