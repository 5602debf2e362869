from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core import mail

from accounts.models import Account, ChargingPause, Hold, PaymentMethod, TimelineEvent
from billing import ledger, messages
from billing.charge_protocol import CUSTOMER_MAY_TAKE
from billing.messages import Bill
from billing.messages.decline_words import DECLINES
from billing.models import Decision, DunningCase, Invoice, PaymentAttempt
from config.locale_catalogs import compile_catalogs
from notifications import outbox
from notifications.models import Message
from tests.billing.message_builders import (
    LATER,
    card,
    close_gateway,
    declined,
    grant,
    held,
    in_flight,
    issued,
    pay,
    tell_of,
)
from tests.mailing import Delivered, deliver
from tests.notifications.builders import AS_OF, account, make_due

pytestmark = pytest.mark.django_db

SPACE = "\N{NO-BREAK SPACE}"


@pytest.fixture(scope="module", autouse=True)
def _catalogs() -> None:
    compile_catalogs()


@pytest.fixture(autouse=True)
def _site(settings: Any) -> Iterator[None]:
    settings.SITE_URL = "https://billing.example.com"
    return


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
            "Your balance is €10.00 as of 1 November 2026, 06:12 (Budapest).",
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
            "2026. november 1., 06:12 (Budapest)." in message.body_text
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
            ("Asia/Tokyo", "1 November 2026, 14:12 (Tokyo)"),
            ("America/New_York", "1 November 2026, 01:12 (New York)"),
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
        assert "Received: 1 November 2026, 08:12 (Budapest)" in message.body_text
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

    def test_is_sent_whatever_changed_since_and_says_what_is_due_then(self) -> None:
        payer = account()
        invoice = issued(payer)
        payment = pay(invoice, 1000)
        paid = [(invoice, 1000)]
        receipt_of(
            payment, account=payer, allocations=paid, due_minor=0, credit_minor=0, as_of=LATER
        )
        issued(payer)

        assert deliver(as_of=LATER) == Delivered(sent=1)
        assert "Invoice AC-000001: €10.00" in mail.outbox[0].body
        assert "Your balance is €10.00 as of 1 November 2026, 08:12" in mail.outbox[0].body


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

    @pytest.mark.parametrize("state", ["REMOVED", "BLOCKED"])
    def test_of_a_card_that_is_gone_another_one_helps_on_pages_as_well(self, state: str) -> None:
        attempt = declined(account(), "card_declined")
        attempt.payment_method.state = state

        reason, advice = messages.decline_in_words(attempt)

        assert str(reason) == "The bank declined the card."
        assert str(advice) == "Please add another card, or pay with one."

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

    @pytest.mark.parametrize("order", [("lifted", "placed"), ("placed", "lifted")])
    def test_nothing_is_told_of_a_hold_that_was_lifted_before_its_mail_went_out(
        self, order: tuple[str, str]
    ) -> None:
        payer = account()
        hold = held(payer)
        told = {
            "placed": messages.hold_placed(hold, account=payer, due_minor=0, as_of=AS_OF),
            "lifted": messages.hold_lifted(hold, account=payer, due_minor=0, as_of=LATER),
        }
        Hold.objects.update(lifted_at=LATER)

        for which in [*order, *order]:
            message = told[which]
            assert message is not None
            deliver(as_of=LATER, message_ids=[message.pk])
            if reread(message).state == Message.State.QUEUED:
                make_due(message)

        assert {reread(each).state for each in told.values()} == {Message.State.CANCELLED}
        assert mail.outbox == []

    def test_the_end_of_a_hold_waits_while_its_mail_is_at_the_server(self) -> None:
        payer = account()
        hold = held(payer)
        placed = messages.hold_placed(hold, account=payer, due_minor=0, as_of=AS_OF)
        assert placed is not None
        Message.objects.filter(pk=placed.pk).update(state=Message.State.SENDING)
        Hold.objects.update(lifted_at=LATER)
        lifted = messages.hold_lifted(hold, account=payer, due_minor=0, as_of=LATER)
        assert lifted is not None

        deliver(as_of=LATER, message_ids=[lifted.pk])
        assert (reread(lifted).state, lifted.attempts) == (Message.State.QUEUED, 0)
        Message.objects.filter(pk=placed.pk).update(state=Message.State.SENT, sent_at=LATER)
        make_due(lifted)
        deliver(as_of=LATER, message_ids=[lifted.pk])

        assert reread(lifted).state == Message.State.SENT

    def test_nobody_is_told_of_the_end_of_a_hold_whose_mail_had_no_address(self) -> None:
        payer = account(email="")
        hold = held(payer)
        messages.hold_placed(hold, account=payer, due_minor=0, as_of=AS_OF)
        payer.email = "now@example.com"
        payer.save()
        Hold.objects.update(lifted_at=LATER)
        lifted = messages.hold_lifted(hold, account=payer, due_minor=0, as_of=LATER)

        assert deliver(as_of=LATER) == Delivered(cancelled=1)
        assert reread(lifted).because == "they were never told of the hold"

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
        assert "Your balance is €6.00 as of 1 November 2026, 08:12 (Budapest)." in body
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


