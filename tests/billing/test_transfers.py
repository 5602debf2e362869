"""Bank transfers: booked once to whom they name, left to a person where they name nobody for sure."""

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest
from django.core.management import CommandError, call_command

from accounts.models import Account, TimelineEvent
from billing.models import (
    BankStatement,
    Decision,
    IncomingTransfer,
    Invoice,
    Payment,
    PaymentAttempt,
    RepeatedTransfer,
)
from billing.payments import booking, transfers
from billing.references import reference_of
from billing.usage.imports.file_errors import FileRefused
from tests import charging
from tests.billing.builders import collect, credit, due, owing
from tests.closing import assert_books_hold, in_a_thread_of_the_provider
from tests.factories import AS_OF, MandateFactory, token
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
        assert (payment.gateway, payment.provider_ref) == ("transfer", f"B1#{only().pk}")
        assert payment.method == "Bank transfer of 2018-11-02"
        assert due(account) == 0
        assert Decision.objects.get(act="BOOK_TRANSFER").saw["due_minor"] == 1234
        assert TimelineEvent.objects.filter(kind="payment.received").exists()

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

    def test_is_what_names_two_accounts_by_their_references(self, statement):
        one, other = owing("12.34"), owing("12.34")

        take(statement(row(f"{reference_of(one.pk)} {reference_of(other.pk)}")))

        assert (only().state, only().because) == ("WAITING", "it names 2 accounts")
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
        charging.drive_due(as_of=AS_OF)

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
            ("2018-11-02,1,EUR,x\x00,y,B2", "holds a NUL character"),
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

    def test_columns_may_come_in_any_order_and_case(self, statement):
        account = owing("12.34")
        bad_order = f"B1,Acme,{reference_of(account.pk)},eur,12.34,2018-11-02"

        take(statement(bad_order, header="Bank_Ref,Payer,Reference,Currency,Amount,Date"))

        assert only().state == "BOOKED"

    def test_a_part_named_twice_is_refused(self, statement):
        path = statement(row("thanks"))

        with pytest.raises(FileRefused, match="named twice"):
            transfers.import_statement(path, path, as_of=AS_OF)


