"""A provider's book held against ours: what is booked, found again, cancelled, and left as a break."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now

from billing import gateways, reconciliation, tasks
from billing.close.health import sweeper
from billing.gateways import Misconfigured, RefundSpec, SettlementLine, Status
from billing.gateways import stripe as stripe_gateway
from billing.models import (
    GatewayGuard,
    Payment,
    PaymentAttempt,
    Reconciliation,
    ReconciliationBreak,
    Refund,
)
from billing.payments import charges, guard, refunds
from billing.payments.charges import AttemptInFlight, calls
from billing.reconciliation import listing, working
from billing.reconciliation.working import LEASE
from tests.billing.builders import collect, credit, due, owing
from tests.billing.stripe_builders import owing as owing_at_stripe
from tests.closing import assert_books_hold
from tests.factories import AS_OF, AccountFactory
from tests.provider import Killed
from tests.restoring import Backup
from tests.stripe_provider import new_key
from tests.workers import at_once

pytestmark = pytest.mark.django_db(transaction=True)

State = PaymentAttempt.State
Kind = ReconciliationBreak.Kind


def tomorrow() -> datetime:
    """By the provider's clock, which is the real one."""
    return datetime.now(UTC) + timedelta(days=1, minutes=1)


def reconciled(gateway: str = "sandbox", *, as_of: datetime = AS_OF, **facts) -> Reconciliation:
    one = reconciliation.start(gateway=gateway, started_by="test", as_of=as_of, **facts)
    assert reconciliation.work(one, as_of=as_of)
    one.refresh_from_db()
    return one


def breaks() -> list[tuple[str, str]]:
    return list(ReconciliationBreak.objects.order_by("pk").values_list("kind", "state"))


def object_of(account, sandbox, *, attempt: str, amount_minor: int = 1234, submit: bool = False):
    """An object at the provider that names this attempt, whoever made it."""
    spec = gateways.AttemptSpec(attempt, account, "sandbox_visa", amount_minor, "EUR")
    made = sandbox.prepare(spec, key=new_key())
    return sandbox.submit(made.ref, key=new_key()) if submit else made


ATTEMPT = "6fa459ea-ee8a-3ca4-894e-db77e160355e"


class TestWhatAgrees:
    def test_needs_nothing(self):
        collect(owing())

        one = reconciled()

        assert one.is_finished
        assert one.counts == {"listed": 1, "foreign": 0, "breaks": 0}
        assert not one.objects_listed.exists()
        assert breaks() == []

    def test_looks_back_three_days_before_the_last_time(self):
        reconciled(as_of=AS_OF)

        later = reconciled(as_of=AS_OF + timedelta(days=10))

        assert later.since == AS_OF - timedelta(days=3)

    def test_and_to_the_oldest_break_that_is_open(self, sandbox):
        made = object_of("nobody", sandbox, attempt=ATTEMPT, submit=True)
        reconciled(as_of=tomorrow() + timedelta(days=10))

        again = reconciled(as_of=tomorrow() + timedelta(days=11))

        assert again.since == made.made_at
        assert breaks() == [("ACCOUNT_UNKNOWN", "OPEN")]


