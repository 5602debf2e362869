"""What the pages of runs say while nothing goes on, and how many accounts wait for a person."""

import pytest
from django.contrib.auth.models import Group, Permission

from accounts.models import BillingEntity
from billing.close import pipeline, rehearsal
from billing.close.engine import runner
from billing.models import CloseRun, Halt, Invoice, UsageBatch
from billing.reports import progress
from billing.workers import halting
from tests.billing.test_views import staff, start_run, text
from tests.factories import AS_OF, AccountFactory, SummaryFactory, account_using

pytestmark = pytest.mark.django_db


class TestWaitingForAPerson:
    def test_is_counted_by_account_and_not_by_step(self):
        for _ in range(3):
            SummaryFactory(account=AccountFactory(), unit_price=None)
        account_using("12.34")
        run = start_run()
        runner.work_once(pipeline.BY_KIND["INVOICE"], as_of=AS_OF)
        client = staff(is_superuser=True)

        page, listed = text(client.get(f"/runs/{run.pk}/")), text(client.get("/runs/"))

        assert run.steps.filter(state="BLOCKED").count() == 12
        assert "3 wait for a person</a>" in page
        assert "3 wait for a person</a>" in listed
        assert progress.of(run, as_of=AS_OF)["stopped"] == 3

    def test_a_step_of_the_run_itself_waits_too(self):
        account_using("12.34")
        run = start_run()
        run.steps.filter(kind="REPORT").update(state="DEAD", finished_at=AS_OF)

        assert progress.waiting_for_a_person(run) == 1


class TestAHaltedRun:
    def halted(self):
        account_using("12.34")
        account_using("5.00")
        run = start_run()
        halting.order(because="release 1.4", by="ann@example.com")
        return run

    @pytest.fixture(autouse=True)
    def _known_speed(self, monkeypatch):
        """As in the middle of a close: how long the rest takes is known."""
        monkeypatch.setattr(
            progress.pace, "per_second", lambda *_, **__: {"INVOICE": 1.0, "CHARGE": 1.0}
        )

    def test_says_by_whom_since_when_and_why_and_not_how_long_it_takes(self):
        run = self.halted()
        client = staff(is_superuser=True)

        for url in (f"/runs/{run.pk}/", "/runs/"):
            page = " ".join(text(client.get(url)).split())
            assert "Halted by ann@example.com: release 1.4. Since " in page
            assert "Lift the halt</button>" in page
            for untrue in ("at least", "left<", "by itself"):
                assert untrue not in page, (url, untrue)
        told = client.get(f"/api/runs/{run.pk}/").json()
        assert (told["seconds_left"], told["left_in_words"]) == (None, "")
        assert (told["halted"]["by"], told["halted"]["because"]) == (
            "ann@example.com",
            "release 1.4",
        )

    def test_says_so_at_once_though_it_was_counted_before(self):
        account_using("12.34")
        run = start_run()
        before = progress.refresh(run, as_of=AS_OF)
        halting.order(because="release 1.4", by="ann@example.com")
        assert before["halted"] is None

        page = " ".join(text(staff(is_superuser=True).get(f"/runs/{run.pk}/")).split())

        assert "Halted by ann@example.com: release 1.4." in page
        assert " left<" not in page

    def test_is_lifted_by_the_button_and_says_by_whom(self):
        run = self.halted()
        client = staff("Support")

        there = client.post("/runs/lift-halt/", {"run": run.pk})
        again = client.post("/runs/lift-halt/")

        assert (there.url, again.url) == (f"/runs/{run.pk}/", "/runs/")
        assert halting.halt() is None
        assert Halt.objects.get().lifted_by
        assert "Lift the halt" not in text(client.get(f"/runs/{run.pk}/"))

    def test_the_button_is_for_those_who_may_steer(self):
        run = self.halted()
        client = staff("Support")
        Group.objects.get(name="Support").permissions.remove(
            Permission.objects.get(codename="change_step")
        )

        page = text(client.get(f"/runs/{run.pk}/"))

        assert "Halted by" in page
        assert "Lift the halt" not in page
        assert client.post("/runs/lift-halt/").status_code == 403
        assert client.get("/runs/lift-halt/").status_code == 405


class TestLookingBeforeAClose:
    """The page before the button that charges says how much, by currency, and who would be blocked."""

    def looked(self, client):
        form = {
            "entity": BillingEntity.objects.get().pk,
            "month": "2018-10",
            "when_balance_changed": "CHARGE_DUE_NOW",
        }
        return " ".join(text(client.post("/runs/start/", form)).split())

    def test_says_the_totals_and_who_would_be_blocked_and_writes_nothing(self):
        account_using("1234.50")
        account_using("5.00", card=None)
        account_using("900", currency="JPY")
        SummaryFactory(account=AccountFactory(external_id="nobody-knows"), unit_price=None)

        page = self.looked(staff("Finance"))

        assert "1,239.50" in page  # invoiced, and due
        assert "1,234.50" in page  # with a card
        assert '<th scope="row">JPY</th>' in page
        assert "1 account would be blocked" in page
        assert "nobody-knows" in page
        assert page.index("1,234.50") < page.index("Start the close</button>")
        assert not CloseRun.objects.exists()
        assert not Invoice.objects.exists()

    def test_says_of_how_many_where_all_would_take_too_long(self, monkeypatch):
        account_using("1.00")
        account_using("2.00")
        monkeypatch.setattr(rehearsal.invoice, "batch", 1)
        monkeypatch.setattr("billing.views.staff.runs.LOOK_SECONDS", -1)

        page = self.looked(staff("Finance"))

        assert "Of the first 1 accounts only" in page
        assert "close_month 2018-10 --rehearse" in page

    def test_says_what_is_not_in_it(self):
        AccountFactory()
        UsageBatch.objects.create(source="csv", name="late.csv", sha256="0" * 64)

        page = self.looked(staff("Finance"))

        assert "1 import of usage not added up yet" in page
        assert "Nobody would be blocked" in page
