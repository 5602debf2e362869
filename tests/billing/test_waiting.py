"""
Every state that waits has an age at which somebody is told: in the queue, by the metric, and by check_books.

Generated from the table: each state, younger than its limit and older.
"""

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.urls import reverse

from accounts.models import Account, BillingEntity, ChargingPause
from billing import books, waiting
from billing.close.health import metrics
from billing.models import (
    Dispute,
    DunningCase,
    GatewayGuard,
    Halt,
    IncomingTransfer,
    Invoice,
    Payment,
    PaymentAttempt,
    ProviderEvent,
    Reconciliation,
    ReconciliationBreak,
    Refund,
    Step,
    WaitingLimit,
    WaitingOwner,
)
from billing.waiting import WAITS, Wait
from notifications.models import Lane, Message
from tests.billing.builders import collect, owing
from tests.closing import start_close, step_of
from tests.factories import AS_OF, CardFactory, UserFactory, account_using

pytestmark = pytest.mark.django_db(transaction=True)

Make = Callable[[datetime], Any]
MINUTE = timedelta(minutes=1)
BECAUSE = "the balance has changed: a person decides"


def attempt(state: str, **facts: Any) -> Make:
    def make(since: datetime) -> PaymentAttempt:
        account = owing()
        times = {
            name: since + timedelta(days=value) if isinstance(value, int) else value
            for name, value in facts.items()
        }
        return PaymentAttempt.objects.create(
            **{
                "account": account,
                "kind": "AUTO",
                "currency": "EUR",
                "amount_minor": 1234,
                "payment_method": account.payment_methods.get(),
                "gateway": "sandbox",
                "state": state,
                "created_at": since,
                "next_action_at": AS_OF + timedelta(hours=1),
                **times,
            }
        )

    return make


def payment() -> Payment:
    return collect(owing()).payment


def refund(state: str) -> Make:
    def make(since: datetime) -> Refund:
        paid = payment()
        return Refund.objects.create(
            account=paid.account,
            payment=paid,
            gateway="sandbox",
            currency="EUR",
            amount_minor=1,
            credit_minor=0,
            cost_minor=1,
            state=state,
            provider_ref="re_1",
            token=uuid.uuid4(),
            requested_at=since,
            next_action_at=AS_OF + timedelta(hours=1),
        )

    return make


def dispute(account: Account, **facts: Any) -> Dispute:
    return Dispute.objects.create(
        **{
            "account": account,
            "payment": Payment.objects.filter(account=account).first() or payment(),
            "gateway": "sandbox",
            "provider_ref": "dp_1",
            "currency": "EUR",
            "amount_minor": 1,
            "opened_at": AS_OF,
            **facts,
        }
    )


def pause(reason: str, paused_at: datetime) -> ChargingPause:
    return ChargingPause.objects.create(
        account=payment().account, reason=reason, because="?", paused_at=paused_at
    )


def pause_for_a_dispute(since: datetime) -> ChargingPause:
    made = pause("DISPUTE", since)
    dispute(made.account, state="NEEDS_RESPONSE")
    return made


def pause_after_a_dispute(since: datetime) -> ChargingPause:
    made = pause("DISPUTE", AS_OF - timedelta(days=300))
    dispute(made.account, state="LOST", closed_at=since)
    return made