class TestMoneyThatWasTaken:
    def test_after_we_gave_it_up_is_booked(self, provider, sandbox):
        account = owing()
        provider.after("submit", ConnectionResetError())
        attempt = collect(account)
        PaymentAttempt.objects.update(state=State.RELEASED, next_action_at=None)

        one = reconciled()

        attempt.refresh_from_db()
        assert attempt.state == State.SUCCEEDED
        assert (due(account), one.counts["booked"]) == (0, 1)
        assert_books_hold()

    def test_of_an_attempt_that_is_lost_is_found_again_once_for_ever(self, sandbox):
        account = owing("12.34")
        object_of(account.external_id, sandbox, attempt=ATTEMPT, submit=True)

        first, second = reconciled(), reconciled()

        attempt = PaymentAttempt.objects.get()
        assert (str(attempt.pk), attempt.state) == (ATTEMPT, State.SUCCEEDED)
        assert (first.counts["found_again"], "found_again" in second.counts) == (1, False)
        assert due(account) == 0
        assert account.decisions.filter(act="FIND_CHARGE", attempt=attempt).count() == 1
        assert Payment.objects.get().method == "Visa ···· 4242"
        assert_books_hold()

    def test_by_a_second_object_of_a_lost_attempt_becomes_credit(self, sandbox):
        account = owing("12.34")
        for _ in range(2):
            object_of(account.external_id, sandbox, attempt=ATTEMPT, submit=True)

        reconciled()

        assert (due(account), credit(account)) == (0, 1234)
        assert breaks() == []

    def test_is_found_again_whichever_card_it_was(self, sandbox):
        account = owing(card="sandbox_mastercard")
        object_of(account.external_id, sandbox, attempt=ATTEMPT, submit=True)

        reconciled()

        lost = PaymentAttempt.objects.get().payment_method
        assert (str(lost), lost.state) == ("Visa ···· 4242", "REMOVED")

    def test_of_an_account_that_is_lost_too_is_a_break(self, sandbox):
        object_of("nobody", sandbox, attempt=ATTEMPT, submit=True)

        reconciled()

        (found,) = ReconciliationBreak.objects.all()
        assert (found.kind, found.amount_minor, found.currency) == (
            Kind.ACCOUNT_UNKNOWN,
            1234,
            "EUR",
        )
        assert "'nobody'" in found.words

    def test_in_a_currency_that_the_account_does_not_have_is_a_break(self, sandbox):
        account = AccountFactory(currency="USD")
        object_of(account.external_id, sandbox, attempt=ATTEMPT, submit=True)

        reconciled()

        (found,) = ReconciliationBreak.objects.all()
        assert (found.kind, found.account) == (Kind.NOT_BOOKED, account)
        assert "the account is in USD" in found.words

    def test_that_cannot_be_written_down_stops_no_others(self, provider, monkeypatch):
        poisoned, account = owing(), owing("5.00")
        lost = {}
        for each in (poisoned, account):
            provider.after("submit", ConnectionResetError())
            lost[each] = collect(each).pk
        apply = charges.apply_provider_state

        def fails_for_one(observations, *, as_of):
            if lost[poisoned] in observations:
                raise ValueError("poison")
            apply(observations, as_of=as_of)

        monkeypatch.setattr(charges, "apply_provider_state", fails_for_one)
        reconciled()

        assert Payment.objects.get().account == account
        assert breaks() == [("NOT_BOOKED", "OPEN")]

    def test_that_is_on_its_way_is_in_flight_again(self, provider, sandbox):
        account = owing()
        object_of(account.external_id, sandbox, attempt=ATTEMPT)
        provider.says("read", status=Status.PROCESSING)

        reconciled()

        assert PaymentAttempt.objects.get().state == State.PROCESSING
        with pytest.raises(AttemptInFlight):
            collect(account)

    def test_that_is_on_its_way_ends_another_that_is_not(self, provider, sandbox):
        account = owing()
        provider.before("submit", ConnectionResetError())
        other = collect(account)
        object_of(account.external_id, sandbox, attempt=ATTEMPT)
        provider.says("read", status=Status.PROCESSING)

        reconciled()

        other.refresh_from_db()
        assert (other.state, other.because) == (State.RELEASED, "another payment is on its way")
        assert sandbox.read(other.provider_ref).status == Status.CANCELED
        assert account.decisions.get(act="SUBMIT").because == "another payment is on its way"
        assert PaymentAttempt.objects.get(pk=ATTEMPT).state == State.PROCESSING
        assert breaks() == []

    def test_that_is_on_its_way_beside_another_that_is_too_is_a_break_until_that_ends(
        self, provider, sandbox
    ):
        account = owing()
        provider.before("submit", ConnectionResetError())
        collect(account)
        object_of(account.external_id, sandbox, attempt=ATTEMPT)
        provider.says("read", status=Status.PROCESSING)
        provider.says("cancel", status=Status.PROCESSING)

        reconciled()

        assert breaks() == [("NOT_BOOKED", "OPEN")]

    def test_of_those_that_can_be_asked_about_is_booked_though_one_cannot(self, provider, sandbox):
        account = owing("12.34")
        for n in range(2):
            object_of(account.external_id, sandbox, attempt=ATTEMPT[:-1] + str(n), submit=True)
        provider.before("read", ConnectionResetError())
        one = reconciliation.start(gateway="sandbox", started_by="test", as_of=AS_OF)

        with pytest.raises(ConnectionResetError):
            reconciliation.work(one, as_of=AS_OF)
        first = Payment.objects.count()
        reconciliation.work(one, as_of=AS_OF)

        assert (first, Payment.objects.count()) == (1, 2)


