"""Bank transfers: booked once to whom they name, left to a person where they name nobody for sure."""

import json
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from accounts.models import TimelineEvent
from billing.models import Decision, IncomingTransfer, Invoice, Payment, PaymentAttempt
from billing.payments import booking, charges, transfers
from billing.references import reference_of
from billing.usage.imports.file_errors import FileRefused
from tests.billing.builders import collect, credit, due, owing
from tests.closing import assert_books_hold, in_a_thread_of_the_provider
from tests.factories import AS_OF, MandateFactory
from tests.provider import Killed
from tests.workers import at_once

pytestmark = pytest.mark.django_db(transaction=True)

HEADER = "date,amount,currency,reference,payer,bank_ref"


@pytest.fixture(autouse=True)
def _books_hold():
    yield
    assert_books_hold()


@pytest.fixture
def statement(tmp_path):
    def write(*rows: str, header: str = HEADER) -> Path:
        path = tmp_path / "november.csv"
        path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        return path

    return write


def row(
    reference: str, *, amount: str = "12.34", bank_ref: str = "B1", currency: str = "EUR"
) -> str:
    return f'2018-11-02,{amount},{currency},"{reference}",Acme Ltd,{bank_ref}'


def take(path: Path) -> transfers.Imported:
    return transfers.import_statement(path, as_of=AS_OF)


def only() -> IncomingTransfer:
    return IncomingTransfer.objects.get()


class TestImport:
    def test_books_what_names_an_account_and_says_so(self, statement):
        account = owing("12.34")

        imported = take(statement(row(f"rf{reference_of(account.pk)[2:]} thanks")))

        payment = Payment.objects.get()
        assert [each.bank_ref for each in imported.booked] == ["B1"]
        assert (payment.gateway, payment.provider_ref) == ("transfer", "B1")
        assert payment.method == "Bank transfer of 2018-11-02"
        assert due(account) == 0
        assert Decision.objects.get(act="BOOK_TRANSFER").saw["due_minor"] == 1234
        assert TimelineEvent.objects.filter(kind="payment.received").exists()

    @pytest.mark.parametrize(
        "text", ["{number}", "inv {lower}", "MC {plain}", "for mc{plain}, oct"]
    )
    def test_books_by_the_invoice_number_where_there_is_no_reference(self, statement, text):
        account = owing("12.34")
        invoice = Invoice.objects.get()
        said = text.format(
            number=invoice.number, lower=invoice.number.lower(), plain=invoice.sequence
        )

        take(statement(row(said)))

        assert only().state == "BOOKED"
        assert due(account) == 0

    def test_keeps_what_is_too_much_as_credit(self, statement):
        account = owing("12.34")

        take(statement(row(reference_of(account.pk), amount="20")))

        assert (due(account), credit(account)) == (0, 766)

    def test_twice_is_the_same_as_once(self, statement):
        account = owing("12.34")
        path = statement(row(reference_of(account.pk)), row("who knows", bank_ref="B2"))
        take(path)

        assert take(path).known == 2
        assert Payment.objects.count() == 1
        assert IncomingTransfer.objects.count() == 2

    def test_by_two_at_once_books_once(self, statement):
        account = owing("12.34")
        path = statement(row(reference_of(account.pk)))

        at_once(*[lambda: take(path)] * 2)

        assert Payment.objects.count() == IncomingTransfer.objects.count() == 1

    def test_killed_in_the_middle_goes_on_with_the_rest(self, statement, monkeypatch):
        accounts = [owing("12.34") for _ in range(3)]
        path = statement(
            *[row(reference_of(a.pk), bank_ref=f"B{a.pk}") for a in accounts]
        )  # fmt: skip
        real, calls = booking.book_transfer, []

        def killed(**facts):
            calls.append(real(**facts))
            if len(calls) == 2:
                raise Killed
            return calls[-1]

        monkeypatch.setattr(booking, "book_transfer", killed)
        with pytest.raises(Killed):
            take(path)
        assert Payment.objects.count() == IncomingTransfer.objects.count() == 1
        monkeypatch.undo()

        take(path)
        assert [due(a) for a in accounts] == [0, 0, 0]