def became_due(account: Account, at: datetime) -> None:
    """Its invoice, which the database lets nobody change."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        Invoice.objects.filter(account=account).update(due_at=at)


def dunning_past_its_end(since: datetime) -> DunningCase:
    account = owing()
    BillingEntity.objects.update(retry_days=[3, 5])
    became_due(account, since - timedelta(days=2))
    return DunningCase.objects.create(
        account=account,
        opened_at=since - timedelta(days=5),
        decline_class="SOFT",
        decline_code="card_declined",
        # Put off, each hour.
        ends_at=AS_OF + timedelta(hours=1),
    )


def dunning_of_what_is_not_due(since: datetime) -> DunningCase:
    case = dunning_past_its_end(since - timedelta(days=20))
    became_due(case.account, since)
    return case


def step_unknown(since: datetime) -> Step:
    account = account_using("1.00")
    start_close()
    step = step_of(account, "INVOICE")
    Step.objects.filter(pk=step.pk).update(state="UNKNOWN", unknown_since=since, run_at=AS_OF)
    return step


def message(**facts: Any) -> Make:
    def make(since: datetime) -> Message:
        return Message.objects.create(
            account=owing(),
            kind="RECEIPT",
            fact=str(uuid.uuid4()),
            recipient="a@example.com",
            as_of=AS_OF,
            **{name: since if value is None else value for name, value in facts.items()},
        )

    return make


def transfer(since: datetime) -> IncomingTransfer:
    return IncomingTransfer.objects.create(
        bank_ref="1", received_on=since.date(), currency="EUR", amount_minor=1, imported_at=since
    )


def provider_event(since: datetime) -> ProviderEvent:
    return ProviderEvent.objects.create(
        gateway="sandbox", event_id="1", type="?", about="OTHER", body="", is_live=False,
        received_at=since, next_try_at=AS_OF,
    )  # fmt: skip


def reconciliation(since: datetime) -> Reconciliation:
    return Reconciliation.objects.create(
        gateway="sandbox", started_by="nightly", as_of=since, started_at=since
    )


def found_break(since: datetime) -> ReconciliationBreak:
    return ReconciliationBreak.objects.create(
        kind="NOT_BOOKED", gateway="sandbox", provider_ref="1", object_at=since, words="?",
        currency="EUR", amount_minor=1, found_at=since, reconciliation=reconciliation(AS_OF),
    )  # fmt: skip


def guard(since: datetime) -> GatewayGuard:
    facts = {"paused_at": since, "paused_because": "?"}
    return GatewayGuard.objects.update_or_create(
        gateway="sandbox",
        defaults=facts,
        create_defaults=facts
        | {"database_identity": "?", "server_started_at": since, "checked_at": since},
    )[0]


def lane(**facts: Any) -> Make:
    def make(since: datetime) -> Lane:
        said = {name: since if value is None else value for name, value in facts.items()}
        return Lane.objects.create(provider="other", credential="1", **said)

    return make


# Every way into a state; what else is true of such a row does not begin its age anew.
MADE: dict[str, list[Make]] = {
    "charge_unanswered": [
        attempt("RESERVED"),
        attempt("PREPARED"),
        attempt("SUBMITTED", submitted_at=0),
        # Its reads have been answered since, and it was sent again and again.
        attempt("SUBMITTED", created_at=-9, submitted_at=-9, unknown_since=0),
        attempt("CANCELING", created_at=-9, submitted_at=-9, unknown_since=0),
        attempt("CANCELING", created_at=-9, submitted_at=-9, next_action_at=0),
    ],
    "charge_unconfirmed": [attempt("REQUIRES_ACTION", submitted_at=0)],
    "charge_processing": [attempt("PROCESSING", submitted_at=0)],
    "debit_processing": [attempt("PROCESSING", submitted_at=0, charge_date=AS_OF.date())],
    "debit_not_collected": [
        attempt("PREPARED", charge_date=(AS_OF - timedelta(days=300)).date()),
    ],
    "charge_review": [attempt("REVIEW", created_at=-9, unknown_since=0)],
    "rest_not_asked_for": [attempt("RELEASED", created_at=-9, next_action_at=0)],
    "rest_left_to_a_person": [
        attempt("RELEASED", created_at=-9, next_action_at=None, unknown_since=0, because=BECAUSE)
    ],
    "dunning_past_its_end": [dunning_past_its_end, dunning_of_what_is_not_due],
    "step_unknown": [step_unknown],
    "message_unsent": [
        message(state="QUEUED", created_at=None, next_attempt_at=AS_OF),
        message(state="SENDING", created_at=None, next_attempt_at=AS_OF),
    ],
    "message_parked": [message(state="SENDING", created_at=AS_OF, parked_at=None)],
    "transfer_unmatched": [transfer],
    "refund_unanswered": [refund("RESERVED"), refund("SUBMITTED")],
    "refund_pending": [refund("PENDING")],
    "refund_review": [refund("REVIEW")],
    "dispute_unanswered": [
        lambda since: dispute(
            payment().account, state="NEEDS_RESPONSE", opened_at=since, evidence_due_at=AS_OF
        )
    ],
    "pause_for_a_dispute": [pause_for_a_dispute],
    "pause_after_a_dispute": [pause_after_a_dispute],
    "pause_by_hand": [lambda since: pause("MANUAL", since)],
    "event_not_processed": [provider_event],
    "break_open": [found_break],
    "reconciliation_unfinished": [reconciliation],
    "gateway_paused": [guard],
    "lane_shut": [
        lane(paused_at=None, paused_by="ann", paused_because="?"),
        lane(opened_at=None, probe_at=AS_OF),
    ],
    "halt": [lambda since: Halt.objects.create(because="?", ordered_by="ann", ordered_at=since)],
}
CASES = [(wait, make) for wait in WAITS for make in MADE[wait.kind]]
IDS = [f"{wait.kind} {number}" for number, (wait, _) in enumerate(CASES)]


def in_the_queue(kind: str) -> list[str]:
    return [each.ref for each in waiting.needing_a_person(as_of=AS_OF) if each.wait.kind == kind]


def by_the_metric(kind: str) -> int:
    found = metrics._of_waiting(AS_OF)
    samples = [sample for family in found for sample in family.samples]
    return sum(
        int(sample.value)
        for sample in samples
        if sample.name == "month_close_needs_a_person" and sample.labels["what"] == kind
    )


def by_check_books(kind: str) -> list[str]:
    found = books.check(as_of=AS_OF, only=[f"book_wait_{kind}"])
    return [row["ref"] for finding in found for row in finding.rows]


def told(kind: str) -> tuple[list[str], int, list[str]]:
    return in_the_queue(kind), by_the_metric(kind), by_check_books(kind)


def test_every_state_of_the_table_is_made_here():
    assert set(MADE) == {wait.kind for wait in WAITS}
    assert len(MADE) == len(WAITS)


@pytest.mark.parametrize(("wait", "make"), CASES, ids=IDS)
class TestAState:
    def test_younger_than_its_limit_is_nobodys(self, wait: Wait, make: Make):
        make(AS_OF - wait.limit + MINUTE)

        assert told(wait.kind) == ([], 0, [])

    def test_older_is_told_in_the_queue_by_the_metric_and_by_check_books(
        self, wait: Wait, make: Make
    ):
        ref = str(make(AS_OF - wait.limit - MINUTE).pk)

        assert told(wait.kind) == ([ref], 1, [ref])

    def test_goes_by_the_limit_that_is_written_down(self, wait: Wait, make: Make):
        made = make(AS_OF - wait.limit - MINUTE)
        longer = wait.limit + timedelta(hours=1)
        WaitingLimit.objects.create(kind=wait.kind, seconds=longer.total_seconds())

        assert told(wait.kind) == ([], 0, [])
        WaitingLimit.objects.update(seconds=60)
        assert told(wait.kind) == ([str(made.pk)], 1, [str(made.pk)])


class TestEndedStates:
    @pytest.mark.parametrize("state", ["SUCCEEDED", "FAILED", "RELEASED"])
    def test_are_nobodys(self, state):
        attempt(state, submitted_at=0, next_action_at=None, unknown_since=None)(
            AS_OF - timedelta(days=900)
        )

        assert waiting.needing_a_person(as_of=AS_OF) == []

    def test_a_rest_that_was_paid_or_asked_for_is_nobodys(self):
        left = MADE["rest_left_to_a_person"][0](AS_OF - timedelta(days=9))
        assert in_the_queue("rest_left_to_a_person") == [str(left.pk)]

        collect(left.account)

        assert in_the_queue("rest_left_to_a_person") == []

    def test_every_state_in_flight_is_in_the_table(self):
        for state in PaymentAttempt.IN_FLIGHT:
            attempt(state, submitted_at=0, unknown_since=0)(AS_OF - timedelta(days=900))

        refs = [each.ref for each in waiting.needing_a_person(as_of=AS_OF)]
        assert len(set(refs)) == len(refs) == len(PaymentAttempt.IN_FLIGHT)


class TestTheQueue:
    URL = "/admin/billing/waitingowner/"

    def two(self) -> tuple[PaymentAttempt, IncomingTransfer]:
        review = attempt("REVIEW", unknown_since=0)(AS_OF - timedelta(days=2))
        return review, transfer(AS_OF - timedelta(days=9))

    @pytest.fixture(autouse=True)
    def _now(self, monkeypatch):
        monkeypatch.setattr("accounts.clock.now", lambda: AS_OF)

    def test_has_the_oldest_first_with_links_to_the_rows(self, admin_client):
        review, came_in = self.two()

        page = admin_client.get(self.URL).content.decode()

        links = [
            reverse("admin:billing_incomingtransfer_change", args=[came_in.pk]),
            reverse("admin:billing_paymentattempt_change", args=[review.pk]),
        ]
        assert -1 < page.index(links[0]) < page.index(links[1])
        assert page.count("Take it") == 2

    def test_a_row_is_taken_and_taken_over(self, admin_client, admin_user, client):
        _, came_in = self.two()
        take = {"take": f"transfer_unmatched:{came_in.pk}"}
        other = UserFactory(is_staff=True, is_superuser=True)
        client.force_login(other)
        client.post(self.URL, take)
        assert waiting.needing_a_person(as_of=AS_OF)[0].owner == other.email

        page = admin_client.post(self.URL, take, follow=True).content.decode()

        assert WaitingOwner.objects.get().owner == admin_user.email
        assert admin_user.email in page
        assert page.count("Take it") == 1
        assert ("transfer_unmatched", True, 1) in [
            counts[:3] for counts in waiting.counted(as_of=AS_OF)
        ]

    def test_is_looked_at_and_not_taken_by_who_may_only_look(self, client):
        self.two()
        user = UserFactory(is_staff=True)
        client.force_login(user)
        assert client.get(self.URL).status_code == 403

        user.user_permissions.add(_permission("view_waitingowner"))

        assert "Take it" not in client.get(self.URL).content.decode()
        assert client.post(self.URL, {"take": "halt:1"}).status_code == 403

    def test_refuses_what_is_no_state(self, admin_client):
        page = admin_client.post(self.URL, {"take": "nothing:1"}, follow=True)

        assert "There is no such row." in page.content.decode()
        assert not WaitingOwner.objects.exists()

    def test_a_review_that_was_taken_on_its_own_page_has_its_owner(self):
        attempt("REVIEW", unknown_since=0, review_owner="ann@example.com")(
            AS_OF - timedelta(days=2)
        )

        assert waiting.needing_a_person(as_of=AS_OF)[0].owner == "ann@example.com"

    def test_empty_says_so(self, admin_client):
        assert (
            "Nothing waits for longer than it may." in admin_client.get(self.URL).content.decode()
        )

    def test_a_limit_is_written_down(self, admin_client):
        url = reverse("admin:billing_waitinglimit_add")
        assert "Charge in review (else" in admin_client.get(url).content.decode()

        admin_client.post(url, {"kind": "charge_review", "seconds": "7200"})

        assert WaitingLimit.objects.get().seconds == 7200
        assert admin_client.get(reverse("admin:billing_waitinglimit_changelist")).status_code == 200


def _permission(codename: str):
    from django.contrib.auth.models import Permission

    return Permission.objects.get(codename=codename)


def test_the_whole_table_is_one_query(django_assert_num_queries):
    with django_assert_num_queries(2):
        waiting.needing_a_person(as_of=AS_OF)


def test_a_person_at_a_prompt_reads_the_view():
    transfer(AS_OF - timedelta(days=9))
    CardFactory()
    with connection.cursor() as cursor:
        cursor.execute("SELECT kind FROM book_wait_transfer_unmatched")
        assert cursor.fetchall() == [("transfer_unmatched",)]