class TestWhatIsOver:
    def test_at_the_provider_is_over_here(self, provider, sandbox):
        provider.before("submit", ConnectionResetError())
        attempt = collect(owing())
        sandbox.cancel(attempt.provider_ref, key="support")

        reconciled()

        attempt.refresh_from_db()
        assert attempt.state == State.RELEASED


class TestWhatNobodyWillSubmit:
    def test_is_cancelled_when_it_is_a_day_old(self, provider, sandbox):
        left_behind, own = self.two_objects_of(owing(), provider, sandbox)

        first, second = reconciled(as_of=datetime.now(UTC)), reconciled(as_of=tomorrow())

        assert "cancelled" not in first.counts
        assert second.counts["cancelled"] == 1
        assert sandbox.read(left_behind.ref).status == "CANCELED"
        assert sandbox.read(own.ref).status == "UNSUBMITTED"

    def test_and_moves_money_at_that_moment_is_booked(self, provider, sandbox):
        account = owing("12.34")
        (left_behind, _) = self.two_objects_of(account, provider, sandbox)
        provider.before("cancel", lambda: sandbox.submit(left_behind.ref, key="late"))

        reconciled(as_of=tomorrow())

        assert due(account) == 0

    @staticmethod
    def two_objects_of(account, provider, sandbox):
        """One that an attempt has left behind, and its own, not submitted yet."""
        provider.before("submit", ConnectionResetError())
        attempt = collect(account)
        own = sandbox.read(attempt.provider_ref)
        return sandbox.prepare(calls.spec(attempt), key="anew"), own

    def test_of_a_lost_attempt_is_cancelled_at_once(self, sandbox):
        account = owing()
        left = object_of(account.external_id, sandbox, attempt=ATTEMPT)

        reconciled()

        assert sandbox.submit(left.ref, key="late").status == "CANCELED"
        assert PaymentAttempt.objects.get().state == State.RELEASED
        assert due(account) == 1234

    def test_of_a_lost_account_is_cancelled_and_done_with(self, sandbox):
        left = object_of("nobody", sandbox, attempt=ATTEMPT)

        reconciled()

        assert sandbox.read(left.ref).status == "CANCELED"
        assert breaks() == [("ACCOUNT_UNKNOWN", "RESOLVED")]


