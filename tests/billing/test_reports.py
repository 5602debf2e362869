"""What finance is told adds up, says as of when, and runs in no spreadsheet."""

import threading
from datetime import date, timedelta
from decimal import Decimal

import pytest
from django.db import transaction
from django.db.models.functions import Now
from django.test import Client

from accounts.models import BillingEntity, Hold
from billing.gateways import DisputeStatus, RefundStatus
from billing.models import CloseRun, Payment, RunProgress, Step
from billing.models.usage import Kind
from billing.payments import disputes, refunds
from billing.reports import csv_cells, finance, lines, progress
from billing.workers import heartbeats
from notifications import lanes
from notifications.models import Lane
from tests.billing.builders import collect, grant, pay_by_hand
from tests.billing.dispute_builders import seen_of
from tests.billing.test_invoicing import NOVEMBER, using
from tests.billing.test_refunds import refund
from tests.closing import finish, start_close, work
from tests.factories import (
    AS_OF,
    OCTOBER,
    AccountFactory,
    CardFactory,
    EntityFactory,
    ProductFactory,
    SummaryFactory,
    UserFactory,
    account_using,
)
from tests.workers import Aside, at_once

pytestmark = pytest.mark.django_db(transaction=True)


class TestTheFinanceAnswer:
    def test_adds_up_in_every_currency(self):
        account_using("12.34")
        pay_by_hand(account_using("5.00", card=None), 200)
        grant(account_using("8.00"), 300)
        SummaryFactory(
            account=AccountFactory(),
            kind=Kind.CREDIT,
            unit_price=None,
            quantity=1,
            amount=Decimal(-7),
        )
        account_using("900", currency="JPY", card="sandbox_declined")
        account_using("1.234", currency="KWD")

        run = finish(start_close())

        euro, yen, dinar = run.report["currencies"]
        assert euro == {
            "currency": "EUR",
            "invoices": 4,
            "invoiced": "18.34",
            "collected": "17.34",
            "credited": "5.00",
            "outstanding": "3.00",
            "in_flight": "0.00",
            "overdue": "3.00",
            "kept_as_credit": "7.00",
            "reversed": "0.00",
            "paid_back": "0.00",
            "disputed": "0.00",
            "in_hand": "17.34",
        }
        assert (yen["invoiced"], yen["outstanding"]) == ("900", "900")
        assert (dinar["invoiced"], dinar["collected"]) == ("1.234", "1.234")

    def test_says_what_is_on_its_way(self):
        account = account_using("12.34", card="sandbox_lost_reply")
        run = start_close()
        work("INVOICE")
        collect(account)

        [euro] = finance.answer(run, as_of=AS_OF)["currencies"]

        assert (euro["outstanding"], euro["in_flight"]) == ("12.34", "12.34")
        assert euro["overdue"] == "0.00"

    def test_counts_neither_another_entity_nor_another_month(self):
        account_using("12.34")
        other = EntityFactory(slug="other", invoice_prefix="OT")
        account_using("99.00", entity=other)
        finish(start_close())
        run = finish(start_close(entity=other))

        [euro] = run.report["currencies"]
        assert (run.report["entity"], euro["invoiced"]) == ("other", "99.00")
        november = start_close(date(2018, 11, 1), as_of=AS_OF + timedelta(days=31))
        assert finance.answer(november, as_of=AS_OF)["currencies"] == []

    def test_of_a_later_day_knows_what_was_paid_since(self):
        account = account_using("12.34", card=None)
        run = finish(start_close())
        pay_by_hand(account, 1000)

        [euro] = finance.answer(run, as_of=AS_OF)["currencies"]

        assert (euro["collected"], euro["outstanding"]) == ("10.00", "2.34")
        assert run.report["currencies"][0]["collected"] == "0.00"