class TestKnownAgain:
    """By all that the bank says of it together, and the how-manieth of equal ones it is."""

    @pytest.mark.parametrize(
        "other",
        [
            "2019-11-02,12.34,EUR,{ref},Acme Ltd,B1",
            "2018-11-02,12.35,EUR,{ref},Acme Ltd,B1",
            "2018-11-02,12.34,EUR,{ref},Acme Ltd,B2",
        ],
    )
    def test_an_id_used_anew_is_another_transfer(self, statement, other):
        account = owing("100.00")
        take(statement(row(reference_of(account.pk))))

        imported = take(statement(other.format(ref=reference_of(account.pk))))

        assert (len(imported.booked), imported.known) == (1, 0)
        assert Payment.objects.filter(account=account).count() == 2

    def test_one_id_for_all_books_each_payer(self, statement):
        accounts = [owing("12.34") for _ in range(3)]
        rows = [row(reference_of(each.pk), bank_ref="NONREF") for each in accounts]
        take(statement(rows[0]))

        imported = take(statement(*rows))

        assert (len(imported.booked), imported.known) == (2, 1)
        assert [due(each) for each in accounts] == [0, 0, 0]

    def test_a_bank_id_of_another_year_books_to_its_own_payer(self, tmp_path):
        """Case 11 of those from the field."""
        payers = [owing("100.00"), owing("100.00")]
        for month, account, name in zip((10, 11), payers, ("Acme", "Beta"), strict=True):
            path = tmp_path / f"2026-{month}.csv"
            path.write_text(
                f'{HEADER}\n2026-{month}-03,100.00,EUR,"{reference_of(account.pk)}",{name},00045\n'
            )
            take(path)

        assert [due(each) for each in payers] == [0, 0]

    def test_equal_ones_of_one_file_are_as_many_payments(self, statement):
        account = owing("100.00")
        path = statement(*[row(reference_of(account.pk))] * 2)

        imported = take(path)

        assert [each.ordinal for each in imported.booked] == [1, 2]
        assert due(account) == 10000 - 2 * 1234
        assert take(path).known == 2
        assert Payment.objects.count() == 2

    def test_an_overlapping_file_adds_only_what_is_new(self, statement):
        account = owing("100.00")
        one, other = row(reference_of(account.pk)), row(reference_of(account.pk), bank_ref="B2")
        take(statement(one, one))

        imported = take(statement(other, one, one, one))

        assert (len(imported.booked), imported.known) == (2, 2)
        assert [(each.bank_ref, each.ordinal) for each in imported.booked] == [("B2", 1), ("B1", 3)]

    def test_the_parts_of_one_statement_are_imported_together(self, tmp_path):
        account = owing("100.00")
        parts = [tmp_path / "1.csv", tmp_path / "2.csv"]
        for part in parts:
            part.write_text(f"{HEADER}\n{row(reference_of(account.pk))}\n")

        for _ in range(2):
            transfers.import_statement(*parts, as_of=AS_OF)

        assert Payment.objects.count() == 2

    def test_files_that_overlap_by_several_at_once(self, tmp_path):
        accounts = [owing("100.00") for _ in range(2)]
        rows = [row(reference_of(each.pk)) for each in accounts for _ in range(2)]
        paths = []
        for name, some in (("a", rows[:3]), ("b", rows[1:]), ("c", rows), ("d", rows[::-1])):
            paths.append(tmp_path / f"{name}.csv")
            paths[-1].write_text("\n".join([HEADER, *some]) + "\n")

        results = at_once(*[lambda path=path: take(path) for path in paths * 2])

        assert {type(each) for each in results} == {transfers.Imported}
        assert sum(len(each.booked) for each in results) == 4
        assert [due(each) for each in accounts] == [10000 - 2 * 1234] * 2

    @pytest.mark.parametrize("seed", range(5))
    def test_is_the_greatest_count_of_each_in_any_file(self, tmp_path, seed):
        account = owing("10000.00")
        random, most = Random(seed), Counter()
        for number in range(6):
            entries = Counter(random.choices(["B1", "B2", "B3"], k=random.randrange(1, 6)))
            path = tmp_path / f"{number}.csv"
            rows = [row(reference_of(account.pk), bank_ref=each) for each in entries.elements()]
            random.shuffle(rows)
            path.write_text("\n".join([HEADER, *rows]) + "\n")
            take(path)
            most |= entries

        stored = Counter(IncomingTransfer.objects.values_list("bank_ref", flat=True))
        assert stored == most
        assert Payment.objects.count() == most.total()

    def test_two_of_our_bank_accounts_may_use_one_id(self, statement):
        account = owing("100.00")
        header = f"{HEADER},bank_account"
        rows = [f"{row(reference_of(account.pk))},{each}" for each in ("DE02 1203", "HU42 1177")]

        assert len(take(statement(*rows, header=header)).booked) == 2

    @pytest.mark.parametrize(
        "again",
        [
            '2018-11-02,12.34,EUR,"{ref} october",Acme Ltd,B1,',
            '2018-11-02,12.34,EUR,"{ref}",ACME LIMITED,B1,',
            '2018-11-02,12.34,EUR,"{ref}",Acme Ltd,B1,DE02',
        ],
    )
    def test_told_again_in_other_words_asks_a_person(self, statement, again):
        account = owing("100.00")
        take(statement(row(reference_of(account.pk))))
        payment = Payment.objects.get()

        imported = take(
            statement(again.format(ref=reference_of(account.pk)), header=f"{HEADER},bank_account")
        )

        [waits] = imported.waiting
        assert "of its id, day and amount before, in other words" in waits.because
        assert (waits.suggested_account, waits.resembles) == (account, payment)
        assert Payment.objects.count() == 1

    def test_other_words_in_one_file_are_two_payments(self, statement):
        account = owing("100.00")
        path = statement(
            row(f"{reference_of(account.pk)} october"), row(f"{reference_of(account.pk)} november")
        )

        assert len(take(path).booked) == 2
        assert take(path).known == 2


class TestRepeats:
    def test_are_listed_with_their_line(self, statement):
        account = owing("12.34")
        path = statement(row("thanks", bank_ref="B0"), row(reference_of(account.pk)))
        take(path)

        take(path)

        assert [
            (each.file, each.line, each.transfer.bank_ref)
            for each in RepeatedTransfer.objects.order_by("line")
        ] == [("november.csv", 2, "B0"), ("november.csv", 3, "B1")]
        assert BankStatement.objects.count() == 2

    def test_may_be_counted_apart_once(self, statement):
        account = owing("100.00")
        path = statement(row(reference_of(account.pk)))
        take(path)
        take(path)
        repeat = RepeatedTransfer.objects.get()

        def apart():
            return transfers.count_apart(
                repeat_id=repeat.pk, reason="It came twice", actor="ann@example.com"
            )

        results = at_once(apart, apart)

        [other] = IncomingTransfer.objects.filter(ordinal=2)
        assert results == [other, other]
        assert (other.state, other.suggested_account) == ("WAITING", account)
        assert take(statement(*[row(reference_of(account.pk))] * 2)).known == 2


