"""The email step: each invoice is sent once, and the step says what became of it."""

import pytest
from django.db.models.functions import Now

from billing.models import Step
from notifications import lanes
from notifications.catalog import Cancel
from notifications.models import Lane, Message
from tests.closing import decision_on, start_close, step_of, work, work_once
from tests.factories import AccountFactory, account_using

pytestmark = pytest.mark.django_db(transaction=True)


def invoiced(**facts: object):
    account = account_using("12.00", **facts)
    start_close()
    work("INVOICE")
    return account


class TestEmail:
    def test_is_sent_and_says_to_whom(self, mailoutbox):
        account = invoiced()

        work_once("EMAIL")

        decision = decision_on(account, "EMAIL")
        assert (decision.did, decision.because) == ("DONE", "sent to books@acme.example")
        assert [mail.to for mail in mailoutbox] == [["books@acme.example"]]

    def test_of_an_account_without_an_invoice_has_nothing_to_send(self):
        account = AccountFactory()
        start_close()
        work("INVOICE", "EMAIL")

        assert decision_on(account, "EMAIL").because == "no invoice this month"

    def test_that_a_killed_worker_wrote_is_sent_and_not_written_again(
        self, mailoutbox, monkeypatch
    ):
        account = invoiced()

        def killed(*_args, **_facts):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("notifications.delivery.deliver", killed)
            with pytest.raises(KeyboardInterrupt):
                work_once("EMAIL")
        Step.objects.filter(state="RUNNING").update(
            state="UNKNOWN", lease_token=None, lease_until=None
        )
        work_once("EMAIL")

        assert step_of(account, "EMAIL").state == "DONE"
        assert Message.objects.count() == len(mailoutbox) == 1

    def test_that_cannot_be_delivered_yet_waits_and_is_no_attempt(self, monkeypatch):
        account = invoiced()

        def down(_backend):
            raise ConnectionRefusedError

        monkeypatch.setattr("django.core.mail.backends.locmem.EmailBackend.open", down)
        work_once("EMAIL")

        step = step_of(account, "EMAIL")
        assert (step.state, step.because, step.attempts) == ("READY", "not delivered yet", 0)
        assert step.run_at == Message.objects.get().next_attempt_at

    @pytest.mark.parametrize(("tries", "state"), [(7, "READY"), (8, "SKIPPED")])
    def test_that_its_server_puts_off_for_an_hour_leaves_the_run(self, monkeypatch, tries, state):
        account = invoiced()

        def put_off(**_facts):
            Message.objects.update(attempts=tries, last_error="451 later")

        monkeypatch.setattr("notifications.delivery.deliver", put_off)

        work_once("EMAIL")

        assert step_of(account, "EMAIL").state == state
        assert Message.objects.get().state == "QUEUED"

    def test_whose_message_has_killed_three_workers_is_left_to_a_person(self, monkeypatch):
        account = invoiced()
        monkeypatch.setattr("notifications.delivery.deliver", lambda **_: parked())

        def parked():
            Message.objects.update(state="SENDING", parked_at=Now())

        work_once("EMAIL")

        step = step_of(account, "EMAIL")
        assert step.state == "BLOCKED"
        assert "has killed three workers" in step.because

    def test_that_can_never_be_delivered_is_left_to_a_person(self):
        account = invoiced(email="nobody at all")

        work_once("EMAIL")

        step = step_of(account, "EMAIL")
        assert step.state == "BLOCKED"
        assert step.because.startswith("not deliverable: ")

    def test_that_became_untrue_between_writing_and_sending_is_cancelled(self, monkeypatch):
        account = invoiced()
        monkeypatch.setattr(
            "notifications.catalog.recheck", lambda *_, **__: [Cancel("settled meanwhile")]
        )

        work_once("EMAIL")

        decision = decision_on(account, "EMAIL")
        assert (decision.did, decision.because) == ("SKIPPED", "settled meanwhile")
        assert decision.world_changed

    def test_that_the_lane_does_not_let_begin_is_not_begun(self, mailoutbox):
        account = invoiced()
        lanes.grant("smtp", wanted=0)
        lanes.pause(Lane.objects.get().pk, by="ops@acme.example", because="spam trap")

        assert work_once("EMAIL") == 0

        assert (step_of(account, "EMAIL").state, step_of(account, "EMAIL").attempts) == ("READY", 0)
        assert not Message.objects.exists()
        lanes.resume(Lane.objects.get().pk)
        assert work_once("EMAIL") == len(mailoutbox) == 1