class TestLeftToAPerson:
    @pytest.mark.parametrize(
        ("reference", "because"),
        [
            ("thanks", "it names no account"),
            ("RF00 0000 0000 0017", "was mistyped: its check digits are wrong"),
            (reference_of(10**11), "no account has its reference"),
            ("MC-000001 and MC-000002", "it names 2 accounts"),
        ],
    )
    def test_is_what_names_no_account_for_sure(self, statement, reference, because):
        owing("12.34")
        owing("12.34")

        take(statement(row(reference)))

        assert only().state == "WAITING"
        assert because in only().because
        assert not Payment.objects.exists()

    def test_is_another_currency(self, statement):
        account = owing("12.34")

        take(statement(row(reference_of(account.pk), currency="USD")))

        assert only().because == f"it is in USD, {account} in EUR"
        with pytest.raises(transfers.WrongCurrency):
            assign(account)


def assign(account, *, actor: str = "ann@example.com"):
    return transfers.assign(
        transfer_id=only().pk,
        account_id=account.pk,
        reason="Called them",
        actor=actor,
        as_of=AS_OF,
    )


class TestAPersonDecides:
    def test_whose_it_is(self, statement):
        account = owing("12.34")
        take(statement(row("thanks")))

        assign(account)

        assert (only().state, only().decided_by) == ("BOOKED", "ann@example.com")
        assert Payment.objects.get().recorded_by == "ann@example.com"
        assert due(account) == 0

    def test_twice_books_once(self, statement):
        account, other = owing("12.34"), owing("12.34")
        take(statement(row("thanks")))

        results = at_once(lambda: assign(account), lambda: assign(other))

        assert sorted(type(each).__name__ for each in results) == [
            "AlreadyBooked",
            "IncomingTransfer",
        ]
        assert Payment.objects.count() == 1

    def test_that_it_is_not_ours_and_may_think_again(self, statement):
        account = owing("12.34")
        take(statement(row("thanks")))

        transfers.put_aside(transfer_id=only().pk, reason="A tax refund", actor="ann@example.com")
        assert (only().state, only().because) == ("NOT_OURS", "A tax refund")

        assign(account)
        with pytest.raises(transfers.AlreadyBooked):
            transfers.put_aside(transfer_id=only().pk, reason="", actor="ann@example.com")


class TestACrossingCharge:
    @pytest.fixture
    def provider(self, provider):
        """One whose book can be read, for the books to be held against it."""
        provider.book = provider.sandbox.book
        return provider

    def test_that_is_not_sent_yet_is_given_up(self, statement, provider):
        account = owing("12.34")
        path = statement(row(reference_of(account.pk)))
        provider.after("prepare", in_a_thread_of_the_provider(lambda: take(path)))

        attempt = collect(account)

        assert (attempt.state, attempt.because) == ("RELEASED", "settled meanwhile")
        assert [seen.status for seen in provider.sandbox.book()] == ["CANCELED"]

    def test_that_the_provider_has_becomes_credit(self, statement, provider):
        account = owing("12.34")
        path = statement(row(reference_of(account.pk)))
        provider.before("submit", in_a_thread_of_the_provider(lambda: take(path)))

        assert collect(account).state == "SUCCEEDED"
        assert (due(account), credit(account)) == (0, 1234)

    def test_a_debit_that_waits_for_its_day_is_given_up_at_once(self, statement, debit):
        account = owing("12.34", card=None)
        MandateFactory(account=account)
        attempt = collect(account)

        take(statement(row(reference_of(account.pk))))
        charges.drive_due(as_of=AS_OF)

        attempt.refresh_from_db()
        assert attempt.state == PaymentAttempt.State.RELEASED
        assert debit.payment(attempt.provider_ref)["status"] == "cancelled"