def by_hand(account, amount_minor: int = 1234, *, day: int = 2) -> Payment:
    return booking.record_payment(
        account_id=account.pk,
        token=token(),
        amount_minor=amount_minor,
        currency=account.currency,
        method="Bank transfer of November",
        reason="Seen at the bank",
        recorded_by="ann@example.com",
        as_of=datetime(2018, 11, day, 9, tzinfo=UTC),
    )


class TestRecordedByHandBefore:
    @pytest.mark.parametrize("day", [1, 2, 16])
    def test_asks_a_person_and_says_so(self, statement, day):
        account = owing("100.00")
        payment = by_hand(account, day=day)

        take(statement(row(reference_of(account.pk))))

        assert (only().state, only().resembles, only().suggested_account) == (
            "WAITING",
            payment,
            account,
        )
        assert f"recorded by hand on 2018-11-{day:02} by ann@example.com" in only().because
        decision = Decision.objects.get(act="BOOK_TRANSFER")
        assert (decision.did, decision.account) == ("BLOCKED", account)
        assert decision.saw["due_minor"] == 10000 - 1234
        assert TimelineEvent.objects.get(kind="transfer.waits").account == account
        assert Payment.objects.count() == 1

    @pytest.mark.parametrize("unlike", [{"amount_minor": 1235}, {"day": 17}])
    def test_does_not_where_it_looks_otherwise(self, statement, unlike):
        account = owing("100.00")
        by_hand(account, **unlike)
        by_hand(owing("12.34"))

        take(statement(row(reference_of(account.pk))))

        assert only().state == "BOOKED"

    def test_one_payment_is_one_transfer(self, statement):
        account = owing("100.00")
        by_hand(account)
        path = statement(
            row(reference_of(account.pk)), row(reference_of(account.pk), bank_ref="B2")
        )

        imported = take(path)

        assert [each.bank_ref for each in imported.waiting] == ["B1"]
        assert [each.bank_ref for each in imported.booked] == ["B2"]

    def test_recorded_and_imported_at_once_is_booked_or_asked_never_both_unseen(self, statement):
        account = owing("100.00")
        path = statement(row(reference_of(account.pk)))

        at_once(lambda: by_hand(account), lambda: take(path))

        # Whichever came first: the other saw it, or is one that a form's reader was told of.
        assert only().state in {"BOOKED", "WAITING"}
        assert (only().state == "WAITING") == (Payment.objects.count() == 1)

    def test_a_person_says_that_it_is_that_payment(self, statement):
        account = owing("100.00")
        payment = by_hand(account)
        path = statement(row(reference_of(account.pk)))
        take(path)

        transfers.take_as_recorded(
            transfer_id=only().pk, reason="Same money", actor="bob@example.com", as_of=AS_OF
        )

        assert (only().state, only().resembles, only().payment) == ("RECORDED", payment, None)
        assert Decision.objects.get(did="SKIPPED", act="BOOK_TRANSFER").actor == "bob@example.com"
        assert TimelineEvent.objects.get(kind="transfer.recorded_before").actor == "bob@example.com"
        assert due(account) == 10000 - 1234
        assert take(path).known == 1
        assert Payment.objects.count() == 1

    def test_or_that_it_is_another(self, statement):
        account = owing("100.00")
        by_hand(account)
        take(statement(row(reference_of(account.pk))))

        assign(account)

        assert due(account) == 10000 - 2 * 1234

    def test_two_answers_at_once_are_one(self, statement):
        account = owing("100.00")
        by_hand(account)
        take(statement(row(reference_of(account.pk))))

        def same():
            return transfers.take_as_recorded(
                transfer_id=only().pk, reason="x", actor="bob@example.com", as_of=AS_OF
            )

        at_once(lambda: assign(account), same)

        assert Payment.objects.count() == (2 if only().state == "BOOKED" else 1)

    def test_is_refused_where_it_resembles_nothing(self, statement):
        take(statement(row("thanks")))

        with pytest.raises(transfers.ResemblesNothing):
            transfers.take_as_recorded(
                transfer_id=only().pk, reason="x", actor="bob@example.com", as_of=AS_OF
            )

    def test_is_refused_where_another_transfer_is_that_payment(self, statement):
        account = owing("100.00")
        payment = by_hand(account)
        take(statement(row("thanks"), row("thanks", bank_ref="B2")))
        IncomingTransfer.objects.update(resembles=payment)
        one, other = IncomingTransfer.objects.order_by("pk")
        answer = {"reason": "x", "actor": "bob@example.com", "as_of": AS_OF}
        transfers.take_as_recorded(transfer_id=one.pk, **answer)

        with pytest.raises(transfers.ResemblesNothing, match="B1 is that payment"):
            transfers.take_as_recorded(transfer_id=other.pk, **answer)


