"""A line of the log says whom it is about: found by run, by account, by request."""

import json
import logging

import pytest
from django.test import Client

from accounts.models import Account
from billing import tasks
from billing.models import PaymentAttempt, Step
from billing.workers import log_context
from config.logs import JsonFormatter, LineFormatter
from tests.billing.test_views import attempt_of
from tests.closing import start_close, work, work_once
from tests.factories import account_using


def line(formatter, message="it failed: %s", *args, **facts):
    record = logging.LogRecord("billing.close", 30, "x.py", 1, message, args or ("why",), None)
    record.__dict__.update(facts)
    return formatter.format(record)


class TestJson:
    def test_is_one_object_a_line_with_what_it_is_about(self):
        with log_context.about(lane="charge", kind="CHARGE"):
            log_context.add(run=7)
            said = json.loads(line(JsonFormatter(), "árvíztűrő %s", "\n2", step="5", account=3))

        assert said.pop("at").endswith("+00:00")
        assert said.pop("process") > 0
        assert said == {
            "level": "WARNING",
            "logger": "billing.close",
            "message": "árvíztűrő \n2",
            "lane": "charge",
            "kind": "CHARGE",
            "run": 7,
            "step": "5",
            "account": 3,
        }
        assert "\n" not in line(JsonFormatter(), "two\nlines %s")

    def test_keeps_the_traceback_in_it(self):
        try:
            int("no number")
        except ValueError as error:
            facts = {"exc_info": (ValueError, error, error.__traceback__)}

        said = json.loads(line(JsonFormatter(), **facts))

        assert said["exception"].startswith("Traceback")


class TestLine:
    def test_has_the_fields_behind_its_words(self):
        formatter = LineFormatter("{levelname} {message}", style="{")

        with log_context.about(run=7):
            assert line(formatter, account=3) == "WARNING it failed: why [run=7 account=3]"
        assert line(formatter) == "WARNING it failed: why"


class TestContext:
    def test_ends_with_its_block_and_the_line_itself_goes_before_it(self):
        with log_context.about(run=7, account=1):
            with log_context.about(account=2):
                log_context.add(step=5)
                inner = dict(log_context.current())
            outer = dict(log_context.current())
            told = json.loads(line(JsonFormatter(), account=9))

        assert inner == {"run": 7, "account": 2, "step": 5}
        assert outer == {"run": 7, "account": 1}
        assert told["account"] == 9
        assert log_context.current() == {}


@pytest.mark.django_db(transaction=True)
class TestTheClose:
    @pytest.fixture
    def lines(self):
        """What is logged from here on, as JSON."""
        heard = []

        class Handler(logging.Handler):
            def emit(self, record):
                heard.append(json.loads(JsonFormatter().format(record)))

        handler = Handler()
        logging.getLogger("billing").addHandler(handler)
        yield heard
        logging.getLogger("billing").removeHandler(handler)

    def test_says_of_a_step_that_failed_which_it_was_and_whose(self, lines, monkeypatch):
        account = account_using("12.34")
        run = start_close()
        monkeypatch.setattr("billing.close.steps.invoice.perform", None)

        work_once("INVOICE")

        [said] = [each for each in lines if each["level"] == "ERROR"]
        step = Step.objects.get(account=account, kind="INVOICE")
        assert (said["run"], said["step"], said["account"]) == (run.pk, str(step.pk), account.pk)
        assert (said["lane"], said["kind"]) == ("default", "INVOICE")
        assert "TypeError" in said["exception"]

    def test_says_of_a_charge_without_an_answer_which_attempt_it_was(self, lines):
        account_using("12.34", card="sandbox_lost_reply")
        run = start_close()
        work("INVOICE")

        tasks.drain("charge")

        [said] = [each for each in lines if "outcome unknown" in each["message"]]
        attempt = PaymentAttempt.objects.get()
        assert (said["attempt"], said["account"]) == (str(attempt.pk), attempt.account_id)
        assert (said["run"], said["lane"]) == (run.pk, "charge")

    def test_of_an_attempt_without_a_run_leaves_that_out(self):
        account = account_using("12.34")

        assert set(log_context.of(attempt_of(account))) == {"attempt", "account"}
        assert isinstance(account, Account)


class TestRequestId:
    def test_is_the_proxys_or_a_new_one(self):
        given = Client().get("/healthz", headers={"X-Request-ID": "abc-123"})
        forged = Client().get("/healthz", headers={"X-Request-ID": "a b=[account=1]"})

        assert given["X-Request-ID"] == "abc-123"
        assert len(forged["X-Request-ID"]) == 32
        assert log_context.current() == {}
