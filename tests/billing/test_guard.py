"""Charging pauses where the provider may know of charges that our database has lost."""

import logging
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from accounts import clock
from accounts.models import BillingEntity
from billing import reconciliation
from billing.close.health import sweeper
from billing.gateways import Misconfigured
from billing.models import DunningCase, GatewayGuard, Payment, PaymentAttempt, Reconciliation, Step
from billing.payments import charges, guard
from billing.payments.charges import GatewayClosed, Request
from billing.reconciliation.working import LEASE
from tests import charging
from tests.billing.builders import collect, due, owing
from tests.billing.test_reconciliation import ATTEMPT, object_of
from tests.billing.test_views import member_of, text
from tests.closing import assert_books_hold, finish, start_close, step_of, work
from tests.factories import AS_OF, CardFactory, account_using
from tests.restoring import Backup, looks_like_itself
from tests.stripe_provider import new_key
from tests.workers import at_once

pytestmark = pytest.mark.django_db(transaction=True)

State = PaymentAttempt.State
SOON = AS_OF + timedelta(minutes=2)
PAUSED = {
    "server_started_at": AS_OF,
    "checked_at": AS_OF,
    "paused_at": AS_OF,
    "paused_because": "restored",
}


def restored_before(account) -> None:
    """The account has paid, and the database is from before it did."""
    collect(owing())
    backup = Backup()
    collect(account)
    backup.restore()


def becomes_another_database() -> None:
    GatewayGuard.objects.update(database_identity="another")


def in_dunning() -> DunningCase:
    """The case of an account that was declined, at the end of its schedule."""
    account = owing(card="sandbox_declined")
    BillingEntity.objects.update(retry_days=[3])
    collect(account, kind=PaymentAttempt.Kind.AUTO)
    DunningCase.objects.update(next_try_at=None, ends_at=AS_OF)
    return DunningCase.objects.get(account=account)


class TestOpens:
    def test_by_itself_where_nothing_was_ever_charged(self):
        account = owing()

        assert collect(account).state == State.SUCCEEDED
        assert guard.paused() == []

    def test_for_a_minute_before_it_looks_again(self, provider):
        for _ in range(3):
            collect(owing())
        looked = provider.calls["newest"]
        looks_like_itself(checked_ago=timedelta(minutes=2))
        collect(owing())

        assert (looked, provider.calls["newest"]) == (1, 2)

    def test_at_once_again_when_the_server_was_started_anew(self, provider):
        collect(owing())
        GatewayGuard.objects.update(server_started_at=AS_OF)
        collect(owing())

        assert provider.calls["newest"] == 2

    def test_when_the_provider_was_listed_since_before_the_backup(self, sandbox):
        account = owing()
        restored_before(account)

        sweeper.sweep(as_of=SOON)

        assert guard.paused() == []
        one = Reconciliation.objects.get()
        newest = PaymentAttempt.objects.exclude(account=account).latest("created_at")
        assert (one.started_by, one.since) == (
            "after a restore",
            newest.created_at - timedelta(days=3),
        )
        assert due(account) == 0
        assert_books_hold()

    def test_after_everything_was_listed_where_nothing_is_left_to_go_by(self, sandbox):
        account = owing()
        backup = Backup()
        collect(account)
        backup.restore()

        sweeper.sweep(as_of=SOON)
        nobody_has_charged_yet = GatewayGuard.objects.count()
        with pytest.raises(GatewayClosed):
            collect(account)
        sweeper.sweep(as_of=SOON)

        assert nobody_has_charged_yet == 0
        assert Reconciliation.objects.get().since is None
        assert due(account) == 0

    def test_not_by_a_list_that_began_before_it_closed(self):
        collect(owing())
        one = reconciliation.start(gateway="sandbox", started_by="nightly", as_of=AS_OF)
        becomes_another_database()
        guard.watch_all()
        reconciliation.work(one, as_of=AS_OF)
        still_closed = guard.paused()

        sweeper.sweep(as_of=SOON)

        assert still_closed
        assert guard.paused() == []
        assert Reconciliation.objects.count() == 2

    def test_not_before_the_list_is_through(self, provider):
        account = owing()
        restored_before(account)
        guard.watch_all()
        provider.before("objects", ConnectionResetError())

        opened = [
            reconciliation.reopen_paused(as_of=SOON),
            reconciliation.reopen_paused(as_of=SOON, until=lambda: True),
        ]
        Reconciliation.objects.update(lease_until=Now() + LEASE)
        opened.append(reconciliation.reopen_paused(as_of=SOON))
        Reconciliation.objects.update(lease_until=None)
        opened.append(reconciliation.reopen_paused(as_of=SOON))

        assert opened == [0, 0, 0, 1]
        assert due(account) == 0

    def test_once_however_many_have_listed_it(self):
        row = GatewayGuard.objects.create(gateway="sandbox", **PAUSED)

        assert [guard.reopen(row), guard.reopen(row)] == [True, False]

    def test_not_where_there_is_no_such_gateway_any_more(self):
        GatewayGuard.objects.create(gateway="gone", **PAUSED)

        assert reconciliation.reopen_paused(as_of=SOON) == 0


