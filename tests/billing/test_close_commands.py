"""close_month and close_report: what they say to people, to programs, and when something is wrong."""

import csv
import io
import json
import os
import signal
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from django.core.management import CommandError, call_command

from accounts import clock
from accounts.models import Account, BillingEntity
from billing.close import foreground
from billing.close.engine import runner
from billing.close.step import later
from billing.close.steps import hold
from billing.models import CloseRun, Invoice, RejectedRow, Step, UsageBatch
from billing.reports import finance, lines
from billing.usage import tallying
from billing.usage.imports import following_up
from billing.workers import halting
from tests.billing.test_tallying import usage_batch
from tests.closing import finish, start_close
from tests.factories import (
    AS_OF,
    AccountFactory,
    EntityFactory,
    ProductFactory,
    SummaryFactory,
    account_using,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _an_entity() -> None:
    EntityFactory()


def run(command: str, *arguments: str) -> tuple[str, str]:
    """What it wrote on standard output, and on standard error but for its progress."""
    out, err = io.StringIO(), io.StringIO()
    call_command(command, *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def close_month(*arguments: str) -> str:
    return run("close_month", "2018-10", *arguments)[0]


def close_report(*arguments: str) -> str:
    return run("close_report", "2018-10", *arguments)[0]


@pytest.fixture
def three() -> None:
    """One who pays, one who is declined, one without a price."""
    account_using("12.34", external_id="pays")
    account_using("3.00", card="sandbox_declined", external_id="declines")
    SummaryFactory(account=AccountFactory(external_id="unpriced"), unit_price=None)


class TestCloseMonth:
    def test_closes_the_month_and_says_how_it_went(self, three, capsys):
        said = close_month()

        heading, *rest = said.splitlines()
        assert heading.startswith("Month Close 2018-10: finished as of 20")
        assert rest[0].split() == [
            *("currency", "invoices", "invoiced", "collected", "credited", "outstanding"),
            *("in", "flight", "overdue", "kept", "as", "credit"),
            *("reversed", "paid", "back", "disputed", "in", "hand"),
        ]
        assert rest[1].split() == [
            "EUR",
            "2",
            "15.34",
            "12.34",
            "0.00",
            "3.00",
            "0.00",
            "3.00",
            "0.00",
            *("0.00", "0.00", "0.00", "12.34"),
        ]
        assert any(line.split() == ["Charge", "2", "0", "1"] for line in rest)
        assert any(line.startswith("1 × INVOICE BLOCKED: no price for server") for line in rest)
        assert "Closing Month Close 2018-10" not in said
        assert "Done: 100 %" in capsys.readouterr().err

    def test_as_json_is_one_document(self, three):
        told = json.loads(close_month("--json"))

        assert (told["month"], told["state"], told["resumed"]) == ("2018-10", "FINISHED", False)
        assert told["answer"]["currencies"][0]["collected"] == "12.34"
        assert told["steps"]["HOLD"] == {"DONE": 1, "SKIPPED": 1, "BLOCKED": 1}
        assert {row["kind"] for row in told["stuck"]} == {"INVOICE", "CHARGE", "EMAIL", "HOLD"}
        assert told["seconds"] >= 0

    def test_twice_is_the_same_run(self, three):
        first = json.loads(close_month("--json"))
        second = json.loads(close_month("--json"))

        assert (second["run"], second["resumed"]) == (first["run"], True)
        assert second["answer"]["currencies"] == first["answer"]["currencies"]
        assert Invoice.objects.count() == 2

    def test_waits_for_no_due_date(self):
        BillingEntity.objects.update(payment_terms_days=14, grace_days=7)
        account_using("12.00", card=None)

        assert "finished" in close_month()

    def test_says_what_a_run_waits_for(self, monkeypatch):
        account_using("12.00", card=None)
        far = clock.now() + timedelta(days=14)
        monkeypatch.setattr(
            hold, "perform", lambda chunk: [later(s, "not yet", run_at=far) for s in chunk.steps]
        )

        said = close_month()

        assert "Month Close 2018-10: running" in said
        assert "Its next step is due at 20" in said

    def test_keeps_the_policy_a_run_was_started_with(self):
        close_month("--when-balance-changed", "SKIP")
        assert CloseRun.objects.get().when_balance_changed == "SKIP"

        close_month("--when-balance-changed", "SKIP")
        close_month()
        with pytest.raises(CommandError, match=r"HOLD_FOR_PERSON: .* was started with SKIP"):
            close_month("--when-balance-changed", "HOLD_FOR_PERSON")

    def test_only_watches_if_asked(self, monkeypatch):
        asked = []
        monkeypatch.setattr(foreground, "work_on", lambda *_, work, **__: asked.append(work))

        close_month("--watch")
        close_month()

        assert asked == [False, True]

    def test_under_a_halt_starts_nothing_and_says_why(self, three):
        halting.order(because="release 1.4", by="ann")

        with pytest.raises(
            CommandError, match=r"Halted by ann: release 1.4\..* `manage.py halt --lift`"
        ):
            close_month()
        assert not CloseRun.objects.exists()
        assert "nothing was written" in close_month("--rehearse")

    def test_that_is_halted_says_how_to_resume(self, three, monkeypatch):
        monkeypatch.setattr(halting, "_halt_seen", halting._Seen())
        real = runner.work_once

        def work_once(module, **facts):
            worked = real(module, **facts)
            if worked and module.kind == "INVOICE":
                halting.order(because="release 1.4", by="ann")
            return worked

        monkeypatch.setattr(runner, "work_once", work_once)

        with pytest.raises(CommandError, match=r"Halted by ann: release 1\.4.* resume Month Close"):
            close_month()

        halting.lift(by="ann")
        assert "finished" in close_month()

    def test_of_a_month_that_goes_on_says_when_it_is_over(self):
        with pytest.raises(CommandError, match=r"2998-12 is over .* at 2999-01-01 00:00 UTC"):
            run("close_month", "2998-12")

    @pytest.mark.parametrize(
        "month", ["2018", "2018-13", "10-2018", "2018-10-01", "October", "", "0001-01", "9999-12"]
    )
    def test_of_what_is_no_month_says_how_to_write_one(self, month):
        with pytest.raises(CommandError, match=f"{month!r} is not a month: write it as YYYY-MM"):
            run("close_month", month)

    def test_of_usage_that_could_not_be_added_up_says_whose(self):
        account = AccountFactory()
        Account.objects.update(time_zone="Mars/Olympus")
        usage_batch((account, datetime(2018, 10, 5, tzinfo=UTC)))
        tallying.tally(as_of=AS_OF)

        said = close_month("--rehearse")

        assert f"Not in it: usage of {account.external_id} that could not be added up." in said
        assert f"blocked: {account.external_id}: its time zone" in said


class TestWhichEntity:
    def test_is_the_only_one_unless_said(self):
        close_month()
        close_month("--entity", "default")

        assert CloseRun.objects.get().entity.slug == "default"

    def test_has_to_be_said_where_there_are_several(self):
        EntityFactory(slug="other", name="Other Ltd", invoice_prefix="OT")

        with pytest.raises(CommandError, match="--entity is needed, one of: default, other"):
            close_month()
        assert close_month("--entity", "other").startswith("Other Ltd 2018-10")

    def test_that_there_is_none_of_says_which_there_are(self):
        with pytest.raises(CommandError, match="--entity 'ohter' is not one of: default"):
            close_month("--entity", "ohter")

    def test_where_there_is_none_at_all_says_so(self):
        BillingEntity.objects.all().delete()

        with pytest.raises(CommandError, match="There is no billing entity"):
            close_report()


class TestCtrlC:
    @pytest.fixture
    def interrupted(self, monkeypatch):
        """Ctrl-C in the middle of the first chunk."""
        real = runner.work_once

        def work_once(module, **facts):
            worked = real(module, **facts)
            if worked:
                os.kill(os.getpid(), signal.SIGINT)
                monkeypatch.setattr(runner, "work_once", real)
            return worked

        monkeypatch.setattr(runner, "work_once", work_once)

    def test_says_how_to_resume_and_does_no_harm(self, three, interrupted, capsys):
        before = signal.getsignal(signal.SIGINT)
        out, err = io.StringIO(), io.StringIO()

        with pytest.raises(SystemExit) as left:
            call_command("close_month", "2018-10", "--json", stdout=out, stderr=err)

        assert left.value.code == 130
        assert "resume with: manage.py close_month 2018-10\n" in err.getvalue()
        assert json.loads(out.getvalue())["state"] == "RUNNING"
        assert signal.getsignal(signal.SIGINT) is before
        assert not Step.objects.filter(state="RUNNING").exists()
        assert json.loads(close_month("--json"))["state"] == "FINISHED"

    def test_names_the_entity_where_it_was_named(self, three, interrupted):
        err = io.StringIO()

        with pytest.raises(SystemExit):
            call_command(
                "close_month", "2018-10", entity="default", stdout=io.StringIO(), stderr=err
            )

        assert "close_month 2018-10 --entity default\n" in err.getvalue()

    def test_twice_stops_at_once(self, three, monkeypatch):
        def twice(*_args, **_facts):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(runner, "work_once", twice)

        with pytest.raises(KeyboardInterrupt):
            close_month()


class TestRehearse:
    def test_says_what_would_be_invoiced_and_writes_nothing(self, three):
        said = close_month("--rehearse")

        assert said.startswith("Rehearsal of 2018-10: nothing was written.\n")
        assert ["EUR", "2", "15.34", "15.34", "15.34"] in [
            line.split() for line in said.splitlines()
        ]
        assert "blocked: unpriced: no price for server" in said
        assert not CloseRun.objects.exists()
        assert not Invoice.objects.exists()

    def test_as_json_is_one_document(self, three):
        told = json.loads(close_month("--rehearse", "--json"))

        assert (told["rehearsal"], told["accounts"]) == (True, 3)
        assert told["blocked"][0]["account"] == "unpriced"

    def test_of_nobody_says_so_and_counts_what_is_not_in_it(self):
        UsageBatch.objects.create(source="csv", name="late.csv", sha256="0" * 64)

        said = close_month("--rehearse")

        assert "Nobody would be invoiced." in said
        assert "Not in it: 1 batches of usage not tallied yet." in said


@pytest.fixture
def rejected(three) -> UsageBatch:
    """An import of which two rows wait; one says what it is worth."""
    batch = UsageBatch.objects.create(
        source="csv", name="usage.csv", sha256="0" * 64, rows_read=2, rows_rejected=2,
        tallied_at=AS_OF,
    )  # fmt: skip
    RejectedRow.objects.create(
        batch=batch,
        number=2,
        field="kind",
        currency="USD",
        amount=Decimal("12.3"),
        month=date(2018, 10, 1),
    )
    RejectedRow.objects.create(batch=batch, number=3, field="starts_at")
    return batch


class TestRejectedRows:
    SAID = ": 2 rows name USD 12.30; of 1 of them no amount can be read."

    def everywhere(self) -> list[str]:
        return [
            close_month("--rehearse"),
            close_month(),
            close_report(),
            run("close_report", "2018-10", "--csv")[1],
        ]

    def test_are_said_wherever_the_month_is(self, rejected):
        line = f"not in it, rejected by import {rejected.pk} of usage.csv{self.SAID}"

        assert [line in said for said in self.everywhere()] == [True] * 4

    def test_are_in_every_document(self, rejected):
        documents = [
            json.loads(close_month("--rehearse", "--json")),
            json.loads(close_month("--json")),
            json.loads(close_report("--json")),
        ]

        for document in documents:
            [row] = document["rejected_rows"]
            assert (row["import"], row["rows"], row["rows_without_amount"]) == (rejected.pk, 2, 1)
            assert row["money"] == [{"currency": "USD", "amount": "12.30"}]

    def test_are_not_once_they_are_set_aside_or_came_again(self, rejected):
        again = UsageBatch.objects.create(source="csv", name="again.csv", sha256="1" * 64)
        rejected.rejected_rows.filter(number=2).update(again_in=again)
        assert "1 row names no amount that can be read." in close_month("--rehearse")

        following_up.set_aside(batch_id=rejected.pk, reason="x", actor="ann", as_of=AS_OF)
        assert not any("rejected" in said for said in self.everywhere())


class TestCloseReport:
    @pytest.fixture
    def closed(self, three) -> CloseRun:
        SummaryFactory(
            account=AccountFactory(external_id="=cmd|' /C calc'!A0"),
            product=ProductFactory(code="disk"),
            unit_price=None,
            quantity=1,
            amount=Decimal("-7.005"),
        )
        return finish(start_close())

    def test_answers_in_a_table_that_says_as_of_when(self, closed):
        heads, euro, as_of = close_report().splitlines()

        assert euro.split()[:4] == ["EUR", "3", "8.33", "12.34"]
        assert as_of.startswith("as of 20")
        assert heads.index("invoiced") + len("invoiced") == euro.index("8.33") + len("8.33")

    def test_answers_as_one_json_document(self, closed):
        told = json.loads(close_report("--json"))

        assert told["month"] == "2018-10"
        assert told["currencies"][0]["kept_as_credit"] == "7.01"

    def test_answers_as_csv(self, closed):
        [euro] = csv.DictReader(io.StringIO(close_report("--csv")))

        assert list(euro) == list(finance.COLUMNS)
        assert (euro["invoiced"], euro["kept_as_credit"]) == ("8.33", "7.01")

    def test_by_account_and_product_runs_in_no_spreadsheet(self, closed):
        rows = list(csv.DictReader(io.StringIO(close_report("--by", "account,product", "--csv"))))

        assert list(rows[0]) == ["account", "product", *lines.COLUMNS]
        assert (rows[0]["account"], rows[0]["amount"]) == ("'=cmd|' /C calc'!A0", "-7.01")
        assert [r["account"] for r in rows[1:]] == ["declines", "pays"]

    def test_by_product_as_json_and_as_a_table(self, closed):
        told = json.loads(close_report("--by", "product", "--json"))

        assert [(r["product"], r["amount_unrounded"]) for r in told] == [
            ("disk", "-7.005"),
            ("server", "15.34"),
        ]
        table = close_report("--by", "product").splitlines()
        assert [line.split()[0] for line in table] == ["product", "disk", "server"]

    def test_of_a_month_without_invoices_is_empty_in_every_form(self):
        finish(start_close())

        assert close_report().startswith("Nothing was invoiced.\nas of 20")
        assert json.loads(close_report("--by", "account", "--json")) == []
        assert close_report("--csv").strip() == ",".join(finance.COLUMNS)
        assert close_report("--by", "account", "--csv").strip() == ",".join(
            ["account", *lines.COLUMNS]
        )

    def test_by_something_else_says_what_there_is(self, closed):
        with pytest.raises(CommandError, match="--by 'colour': use account, product, or account"):
            close_report("--by", "account,colour")

    def test_of_a_month_that_was_never_closed_says_how_to(self):
        with pytest.raises(CommandError, match=r"never closed for default: manage\.py close_month"):
            close_report()
        assert not CloseRun.objects.filter(month=date(2018, 10, 1)).exists()