class TestBreaks:
    def test_a_payment_that_was_never_taken(self, sandbox):
        account = owing()
        Payment.objects.create(
            account=account,
            gateway="sandbox",
            provider_ref="sb_never",
            currency="EUR",
            amount_minor=999,
            method="Visa ···· 4242",
            received_at=AS_OF,
        )

        reconciled()

        (found,) = ReconciliationBreak.objects.all()
        assert (found.kind, found.account, found.provider_ref) == (
            Kind.PAYMENT_UNKNOWN,
            account,
            "sb_never",
        )
        assert "no such object" in found.words

    def test_a_payment_that_is_only_older_than_the_list_is_none(self):
        collect(owing())
        since = datetime.now(UTC)
        PaymentAttempt.objects.update(created_at=Now())

        one = reconciled(since=since)

        assert one.counts["listed"] == 0
        assert breaks() == []

    def test_resolved_and_found_again_is_open_again(self, sandbox):
        object_of("nobody", sandbox, attempt=ATTEMPT, submit=True)
        reconciled()
        ReconciliationBreak.objects.update(state="RESOLVED", resolved_at=AS_OF)

        reconciled()

        assert breaks() == [("ACCOUNT_UNKNOWN", "OPEN")]

    def test_another_amount(self, provider, sandbox):
        provider.says("submit", amount_minor=1000)
        collect(owing("12.34"))

        reconciled()

        (found,) = ReconciliationBreak.objects.all()
        assert (found.kind, found.amount_minor) == (Kind.AMOUNT_DIFFERS, 1234)
        assert "our books have €10.00" in found.words

    def test_an_object_that_names_no_attempt(self, sandbox):
        object_of("acme", sandbox, attempt="by hand", submit=True)

        reconciled()

        assert breaks() == [("OBJECT_UNKNOWN", "OPEN")]

    def test_found_again_is_the_same_and_no_longer_found_is_resolved(self, sandbox):
        object_of("nobody", sandbox, attempt=ATTEMPT, submit=True)
        reconciled()
        reconciled()
        assert breaks() == [("ACCOUNT_UNKNOWN", "OPEN")]

        account = AccountFactory(external_id="nobody")
        reconciled()

        assert breaks() == [("ACCOUNT_UNKNOWN", "RESOLVED")]
        assert credit(account) == 1234
        assert_books_hold()

    def test_accepted_stays_accepted(self, sandbox):
        object_of("nobody", sandbox, attempt=ATTEMPT, submit=True)
        reconciled()
        (found,) = ReconciliationBreak.objects.all()
        reconciliation.take_over(break_id=found.pk, owner="ann@example.com")
        reconciliation.accept(
            break_id=found.pk, owner="bob@example.com", reason="A test charge", as_of=AS_OF
        )

        reconciled()

        found.refresh_from_db()
        assert (found.state, found.owner, found.note) == (
            "ACCEPTED",
            "bob@example.com",
            "A test charge",
        )
        with pytest.raises(reconciliation.AlreadyEnded):
            reconciliation.take_over(break_id=found.pk, owner="ann@example.com")


class TestOthersInTheSameProviderAccount:
    def test_are_counted_and_left_alone(self, stripe):
        theirs = stripe.post("payment_intents", amount=999, currency="eur")["id"]
        since = gateways.get("stripe").newest() or None
        account = owing_at_stripe(stripe)
        collect(account)

        one = reconciled("stripe", since=datetime.now(UTC) - timedelta(minutes=1))

        assert since is None
        assert one.counts["foreign"] >= 1
        assert one.counts["listed"] == one.counts["foreign"] + 1
        assert breaks() == []
        (still,) = [i for i in stripe.dump()["payment_intents"] if i["id"] == theirs]
        assert still["status"] == "requires_payment_method"

    def theirs(self, stripe) -> str:
        """A charge in a currency that we do not charge."""
        customer = stripe.customer()
        return stripe.post(
            "payment_intents",
            amount=500_000,
            currency="ugx",
            customer=customer,
            payment_method=stripe.card(customer),
            confirm="true",
            **{"allowed_payment_method_types[]": "card"},
        )["id"]

    def test_in_a_currency_that_we_refuse_keep_none_of_ours_from_being_booked(self, stripe):
        ours = collect(owing_at_stripe(stripe, currency="CHF")).provider_ref
        stripe.post("refunds", payment_intent=ours, amount=100)
        stripe.control("disputes", {"payment_intent": ours})
        stripe.post("refunds", payment_intent=self.theirs(stripe))
        stripe.control("disputes", {"payment_intent": self.theirs(stripe)})

        one = reconciled("stripe", since=datetime.now(UTC) - timedelta(minutes=1))

        assert one.is_finished
        assert (one.counts["refunds"], one.counts["disputes"]) == (1, 1)
        assert breaks() == []

    def test_one_of_ours_that_we_have_no_word_for_is_a_break_until_we_have(
        self, stripe, monkeypatch
    ):
        attempt = collect(owing_at_stripe(stripe))
        refund = stripe.post("refunds", payment_intent=attempt.provider_ref, amount=100)["id"]
        since = datetime.now(UTC) - timedelta(minutes=1)

        with monkeypatch.context() as patch:
            patch.delitem(stripe_gateway.REFUND_STATUSES, "succeeded")
            reconciled("stripe", since=since)
        [found] = ReconciliationBreak.objects.all()
        noted = breaks()
        reconciled("stripe", since=since)

        assert (found.provider_ref, found.attempt) == (refund, attempt)
        assert "which we have no word for" in found.words
        assert noted == [("NOT_BOOKED", "OPEN")]
        assert breaks() == [("NOT_BOOKED", "RESOLVED")]
        assert Refund.objects.get().provider_ref == refund


