from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.core import mail

from accounts.models import Account, Hold, PaymentMethod, TimelineEvent
from billing import ledger, messages
from billing.messages import Bill
from billing.messages.decline_words import DECLINES
from billing.models import (
    Allocation,
    BillingPeriod,
    CreditGrant,
    Decision,
    Invoice,
    LineItem,
    Payment,
    PaymentAttempt,
    Product,
)
from config.locale_catalogs import compile_catalogs
from notifications import outbox
from notifications.models import Message
from tests.mailing import Delivered, deliver
from tests.notifications.builders import AS_OF, account

pytestmark = pytest.mark.django_db

LATER = AS_OF + timedelta(hours=2)
SPACE = "\N{NO-BREAK SPACE}"


@pytest.fixture(scope="module", autouse=True)
def _catalogs() -> None:
    compile_catalogs()


@pytest.fixture(autouse=True)
def _site(settings: Any) -> Iterator[None]:
    settings.SITE_URL = "https://billing.example.com"
    return


def issued(of: Account, *, lines: dict[str, int] | None = None, **said: Any) -> Invoice:
    """An issued invoice, in the books."""
    month = date(2026, 10 - of.invoices.count(), 1)
    starts_at = datetime(month.year, month.month, 1, tzinfo=UTC)
    period = BillingPeriod.objects.create(
        account=of, month=month, starts_at=starts_at, ends_at=starts_at + timedelta(days=28)
    )
    lines = {"Compute": 1000} if lines is None else lines
    sequence = Invoice.objects.count() + 1
    invoice = Invoice.objects.create(
        entity=of.entity,
        account=of,
        period=period,
        account_name=of.name,
        currency=of.currency,
        total_minor=sum(lines.values()),
    )
    for position, (name, minor) in enumerate(lines.items()):
        product, _ = Product.objects.get_or_create(code=name, defaults={"name": name})
        LineItem.objects.create(
            invoice=invoice,
            position=position,
            kind="USAGE",
            product=product,
            description=name,
            quantity=1,
            amount_unrounded=minor,
            amount_minor=minor,
            starts_at=period.starts_at,
            ends_at=period.ends_at,
        )
    invoice.state = Invoice.State.ISSUED
    invoice.sequence, invoice.number = sequence, f"AC-{sequence:06}"
    invoice.issued_at, invoice.due_at = AS_OF, said.pop("due_at", AS_OF + timedelta(days=14))
    invoice.save()
    if invoice.total_minor:
        ledger.post([ledger.invoice_issued(invoice)])
    return invoice


def pay(invoice: Invoice, amount_minor: int) -> Payment:
    """A payment, in the books; it settles the invoice if it is enough."""
    payment = Payment.objects.create(
        account=invoice.account,
        gateway="manual",
        provider_ref=f"transfer-{Payment.objects.count()}",
        currency=invoice.currency,
        amount_minor=amount_minor,
        method="Bank transfer 17",
        received_at=LATER,
    )
    Allocation.objects.create(invoice=invoice, payment=payment, amount_minor=amount_minor)
    entity_id = invoice.entity_id
    ledger.post(
        [ledger.payment_received(payment, allocated_minor=amount_minor, entity_id=entity_id)]
    )
    _settle(invoice)
    return payment


def grant(invoice: Invoice, amount_minor: int) -> None:
    """A credit granted and used on the invoice."""
    given = CreditGrant.objects.create(
        account=invoice.account,
        kind=CreditGrant.Kind.GOODWILL,
        currency=invoice.currency,
        amount_minor=amount_minor,
        remaining_minor=0,
        reason="Sorry",
    )
    allocation = Allocation.objects.create(invoice=invoice, grant=given, amount_minor=amount_minor)
    entity_id = invoice.entity_id
    ledger.post(
        [
            ledger.credit_granted(given, entity_id=entity_id, as_of=LATER),
            ledger.credit_applied(
                given,
                allocation_id=allocation.pk,
                amount_minor=amount_minor,
                entity_id=entity_id,
                as_of=LATER,
            ),
        ]
    )
    _settle(invoice)


def _settle(invoice: Invoice) -> None:
    if sum(a.amount_minor for a in invoice.allocations.all()) == invoice.total_minor:
        invoice.settled_at = LATER
        invoice.save(update_fields=["settled_at"])