class TestWhatWentBack:
    """Collected is not kept: what was paid back, what banks hold, and what is owed again."""

    NAMES = ("collected", "outstanding", "reversed", "paid_back", "disputed", "in_hand")

    def told(self, run: CloseRun) -> tuple[str, ...]:
        [euro] = finance.answer(run, as_of=AS_OF)["currencies"]
        return tuple(euro[name] for name in self.NAMES)

    def paid(self) -> tuple[Payment, CloseRun]:
        account = account_using("12.34")
        run = finish(start_close())
        return account.payments.get(), run

    def test_was_paid_back(self):
        payment, run = self.paid()
        refund(payment, 500)

        assert self.told(run) == ("12.34", "0.00", "0.00", "5.00", "0.00", "7.34")

    def test_was_paid_back_and_sent_back_so_that_it_is_their_credit(self, provider):
        payment, run = self.paid()
        refund(payment, 500)
        provider.says("read_refund", status=RefundStatus.RETURNED)
        refunds.drive_due(as_of=AS_OF + timedelta(days=5))

        assert self.told(run) == ("12.34", "0.00", "0.00", "0.00", "0.00", "12.34")

    def test_is_disputed_beside_what_was_paid_back_and_never_more_than_there_was(self):
        payment, run = self.paid()
        refund(payment, 500)
        disputes.apply_provider_state("sandbox", seen_of(payment), as_of=AS_OF)

        assert self.told(run) == ("12.34", "0.00", "0.00", "5.00", "7.34", "0.00")

    def test_was_lost_in_a_dispute_and_is_owed_again(self):
        payment, run = self.paid()
        disputes.apply_provider_state(
            "sandbox", seen_of(payment, DisputeStatus.LOST, amount_minor=1000), as_of=AS_OF
        )

        assert self.told(run) == ("2.34", "10.00", "10.00", "0.00", "0.00", "2.34")

    def test_stands_on_the_runs_page_where_there_is_any(self):
        payment, run = self.paid()
        client = Client()
        client.force_login(UserFactory(is_staff=True, is_superuser=True))
        assert "is in hand" not in client.get(f"/runs/{run.pk}/").content.decode()
        disputes.apply_provider_state(
            "sandbox", seen_of(payment, DisputeStatus.LOST, amount_minor=400), as_of=AS_OF
        )
        refund(payment, 500)

        page = " ".join(client.get(f"/runs/{run.pk}/").content.decode().split())

        assert "of what is collected, <strong>3.34</strong> is in hand." in page
        assert "5.00 was paid back, or is on its way back." in page
        assert "4.00 had been collected before, was taken back by banks" in page
        assert "is disputed" not in page

    def test_is_of_what_the_payment_settled_last(self):
        account = account_using("12.34", card=None)
        october = finish(start_close())
        using(account, "5.00", month=NOVEMBER)
        november = start_close(NOVEMBER, as_of=AS_OF + timedelta(days=31))
        work("INVOICE", as_of=AS_OF + timedelta(days=31))
        payment = pay_by_hand(account, 2000, as_of=AS_OF + timedelta(days=31))

        refund(payment, 1000)

        # 2.66 of it had been left as credit.
        assert self.told(november) == ("5.00", "0.00", "0.00", "5.00", "0.00", "0.00")
        assert self.told(october) == ("12.34", "0.00", "0.00", "2.34", "0.00", "10.00")


class TestInvoicedLines:
    @pytest.fixture
    def entity(self) -> BillingEntity:
        first = AccountFactory(external_id="first")
        second = AccountFactory(external_id="second", currency="JPY")
        disk = ProductFactory(code="disk")
        for account, product, item, price in (
            (first, ProductFactory(), "small", "0.333333333333"),
            (first, ProductFactory(), "large", "0.333333333333"),
            (first, disk, "ssd", "1.005"),
            (second, disk, "ssd", "7"),
        ):
            SummaryFactory(
                account=account,
                product=product,
                item=item,
                quantity=Decimal(1),
                unit_price=Decimal(price),
            )
        CardFactory(account=first)
        finish(start_close())
        return EntityFactory()

    def test_by_account_and_product_show_the_exact_sum_beside_the_rounded_one(self, entity):
        rows = lines.invoiced(entity_id=entity.pk, month=OCTOBER, by=["account", "product"])

        assert rows == [
            row("first", "disk", "EUR", "1.005", 1, "1.01"),
            row("first", "server", "EUR", "0.666666666666", 2, "0.66"),
            row("second", "disk", "JPY", "7", 1, "7"),
        ]
        assert list(rows[0]) == ["account", "product", *lines.COLUMNS]

    def test_by_product_keep_currencies_apart(self, entity):
        rows = lines.invoiced(entity_id=entity.pk, month=OCTOBER, by=["product"])

        assert [(r["product"], r["currency"]) for r in rows] == [
            ("disk", "EUR"),
            ("disk", "JPY"),
            ("server", "EUR"),
        ]

    def test_by_nothing_are_one_sum_per_currency(self, entity):
        rows = lines.invoiced(entity_id=entity.pk, month=OCTOBER, by=[])

        assert [(r["currency"], r["amount"], r["lines"]) for r in rows] == [
            ("EUR", "1.67", 3),
            ("JPY", "7", 1),
        ]

    @pytest.mark.parametrize("by", [["colour"], ["account", "'; DROP TABLE"], [""]])
    def test_by_anything_else_are_refused_with_what_there_is(self, entity, by):
        with pytest.raises(
            lines.UnknownDimension, match="use account, product, or account,product"
        ):
            lines.invoiced(entity_id=entity.pk, month=OCTOBER, by=by)


