import threading
from typing import Any

import pytest
from django.db import connection, transaction

from accounts.models import Account
from notifications import catalog, outbox
from notifications.models import Message
from tests.notifications.builders import AS_OF, account, queued

CONTEXT = {
    "amount": "€10.00",
    "method": "Visa ···· 4242",
    "received_at": "1 November 2026, 06:12 (Budapest)",
    "paid": [{"number": "AC-000001", "amount": "€10.00"}],
    "surplus": "",
    "credit": "",
    "has_due": False,
    "balance": "€0.00",
    "as_of": "1 November 2026, 06:12 (Budapest)",
    "pay_link": "https://pay.example/",
}


def enqueue(of: Account, **said: Any) -> Message | None:
    return outbox.enqueue_all([letter(of, **said)])[0]


def letter(of: Account, **said: Any) -> outbox.Letter:
    return outbox.Letter(
        **{
            "account": of,
            "kind": "RECEIPT",
            "fact": "payment:1",
            "context": CONTEXT,
            "amounts": {"due_minor": 0, "currency": "EUR"},
            "as_of": AS_OF,
            **said,
        }
    )


@pytest.mark.django_db
class TestEnqueue:
    def test_writes_down_what_is_said_and_when_it_was_true(self) -> None:
        anna = account(name="Anna", email="anna@example.com")

        message = enqueue(anna)

        assert message is not None
        message.refresh_from_db()
        assert message.state == Message.State.QUEUED
        assert message.recipient == "anna@example.com"
        assert (message.locale, message.time_zone) == ("en", "Europe/Budapest")
        assert message.subject == "Receipt for your payment of €10.00"
        assert "Invoice AC-000001: €10.00" in message.body_text
        assert (message.amounts, message.as_of) == ({"due_minor": 0, "currency": "EUR"}, AS_OF)

    def test_speaks_the_account_s_language_and_names_who_sends_it(self) -> None:
        message = enqueue(account(language="hu"))

        assert message is not None
        assert message.locale == "hu"
        assert message.subject == "Bizonylat €10.00 összegű befizetéséről"
        assert "Acme Cloud & Co" in message.body_text
        assert "Acme Cloud &amp; Co" in message.body_html
        assert '<html lang="hu">' in message.body_html

    def test_speaks_english_where_the_language_is_none_of_ours(self) -> None:
        message = enqueue(account(language="tlh"))

        assert message is not None
        assert (message.locale, message.subject) == ("en", "Receipt for your payment of €10.00")

    def test_the_same_fact_twice_is_told_once(self) -> None:
        anna = account()

        with transaction.atomic():
            first, second = enqueue(anna), enqueue(anna)
            Account.objects.filter(pk=anna.pk).update(name="the transaction lives")

        assert first is not None
        assert second is None
        assert Message.objects.get() == first
        assert Account.objects.get(pk=anna.pk).name == "the transaction lives"

    def test_the_same_fact_may_be_of_two_kinds(self) -> None:
        anna = account()
        queued(anna, fact="hold:1:placed")

        message = enqueue(anna, kind="HOLD_PLACED", fact="hold:1:placed")

        assert message is not None

    def test_goes_with_the_caller_s_transaction(self) -> None:
        anna = account()

        with transaction.atomic():
            enqueue(anna)
            transaction.set_rollback(True)

        assert not Message.objects.exists()

    def test_refuses_an_account_without_an_address(self) -> None:
        unreachable = account(email="")

        with pytest.raises(outbox.NoRecipient) as refused:
            enqueue(unreachable)

        assert refused.value.account == unreachable
        assert not Message.objects.exists()

    def test_refuses_a_kind_that_nobody_registered(self) -> None:
        with pytest.raises(catalog.UnknownKind, match="RECEIPT"):
            enqueue(account(), kind="RECIEPT")


@pytest.mark.django_db
class TestEnqueueAll:
    def test_writes_each_in_its_place_and_nothing_for_a_fact_that_is_told(
        self, django_assert_num_queries: Any
    ) -> None:
        anna, bela = account(name="Anna"), account(name="Béla")
        told = enqueue(anna)
        letters = [letter(bela, fact="payment:2"), letter(anna), letter(anna, fact="payment:3")]

        with django_assert_num_queries(1):
            of_bela, again, another = outbox.enqueue_all(letters)

        assert of_bela is not None
        assert another is not None
        assert again is None
        assert {m.pk for m in Message.objects.all()} == {told.pk, of_bela.pk, another.pk}
        written = Message.objects.get(pk=of_bela.pk)
        assert (written.account, written.fact) == (bela, "payment:2")
        assert (of_bela.created_at, of_bela.next_attempt_at) == (
            written.created_at,
            written.next_attempt_at,
        )


@pytest.mark.django_db
class TestWhatCustomersSupply:
    def test_is_escaped_in_html_and_left_alone_in_text(self) -> None:
        hostile = '<script>alert(1)</script> & "Söhne"'

        message = enqueue(account(name=hostile), context={**CONTEXT, "method": hostile})

        assert message is not None
        assert "<script>" not in message.body_html
        assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;Söhne&quot;" in message.body_html
        assert f"Paid with: {hostile}" in message.body_text
        assert f"Sent to: {hostile}\n" in message.body_text

    def test_is_never_run_as_a_template(self) -> None:
        hostile = "{{ entity_name }}{% now 'Y' %}"

        message = enqueue(account(name=hostile))

        assert message is not None
        assert f"Sent to: {hostile}\n" in message.body_text

    @pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r", "\x0b", "\x85", "\u2028"])
    def test_cannot_break_the_line_of_a_subject(self, line_break: str) -> None:
        amount = f"1{line_break}Bcc: everyone@example.com"

        message = enqueue(account(), context={**CONTEXT, "amount": amount})

        assert message is not None
        assert message.subject == "Receipt for your payment of 1 Bcc: everyone@example.com"

    def test_cannot_make_a_subject_longer_than_its_column(self) -> None:
        message = enqueue(account(), context={**CONTEXT, "amount": "1" * 1000})

        assert message is not None
        assert len(message.subject) == Message._meta.get_field("subject").max_length


@pytest.mark.concurrency
@pytest.mark.django_db(transaction=True)
def test_two_workers_that_tell_the_same_fact_at_once_write_it_once() -> None:
    anna = account()
    together = threading.Barrier(4)
    written: list[Message | None] = []

    def work() -> None:
        together.wait()
        with transaction.atomic():
            written.append(enqueue(anna))
        connection.close()

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert len(written) == 4
    assert [message for message in written if message] == [Message.objects.get()]