class TestPayouts:
    def paid_out(self, stripe, *accounts) -> str:
        for account in accounts:
            collect(account)
        return stripe.pay_out()

    def totals(self, one: Reconciliation, payout: str) -> dict[str, object]:
        (row,) = [row for row in one.payouts if row["payout"] == payout]
        return row

    def test_what_was_paid_out_is_what_we_booked(self, stripe):
        payout = self.paid_out(
            stripe, owing_at_stripe(stripe, "10.00"), owing_at_stripe(stripe, "20.00")
        )

        one = reconciled("stripe")

        row = self.totals(one, payout)
        assert (row["lines"], row["provider_minor"], row["ledger_minor"]) == (2, 3000, 3000)
        assert (row["gross_minor"], row["fee_minor"], row["net_minor"]) == (3000, 147, 2853)
        assert breaks() == []

    def test_money_that_went_back_is_shown_with_it(self, stripe):
        account = owing_at_stripe(stripe, "10.00")
        ref = collect(account).provider_ref
        stripe.post("refunds", payment_intent=ref, amount=250)

        payout = stripe.pay_out()

        row = self.totals(reconciled("stripe"), payout)
        assert (row["lines"], row["provider_minor"], row["ledger_minor"]) == (2, 750, 750)

    @pytest.mark.parametrize(
        ("differs", "theirs", "ours"),
        [({"amount_minor": 1100}, 1100, 1000), ({"charge_ref": "pi_lost"}, 1000, 0)],
        ids=["another amount", "nothing"],
    )
    def test_a_line_that_our_books_do_not_have_is_a_break(
        self, stripe, monkeypatch, differs, theirs, ours
    ):
        payout = self.paid_out(stripe, owing_at_stripe(stripe, "10.00"))
        real = gateways.get("stripe")
        lines = [
            SettlementLine(**{**vars(line), **differs})
            for line in real.settlements()
            if line.payout_ref == payout
        ]
        monkeypatch.setattr(type(real), "settlements", lambda *_, **__: iter(lines))

        one = reconciled("stripe")

        row = self.totals(one, payout)
        assert (row["provider_minor"], row["ledger_minor"]) == (theirs, ours)
        assert breaks() == [("PAYOUT_DIFFERS", "OPEN")]

    def test_a_key_that_may_not_see_them_stops_nothing_else(self, capsys, stripe, monkeypatch):
        ReconciliationBreak.objects.create(
            kind=Kind.PAYOUT_DIFFERS,
            gateway="stripe",
            provider_ref="ch_1",
            object_at=AS_OF,
            words="Another amount",
            currency="EUR",
            amount_minor=1,
            reconciliation=reconciled("stripe"),
            found_at=AS_OF,
        )

        def refuses(*_, **__):
            raise Misconfigured("This key may not read payouts.")

        monkeypatch.setattr(type(gateways.get("stripe")), "settlements", refuses)
        with pytest.raises(SystemExit):
            call_command("reconcile", "--gateway", "stripe")

        assert "stripe: Payouts are not compared: This key" in capsys.readouterr().out
        assert Reconciliation.objects.latest("pk").is_finished
        assert breaks() == [("PAYOUT_DIFFERS", "OPEN")]


class TestWhatCameAfter:
    """Refunds and disputes, by lists of their own."""

    @pytest.mark.parametrize("name", ["refunds", "disputes"])
    def test_a_key_that_may_not_see_them_stops_nothing_else(self, provider, monkeypatch, name):
        def refuses(*_, **__):
            raise Misconfigured("This key may not.")
            yield

        monkeypatch.setattr(provider, name, refuses)

        one = reconciled()

        assert one.is_finished
        assert one.error == f"{name.capitalize()} are not listed: This key may not."

    def test_one_that_cannot_be_written_down_stops_no_others(self, sandbox, monkeypatch):
        payments_made = [collect(owing("12.34")) for _ in range(2)]
        seen = [
            sandbox.refund(RefundSpec("", "", attempt.provider_ref, 100, "EUR"), key=new_key())
            for attempt in payments_made
        ]
        learn = refunds.learn

        def fails_for_one(gateway, each, *, as_of):
            if each.ref == seen[0].ref:
                raise RuntimeError("a constraint we did not think of")
            return learn(gateway, each, as_of=as_of)

        monkeypatch.setattr(refunds, "learn", fails_for_one)
        one = reconciled()

        assert one.is_finished
        assert [refund.provider_ref for refund in Refund.objects.all()] == [seen[1].ref]


