"""What Prometheus reads is what the pages say, in its own format, for nobody else."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families

from billing.close.health import metrics, sweeper
from billing.models import Dispute, PaymentAttempt, ReconciliationBreak
from billing.workers import heartbeats
from notifications import lanes
from notifications.models import Lane, Message
from tests.billing.test_views import staff
from tests.closing import finish, start_close, work_once
from tests.factories import AS_OF, EntityFactory, account_using

pytestmark = pytest.mark.django_db(transaction=True)


def scraped() -> dict[tuple[str, ...], float]:
    """Every value, by its name and the values of its labels, these in the order of their names."""
    text = metrics.text(as_of=AS_OF).decode()
    return {
        (
            sample.name.removeprefix("month_close_"),
            *dict(sorted(sample.labels.items())).values(),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class TestMetrics:
    def test_of_an_empty_installation_can_be_read(self):
        told = scraped()

        assert told["breaks_open",] == 0
        assert told["oldest_due_seconds", "charge"] == 0
        assert not [name for name in told if name[0] == "steps"]

    def test_say_steps_money_and_what_is_on_its_way(self):
        account_using("12.34")
        account_using("7.00", card="sandbox_lost_reply")
        run = start_close()
        work_once("INVOICE")
        work_once("CHARGE")

        run.steps.filter(kind="CHARGE").update(fenced=1)
        run.steps.filter(kind="CHARGE", state="UNKNOWN").update(deaths=2)
        run.steps.filter(kind="INVOICE").update(deaths=1)

        told = scraped()

        entity = run.entity.slug
        assert told["trouble", entity, "2018-10", "fenced"] == 2
        assert told["trouble", entity, "2018-10", "deaths"] == 4
        assert told["trouble", entity, "2018-10", "suspects"] == 1
        assert told["halted",] == 0
        assert told["steps", entity, "INVOICE", "2018-10", "DONE"] == 2
        assert told["steps", entity, "CHARGE", "2018-10", "UNKNOWN"] == 1
        assert told["money", "EUR", entity, "2018-10", "collected"] == 12.34
        assert told["money", "EUR", entity, "2018-10", "outstanding"] == 7
        assert told["charges", "EUR", entity, "2018-10", "charged"] == 1
        assert told["attempts_in_flight", "sandbox", "SUBMITTED"] == 1
        assert told["run_counted_seconds", entity, "2018-10"] == 0
        assert PaymentAttempt.objects.count() == 2

    def test_say_how_fast_it_is_and_how_long_the_rest_takes(self):
        for _ in range(2):
            account_using("12.34")
        run = start_close(as_of=AS_OF)
        type(run).objects.update(started_at=AS_OF - timedelta(seconds=10))
        first = run.steps.filter(kind="INVOICE").first()
        run.steps.filter(pk=first.pk).update(state="DONE", finished_at=AS_OF)

        told = scraped()

        assert told["steps_per_second", run.entity.slug, "INVOICE", "2018-10"] == 0.1
        assert told["run_seconds_left", run.entity.slug, "2018-10"] == 10

    def test_of_a_finished_run_say_its_money_and_no_steps(self):
        account_using("12.34")
        older = finish(start_close())
        other = EntityFactory(slug="other", invoice_prefix="OT")
        account_using("1.00", entity=other)
        start_close(entity=other)

        told = scraped()

        assert told["money", "EUR", older.entity.slug, "2018-10", "collected"] == 12.34
        assert ("steps", older.entity.slug, "CHARGE", "2018-10", "DONE") not in told
        assert told["steps", "other", "INVOICE", "2018-10", "READY"] == 1

    def test_say_what_wants_somebody(self):
        account = account_using("12.34")
        Message.objects.create(
            account=account, kind="INVOICE", fact="invoice:1", recipient="a@example.com",
            locale="en", time_zone="UTC", subject="x", body_text="x", body_html="x", as_of=AS_OF,
        )  # fmt: skip
        heartbeats.beat(queues=["charge"], workers=3, is_first=True)
        sweeper.sweep(as_of=AS_OF)

        told = scraped()

        assert told["outbox", "QUEUED"] == 1
        assert told["clusters", "charge"] == 1
        assert [told[name] for name in told if name[0] == "workers"] == [3]
        assert told["last_sweep_seconds",] < 60
        assert told["overdue_lease_seconds",] == 0
        assert told["gateways_paused",] == 0
        assert (told["disputes_open",], told["breaks_open",]) == (
            Dispute.objects.count(),
            ReconciliationBreak.objects.count(),
        )

    def test_say_how_a_lane_stands(self):
        assert lanes.grant("sandbox", wanted=1).count == 1
        Lane.objects.update(rate=10, tokens=5)
        lanes.note_done("sandbox", 4)
        lanes.pause(Lane.objects.get().pk, by="ann@example.com", because="their maintenance")

        account_using("12.34")
        start_close().steps.filter(kind="CHARGE").update(
            state="RUNNING", provider="sandbox", lease_token="0" * 32, lease_until=Now()
        )

        told = scraped()

        assert told["leased", "CHARGE", "sandbox"] == 1
        assert told["lane_rate", "sandbox"] == 10
        assert told["lane_per_second", "sandbox"] > 0
        assert 0 < told["lane_saturation", "sandbox"] <= 1
        assert told["lane_shut", "sandbox", "paused"] == 1
        assert told["lane_shut", "sandbox", "breaker"] == 0


class TestWhoMayScrape:
    def test_goes_by_token(self, settings):
        settings.METRICS_TOKEN = "a-token"

        def status(header: str) -> int:
            return Client().get("/metrics", headers={"Authorization": header}).status_code

        assert status("Bearer a-token") == 200
        assert status("Bearer another") == 401
        assert Client().get("/metrics").status_code == 401

    def test_without_one_only_staff_may(self, settings):
        settings.METRICS_TOKEN = ""

        assert Client().get("/metrics", headers={"Authorization": "Bearer "}).status_code == 401
        answer = staff("Finance").get("/metrics")
        assert answer.status_code == 200
        assert answer["Content-Type"].startswith("text/plain; version=")