def card(of: Account, **said: Any) -> PaymentMethod:
    return PaymentMethod.objects.create(
        **{
            "account": of,
            "gateway": "sandbox",
            "token": "tok",
            "brand": "Visa",
            "last_four": "4242",
            "expiry_month": 12,
            "expiry_year": 2030,
            "is_default": True,
            **said,
        }
    )


def declined(of: Account, decline_code: str = "insufficient_funds") -> PaymentAttempt:
    return PaymentAttempt.objects.create(
        account=of,
        kind=PaymentAttempt.Kind.AUTO,
        currency=of.currency,
        amount_minor=1000,
        payment_method=card(of),
        gateway="sandbox",
        state=PaymentAttempt.State.FAILED,
        decline_code=decline_code,
    )


def held(of: Account, reason: str = Hold.Reason.OVERDUE) -> Hold:
    return Hold.objects.create(account=of, reason=reason, placed_at=AS_OF)


def tell_of(invoice: Invoice) -> Message:
    due_minor = ledger.standing(invoice.account_id, as_of=AS_OF).due_minor
    [message] = messages.invoices_issued([Bill(invoice, invoice.account, due_minor)], as_of=AS_OF)
    assert message is not None
    return message


def reread(message: Message | None) -> Message:
    assert message is not None
    message.refresh_from_db()
    return message


class TestInvoiceIssued:
    def test_says_what_for_how_much_and_when(self) -> None:
        invoice = issued(account(), lines={"Compute": 950, "Storage": 50})

        message = tell_of(invoice)

        assert (message.kind, message.fact) == ("INVOICE", f"invoice:{invoice.pk}")
        assert message.subject == "Invoice AC-000001 for October 2026: €10.00"
        assert message.amounts == {"due_minor": 1000, "currency": "EUR"}
        assert message.as_of == AS_OF
        for said in (
            "  Compute: €9.50\n  Storage: €0.50\n",
            "Total: €10.00",
            "Left to pay on this invoice: €10.00",
            "Due date: 15 November 2026",
            f"Please pay here: https://billing.example.com/accounts/{invoice.account_id}/\n",
            "Your balance is €10.00 as of 1 November 2026, 06:12 (Europe/Budapest).",
        ):
            assert said in message.body_text
        assert "Credit applied" not in message.body_text
        link = f'href="https://billing.example.com/accounts/{invoice.account_id}/"'
        assert message.body_html.count(link) == 2

    def test_says_it_in_hungarian(self) -> None:
        message = tell_of(issued(account(language="hu")))

        assert message.subject == f"AC-000001 számú számla, 2026. október: 10,00{SPACE}EUR"
        assert (
            f"Fizetendő egyenlege 10,00{SPACE}EUR a következő időpontban: "
            "2026. november 1., 06:12 (Europe/Budapest)." in message.body_text
        )
        assert "Fizetési határidő: 2026. november 15." in message.body_text

    @pytest.mark.parametrize(
        ("currency", "language", "total"),
        [
            ("JPY", "en", "JP¥123,456"),
            ("KWD", "en", f"KWD{SPACE}123.456"),
            ("USD", "hu", f"1{SPACE}234,56{SPACE}USD"),
            ("HUF", "hu", f"1{SPACE}234,56{SPACE}Ft"),
        ],
    )
    def test_writes_money_in_its_currency(self, currency: str, language: str, total: str) -> None:
        payer = account(currency=currency, language=language)

        message = tell_of(issued(payer, lines={"Compute": 123456}))

        assert total in message.subject

    @pytest.mark.parametrize(
        ("time_zone", "stated"),
        [
            ("UTC", "1 November 2026, 05:12 (UTC)"),
            ("Asia/Tokyo", "1 November 2026, 14:12 (Asia/Tokyo)"),
            ("America/New_York", "1 November 2026, 01:12 (America/New_York)"),
        ],
    )
    def test_states_the_instant_in_the_account_s_zone(self, time_zone: str, stated: str) -> None:
        message = tell_of(issued(account(time_zone=time_zone)))

        assert f"Your balance is €10.00 as of {stated}." in message.body_text

    def test_groups_lines_by_product_and_sums_up_what_does_not_fit(self) -> None:
        lines = {f"Product {number:02}": 100 + number for number in range(25)}

        message = tell_of(issued(account(), lines=lines))

        listed = [line for line in message.body_text.splitlines() if line.startswith("  Product")]
        assert listed[0] == "  Product 24: €1.24"
        assert len(listed) == 20
        assert "  and 5 more products: €5.10" in message.body_text

    def test_names_one_more_product_in_the_singular(self) -> None:
        lines = {f"Product {number:02}": 100 for number in range(21)}

        assert "and 1 more product: €1.00" in tell_of(issued(account(), lines=lines)).body_text

    def test_names_the_card_that_will_be_charged(self) -> None:
        payer = account()
        card(payer)

        message = tell_of(issued(payer))

        assert "Your card Visa ···· 4242 will be charged." in message.body_text
        assert "pay here" not in message.body_text
        assert "Pay now" not in message.body_html

    @pytest.mark.parametrize(
        "unusable",
        [
            {"expiry_year": 2026, "expiry_month": 9},
            {"is_default": False},
            {"state": PaymentMethod.State.REMOVED, "removed_at": AS_OF},
        ],
        ids=["expired", "not the default", "removed"],
    )
    def test_asks_for_a_payment_where_no_card_can_be_charged(
        self, unusable: dict[str, Any]
    ) -> None:
        payer = account()
        card(payer, **unusable)

        assert "Please pay here" in tell_of(issued(payer)).body_text

    def test_shows_what_credit_and_payments_have_settled(self) -> None:
        invoice = issued(account())
        grant(invoice, 300)
        pay(invoice, 100)

        message = tell_of(invoice)

        assert "Credit applied: -€3.00\nPaid already: -€1.00\n" in message.body_text
        assert "Left to pay on this invoice: €6.00" in message.body_text
        assert message.amounts["due_minor"] == 600

    def test_asks_for_nothing_where_nothing_is_due(self) -> None:
        invoice = issued(account())
        grant(invoice, 1000)

        message = tell_of(invoice)

        assert "There is nothing to pay." in message.body_text
        assert "Due date" not in message.body_text
        assert "Pay now" not in message.body_html

    def test_says_that_a_negative_invoice_is_credit(self) -> None:
        message = tell_of(issued(account(), lines={"Refunds": -500}))

        assert message.subject.endswith("-€5.00")
        assert "in your favour" in message.body_text
        assert "Left to pay" not in message.body_text

    def test_an_empty_invoice_is_nothing_to_pay(self) -> None:
        assert "There is nothing to pay." in tell_of(issued(account(), lines={})).body_text

    def test_is_told_once(self) -> None:
        invoice = issued(account())
        tell_of(invoice)

        bill = Bill(invoice, invoice.account, due_minor=999)
        [again] = messages.invoices_issued([bill], as_of=LATER)

        assert again is None
        assert Message.objects.count() == 1

    def test_escapes_names_in_html_only(self) -> None:
        invoice = issued(account(name="<b>Bob</b>"), lines={"R&D <beta>": 1000})

        message = tell_of(invoice)

        assert "R&amp;D &lt;beta&gt;" in message.body_html
        assert "<b>Bob" not in message.body_html
        assert "R&D <beta>: €10.00" in message.body_text

    def test_raises_where_there_is_nobody_to_write_to(self) -> None:
        with pytest.raises(outbox.NoRecipient):
            tell_of(issued(account(email="")))