class TestRecheckCardGone:
    def told(self, **of_account: Any) -> tuple[Account, Message | None]:
        payer = account(**of_account)
        issued(payer)
        gone = card(payer, state="REMOVED", removed_at=AS_OF, is_default=False)
        return payer, messages.card_gone(gone, None, account=payer, due_minor=1000, as_of=AS_OF)

    def another_card(self, payer: Account) -> None:
        card(payer, token="tok_2", brand="Mastercard", last_four="5100")

    def test_sends_it_as_written_while_there_is_no_other_card(self) -> None:
        _payer, message = self.told()

        assert deliver(as_of=LATER) == Delivered(sent=1)

        assert "Please add another card" in mail.outbox[0].body
        assert reread(message).because == ""

    def test_cancels_it_when_the_customer_has_chosen_another_card(self) -> None:
        payer, message = self.told(charges_other_cards=False)
        self.another_card(payer)

        assert deliver(as_of=LATER) == Delivered(cancelled=1)

        assert reread(message).because == "they have another card by now"
        assert mail.outbox == []

    def test_names_the_other_card_that_is_charged_as_the_customer_has_allowed(self) -> None:
        payer, _message = self.told(charges_other_cards=True)
        self.another_card(payer)

        assert deliver(as_of=LATER) == Delivered(sent=1)

        body = mail.outbox[0].body
        assert "As you have chosen, we charge Mastercard ···· 5100 from now on." in body
        assert "Please add another card" not in body


class TestRecheckHoldWarning:
    def overdue(self, payer: Account, *, days: int = 1) -> Invoice:
        return issued(payer, due_at=AS_OF - timedelta(days=days))

    def warned(self) -> tuple[Invoice, Message | None]:
        invoice = self.overdue(account())
        standing = ledger.standing(invoice.account_id, as_of=AS_OF)
        message = messages.hold_warning([invoice], account=invoice.account, standing=standing)
        return invoice, message

    def test_sends_it_while_the_invoice_is_overdue(self) -> None:
        self.warned()

        assert deliver(as_of=AS_OF) == Delivered(sent=1)

    @pytest.mark.parametrize(
        ("happens", "because"),
        [
            (lambda on: pay(on, 1000), "nothing is overdue"),
            (lambda on: in_flight(on.account, "PROCESSING"), "a payment is on its way"),
            (
                lambda on: ChargingPause.objects.create(
                    account=on.account, reason="MANUAL", because="they called", paused_at=LATER
                ),
                "charging is paused: they called",
            ),
            (lambda on: held(on.account), "the account is on hold already"),
        ],
    )
    def test_threatens_nobody_with_a_hold_that_will_not_come(
        self, happens: Callable[[Invoice], object], because: str
    ) -> None:
        invoice, message = self.warned()
        happens(invoice)

        assert deliver(as_of=LATER) == Delivered(cancelled=1)

        assert reread(message).because == because
        assert mail.outbox == []

    def test_does_not_ask_for_an_invoice_that_is_settled_while_another_is_overdue(self) -> None:
        invoice, message = self.warned()
        self.overdue(invoice.account)
        pay(invoice, 1000)

        assert deliver(as_of=LATER) == Delivered(cancelled=1)

        assert reread(message).because == "that invoice is settled"


