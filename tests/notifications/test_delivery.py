import smtplib
import threading
import uuid
from contextlib import suppress
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.models import F, Q
from django.db.models.functions import Now

from accounts.models import Account, TimelineEvent
from notifications import delivery, dispatcher, lanes, mail, mail_server, smtp
from notifications.catalog import Cancel, Content, Keep, Rerender, Verdict
from notifications.models import Lane, LaneTally, Message
from tests.mailing import Delivered, deliver
from tests.notifications.builders import AS_OF, account, make_due, queued, rechecked_by
from tests.notifications.conftest import Sink

State = Message.State


def reread(message: Message) -> Message:
    message.refresh_from_db()
    return message


@pytest.mark.django_db
class TestDeliver:
    def test_sends_what_was_written_down_in_text_and_html(self, sink: Sink) -> None:
        message = queued(account(email="anna@example.com", language="hu"))

        delivered = deliver(as_of=AS_OF)

        assert delivered == Delivered(sent=1)
        [sent] = sink.mails
        assert sink.recipients == ["anna@example.com"]
        assert sent["Subject"].strip() == message.subject  # it was folded
        assert sent["To"] == "anna@example.com"
        assert sent["From"] == "Month Close <billing@mail.example.com>"
        assert sent["Message-ID"] == f"<{message.pk}@mail.example.com>"
        assert sent["Auto-Submitted"] == "auto-generated"
        assert sent["Content-Language"] == "hu"
        assert parsedate_to_datetime(sent["Date"]) == message.created_at.replace(microsecond=0)
        text, html = sent.get_body(("plain",)), sent.get_body(("html",))
        assert text is not None
        assert html is not None
        assert text.get_content().replace("\r\n", "\n") == message.body_text
        assert html.get_content().replace("\r\n", "\n") == message.body_html

    def test_writes_down_that_it_was_sent(self, sink: Sink) -> None:
        message = queued()

        deliver(as_of=AS_OF)

        reread(message)
        assert message.state == State.SENT
        assert message.sent_at is not None
        assert message.sent_at >= message.created_at
        assert message.attempts == 1
        assert (message.lease_token, message.lease_until) == (None, None)

    def test_twice_is_the_same_as_once(self, sink: Sink) -> None:
        queued()

        deliver(as_of=AS_OF)

        assert deliver(as_of=AS_OF) == Delivered()
        assert len(sink.mails) == 1

    def test_uses_one_connection_for_the_batch(self, sink: Sink) -> None:
        for number in range(5):
            queued(fact=f"hold:{number}:lifted")

        assert deliver(as_of=AS_OF) == Delivered(sent=5)

        assert sink.connections == 1

    def test_delivers_no_more_than_its_limit(self, sink: Sink) -> None:
        for number in range(3):
            queued(fact=f"hold:{number}:lifted")

        assert deliver(as_of=AS_OF, limit=2) == Delivered(sent=2)
        assert deliver(as_of=AS_OF, limit=2) == Delivered(sent=1)

    def test_delivers_only_the_messages_asked_for(self, sink: Sink) -> None:
        asked, other = queued(fact="hold:1:lifted"), queued(fact="hold:2:lifted")

        assert deliver(as_of=AS_OF, message_ids=[asked.pk]) == Delivered(sent=1)

        assert reread(asked).state == State.SENT
        assert reread(other).state == State.QUEUED

    def test_leaves_alone_what_is_not_due_leased_or_ended(self, sink: Sink) -> None:
        queued(fact="hold:1:lifted", next_attempt_at=Now() + timedelta(minutes=1))
        queued(
            fact="hold:2:lifted",
            state=State.SENDING,
            lease_token=uuid.uuid4(),
            lease_until=Now() + timedelta(seconds=30),
        )
        for number, ended in enumerate((State.CANCELLED, State.DEAD)):
            queued(fact=f"hold:{number}:placed", state=ended)
        queued(fact="hold:3:lifted", state=State.SENT, sent_at=AS_OF)

        assert deliver(as_of=AS_OF) == Delivered()

        assert sink.connections == 0

    def test_tries_again_after_a_temporary_refusal_with_the_same_message_id(
        self, sink: Sink
    ) -> None:
        message = queued()
        sink.answers = ["451 try again later"]

        first = deliver(as_of=AS_OF)
        waiting = reread(message)
        assert (waiting.state, waiting.attempts) == (State.QUEUED, 1)
        assert "try again later" in waiting.last_error
        make_due(message)
        second = deliver(as_of=AS_OF)

        assert (first, second) == (Delivered(failed=1), Delivered(sent=1))
        assert reread(message).attempts == 2
        assert sink.message_ids == [mail.message_id(message)]

    def test_gives_up_at_once_when_the_recipient_is_refused_for_good(self, sink: Sink) -> None:
        message = queued(account(email="gone@example.com"))
        sink.refuse_recipient["gone@example.com"] = ["550 no such user"]

        assert deliver(as_of=AS_OF) == Delivered(failed=1)

        reread(message)
        assert message.state == State.DEAD
        assert "no such user" in message.last_error
        assert message.attempts == 1

    def test_tries_again_when_the_recipient_is_refused_for_now(self, sink: Sink) -> None:
        message = queued(account(email="busy@example.com"))
        sink.refuse_recipient["busy@example.com"] = ["450 greylisted"]

        deliver(as_of=AS_OF)

        assert reread(message).state == State.QUEUED

    def test_gives_up_at_once_when_the_text_is_refused_for_good(self, sink: Sink) -> None:
        message = queued()
        sink.answers = ["554 we do not want this"]

        deliver(as_of=AS_OF)

        assert reread(message).state == State.DEAD

    def test_gives_up_after_eight_tries(self, sink: Sink) -> None:
        message = queued()
        sink.answers = ["451 later"] * 8

        for _ in range(7):
            deliver(as_of=AS_OF)
            assert reread(message).state == State.QUEUED
            make_due(message)
        deliver(as_of=AS_OF)

        assert reread(message).state == State.DEAD
        assert message.attempts == 8
        assert sink.mails == []

    def test_one_poisoned_message_does_not_stop_the_others(self, sink: Sink) -> None:
        sink.hang_up_on = {"poison@example.com"}
        before = queued(fact="hold:1:lifted")
        poison = queued(account(email="poison@example.com"), fact="hold:2:lifted")
        after = queued(fact="hold:3:lifted")

        assert deliver(as_of=AS_OF) == Delivered(sent=2, failed=1)

        assert [reread(m).state for m in (before, poison, after)] == [
            State.SENT,
            State.QUEUED,
            State.SENT,
        ]
        assert sink.connections == 2

    def test_a_server_that_is_down_costs_no_message_a_try(self, sink: Sink, settings) -> None:
        settings.EMAIL_PORT = 1  # nobody listens there
        messages = [queued(fact=f"hold:{number}:lifted") for number in range(3)]

        # At the fifth the lane shuts.
        for _ in range(5):
            assert deliver(as_of=AS_OF) == Delivered(failed=3)
            for message in messages:
                make_due(message)

        assert {(reread(m).state, m.attempts) for m in messages} == {(State.QUEUED, 0)}
        assert "Connection refused" in messages[0].last_error

    def test_a_server_that_is_down_is_asked_once_per_batch(
        self, sink: Sink, settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []

        def refuse(*_args: object, **_options: object) -> None:
            asked.append(1)
            raise ConnectionRefusedError("down")

        monkeypatch.setattr(smtplib, "SMTP", refuse)
        for number in range(3):
            queued(fact=f"hold:{number}:lifted")

        deliver(as_of=AS_OF)

        assert len(asked) == 1

    def test_what_the_time_is_too_short_for_is_looked_at_again_and_not_counted(
        self, sink: Sink, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was found true must not be sent much later."""
        message = queued()
        with monkeypatch.context() as slow:
            slow.setattr(delivery, "begin_within", timedelta(0))
            assert deliver(as_of=AS_OF) == Delivered()
        assert (reread(message).state, message.attempts) == (State.QUEUED, 0)

        assert deliver(as_of=AS_OF) == Delivered(sent=1)

    def test_a_message_that_has_killed_three_workers_is_parked(self, sink: Sink) -> None:
        message = queued(
            state=State.SENDING,
            attempts=3,
            deaths=2,
            lease_token=uuid.uuid4(),
            lease_until=Now() - timedelta(seconds=1),
        )

        assert deliver(as_of=AS_OF) == Delivered()
        assert deliver(as_of=AS_OF) == Delivered()

        reread(message)
        assert (message.state, message.deaths) == (State.SENDING, 3)
        assert message.parked_at is not None
        assert sink.mails == []

    def test_a_parked_message_is_left_alone_by_the_release_before(self, sink: Sink) -> None:
        """Both run side by side during an upgrade, and that one knows no marker."""
        message = queued(state=State.SENDING, deaths=2, lease_token=uuid.uuid4(), lease_until=AS_OF)
        deliver(as_of=AS_OF)

        taken_by_it = Message.objects.filter(
            Q(state=State.QUEUED) | Q(state=State.SENDING, lease_until__lte=Now()),
            next_attempt_at__lte=Now(),
        )

        assert reread(message).parked_at is not None
        assert not taken_by_it.exists()


@pytest.mark.django_db
class TestKilled:
    class Killed(BaseException):
        """As near to kill -9 as a test gets: no except clause of ours sees it."""

    def test_between_the_server_s_yes_and_our_commit_repeats_the_same_message_id(
        self, sink: Sink, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        message = queued()
        with monkeypatch.context() as patched:
            patched.setattr(delivery, "_end", self.die)
            with pytest.raises(self.Killed):
                deliver(as_of=AS_OF)
        assert reread(message).state == State.SENDING
        assert deliver(as_of=AS_OF) == Delivered(), "the lease has not run out"

        make_due(message)
        assert deliver(as_of=AS_OF) == Delivered(sent=1)

        assert sink.message_ids == [mail.message_id(message)] * 2
        assert reread(message).attempts == 2

    def test_between_claim_and_send_loses_nothing(
        self, sink: Sink, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        message = queued()
        with monkeypatch.context() as patched:
            patched.setattr(delivery, "recheck", self.die)
            with pytest.raises(self.Killed):
                deliver(as_of=AS_OF)

        make_due(message)
        deliver(as_of=AS_OF)

        assert sink.message_ids == [mail.message_id(message)]

    def test_by_one_message_takes_no_other_with_it(
        self, settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.kills(monkeypatch, settings, "killer@example.com")
        killer = queued(account(email="killer@example.com"), fact="hold:1:lifted")
        beside = [queued(fact=f"hold:{number}:lifted") for number in (2, 3)]

        self.deliver_until_quiet()

        assert reread(killer).parked_at is not None
        assert [reread(m).state for m in beside] == [State.SENT, State.SENT]
        assert [m.attempts for m in beside] == [3, 3]

    def test_again_and_again_keeps_nothing_new_waiting(
        self, settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.kills(monkeypatch, settings, "killer@example.com")
        killer = queued(account(email="killer@example.com"))
        Message.objects.update(
            state=State.SENDING,
            attempts=2,
            deaths=1,
            lease_token=uuid.uuid4(),
            lease_until=Now(),
        )
        new = [queued(fact=f"hold:{number}:lifted") for number in (2, 3)]

        assert deliver(as_of=AS_OF, limit=1) == Delivered(sent=1)
        assert deliver(as_of=AS_OF) == Delivered(sent=1)

        assert {reread(m).attempts for m in new} == {1}
        assert reread(killer).attempts == 2

    def kills(self, monkeypatch: pytest.MonkeyPatch, settings, address: str) -> None:
        """Whoever sends to this address is killed; in this thread, so with no server."""
        settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
        send = mail_server.Line.send

        def die_of_it(line: mail_server.Line, message: Message) -> None:
            if message.recipient == address:
                self.die()
            send(line, message)

        monkeypatch.setattr(mail_server.Line, "send", die_of_it)

    def deliver_until_quiet(self) -> None:
        delivered = None
        while delivered != Delivered():
            Message.objects.update(lease_until=F("created_at"))
            with suppress(self.Killed):
                delivered = deliver(as_of=AS_OF)

    def die(self, *_args: object, **_options: object) -> None:
        raise self.Killed


@pytest.mark.django_db
class TestRecheck:
    def test_keeps_what_is_still_true(self, sink: Sink) -> None:
        queued()

        with rechecked_by(lambda _message, _as_of: Keep()):
            assert deliver(as_of=AS_OF) == Delivered(sent=1)

    def test_cancels_what_is_no_longer_true(self, sink: Sink) -> None:
        message = queued()

        with rechecked_by(lambda _message, _as_of: Cancel("settled meanwhile")):
            assert deliver(as_of=AS_OF) == Delivered(cancelled=1)

        reread(message)
        assert (message.state, message.because) == (State.CANCELLED, "settled meanwhile")
        assert (message.lease_token, message.sent_at) == (None, None)
        assert sink.mails == []

    def test_renders_anew_what_has_changed_and_sends_that(self, sink: Sink) -> None:
        message = queued()
        later = AS_OF + timedelta(hours=3)

        with rechecked_by(lambda _message, as_of: Rerender(content(as_of), "it had changed")):
            assert deliver(as_of=later) == Delivered(sent=1)

        reread(message)
        assert (message.subject, message.as_of) == ("Now €5.00", later)
        assert message.amounts == {"due_minor": 500, "currency": "EUR"}
        assert message.because == "it had changed"
        [sent] = sink.mails
        assert sent["Subject"] == "Now €5.00"
        text = sent.get_body(("plain",))
        assert text is not None
        assert "five" in text.get_content()

    def test_a_recheck_that_fails_stops_only_its_own_message(self, sink: Sink) -> None:
        broken, sound = queued(fact="hold:1:lifted"), queued(fact="hold:2:lifted")

        def fail_on_broken(message: Message, _as_of: datetime) -> Verdict:
            if message.pk == broken.pk:
                raise ZeroDivisionError("a defect")
            return Keep()

        with rechecked_by(fail_on_broken):
            assert deliver(as_of=AS_OF) == Delivered(sent=1, failed=1)

        assert reread(broken).state == State.QUEUED
        assert "a defect" in broken.last_error
        assert reread(sound).state == State.SENT

    def test_what_a_recheck_that_fails_had_written_is_rolled_back(self, sink: Sink) -> None:
        message = queued()

        def write_and_fail(message: Message, _as_of: datetime) -> Verdict:
            Account.objects.filter(pk=message.account_id).update(name="half done")
            raise ZeroDivisionError("a defect")

        with rechecked_by(write_and_fail):
            deliver(as_of=AS_OF)

        assert Account.objects.get(pk=message.account_id).name != "half done"

    def test_a_kind_nobody_knows_any_more_is_a_failure(self, sink: Sink) -> None:
        message = queued(kind="FORGOTTEN")

        assert deliver(as_of=AS_OF) == Delivered(failed=1)

        assert "FORGOTTEN" in reread(message).last_error

    def test_renews_the_lease_so_that_it_lasts_for_the_send(
        self, settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Asked for one mail at a time, in the thread whose transaction the test looks into.
        settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
        message = queued()

        def take_long(message: Message, _as_of: datetime) -> Verdict:
            Message.objects.filter(pk=message.pk).update(lease_until=Now() - timedelta(seconds=1))
            return Keep()

        leased: list[bool] = []
        monkeypatch.setattr(
            mail_server.Line,
            "send",
            lambda _self, _email: leased.append(
                Message.objects.filter(
                    pk=message.pk, lease_until__gt=Now() + timedelta(seconds=50)
                ).exists()
            ),
        )
        with rechecked_by(take_long):
            deliver(as_of=AS_OF)

        assert leased == [True]

    def test_a_lost_lease_takes_the_recheck_s_writes_back(self, sink: Sink) -> None:
        message = queued()

        def lose_the_lease(message: Message, _as_of: datetime) -> Verdict:
            Account.objects.filter(pk=message.account_id).update(name="rechecked in vain")
            Message.objects.filter(pk=message.pk).update(lease_token=uuid.uuid4())
            return Cancel("settled meanwhile")

        with rechecked_by(lose_the_lease):
            assert deliver(as_of=AS_OF) == Delivered()

        assert Account.objects.get(pk=message.account_id).name != "rechecked in vain"
        assert sink.mails == []


def lane_of_mail(**facts: object) -> Lane:
    """The mail server's lane, set like this."""
    lanes.grant("smtp", wanted=0)
    Lane.objects.filter(provider="smtp").update(**facts)
    return Lane.objects.get(provider="smtp")


@pytest.mark.django_db
class TestLane:
    def test_lets_as_many_begin_as_it_grants_and_the_others_wait_untried(self, sink: Sink) -> None:
        messages = [queued(fact=f"hold:{number}:lifted") for number in range(3)]
        lane_of_mail(rate=0.1, burst=2, tokens=1)

        assert deliver(as_of=AS_OF) == Delivered(sent=1)
        with pytest.raises(dispatcher.Throttled, match="rate of smtp") as throttled:
            deliver(as_of=AS_OF)

        assert 0 < throttled.value.wait_seconds < 10
        assert sorted(reread(m).attempts for m in messages) == [0, 0, 1]

    def test_is_not_asked_about_messages_whose_step_has_asked(self, sink: Sink) -> None:
        message = queued()
        lane_of_mail(rate=1, tokens=0)

        assert deliver(as_of=AS_OF, message_ids=[message.pk]) == Delivered(sent=1)

    def test_gets_back_what_nothing_was_due_for(self, sink: Sink) -> None:
        lane_of_mail(rate=1, tokens=1, refilled_at=Now())

        assert deliver(as_of=AS_OF) == Delivered()

        assert lane_of_mail().tokens >= 1

    def test_counts_what_somebody_is_sending_against_its_cap(self, sink: Sink) -> None:
        lane_of_mail(cap=1)
        sending = {"state": State.SENDING, "lease_token": uuid.uuid4()}
        queued(**sending, lease_until=Now() + timedelta(seconds=30))
        queued(fact="hold:2:lifted")

        with pytest.raises(dispatcher.Throttled, match="as many are in flight"):
            deliver(as_of=AS_OF)

    def test_paused_by_hand_lets_nothing_begin(self, sink: Sink) -> None:
        queued()
        lanes.pause(lane_of_mail().pk, by="ops@acme.example", because="spam trap")

        with pytest.raises(dispatcher.Throttled, match=r"paused by ops@.*: spam trap"):
            deliver(as_of=AS_OF)

        assert sink.mails == []

    def test_is_shut_when_the_server_is_down_and_opened_by_one_mail(
        self, sink: Sink, settings
    ) -> None:
        messages = [queued(fact=f"hold:{number}:lifted") for number in range(7)]
        port, settings.EMAIL_PORT = settings.EMAIL_PORT, 1
        for _ in range(5):
            assert deliver(as_of=AS_OF, limit=1) == Delivered(failed=1)

        with pytest.raises(dispatcher.Throttled, match="smtp does not answer"):
            deliver(as_of=AS_OF)
        settings.EMAIL_PORT = port
        lane_of_mail(probe_at=Now())
        assert deliver(as_of=AS_OF) == Delivered(sent=1)

        assert lane_of_mail().opened_at is None
        assert sum(reread(message).attempts for message in messages) == 1

    def test_slows_down_when_the_server_says_421(
        self, sink: Sink, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queued()

        def busy(*_: object) -> None:
            raise smtp.SlowDown("too many messages")

        monkeypatch.setattr(smtp, "send", busy)
        assert deliver(as_of=AS_OF) == Delivered(failed=1)

        lane = lane_of_mail()
        assert lane.slowed_rate
        assert lane.throttled_until
        assert lane.opened_at is None

    def test_says_how_many_were_sent_of_late(self, sink: Sink) -> None:
        queued()

        deliver(as_of=AS_OF)

        tally = LaneTally.objects.get()
        assert (tally.answered, tally.done) == (1, 1)


@pytest.mark.django_db
class TestHeaderInjection:
    @pytest.mark.parametrize(
        "address",
        [
            "a@example.com\nBcc: everyone@example.com",
            "a@example.com\r\nBcc: everyone@example.com",
            "a@example.com, everyone@example.com",
            "a@example.com; everyone@example.com",
            "<a@example.com> everyone@example.com",
            "a@example.com>\nRCPT TO:<everyone@example.com",
            "not an address",
        ],
    )
    def test_an_address_that_is_not_one_is_dead_and_nothing_is_sent(
        self, sink: Sink, address: str
    ) -> None:
        message = queued(account(email=address))

        assert deliver(as_of=AS_OF) == Delivered(failed=1)

        assert reread(message).state == State.DEAD
        assert "is no email address" in message.last_error
        assert sink.mails == []

    def test_a_subject_with_a_line_break_is_dead_and_nothing_is_sent(self, sink: Sink) -> None:
        message = queued(subject="Hello\r\nBcc: everyone@example.com")

        assert deliver(as_of=AS_OF) == Delivered(failed=1)

        assert reread(message).state == State.DEAD
        assert sink.mails == []


@pytest.mark.django_db
class TestRetry:
    def test_queues_a_dead_message_again(self, sink: Sink) -> None:
        message = queued(state=State.DEAD, attempts=8, last_error="550 no such user")

        delivery.retry(message, actor="support@example.com")

        assert (message.state, message.attempts) == (State.QUEUED, 0)
        assert deliver(as_of=AS_OF) == Delivered(sent=1)
        event = TimelineEvent.objects.get(kind="message.retried")
        assert (event.account_id, event.actor) == (message.account_id, "support@example.com")

    def test_tries_a_parked_message_once_more(self, sink: Sink) -> None:
        queued(fact="hold:2:lifted")
        message = queued(state=State.SENDING, attempts=3, deaths=3, parked_at=Now())

        delivery.retry(message)

        assert (message.state, message.parked_at, message.attempts) == (State.QUEUED, None, 0)
        while deliver(as_of=AS_OF) != Delivered():
            pass
        assert (reread(message).state, message.deaths) == (State.SENT, 0)

    def test_goes_to_the_address_that_was_corrected(self, sink: Sink) -> None:
        message = queued(account(email="wrong@example.com"), state=State.DEAD, attempts=8)
        Account.objects.update(email="right@example.com")

        delivery.retry(message)

        assert deliver(as_of=AS_OF) == Delivered(sent=1)
        assert [mail["To"] for mail in sink.mails] == ["right@example.com"]

    @pytest.mark.parametrize("state", [State.QUEUED, State.SENDING, State.CANCELLED])
    def test_refuses_a_message_that_is_not_dead(self, state: str) -> None:
        message = queued(state=state)

        with pytest.raises(delivery.NotDead):
            delivery.retry(message)

        assert reread(message).state == state
        assert not TimelineEvent.objects.exists()


@pytest.mark.concurrency
@pytest.mark.django_db(transaction=True)
class TestSeveralDeliverers:
    def test_two_at_once_deliver_each_message_once(self, sink: Sink) -> None:
        messages = [queued(fact=f"hold:{number}:lifted") for number in range(40)]
        together = threading.Barrier(2)
        delivered: list[Delivered] = []

        def work() -> None:
            together.wait()
            while (batch := deliver(as_of=AS_OF, limit=3)) != Delivered():
                delivered.append(batch)
            connection.close()

        workers = [threading.Thread(target=work) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

        assert sorted(sink.message_ids) == sorted(map(mail.message_id, messages))
        assert sum(batch.sent for batch in delivered) == 40
        assert {reread(message).attempts for message in messages} == {1}

    def test_one_whose_lease_was_taken_over_writes_nothing(
        self, sink: Sink, caplog: pytest.LogCaptureFixture
    ) -> None:
        message = queued()
        successor = uuid.uuid4()

        def take_over(_mail: object) -> None:
            Message.objects.filter(pk=message.pk).update(
                lease_token=successor, lease_until=Now() + timedelta(seconds=60)
            )
            connection.close()

        sink.on_data = take_over
        assert deliver(as_of=AS_OF) == Delivered()

        reread(message)
        assert (message.state, message.lease_token) == (State.SENDING, successor)
        assert message.sent_at is None
        assert "the claim was lost" in caplog.text

    def test_nothing_is_locked_or_open_while_the_server_is_spoken_to(self, sink: Sink) -> None:
        message = queued()
        found: list[str] = []

        def lock_them(_mail: object) -> None:
            try:
                with transaction.atomic():
                    Account.objects.select_for_update(nowait=True).get(pk=message.account_id)
                    Message.objects.select_for_update(nowait=True).get(pk=message.pk)
                found.append("free")
            except DatabaseError as error:
                found.append(repr(error))
            finally:
                connection.close()

        sink.on_data = lock_them
        deliver(as_of=AS_OF)

        assert found == ["free"]

    def test_refuses_to_run_within_a_transaction(self) -> None:
        queued()

        with transaction.atomic(), pytest.raises(RuntimeError, match="durable"):
            deliver(as_of=AS_OF)


class TestIsPermanent:
    @pytest.mark.parametrize(
        ("error", "permanent"),
        [
            (delivery.NotDeliverable("bad"), True),
            (smtplib.SMTPNotSupportedError("SMTPUTF8"), True),
            (smtplib.SMTPRecipientsRefused({"a": (550, b"")}), True),
            (smtplib.SMTPRecipientsRefused({"a": (450, b"")}), False),
            (smtplib.SMTPDataError(554, b""), True),
            (smtplib.SMTPDataError(452, b""), False),
            (smtplib.SMTPSenderRefused(530, b"", "us"), False),
            (smtplib.SMTPServerDisconnected("gone"), False),
            (TimeoutError(), False),
            (ConnectionResetError(), False),
            (ZeroDivisionError(), False),
        ],
    )
    def test_tells_what_no_retry_would_mend(self, error: Exception, permanent: bool) -> None:
        assert delivery._is_permanent(error) is permanent


class TestDelay:
    def test_doubles_from_half_a_minute_to_an_hour(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(delivery.SystemRandom, "random", lambda _self: 1.0)

        delays = [delivery._delay(attempts).total_seconds() for attempts in range(1, 9)]

        assert delays == [30, 60, 120, 240, 480, 960, 1920, 3600]

    def test_is_spread_over_all_of_it(self) -> None:
        delays = [delivery._delay(3) for _ in range(500)]

        assert min(delays) < timedelta(seconds=30)
        assert max(delays) > timedelta(seconds=90)
        assert all(timedelta(0) <= delay <= timedelta(seconds=120) for delay in delays)


def content(as_of: datetime) -> Content:
    return Content(
        locale="en",
        time_zone="UTC",
        subject="Now €5.00",
        body_text="five",
        body_html="<p>five</p>",
        amounts={"due_minor": 500, "currency": "EUR"},
        as_of=as_of,
    )