def receipt_of(payment, *, as_of, **facts):
    """The receipt that the customer is sent."""
    return messages.payments_received([messages.Receipt(payment, **facts)], as_of=as_of)[0]


class TestPaymentReceived:
    def test_says_what_it_paid_and_what_is_left(self) -> None:
        payer = account()
        old, new = issued(payer), issued(payer)
        payment = pay(old, 1000)

        message = receipt_of(
            payment,
            account=payer,
            allocations=[(old, 1000), (new, 0)],
            due_minor=1000,
            credit_minor=0,
            as_of=LATER,
        )

        assert (reread(message).kind, message.fact) == ("RECEIPT", f"payment:{payment.pk}")
        assert message.subject == "Receipt for your payment of €10.00"
        assert "Paid with: Bank transfer 17" in message.body_text
        assert "Received: 1 November 2026, 08:12 (Europe/Budapest)" in message.body_text
        assert "Invoice AC-000001: €10.00" in message.body_text
        assert "Your balance is €10.00 as of 1 November 2026, 08:12" in message.body_text
        assert "credit" not in message.body_text.lower()

    def test_says_what_is_kept_as_credit(self) -> None:
        payer = account()
        invoice = issued(payer)
        payment = pay(invoice, 1000)

        message = receipt_of(
            payment,
            account=payer,
            allocations=[(invoice, 700)],
            due_minor=0,
            credit_minor=800,
            as_of=LATER,
        )

        assert "Kept as credit: €3.00" in reread(message).body_text
        assert "Your credit for your next invoices: €8.00" in message.body_text
        assert "Kept as credit" in message.body_html

    def test_is_sent_whatever_changed_since(self) -> None:
        payer = account()
        payment = pay(issued(payer), 1000)
        receipt_of(payment, account=payer, allocations=[], due_minor=0, credit_minor=0, as_of=LATER)
        issued(payer)

        assert deliver(as_of=LATER) == Delivered(sent=1)
        assert not Decision.objects.exists()