class TestRecheckPaymentReminder:
    def reminded(self) -> tuple[Invoice, Message | None]:
        due_at = AS_OF + timedelta(days=3)
        invoice = issued(account(), due_at=due_at, due_date=due_at.date())
        message = messages.payment_reminder(
            invoice, account=invoice.account, due_minor=1000, as_of=AS_OF
        )
        return invoice, message

    @pytest.mark.parametrize(
        ("happens", "because"),
        [
            (lambda on: pay(on, 1000), "settled meanwhile"),
            (lambda on: in_flight(on.account, "PROCESSING"), "a payment is on its way"),
            (lambda on: pay(on, 970), "less is due than is asked for"),
        ],
    )
    def test_asks_nobody_for_what_is_not_to_be_paid(
        self, happens: Callable[[Invoice], object], because: str
    ) -> None:
        invoice, message = self.reminded()
        happens(invoice)

        assert deliver(as_of=LATER) == Delivered(cancelled=1)

        assert reread(message).because == because
        assert mail.outbox == []

    def test_names_no_day_that_is_over(self) -> None:
        _invoice, message = self.reminded()

        assert deliver(as_of=AS_OF + timedelta(days=3)) == Delivered(cancelled=1)

        assert reread(message).because == "its last day to pay is over"

    def test_says_what_is_left_when_a_part_was_paid(self) -> None:
        invoice, _message = self.reminded()
        pay(invoice, 400)

        assert deliver(as_of=LATER) == Delivered(sent=1)

        assert "€6.00" in mail.outbox[0].body
        assert "€10.00" not in mail.outbox[0].body