class TestCloses:
    @pytest.mark.parametrize("kind", ["AUTO", "RETRY", "ON_SESSION"])
    def test_for_every_kind_of_charge_when_it_is_another_database(self, sandbox, kind):
        collect(owing())
        account = owing()
        becomes_another_database()

        with pytest.raises(GatewayClosed, match="not the database that charged last"):
            collect(account, kind=kind)

        assert len(list(sandbox.book())) == 1
        assert not account.attempts.exists()

    def test_when_a_newest_object_is_of_no_attempt_of_ours(self, sandbox):
        account = owing()
        object_of(account.external_id, sandbox, attempt=ATTEMPT)

        with pytest.raises(GatewayClosed, match="has lost"):
            collect(account)

    def test_every_gateway_closes_then(self, sandbox, debit):
        # The copy of the disk that was put back is of all our rows.
        GatewayGuard.objects.create(
            gateway="debit", **PAUSED | {"paused_at": None, "paused_because": ""}
        )
        GatewayGuard.objects.update(database_identity=guard.identity())
        assert not guard.closed(["debit"])
        object_of("somebody", sandbox, attempt=ATTEMPT)

        guard.watch(["sandbox"])

        assert [paused.gateway for paused in guard.paused()] == ["debit", "sandbox"]

    def test_and_says_so_once(self, caplog):
        collect(owing())
        becomes_another_database()

        with caplog.at_level(logging.ERROR):
            for _ in range(3):
                guard.watch_all()

        (record,) = caplog.records
        assert record.message.startswith("charging through sandbox is paused: this is not the")

    def test_no_more_for_an_object_that_a_break_explains(self, sandbox):
        object_of("nobody", sandbox, attempt=ATTEMPT, submit=True)
        assert guard.watch(["sandbox"])
        sweeper.sweep(as_of=SOON)
        looks_like_itself(checked_ago=timedelta(minutes=2))

        assert guard.watch(["sandbox"]) == {}

    def test_while_the_provider_does_not_say_what_it_has(self, provider):
        provider.before("newest", ConnectionResetError())
        account = owing()

        begun = charges.begin([Request(account.pk)], as_of=AS_OF)
        charging.drive(list(begun.attempts.values()), as_of=AS_OF)

        assert account.attempts.get().state == State.RESERVED
        assert provider.calls["prepare"] == 0

        charging.drive_due(as_of=SOON)
        assert account.attempts.get().state == State.SUCCEEDED

    def test_not_for_a_short_silence_of_the_provider(self, provider):
        collect(owing())
        looks_like_itself(checked_ago=timedelta(minutes=2))
        provider.before("newest", ConnectionResetError())

        assert collect(owing()).state == State.SUCCEEDED

    def test_says_nothing_of_a_gateway_that_is_not_set_up(self):
        account = owing(card=None)
        CardFactory(account=account, gateway="elsewhere")

        assert collect(account).state == State.RELEASED

    def test_nor_of_one_whose_key_is_refused(self, provider):
        """Nothing can be sent through it, so nothing can be paid twice: an operator is told of the key."""
        provider.before("newest", Misconfigured("Invalid API key"))

        assert guard.watch(["sandbox"]) == {}
        assert not GatewayGuard.objects.exists()

    @staticmethod
    def identity_for(role: str) -> str:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL ROLE {role}")
            return guard.identity()

    def test_in_a_role_that_may_not_ask_the_server_who_it_is(self):
        collect(owing())
        whole = guard.identity()
        with connection.cursor() as cursor:
            cursor.execute("CREATE ROLE plain_reconcile")
            cursor.execute("GRANT SELECT ON billing_gatewayguard TO plain_reconcile")
        try:
            as_anybody = self.identity_for("plain_reconcile")
            with connection.cursor() as cursor:
                cursor.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
            as_far_as_it_may = self.identity_for("plain_reconcile")
        finally:
            with connection.cursor() as cursor:
                cursor.execute("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")
                cursor.execute("DROP OWNED BY plain_reconcile")
                cursor.execute("DROP ROLE plain_reconcile")

        assert as_anybody == whole
        assert whole.endswith(as_far_as_it_may)
        assert whole.count("/") == 3
        assert as_far_as_it_may.count("/") == 1