class TestPaymentFailed:
    @pytest.mark.parametrize(
        ("decline_code", "reason"),
        [
            ("insufficient_funds", "The card did not have enough funds. Please make sure"),
            ("expired_card", "The card has expired. Please add another card"),
            ("card_declined", "The bank declined the card. Please ask your bank"),
            ("stolen_card", "The bank declined the card. Please ask your bank"),
            ("never_heard_of", "The bank declined the card. Please ask your bank"),
        ],
    )
    def test_says_why_in_words_and_what_to_do(self, decline_code: str, reason: str) -> None:
        payer = account()
        attempt = declined(payer, decline_code)

        message = messages.payment_failed(attempt, account=payer, due_minor=1000, as_of=AS_OF)

        assert (reread(message).kind, message.fact) == ("PAYMENT_FAILED", f"attempt:{attempt.pk}")
        assert message.subject == "Your payment of €10.00 did not go through"
        assert "We could not charge €10.00 to your card Visa ···· 4242." in message.body_text
        assert reason in message.body_text
        assert "Please pay here: https://billing.example.com/" in message.body_text
        assert decline_code not in message.body_text

    @pytest.mark.parametrize("decline_code", [*DECLINES, "other"])
    def test_says_every_reason_in_hungarian(self, decline_code: str) -> None:
        payer = account(language="hu")

        message = messages.payment_failed(
            declined(payer, decline_code), account=payer, due_minor=1000, as_of=AS_OF
        )

        assert not {"The", "Please", "bank "} & set(reread(message).body_text.split())

    def test_is_cancelled_when_nothing_is_due_any_more(self) -> None:
        payer = account()
        invoice, attempt = issued(payer), declined(payer)
        message = messages.payment_failed(attempt, account=payer, due_minor=1000, as_of=AS_OF)
        pay(invoice, 1000)

        assert deliver(as_of=LATER) == Delivered(cancelled=1)

        assert reread(message).because == "settled meanwhile"
        decision = Decision.objects.get()
        assert (decision.act, decision.did, decision.attempt) == ("EMAIL", "SKIPPED", attempt)

    def test_states_the_balance_there_is_when_it_is_sent(self) -> None:
        payer = account()
        invoice, attempt = issued(payer), declined(payer)
        messages.payment_failed(attempt, account=payer, due_minor=1000, as_of=AS_OF)
        pay(invoice, 400)

        assert deliver(as_of=LATER) == Delivered(sent=1)

        assert "Your balance is €6.00 as of 1 November 2026, 08:12" in mail.outbox[0].body