class TestBadInput:
    @pytest.mark.parametrize(
        ("bad", "says"),
        [
            ("02.11.2018,1,EUR,x,y,B2", "date '02.11.2018': is no date. Write it as 2026-11-02."),
            ('2018-11-02,"12,34",EUR,x,y,B2', "amount '12,34': is no number"),
            ("2018-11-02,0,EUR,x,y,B2", "amount '0': did not come in. Leave out"),
            ("2018-11-02,-5,EUR,x,y,B2", "amount '-5': did not come in"),
            ("2018-11-02,1.234,EUR,x,y,B2", "amount '1.234': 1.234 has more decimals than EUR"),
            ("2018-11-02,1,EURO,x,y,B2", "currency 'EURO': is no currency"),
            ("2018-11-02,1,EUR,x,y,", "bank_ref '': is empty. Give every transfer"),
            (f"2018-11-02,1,EUR,x,y,{'B' * 141}", "longer than 140 characters"),
            ("2018-11-02,1,EUR,x", "has 4 cells, the first line 6"),
            ("2018-11-02,1,EUR,x,y,B1", "bank_ref 'B1': is that of another transfer, in line 2"),
        ],
    )
    def test_one_wrong_row_keeps_the_file_out_and_is_named(self, statement, bad, says):
        account = owing("12.34")
        path = statement(row(reference_of(account.pk)), bad)

        with pytest.raises(FileRefused) as refused:
            take(path)

        assert f"line 3: {says}" in str(refused.value) or says in str(refused.value)
        assert "nothing was imported, 1 rows are wrong" in str(refused.value)
        assert not IncomingTransfer.objects.exists()

    def test_many_wrong_rows_are_counted(self, statement):
        with pytest.raises(FileRefused, match="… and 5 more"):
            take(statement(*["x,1,EUR,x,y,B"] * 25))

    def test_a_missing_column_is_named(self, statement):
        with pytest.raises(FileRefused, match="names no column bank_ref"):
            take(statement(header="date,amount,currency,reference,payer"))

    def test_columns_may_come_in_any_order_and_case_and_a_row_twice(self, statement):
        account = owing("12.34")
        bad_order = f"B1,Acme,{reference_of(account.pk)},eur,12.34,2018-11-02"

        take(
            statement(bad_order, bad_order, header="Bank_Ref,Payer,Reference,Currency,Amount,Date")
        )

        assert only().state == "BOOKED"

    def test_an_id_that_stood_for_another_amount_is_not_swallowed(self, statement):
        take(statement(row("thanks")))

        with pytest.raises(FileRefused, match=r"was imported over €\xa012\.34 before"):
            take(statement(row("thanks", amount="99")))


class TestCommand:
    def test_says_what_became_of_each(self, statement, capsys):
        account = owing("12.34")
        path = statement(row(reference_of(account.pk)), row("thanks", bank_ref="B2"))

        call_command("import_transfers", path)

        said = capsys.readouterr().out
        assert "november.csv: 1 booked, 1 wait for a person, 0 known already." in said
        assert "€\xa012.34 from 'Acme Ltd': it names no account" in said

    def test_says_it_as_json(self, statement, capsys):
        account = owing("12.34")
        path = statement(row(reference_of(account.pk)), row("thanks", bank_ref="B2"))

        call_command("import_transfers", path, "--json")

        said = json.loads(capsys.readouterr().out)
        assert said["booked"][0]["account"] == account.external_id
        assert said["waiting"][0] == {
            "bank_ref": "B2",
            "amount": "12.34",
            "currency": "EUR",
            "account": None,
            "because": "it names no account",
        }

    def test_fails_where_the_file_is_refused(self, tmp_path):
        with pytest.raises(CommandError, match="cannot be opened"):
            call_command("import_transfers", tmp_path / "nothing.csv")