class TestWhileItIsClosed:
    def test_a_charge_step_waits_and_is_no_attempt(self):
        collect(owing())
        account = account_using("12.34")
        run = start_close()
        work("INVOICE")
        becomes_another_database()

        work("CHARGE", "HOLD")

        step = step_of(account, "CHARGE")
        assert (step.state, step.attempts) == (Step.State.READY, 0)
        assert not account.decisions.filter(act="CHARGE").exists()
        sweeper.sweep(as_of=SOON)
        finish(run, as_of=SOON)
        assert due(account) == 0
        assert_books_hold(as_of=SOON)

    @pytest.mark.parametrize("card", ["sandbox_declined", None])
    def test_nobody_is_held_for_what_they_may_have_paid(self, card):
        collect(owing())
        paid = account_using("12.34", card=card)
        start_close()
        work("INVOICE", "CHARGE")
        becomes_another_database()

        work("HOLD")

        assert step_of(paid, "HOLD").state == Step.State.READY
        assert not paid.holds.exists()

    def test_nor_for_what_they_may_have_paid_through_another_gateway(self, debit):
        paid = account_using("12.34", card="sandbox_declined")
        GatewayGuard.objects.create(gateway="debit", **PAUSED)
        start_close()

        work("INVOICE", "CHARGE", "HOLD")

        assert step_of(paid, "HOLD").state == Step.State.READY
        assert not paid.holds.exists()

    @pytest.mark.parametrize("closed", ["the card's", "another"])
    def test_nor_at_the_end_of_their_dunning(self, debit, closed):
        case = in_dunning()
        if closed == "another":
            GatewayGuard.objects.create(gateway="debit", **PAUSED)
        else:
            becomes_another_database()

        charging.retry_due(as_of=AS_OF + timedelta(days=90))

        case.refresh_from_db()
        assert case.closed_at is None
        assert not case.account.holds.exists()

    def test_a_gateway_that_is_set_up_no_more_keeps_nobody_from_a_hold(self):
        overdue = account_using("12.34", card=None)
        GatewayGuard.objects.create(gateway="debit", **PAUSED)
        start_close()

        work("INVOICE", "CHARGE", "HOLD")

        assert overdue.holds.exists()

    def test_a_customer_who_clicks_pay_is_told_and_not_charged(self, sandbox):
        account = owing("12.34")
        restored_before(account)
        client = member_of(account)
        page = client.get(f"/accounts/{account.pk}/pay/").context

        answer = client.post(
            f"/accounts/{account.pk}/pay/", {"due_minor": page["due_minor"], "seen": page["seen"]}
        )

        assert answer.status_code == 302
        charging.drive_due(as_of=clock.now())
        assert account.attempts.get(state__in=PaymentAttempt.IN_FLIGHT).state == State.RESERVED
        taken = [seen for seen in sandbox.book() if seen.account_ref == account.external_id]
        assert len(taken) == 1
        sweeper.sweep(as_of=SOON)
        assert "Nothing is due" in text(client.get(f"/accounts/{account.pk}/pay/"))

    def test_a_customer_is_told_before_they_press(self):
        collect(owing())
        account = owing("12.34")
        client = member_of(account)
        url = f"/accounts/{account.pk}/pay/"
        assert "Pay €12.34" in text(client.get(url))
        becomes_another_database()

        page = client.get(url)

        assert "Payments by card are paused for a short while" in text(page)
        assert "Pay €12.34" not in text(page)

    def test_an_attempt_between_prepare_and_submit_stays_where_it_is(self, provider, sandbox):
        account = owing()
        collect(owing())

        def close():
            becomes_another_database()
            connection.close()

        provider.after("prepare", close)
        stopped = collect(account)
        charging.drive_due(as_of=SOON)
        stopped.refresh_from_db()

        assert stopped.state == State.PREPARED
        assert sandbox.read(stopped.provider_ref).status == "UNSUBMITTED"
        sweeper.sweep(as_of=SOON + timedelta(minutes=2))
        stopped.refresh_from_db()
        assert stopped.state == State.SUCCEEDED
        assert_books_hold()

    def test_nor_does_one_of_a_close_go_on_between_prepare_and_submit(self, provider, sandbox):
        collect(owing())
        account = account_using("12.34")
        start_close()
        work("INVOICE")

        def close():
            becomes_another_database()
            connection.close()

        provider.after("prepare", close)
        work("CHARGE")
        stopped = account.attempts.get()

        assert stopped.state == State.PREPARED
        assert sandbox.read(stopped.provider_ref).status == "UNSUBMITTED"

    def test_one_that_may_have_been_sent_is_not_sent_again(self, provider, sandbox):
        account = owing()
        provider.before("submit", ConnectionResetError())
        sent = collect(account)
        becomes_another_database()

        charging.drive_due(as_of=SOON)

        assert sandbox.read(sent.provider_ref).status == "UNSUBMITTED"

    def test_what_waits_for_it_does_not_keep_others_from_their_turn(self, provider, stripe):
        for _ in range(3):
            provider.before("submit", ConnectionResetError())
            collect(owing())
        PaymentAttempt.objects.filter(state=State.SUBMITTED).update(gateway="paused")
        GatewayGuard.objects.create(gateway="paused", **PAUSED)
        provider.after("submit", ConnectionResetError())
        other = collect(owing())

        charging.drive_due(as_of=SOON, limit=1)

        other.refresh_from_db()
        assert other.state == State.SUCCEEDED


class TestAtOnce:
    def test_a_restore_is_healed_once(self, sandbox):
        accounts = [owing(f"{n}.00") for n in range(10, 14)]
        collect(owing())
        backup = Backup()
        for account in accounts:
            collect(account)
        backup.restore()

        def life():
            for _ in range(3):
                charging.collect_all([Request(a.pk) for a in accounts], as_of=SOON)
                sweeper.sweep(as_of=SOON)

        at_once(life, life)
        life()

        assert [due(account) for account in accounts] == [0] * 4
        assert len(list(sandbox.book())) == Payment.objects.count() == 5
        assert_books_hold(as_of=SOON)

    def test_a_zombie_of_the_lost_time_cannot_submit_any_more(self, sandbox):
        account = owing()
        left = object_of(account.external_id, sandbox, attempt=ATTEMPT)
        guard.watch(["sandbox"])
        sweeper.sweep(as_of=SOON)

        late = sandbox.submit(left.ref, key=new_key())

        assert late.status == "CANCELED"
        assert collect(account, as_of=SOON).state == State.SUCCEEDED
        assert due(account) == 0