class TestHolds:
    def test_says_what_lifts_a_hold_for_overdue_invoices(self) -> None:
        payer = account()
        hold = held(payer)

        message = messages.hold_placed(hold, account=payer, due_minor=1000, as_of=AS_OF)

        assert (reread(message).kind, message.fact) == ("HOLD_PLACED", f"hold:{hold.pk}:placed")
        assert message.subject == "Your account is on hold"
        assert "because invoices are overdue" in message.body_text
        assert "Please pay here" in message.body_text
        assert "Pay now" in message.body_html

    def test_a_hold_placed_by_hand_asks_for_no_money_that_is_not_due(self) -> None:
        payer = account()

        message = messages.hold_placed(
            held(payer, Hold.Reason.MANUAL), account=payer, due_minor=0, as_of=AS_OF
        )

        assert "by our billing team" in reread(message).body_text
        assert "pay here" not in message.body_text
        assert "Pay now" not in message.body_html

    def test_is_not_told_of_a_hold_that_was_lifted_meanwhile(self) -> None:
        payer = account()
        hold = held(payer)
        placed = messages.hold_placed(hold, account=payer, due_minor=0, as_of=AS_OF)
        hold.lifted_at = LATER
        hold.save()

        assert deliver(as_of=LATER) == Delivered(cancelled=1)
        lifted = messages.hold_lifted(hold, account=payer, due_minor=0, as_of=LATER)
        assert deliver(as_of=LATER) == Delivered(cancelled=1)

        assert reread(placed).because == "the hold was lifted meanwhile"
        assert reread(lifted).because == "they were never told of the hold"
        assert Decision.objects.get().hold == hold
        assert mail.outbox == []

    def test_states_the_balance_there_is_when_it_is_sent(self) -> None:
        payer = account()
        invoice, hold = issued(payer), held(payer)
        messages.hold_placed(hold, account=payer, due_minor=1000, as_of=AS_OF)
        grant(invoice, 100)

        assert deliver(as_of=LATER) == Delivered(sent=1)

        assert "Your balance is €9.00" in mail.outbox[0].body

    def test_tells_of_the_end_of_a_hold_that_was_told(self) -> None:
        payer = account()
        hold = held(payer)
        messages.hold_placed(hold, account=payer, due_minor=0, as_of=AS_OF)
        deliver(as_of=AS_OF)

        message = messages.hold_lifted(hold, account=payer, due_minor=0, as_of=LATER)

        assert deliver(as_of=LATER) == Delivered(sent=1)
        assert reread(message).fact == f"hold:{hold.pk}:lifted"
        assert mail.outbox[1].subject == "The hold on your account is lifted"


class TestNobodyToWriteTo:
    def test_stops_no_money_and_stands_on_the_timeline(self) -> None:
        payer = account(email="")
        payment = pay(issued(payer), 1000)

        told = receipt_of(
            payment, account=payer, allocations=[], due_minor=0, credit_minor=0, as_of=LATER
        )

        assert told is None
        event = TimelineEvent.objects.get(kind="message.not_written")
        assert event.account == payer
        assert event.details == {"fact": f"payment:{payment.pk}"}


class TestRecheckInvoice:
    def test_sends_it_as_written_while_it_is_true(self) -> None:
        message = tell_of(issued(account()))

        assert deliver(as_of=LATER) == Delivered(sent=1)

        assert mail.outbox[0].body == message.body_text
        assert reread(message).as_of == AS_OF
        assert not Decision.objects.exists()

    def test_cancels_it_when_a_payment_has_settled_it(self) -> None:
        invoice = issued(account())
        message = tell_of(invoice)
        pay(invoice, 1000)

        assert deliver(as_of=LATER) == Delivered(cancelled=1)

        assert reread(message).because == "settled meanwhile: the receipt tells it"
        decision = Decision.objects.get()
        assert (decision.act, decision.did, decision.world_changed) == ("EMAIL", "SKIPPED", True)
        assert decision.account == invoice.account
        assert decision.expected == {
            "due_minor": 1000,
            "currency": "EUR",
            "as_of": AS_OF.isoformat(),
            "message": f"INVOICE invoice:{invoice.pk}",
        }
        assert decision.saw["due_minor"] == 0
        assert mail.outbox == []

    @pytest.mark.parametrize("settle", [pay, grant])
    def test_renders_it_anew_when_part_of_it_is_settled(self, settle: Any) -> None:
        invoice = issued(account())
        message = tell_of(invoice)
        settle(invoice, 400)

        assert deliver(as_of=LATER) == Delivered(sent=1)

        body = mail.outbox[0].body
        assert "Left to pay on this invoice: €6.00" in body
        assert "Your balance is €6.00 as of 1 November 2026, 08:12 (Europe/Budapest)." in body
        reread(message)
        assert (message.amounts["due_minor"], message.as_of) == (600, LATER)
        assert message.because == "the balance had changed: rendered anew"
        decision = Decision.objects.get()
        assert (decision.did, decision.world_changed) == ("DONE", True)
        assert (decision.expected["due_minor"], decision.saw["due_minor"]) == (1000, 600)

    def test_renders_it_anew_when_credit_has_settled_all_of_it(self) -> None:
        invoice = issued(account())
        tell_of(invoice)
        grant(invoice, 1000)

        assert deliver(as_of=LATER) == Delivered(sent=1)

        assert "There is nothing to pay." in mail.outbox[0].body

    def test_sends_an_invoice_that_asked_for_nothing_though_it_is_settled(self) -> None:
        invoice = issued(account())
        pay(invoice, 1000)
        tell_of(invoice)

        assert deliver(as_of=LATER) == Delivered(sent=1)