class TestWork:
    def test_in_slices_by_whoever_comes_finishes(self, monkeypatch, sandbox):
        monkeypatch.setattr(listing, "BATCH", 2)
        account = owing()
        for n in range(5):
            object_of(account.external_id, sandbox, attempt=ATTEMPT[:-1] + str(n), submit=True)
        one = reconciliation.start(gateway="sandbox", started_by="test", as_of=AS_OF)

        slices = 1
        while not reconciliation.work(one, as_of=AS_OF, until=lambda: True):
            slices += 1

        one.refresh_from_db()
        assert slices > 3
        assert (one.counts["listed"], one.counts["found_again"]) == (5, 5)
        assert (due(account), credit(account)) == (0, 4 * 1234)

    def test_killed_in_the_middle_is_taken_up_when_its_lease_is_over(self, provider, sandbox):
        account = owing()
        object_of(account.external_id, sandbox, attempt=ATTEMPT, submit=True)
        provider.before("read", Killed())
        one = reconciliation.start(gateway="sandbox", started_by="test", as_of=AS_OF)
        with pytest.raises(Killed):
            reconciliation.work(one, as_of=AS_OF)
        # A real kill runs no `finally`.
        Reconciliation.objects.update(lease_until=Now() + LEASE)

        with pytest.raises(reconciliation.BeingWorkedOn):
            reconciliation.work(one, as_of=AS_OF)
        Reconciliation.objects.update(lease_until=Now())
        reconciliation.work(one, as_of=AS_OF)

        assert due(account) == 0
        assert Payment.objects.count() == 1

    def test_says_what_stopped_it_and_goes_on_later(self, provider):
        collect(owing())
        provider.before("objects", ConnectionResetError("no line"))
        one = reconciliation.start(gateway="sandbox", started_by="test", as_of=AS_OF)

        tasks.drain("default")
        one.refresh_from_db()
        stopped = one.state, one.error
        tasks.drain("default")
        one.refresh_from_db()

        assert stopped == ("RUNNING", "ConnectionResetError: no line")
        assert (one.state, one.error) == ("FINISHED", "")

    def test_is_left_to_who_has_it_and_stops_when_time_is_up(self, monkeypatch, sandbox):
        object_of("nobody", sandbox, attempt=ATTEMPT, submit=True)
        one = reconciliation.start(gateway="sandbox", started_by="test", as_of=AS_OF)
        monkeypatch.setattr(working, "waiting", lambda: [one])
        is_up = iter([False, True, True])

        stopped = [
            reconciliation.work_all(as_of=AS_OF, until=is_up.__next__),
            reconciliation.work_all(as_of=AS_OF, until=is_up.__next__),
        ]
        Reconciliation.objects.update(lease_until=Now() + LEASE)
        stopped.append(reconciliation.work_all(as_of=AS_OF, until=lambda: False))

        assert stopped == [True, True, False]
        one.refresh_from_db()
        assert not one.is_finished

    def test_by_many_at_once_books_once(self, sandbox):
        account = owing()
        object_of(account.external_id, sandbox, attempt=ATTEMPT, submit=True)

        def work():
            one = reconciliation.start(gateway="sandbox", started_by="test", as_of=AS_OF)
            return reconciliation.work(one, as_of=AS_OF)

        at_once(*[work] * 4)

        assert Payment.objects.count() == 1
        assert due(account) == 0
        assert_books_hold()

    def test_every_night_once_for_each_gateway_that_was_ever_used(self, sandbox):
        collect(owing())
        at_four = AS_OF.replace(hour=4)

        started = [
            len(reconciliation.start_due(as_of=at_four + timedelta(hours=hours)))
            for hours in (0, 1, 22, 23, 24)
            if Reconciliation.objects.update(state="FINISHED", finished_at=AS_OF) >= 0
        ]

        assert started == [1, 0, 0, 1, 0]

    def test_a_lost_doorbell_is_rung_again(self):
        reconciliation.start(gateway="sandbox", started_by="test", as_of=AS_OF)

        assert sweeper.sweep(as_of=AS_OF)["reconciliations"] == 1