def row(account, product, currency, unrounded, count, amount) -> dict[str, object]:
    return {
        "account": account,
        "product": product,
        "currency": currency,
        "amount_unrounded": unrounded,
        "lines": count,
        "amount": amount,
    }


class TestProgress:
    def test_counts_steps_by_kind_and_state_in_the_order_of_the_pipeline(self):
        account_using("12.34")
        run = start_close()
        work("INVOICE")

        told = progress.of(run, as_of=AS_OF)

        assert told["steps"] == {
            "INVOICE": {"DONE": 1},
            "CHARGE": {"READY": 1},
            "EMAIL": {"READY": 1},
            "HOLD": {"WAITING": 1},
            "REPORT": {"WAITING": 1},
        }
        assert list(told["steps"]) == ["INVOICE", "CHARGE", "EMAIL", "HOLD", "REPORT"]
        assert (told["steps_ended"], told["steps_all"]) == (1, 5)
        assert (told["state"], told["stuck"], told["world_changed"]) == ("RUNNING", [], 0)
        assert told["answer"]["currencies"][0]["invoiced"] == "12.34"

    def test_knows_when_the_next_step_may_be_worked_on(self):
        account_using("12.34")
        run = start_close()
        assert progress.next_at(run) == run.steps.get(kind="INVOICE").run_at

        run.steps.filter(kind="INVOICE").update(
            state="RUNNING", lease_token="0" * 32, lease_until=Now()
        )
        assert progress.next_at(run) is None

        run.steps.update(state="CANCELLED", lease_token=None, lease_until=None, finished_at=Now())
        assert progress.of(run, as_of=AS_OF)["next_at"] is None

    def test_lists_what_a_person_has_to_look_at_the_most_frequent_reason_first(self):
        for _ in range(3):
            account_using("1.00")
        run = start_close()
        steps = list(run.steps.filter(kind="CHARGE").order_by("pk"))
        Step.objects.filter(pk=steps[0].pk).update(
            state="BLOCKED", because="a reason", finished_at=Now()
        )
        Step.objects.filter(pk__in=[s.pk for s in steps[1:]]).update(
            state="BLOCKED", because="another", finished_at=Now()
        )

        assert progress.stuck(run) == [
            {"kind": "CHARGE", "state": "BLOCKED", "because": "another", "accounts": 2},
            {"kind": "CHARGE", "state": "BLOCKED", "because": "a reason", "accounts": 1},
        ]

    def test_lists_what_goes_on_by_itself_and_until_when(self):
        late, failed = account_using("12.34"), account_using("1.00")
        run = start_close()
        run.steps.filter(account=late, kind="INVOICE").update(
            run_at=AS_OF + timedelta(days=9999), because="not overdue yet"
        )
        run.steps.filter(account=failed, kind="INVOICE").update(
            state="UNKNOWN", last_error="OSError: no route"
        )

        failing, waiting = progress.waiting(run)

        assert (waiting["because"], waiting["steps"]) == ("not overdue yet", 1)
        assert waiting["last_at"] == (AS_OF + timedelta(days=9999)).isoformat()
        assert (failing["state"], failing["because"]) == ("UNKNOWN", "OSError: no route")
        listed = progress.with_reason(run.steps.all(), "OSError: no route")
        assert [step.account for step in listed] == [failed]
        assert progress.final(run) == [
            {"what": "steps", "count": 1, "until": (AS_OF + timedelta(days=9999)).isoformat()}
        ]

    def test_says_what_became_of_charging_by_currency(self):
        account_using("12.34")
        account_using("5.00", card="sandbox_declined")
        account_using("7.00", card="sandbox_lost_reply")
        account_using("900", currency="JPY")
        run = start_close()
        work("INVOICE")
        assert [row["to_charge"] for row in progress.charges(run)] == [
            {"count": 3, "amount": "24.34"},
            {"count": 1, "amount": "900"},
        ]

        work("CHARGE")

        euro, yen = progress.charges(run)
        assert euro["charged"] == {"count": 1, "amount": "12.34"}
        assert euro["declined"] == {"count": 1, "amount": "5.00"}
        assert euro["on_its_way"] == {"count": 1, "amount": "7.00"}
        assert yen["charged"] == {"count": 1, "amount": "900"}
        assert {row["what"] for row in progress.final(run)} == {"payments"}

    def test_says_who_is_held_and_what_they_owe(self):
        held = account_using("12.34", card="sandbox_declined")
        account_using("5.00")
        run = finish(start_close())
        Hold.objects.create(account=held, reason="MANUAL", placed_at=AS_OF)

        facts = [tuple(row.values()) for row in progress.held(run)]

        assert facts == [
            ("OVERDUE", "EUR", 1, 1, "12.34"),
            ("MANUAL", "EUR", 1, 0, "12.34"),
        ]

    def test_says_who_works_and_how_fast_they_may(self):
        account_using("12.34")
        run = start_close()
        heartbeats.beat(queues=["default", "charge"], workers=3, is_first=True)
        work("INVOICE")
        lanes.grant("sandbox", wanted=1)
        lanes.grant("smtp", wanted=1)
        Lane.objects.filter(provider="sandbox").update(rate=2.0)

        told = progress.refresh(run, as_of=AS_OF)

        [cluster] = told["clusters"]
        assert (cluster["lanes"], cluster["workers"]) == (["default", "charge"], 3)
        assert [(row["kind"], row["steps"]) for row in told["hosts"]] == [("INVOICE", 1)]
        by_provider = {row["provider"]: row for row in told["lanes"]}
        assert by_provider["sandbox"]["rate"] == 2.0
        assert (by_provider["sandbox"]["in_flight"], by_provider["sandbox"]["cap"]) == (0, None)
        assert by_provider["smtp"]["rate"] is None
        # One charge at two a second; nobody knows how fast the mail is.
        assert (told["seconds_left"], told["left_is_at_least"]) == (0, True)

    def test_says_what_a_lane_holds_back_and_why(self):
        account_using("12.34")
        run = start_close()
        work("INVOICE")
        lanes.grant("sandbox", wanted=1)
        told = progress.refresh(run, as_of=AS_OF)
        assert told["waiting"] == []

        Lane.objects.update(rate=2.0)
        lanes.note_done("sandbox", 100)
        [used_up] = progress.refresh(run, as_of=AS_OF)["waiting"]
        lanes.pause(Lane.objects.get().pk, by="ann@example.com", because="their maintenance")
        [paused] = progress.refresh(run, as_of=AS_OF)["waiting"]

        assert used_up["because"] == "sandbox takes no more than 2 a second"
        assert (used_up["kind"], used_up["steps"], used_up["provider"]) == ("CHARGE", 1, "sandbox")
        assert paused["because"] == "paused by ann@example.com: their maintenance"

    def test_does_not_say_how_long_it_takes_while_the_lane_is_shut(self):
        account_using("12.34")
        run = start_close()
        work("INVOICE")
        run.steps.filter(kind="EMAIL").update(state="DONE", finished_at=AS_OF)
        lanes.grant("sandbox", wanted=1)
        lane = Lane.objects.get()
        Lane.objects.update(rate=2.0)
        assert progress.refresh(run, as_of=AS_OF)["seconds_left"] is not None

        lanes.pause(lane.pk, by="ann@example.com", because="their maintenance")

        assert progress.refresh(run, as_of=AS_OF)["seconds_left"] is None

    def test_of_a_run_with_dunning_is_not_final_before_that_ends(self):
        entity = EntityFactory(slug="patient", invoice_prefix="PA", retry_days=[3])
        account_using("12.34", card="sandbox_declined", entity=entity)
        run = finish(start_close(entity=entity))

        [dunning] = progress.final(run)

        assert (dunning["what"], dunning["count"]) == ("dunning", 1)
        assert dunning["until"]

    def test_lists_the_decisions_where_the_world_had_changed(self):
        account = account_using("12.34")
        run = start_close()
        work("INVOICE")
        pay_by_hand(account, 1234)
        finish(run)

        assert [(d.act, d.account) for d in progress.changes(run)] == [
            ("CHARGE", account),
            ("EMAIL", account),
        ]