class TestWhatComesNext:
    """Each cell of the table is in test_message_truth; these are the promises that were broken once."""

    def sent(self) -> str:
        assert deliver(as_of=LATER) == Delivered(sent=1)
        return str(mail.outbox[-1].body)

    def test_an_invoice_whose_card_was_removed_promises_no_charge(self) -> None:
        payer = account()
        visa = card(payer)
        assert "will be charged" in tell_of(issued(payer)).body_text
        PaymentMethod.objects.filter(pk=visa.pk).update(
            state="REMOVED", removed_at=LATER, is_default=False
        )

        body = self.sent()

        assert "will be charged" not in body
        assert "Please pay here" in body

    def test_an_invoice_of_a_paused_account_promises_no_charge(self) -> None:
        payer = account()
        card(payer)
        tell_of(issued(payer))
        ChargingPause.objects.create(
            account=payer, reason="MANUAL", because="asked for", paused_at=LATER
        )

        body = self.sent()

        assert "will be charged" not in body
        assert "is not charged automatically at the moment" in body

    def test_an_invoice_that_was_declined_meanwhile_says_so(self) -> None:
        payer = account()
        invoice = issued(payer)
        declined(payer)
        PaymentAttempt.objects.update(created_at=AS_OF - timedelta(days=1))
        message = tell_of(invoice)
        PaymentAttempt.objects.update(created_at=LATER)

        body = self.sent()

        assert "will be charged" in message.body_text
        assert "will be charged" not in body
        assert "We could not charge your card Visa ···· 4242." in body

    def test_an_invoice_that_its_close_charges_says_so_whatever_is_in_dunning(self) -> None:
        payer = account()
        invoice = issued(payer)
        attempt = declined(payer)
        PaymentAttempt.objects.update(created_at=AS_OF - timedelta(days=1))
        DunningCase.objects.create(
            account=payer,
            opened_at=attempt.created_at,
            decline_class="SOFT",
            decline_code="insufficient_funds",
            next_try_at=LATER,
            ends_at=LATER,
        )

        body = tell_of(invoice).body_text

        assert "Your card Visa ···· 4242 will be charged." in body
        assert "We could not" not in body

    def test_who_has_removed_the_card_is_not_sent_to_the_bank(self) -> None:
        payer = account()
        issued(payer)
        attempt = declined(payer, "card_declined")
        message = messages.payment_failed(attempt, account=payer, due_minor=1000, as_of=AS_OF)
        assert message is not None
        assert "ask your bank" in message.body_text
        PaymentMethod.objects.filter(account=payer).update(
            state="REMOVED", removed_at=LATER, is_default=False
        )

        body = self.sent()

        assert "ask your bank" not in body
        assert "Please add another card" in body

    def test_a_debit_that_will_be_given_up_is_not_announced(self) -> None:
        payer = account()
        invoice = issued(payer)
        attempt = PaymentAttempt.objects.create(
            account=payer,
            kind=PaymentAttempt.Kind.AUTO,
            currency="EUR",
            amount_minor=1000,
            payment_method=card(payer),
            gateway="sandbox",
            state=PaymentAttempt.State.PREPARED,
            charge_date=(AS_OF + timedelta(days=2)).date(),
        )
        messages.charge_announced(attempt, account=payer, due_minor=1000, as_of=AS_OF)
        pay(invoice, 400)

        assert deliver(as_of=LATER) == Delivered(cancelled=1)

    def test_who_was_never_asked_to_confirm_is_told_that_it_failed(self) -> None:
        payer = account()
        issued(payer)
        attempt = declined(payer, "authentication_required")
        messages.confirmation_needed(
            attempt, account=payer, until=LATER, due_minor=1000, as_of=AS_OF
        )
        assert messages.was_asked_to_confirm(attempt)

        assert deliver(as_of=LATER) == Delivered(cancelled=1)

        assert not messages.was_asked_to_confirm(attempt)
        assert "Your bank wants you to confirm the payment." in self.sent()

    def test_an_invoice_speaks_of_no_payment_that_is_being_given_up(self) -> None:
        payer = account()
        in_flight(payer, PaymentAttempt.State.CANCELING, kind=PaymentAttempt.Kind.ON_SESSION)

        body = tell_of(issued(payer)).body_text

        assert "is on its way" not in body
        assert "Your card Visa ···· 4242 will be charged." in body

    def test_nobody_is_asked_to_confirm_once_the_time_for_it_is_over(self) -> None:
        payer = account()
        in_flight(
            payer,
            PaymentAttempt.State.REQUIRES_ACTION,
            submitted_at=AS_OF - CUSTOMER_MAY_TAKE,
        )

        body = tell_of(issued(payer)).body_text

        assert "Your bank wants you to confirm" not in body
        assert "Your card Visa ···· 4242 will be charged." in body

    def test_a_charge_that_has_merely_begun_waits_for_its_provider(self) -> None:
        payer = account()
        in_flight(payer, PaymentAttempt.State.RESERVED)
        close_gateway()

        body = tell_of(issued(payer)).body_text

        assert "Payments are paused for a short while." in body
        assert "After that Visa ···· 4242 will be charged." in body

    def test_a_retry_whose_day_has_come_waits_for_its_provider(self) -> None:
        payer = account()
        issued(payer)
        attempt = declined(payer)
        DunningCase.objects.create(
            account=payer,
            opened_at=AS_OF,
            decline_class="SOFT",
            decline_code="insufficient_funds",
            next_try_at=AS_OF,
            ends_at=LATER,
        )
        close_gateway()

        message = messages.payment_failed(attempt, account=payer, due_minor=1000, as_of=AS_OF)

        body = reread(message).body_text
        assert "After that Visa ···· 4242 will be charged." in body
        assert "We will try again on" not in body
        assert "Please pay here" not in body
