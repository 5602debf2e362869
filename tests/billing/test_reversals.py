"""A payment that goes back: what it had left as credit first, then what it had settled is owed again."""

from datetime import timedelta

import pytest
from django.db import transaction
from django.urls import reverse

from billing import ledger, locks
from billing.ledger import Kind
from billing.models import (
    Allocation,
    CreditGrant,
    Decision,
    LedgerEntry,
    Payment,
    PaymentReversal,
)
from billing.payments import reversals
from notifications import catalog
from notifications.catalog import Keep, Rerender
from notifications.models import Message
from tests.billing.builders import bill, credit, due, grant, owing, pay_by_hand
from tests.billing.test_invoicing import NOVEMBER, using
from tests.closing import assert_books_hold
from tests.factories import AS_OF

pytestmark = pytest.mark.django_db(transaction=True)

LATER = AS_OF + timedelta(days=3)


def go_back(payment: Payment, amount_minor: int, **facts: object) -> PaymentReversal:
    with transaction.atomic():
        return reversals.reverse_payment(
            payment,
            **{
                "account": locks.account_for_update(payment.account_id),
                "amount_minor": amount_minor,
                "provider_ref": "return-1",
                "reason": "returned by the bank",
                "as_of": LATER,
                **facts,
            },
        )


def parts(reversal: PaymentReversal) -> tuple[int, int, int]:
    return reversal.credit_minor, reversal.owed_minor, reversal.lost_minor


def legs(reversal: PaymentReversal) -> dict[tuple[str, str], int]:
    entry = LedgerEntry.objects.get(kind="PAYMENT_REVERSED", source=f"reversal:{reversal.pk}")
    return {
        (p.ledger_account.kind, p.ledger_account.gateway): p.amount_minor
        for p in entry.postings.select_related("ledger_account")
    }


def paid(amount: str = "10.00", *, amount_minor: int = 1000) -> Payment:
    return pay_by_hand(owing(amount, card=None), amount_minor)


def test_what_it_settled_is_owed_again_and_overdue_at_once():
    payment = paid()
    [invoice] = payment.account.invoices.all()
    assert invoice.settled_at is not None

    reversal = go_back(payment, 1000, as_of=invoice.due_at + timedelta(days=30))

    invoice.refresh_from_db()
    assert invoice.settled_at is None
    standing = ledger.standing(payment.account_id, as_of=reversal.reversed_at)
    assert standing.overdue_minor == 1000
    assert due(payment.account) == 1000
    assert legs(reversal) == {("RECEIVABLE", ""): 1000, ("CASH", "manual"): -1000}
    assert_books_hold(as_of=LATER)


def test_credit_that_is_unused_goes_first_then_what_used_it_then_what_the_payment_settled():
    payment = paid(amount_minor=5000)
    account = payment.account
    using(account, "15.00", month=NOVEMBER)
    bill(account, month=NOVEMBER)
    assert credit(account) == 2500

    first = go_back(payment, 2000)
    assert (parts(first), due(account), credit(account)) == ((2000, 0, 0), 0, 500)

    second = go_back(payment, 2500, provider_ref="return-2")
    assert (parts(second), due(account), credit(account)) == ((500, 2000, 0), 2000, 0)
    assert list(
        Allocation.objects.filter(reversal=second)
        .order_by("pk")
        .values_list("amount_minor", "grant")
    ) == [(-1500, CreditGrant.objects.get().pk), (-500, None)]

    third = go_back(payment, 500, provider_ref="return-3")
    assert (parts(third), due(account)) == ((0, 500, 0), 2500)
    assert_books_hold(as_of=LATER)


def test_other_credit_settles_what_is_open_again():
    payment = paid()
    grant(payment.account, 300)

    go_back(payment, 1000)

    assert (due(payment.account), credit(payment.account)) == (700, 0)
    assert_books_hold(as_of=LATER)


def test_what_was_paid_back_before_is_lost():
    payment = paid(amount_minor=1500)
    CreditGrant.objects.update(remaining_minor=0, refunded_minor=500)

    reversal = go_back(payment, 1500)

    assert parts(reversal) == (0, 1000, 500)
    assert legs(reversal)["REFUNDS", ""] == 500


def test_twice_is_once():
    payment = paid()

    assert go_back(payment, 1000) == go_back(payment, 1000)

    assert due(payment.account) == 1000
    assert Message.objects.filter(kind="PAYMENT_REVERSED").count() == 1
    assert_books_hold(as_of=LATER)


@pytest.mark.parametrize("amount_minor", [0, -1, 601])
def test_more_than_is_left_of_it_is_refused(amount_minor):
    payment = paid()
    go_back(payment, 400)

    with pytest.raises(reversals.MoreThanThePayment, match=r"of which €6\.00 can go back"):
        go_back(payment, amount_minor, provider_ref="return-2")

    assert due(payment.account) == 400
    assert_books_hold(as_of=LATER)


def test_of_a_dispute_leaves_what_the_dispute_had_taken():
    reversal = go_back(paid(), 1000, out_of=Kind.PROMOTIONS)

    assert legs(reversal)["PROMOTIONS", "manual"] == -1000


def test_paid_again_it_is_settled_again():
    payment = paid()
    go_back(payment, 1000)

    pay_by_hand(payment.account, 1000, as_of=LATER)

    assert due(payment.account) == 0
    assert_books_hold(as_of=LATER)


class TestIsTold:
    def test_to_the_customer_with_the_balance_and_to_support(self):
        payment = paid()

        go_back(payment, 1000)

        message = Message.objects.get(kind="PAYMENT_REVERSED")
        assert message.subject == "Your payment of €10.00 went back"
        assert "(Bank transfer, 2 November 2018) was taken back by your bank." in message.body_text
        assert "What it had paid is owed again." in message.body_text
        assert "Your balance is €10.00 as of" in message.body_text
        decision = Decision.objects.get(act="REVERSE_PAYMENT")
        assert (decision.because, decision.saw["due_minor"]) == (
            "€10.00 returned by the bank",
            1000,
        )
        assert payment.account.timeline.filter(kind="payment.reversed").exists()

    def test_in_hungarian(self):
        payment = pay_by_hand(owing("10.00", card=None, language="hu"), 1000)

        go_back(payment, 1000)

        subject = Message.objects.get(kind="PAYMENT_REVERSED").subject
        assert subject.endswith("összegű fizetését visszavonták")

    def test_with_the_balance_as_it_is_when_it_is_sent(self):
        payment = paid()
        go_back(payment, 1000)
        message = Message.objects.get(kind="PAYMENT_REVERSED")
        with transaction.atomic():
            assert catalog.recheck([message], as_of=LATER) == [Keep()]
        pay_by_hand(payment.account, 1000, as_of=LATER)

        with transaction.atomic():
            [verdict] = catalog.recheck([message], as_of=LATER)

        assert isinstance(verdict, Rerender)
        assert "owed again" not in verdict.content.body_text


def test_a_surplus_knows_its_payment():
    payment = paid(amount_minor=1500)

    assert CreditGrant.objects.get().payment == payment


def test_staff_sees_what_went_back_and_what_is_owed_again(admin_client):
    go_back(paid(), 1000)

    page = admin_client.get(reverse("admin:billing_paymentreversal_changelist")).content.decode()

    assert page.count("€10.00") == 2