class TestProgressThatIsKept:
    @pytest.fixture
    def run(self, monkeypatch):
        """A run that takes long to count."""
        account_using("12.34")
        monkeypatch.setattr(progress, "QUICK_MS", -1)
        return start_close()

    def test_is_shown_with_its_time_until_it_is_too_old(self, run):
        first = progress.current(run, as_of=AS_OF)
        work("INVOICE")

        soon = progress.current(run, as_of=AS_OF + timedelta(seconds=29))
        late = progress.current(run, as_of=AS_OF + timedelta(seconds=31))

        assert soon.seen == first.seen
        assert list(soon.seen["steps"]) == ["INVOICE", "CHARGE", "EMAIL", "HOLD", "REPORT"]
        assert (soon.is_due, first.is_due, late.is_due) == (True, False, False)
        assert soon.seen["as_of"] == AS_OF.isoformat()
        assert late.seen["steps"]["INVOICE"] == {"DONE": 1}

    def test_is_counted_anew_for_every_page_while_that_is_quick(self, run, monkeypatch):
        monkeypatch.setattr(progress, "QUICK_MS", 10_000)
        progress.current(run, as_of=AS_OF)
        work("INVOICE")

        assert progress.current(run, as_of=AS_OF).seen["steps"]["INVOICE"] == {"DONE": 1}
        assert RunProgress.objects.count() == 1

    def test_is_counted_anew_when_the_run_has_ended(self, run):
        progress.current(run, as_of=AS_OF)

        assert progress.current(finish(run), as_of=AS_OF).seen["state"] == "FINISHED"

    def test_is_counted_anew_when_a_release_before_this_one_kept_it(self, run, monkeypatch):
        progress.current(run, as_of=AS_OF)
        work("INVOICE")

        monkeypatch.setattr(progress, "SHAPE", 2)

        assert progress.current(run, as_of=AS_OF).seen["steps"]["INVOICE"] == {"DONE": 1}

    def test_is_counted_by_one_at_a_time(self, run):
        first = progress.refresh(run, as_of=AS_OF)
        work("INVOICE")
        asked, answered = threading.Event(), threading.Event()

        def count_slowly():
            with transaction.atomic():
                RunProgress.objects.select_for_update().get()
                asked.set()
                answered.wait(10)

        other = Aside(count_slowly)
        asked.wait(10)
        seen = progress.refresh(run, as_of=AS_OF + timedelta(seconds=31))
        answered.set()
        other.join()

        assert seen == first

    def test_of_two_who_count_it_first_one_is_kept(self, run):
        at_once(*(lambda: progress.refresh(run, as_of=AS_OF) for _ in range(2)))

        assert RunProgress.objects.count() == 1

    def test_is_counted_of_every_run_that_goes_on(self, run):
        assert progress.refresh_running(as_of=AS_OF) == 1
        assert str(RunProgress.objects.get()) == f"{run} as of 2018-11-02 09:00:00"

        finish(run, as_of=AS_OF + timedelta(minutes=1))

        later = AS_OF + timedelta(minutes=2)
        assert [progress.refresh_running(as_of=later) for _ in range(2)] == [1, 0]
        seen = RunProgress.objects.get().seen
        assert seen["steps_ended"] == seen["steps_all"]


class TestCsvCells:
    @pytest.mark.parametrize(
        "text",
        ["=1+1", "+49 30 123", "-2+3", "@SUM(A1)", "\tx", "\rx", "＝1", "－1", "-", "-1.2.3"],
    )
    def test_text_that_a_spreadsheet_would_run_is_kept_from_it(self, text):
        assert csv_cells.safe({"name": text}) == {"name": f"'{text}"}

    @pytest.mark.parametrize("value", ["-12.34", "-5", "12", "plain", "", 7, Decimal("-1.5"), None])
    def test_numbers_and_plain_text_stay_as_they_are(self, value):
        assert csv_cells.safe({"name": value}) == {"name": value}