class TestTheCommand:
    def run(self, capsys, *options: str) -> tuple[int, str]:
        code = 0
        try:
            call_command("reconcile", *options)
        except SystemExit as ended:
            code = ended.code
        return code, capsys.readouterr().out

    def test_says_that_all_agrees(self, capsys):
        collect(owing())

        code, out = self.run(capsys, "--gateway", "sandbox")

        assert code == 0
        assert out.splitlines()[-1] == "reconcile: 0 breaks open"

    def test_says_what_does_not(self, capsys, sandbox):
        object_of("nobody", sandbox, attempt=ATTEMPT, submit=True)

        code, out = self.run(capsys, "--gateway", "sandbox", "--json")

        assert code == 1
        told = json.loads(out)
        assert told["gateways"][0]["counts"]["listed"] == 1
        assert [each["kind"] for each in told["breaks"]] == ["ACCOUNT_UNKNOWN"]

    def test_tells_people_too(self, capsys, sandbox):
        object_of("nobody", sandbox, attempt=ATTEMPT, submit=True)

        code, out = self.run(capsys, "--gateway", "sandbox")

        assert code == 1
        assert "which we do not have" in out
        assert out.splitlines()[-1] == "reconcile: 1 breaks open"

    def test_waits_for_whoever_has_it_in_hand(self, capsys, monkeypatch):
        collect(owing())
        reconciliation.start(gateway="sandbox", started_by="nightly", as_of=AS_OF)
        Reconciliation.objects.update(lease_until=Now() + LEASE)
        monkeypatch.setattr(
            "billing.management.commands.reconcile.time.sleep",
            lambda _: Reconciliation.objects.update(lease_until=None),
        )

        code, _ = self.run(capsys, "--gateway", "sandbox")

        assert code == 0
        assert Reconciliation.objects.get().is_finished

    def test_shows_each_payout(self, capsys, stripe):
        collect(owing_at_stripe(stripe, "10.00"))
        payout = stripe.pay_out()

        _, out = self.run(capsys, "--gateway", "stripe")

        (line,) = [line for line in out.splitlines() if payout in line]
        assert "10.00" in line
        assert "9.41" in line

    def test_goes_back_as_far_as_it_is_told(self, capsys, sandbox):
        reconciliation.start(
            gateway="sandbox", started_by="nightly", as_of=AS_OF, since=datetime.now(UTC)
        )
        account = owing()
        object_of(account.external_id, sandbox, attempt=ATTEMPT, submit=True)

        code, _ = self.run(capsys, "--gateway", "sandbox", "--since", "2018-01-01")

        assert code == 0
        assert due(account) == 0
        assert Reconciliation.objects.count() == 2

    def test_opens_what_a_restore_has_closed(self, capsys):
        account = owing()
        collect(owing())
        backup = Backup()
        collect(account)
        backup.restore()
        assert guard.watch(["sandbox"])

        self.run(capsys, "--gateway", "sandbox")

        assert not guard.paused()
        assert GatewayGuard.objects.get().paused_because == ""

    def test_says_that_a_provider_does_not_answer(self, provider):
        provider.before("objects", ConnectionResetError("no line"))

        with pytest.raises(CommandError, match="no line") as refused:
            call_command("reconcile", "--gateway", "sandbox")

        assert refused.value.returncode == 2

    def test_says_why_a_gateway_that_is_switched_off_cannot_be_listed(self, settings):
        settings.GATEWAYS = ["stripe"]

        with pytest.raises(CommandError, match="'sandbox' is switched off: GATEWAYS") as refused:
            call_command("reconcile", "--gateway", "sandbox")

        assert refused.value.returncode == 2

    def test_refuses_a_day_that_is_none(self):
        with pytest.raises(CommandError, match="is not a day"):
            call_command("reconcile", "--since", "yesterday")