def owing_where_a_slip_shows() -> tuple[Account, str]:
    """An account and its reference, in which swapping the check digits, or a 7 in the seventh place, is a mistake."""
    while True:
        account = owing("12.34")
        right = reference_of(account.pk).replace(" ", "")
        if right[2] != right[3] and right[6] != "7":
            return account, right


class TestSuggestions:
    """Nothing is booked to whom it only may be from."""

    @pytest.mark.parametrize(
        "text", ["{number}", "inv {lower}", "MC {plain}", "for mc{plain}, oct"]
    )
    def test_an_invoice_number_alone_suggests_its_account(self, statement, text):
        account = owing("12.34")
        invoice = Invoice.objects.get()
        said = text.format(
            number=invoice.number, lower=invoice.number.lower(), plain=invoice.sequence
        )

        take(statement(row(said)))

        assert (only().state, only().because) == (
            "WAITING",
            "it names an invoice by its number alone",
        )
        assert only().suggested_account == account
        assert Decision.objects.get(act="BOOK_TRANSFER").did == "BLOCKED"
        assert due(account) == 1234

    @pytest.mark.parametrize("slip", ["a digit", "two swapped", "one too many", "an invoice"])
    def test_a_mistyped_reference_suggests_whom_it_may_mean(self, statement, slip):
        owing("12.34")
        account, right = owing_where_a_slip_shows()
        wrong = {
            "a digit": f"{right[:6]}7{right[7:]}",
            "two swapped": f"RF{right[3]}{right[2]}{right[4:]}",
            "one too many": f"{right}9",
            "an invoice": f"RF00000099990000 {account.invoices.get().number}",
        }[slip]

        take(statement(row(wrong)))

        assert "its check digits are wrong" in only().because
        assert only().suggested_account == account
        assert not Payment.objects.exists()

    def test_no_other_currency_is_suggested(self, statement):
        owing("12.34")

        take(statement(row(Invoice.objects.get().number, currency="USD")))

        assert only().suggested_account is None


class TestCommand:
    def test_says_what_became_of_each(self, statement, capsys):
        account = owing("12.34")
        path = statement(row(reference_of(account.pk)), row("thanks", bank_ref="B2"))

        call_command("import_transfers", path)

        said = capsys.readouterr().out
        assert "november.csv: 1 booked, 1 wait for a person, 0 known already." in said
        assert "€12.34 from 'Acme Ltd': it names no account" in said

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
            "date": "2018-11-02",
            "account": None,
            "because": "it names no account",
            "suggested": None,
        }

    def test_lists_what_it_takes_for_a_repeat(self, statement, capsys):
        account = owing("12.34")
        path = statement(row(reference_of(account.pk)))
        call_command("import_transfers", path)
        capsys.readouterr()

        call_command("import_transfers", path)
        said = capsys.readouterr().out
        call_command("import_transfers", path, "--json")
        document = json.loads(capsys.readouterr().out)

        assert "0 booked, 0 wait for a person, 1 known already." in said
        assert "november.csv, line 2: Bank transfer of 2018-11-02, B1: €12.34" in said
        assert document["known"] == 1
        assert [(each["line"], each["bank_ref"]) for each in document["repeated"]] == [(2, "B1")]

    def test_fails_where_the_file_is_refused(self, tmp_path):
        with pytest.raises(CommandError, match="cannot be opened"):
            call_command("import_transfers", tmp_path / "nothing.csv")
