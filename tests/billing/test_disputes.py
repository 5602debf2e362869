"""A disputed payment: the money leaves, the account is not charged by itself, and the bank decides."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client

from accounts.models import Account, ChargingPause
from billing import gateways, ledger, reconciliation
from billing.gateways import DisputeStatus, Misconfigured
from billing.gateways.stripe import StripeGateway
from billing.models import (
    Decision,
    Dispute,
    LedgerEntry,
    Payment,
    PaymentAttempt,
    PaymentReversal,
    Posting,
)
from billing.payments import charges, disputes, reversals
from tests import charging
from tests.billing.builders import bill, collect, due, owing
from tests.billing.dispute_builders import EVIDENCE_DUE_AT, seen_of
from tests.billing.stripe_builders import event, outcomes, told
from tests.billing.stripe_builders import owing as owing_at_stripe
from tests.billing.test_invoicing import NOVEMBER, using
from tests.billing.test_refunds import refund
from tests.billing.test_retries import declined
from tests.closing import (
    assert_books_hold,
    decision_on,
    in_a_thread_of_the_provider,
    start_close,
    step_of,
    work,
)
from tests.factories import AS_OF, MemberFactory, UserFactory
from tests.provider import Killed
from tests.workers import at_once

pytestmark = pytest.mark.django_db(transaction=True)

Kind, State = PaymentAttempt.Kind, PaymentAttempt.State
INQUIRY, OPEN, WON, LOST = DisputeStatus
LATER = AS_OF + timedelta(days=20)
FEE = 1500


@pytest.fixture(autouse=True)
def _books_hold():
    yield
    assert_books_hold(as_of=LATER)


def paid(amount: str = "12.34", **facts: object) -> Payment:
    account = owing(amount, **facts)
    assert collect(account).state == State.SUCCEEDED
    return account.payments.get()


def see(payment: Payment, status: DisputeStatus = OPEN, **facts: object) -> Dispute | None:
    seen = seen_of(payment, status, **{"fee_minor": FEE, **facts})
    return disputes.apply_provider_state(payment.gateway, seen, as_of=LATER)


def owes_more(account: Account) -> Account:
    """November's invoice as well."""
    using(account, "5.00", month=NOVEMBER)
    bill(account, month=NOVEMBER)
    return account


def balances(**which: object) -> dict[str, int]:
    """What each company-side ledger account comes to."""
    found: dict[str, int] = {}
    for posting in Posting.objects.filter(**which).select_related("ledger_account"):
        kind = posting.ledger_account.kind
        found[kind] = found.get(kind, 0) + posting.amount_minor
    return found


def is_paused(account: Account) -> bool:
    return ChargingPause.objects.filter(account=account, resumed_at=None).exists()


def acts(account: Account) -> list[str]:
    return list(
        Decision.objects.filter(account=account, act__regex="DISPUTE|CHARGING|REVERSE")
        .order_by("pk")
        .values_list("act", flat=True)
    )


def resume(account: Account) -> ChargingPause:
    return disputes.resume_by_hand(
        pause_id=account.pauses.get(resumed_at=None).pk,
        reason="they said sorry",
        actor="ann@example.com",
        as_of=LATER,
    )


class TestADispute:
    def test_that_is_opened_takes_the_money_and_the_fee_and_pauses_charging(self):
        payment = paid()

        dispute = see(payment)

        assert (dispute.state, dispute.evidence_due_at) == ("NEEDS_RESPONSE", EVIDENCE_DUE_AT)
        opened = balances(entry__kind="DISPUTE_OPENED")
        assert opened == {"DISPUTED": 1234, "DISPUTE_FEES": FEE, "CASH": -1234 - FEE}
        assert due(payment.account) == 0
        assert is_paused(payment.account)
        assert acts(payment.account) == ["OPEN_DISPUTE"]
        assert disputes.disputed_minor(payment) == 1234

    def test_that_is_won_brings_the_money_back_but_not_the_fee_and_resumes(self):
        payment = paid()
        see(payment)

        assert see(payment, WON).closed_at == LATER

        assert balances(entry__kind__startswith="DISPUTE") == {
            "DISPUTED": 0,
            "DISPUTE_FEES": FEE,
            "CASH": -FEE,
        }
        assert not is_paused(payment.account)
        assert acts(payment.account) == ["OPEN_DISPUTE", "WIN_DISPUTE", "RESUME_CHARGING"]
        assert disputes.disputed_minor(payment) == 0

    def test_that_is_lost_reopens_the_invoice_and_is_charged_by_nobody(self):
        payment = paid()
        account = payment.account
        see(payment)

        see(payment, LOST)

        reversal = PaymentReversal.objects.get()
        assert (reversal.provider_ref, reversal.owed_minor) == (f"du_{payment.pk}", 1234)
        assert reversal.reason == "lost in a dispute"
        assert balances(ledger_account__kind="DISPUTED") == {"DISPUTED": 0}
        assert account.invoices.get().settled_at is None
        assert due(account) == 1234
        assert is_paused(account)
        with pytest.raises(charges.AccountPaused):
            collect(account, kind=Kind.AUTO, as_of=LATER)
        assert account.attempts.count() == 1
        assert disputes.disputed_minor(payment) == 0

    def test_that_is_only_asked_about_books_nothing_until_the_money_is_withdrawn(self):
        payment = paid()

        assert see(payment, INQUIRY).state == "INQUIRY"
        assert see(payment, OPEN, is_withdrawn=False).state == "INQUIRY"
        assert not is_paused(payment.account)
        assert see(payment, INQUIRY, is_over=True).closed_at == LATER
        assert not LedgerEntry.objects.filter(kind__startswith="DISPUTE").exists()

        dispute = see(payment, OPEN)
        assert (dispute.state, dispute.closed_at) == ("NEEDS_RESPONSE", None)

    @pytest.mark.parametrize("end", [WON, LOST])
    @pytest.mark.parametrize("times", [1, 2])
    def test_ends_the_same_in_whatever_order_and_however_often_it_is_told(self, end, times):
        for order in itertools.permutations([INQUIRY, OPEN, end]):
            payment = paid()
            for status in order * times:
                see(payment, status)

            assert Dispute.objects.get(payment=payment).state == end
            of_it = LedgerEntry.objects.filter(account=payment.account, kind__contains="DISPUTE")
            assert of_it.count() == (2 if end is WON else 1)
            assert PaymentReversal.objects.filter(payment=payment).count() == (end is LOST)

    def test_told_of_by_two_at_once_is_booked_once(self):
        payment = paid()

        at_once(*[lambda: see(payment)] * 4, *[lambda: see(payment, LOST)] * 4)

        assert Dispute.objects.get().state == "LOST"
        assert PaymentReversal.objects.count() == 1

    @pytest.mark.parametrize("killed_in", ["post", "reverse_payment"])
    def test_killed_half_way_is_begun_anew(self, monkeypatch, killed_in):
        payment = paid()
        module = ledger if killed_in == "post" else reversals
        real = getattr(module, killed_in)

        def killed(*args, **facts):
            real(*args, **facts)
            raise Killed

        monkeypatch.setattr(module, killed_in, killed)
        with pytest.raises(Killed):
            see(payment, LOST)
        monkeypatch.undo()
        assert not Dispute.objects.exists()

        see(payment, LOST)

        assert due(payment.account) == 1234

    def test_that_was_decided_otherwise_before_is_left_to_a_person(self):
        payment = paid()
        see(payment, LOST)

        with pytest.raises(disputes.DecidedOtherwise):
            see(payment, WON)

    def test_of_more_than_is_left_of_the_payment_is_left_to_a_person(self):
        payment = paid()
        see(payment, amount_minor=1000)

        with pytest.raises(reversals.MoreThanThePayment, match=r"€2\.34 is left"):
            see(payment, ref="du_other", amount_minor=235)

        assert see(payment, ref="du_other", amount_minor=234) is not None

    def test_lost_after_a_part_was_paid_back_leaves_the_books_whole(self):
        payment = paid()
        refund(payment, 500)

        see(payment, LOST)

        assert PaymentReversal.objects.get().amount_minor == 1234

    @pytest.mark.parametrize("facts", [{"currency": "USD"}, {"charge_ref": "pi_theirs"}])
    def test_of_what_is_not_ours_is_not_booked(self, facts):
        assert see(paid(), **facts) is None

        assert not Dispute.objects.exists()

    @pytest.mark.parametrize("gateway", ["sandbox", "debit"])
    def test_does_not_exist_where_nobody_can_dispute(self, settings, gateway):
        settings.DEBIT_WEBHOOK_SECRETS = ["secret"]

        with pytest.raises(Misconfigured, match="knows no dispute 'du_1'"):
            gateways.get(gateway).read_dispute("du_1")
        assert list(gateways.get(gateway).disputes()) == []


class TestThePause:
    def test_refuses_what_is_charged_by_itself_and_lets_the_customer_pay(self):
        payment = paid()
        account = owes_more(payment.account)
        see(payment)

        for kind in (Kind.AUTO, Kind.RETRY):
            with pytest.raises(charges.AccountPaused, match=r"€12\.34 of the payment by"):
                collect(account, kind=kind, as_of=LATER)
        assert collect(account, kind=Kind.ON_SESSION, as_of=LATER).state == State.SUCCEEDED

    def test_stops_a_charge_that_is_prepared(self, provider):
        payment = paid()
        account = owes_more(payment.account)
        provider.after("prepare", in_a_thread_of_the_provider(lambda: see(payment)))

        attempt = collect(account, kind=Kind.AUTO, as_of=LATER)

        assert (attempt.state, provider.calls["submit"]) == (State.RELEASED, 1)
        assert attempt.because.startswith("charging is paused: ")
        skipped = decision_on(account, "SUBMIT")
        assert (skipped.did, skipped.because) == ("SKIPPED", attempt.because)

    def test_lets_the_close_go_on_without_charge_or_hold(self):
        payment = paid()
        account = payment.account
        using(account, "5.00", month=NOVEMBER)
        see(payment)
        december = LATER + timedelta(days=30)
        start_close(NOVEMBER, as_of=december)

        work("INVOICE", "CHARGE", "HOLD", as_of=december)

        for kind in ("CHARGE", "HOLD"):
            step = step_of(account, kind)
            assert (step.state, step.because[:19]) == ("SKIPPED", "charging is paused:")

    def test_puts_retries_and_their_hold_off(self):
        account = declined()
        disputes.pause_by_hand(account_id=account.pk, reason="court", actor="ann", as_of=AS_OF)

        for number in range(1, 30):
            charging.retry_due(as_of=AS_OF + timedelta(days=number))

        assert account.attempts.count() == 1
        assert not account.holds.exists()
        paused = account.pauses.get()
        assert str(paused).startswith("Paused by hand since 2018-11-02")
        disputes.resume_by_hand(pause_id=paused.pk, reason="over", actor="ann", as_of=LATER)

        charging.retry_due(as_of=AS_OF + timedelta(days=31))
        assert account.attempts.count() == 2

    def test_at_the_end_of_a_schedule_holds_nobody(self):
        account = declined("sandbox_expired")
        disputes.pause_by_hand(account_id=account.pk, reason="court", actor="ann", as_of=AS_OF)

        charging.retry_due(as_of=LATER)
        assert not account.holds.exists()

        resume(account)
        charging.retry_due(as_of=LATER + timedelta(hours=2))
        assert account.holds.exists()

    def test_stays_after_a_lost_one_until_a_person_resumes_it(self):
        payment = paid()
        see(payment, LOST)

        assert resume(payment.account).resumed_by == "ann@example.com"

        assert decision_on(payment.account, "RESUME_CHARGING").because == "they said sorry"
        assert collect(payment.account, kind=Kind.AUTO, as_of=LATER).state == State.SUCCEEDED

    def test_is_not_resumed_while_any_dispute_is_open_nor_by_winning_beside_a_lost_one(self):
        first, second = paid(), None
        account = owes_more(first.account)
        collect(account)
        second = account.payments.latest("pk")
        see(first)
        see(second)

        see(first, WON)
        assert is_paused(account)
        with pytest.raises(disputes.StillDisputed):
            resume(account)
        see(second, LOST)
        assert is_paused(account)

        third = see(first, ref="du_again")
        see(first, WON, ref="du_again")
        assert third is not None
        assert is_paused(account)

    def test_of_two_reasons_ends_with_the_last(self):
        payment = paid()
        account = owes_more(payment.account)
        disputes.pause_by_hand(account_id=account.pk, reason="court", actor="ann", as_of=AS_OF)
        see(payment)
        see(payment, WON)

        with pytest.raises(charges.AccountPaused, match="court"):
            collect(account, kind=Kind.AUTO, as_of=LATER)


class TestInTheAdmin:
    @pytest.fixture
    def client(self) -> Client:
        client = Client()
        client.force_login(UserFactory(is_staff=True, is_superuser=True, email="ann@example.com"))
        return client

    def post(self, client, account, path, reason="they ask for it") -> str:
        answer = client.post(
            f"/admin/accounts/account/{account.pk}/{path}/", {"reason": reason}, follow=True
        )
        return answer.content.decode()

    def test_charging_is_paused_and_resumed_with_a_reason_once(self, client):
        account = owing()

        assert "This field is required" in self.post(client, account, "pause", reason="")
        said = self.post(client, account, "pause")
        assert "they ask for it, by ann@example.com" in said
        assert "paused by hand already" in self.post(client, account, "pause")
        paused = account.pauses.get()
        assert "This ends the pause" in self.post(client, account, f"pauses/{paused.pk}/resume", "")
        assert "is over." in self.post(client, account, f"pauses/{paused.pk}/resume")
        assert "was over already" in self.post(client, account, f"pauses/{paused.pk}/resume")
        kinds = list(account.timeline.order_by("pk").values_list("kind", flat=True))
        assert kinds[-2:] == ["charging.paused", "charging.resumed"]

    def test_an_open_dispute_is_shown_and_not_resumed(self, client):
        payment = paid()
        see(payment)
        account = payment.account

        assert "fraudulent" in client.get("/admin/billing/dispute/").content.decode()
        assert "DISPUTE" in str(client.get("/admin/accounts/chargingpause/").content)
        said = self.post(client, account, f"pauses/{account.pauses.get().pk}/resume")
        assert "charging stays paused until it is decided" in said
        assert "29 November 2018" in said

    def test_is_for_those_who_may(self):
        client = Client()
        client.force_login(UserFactory(is_staff=True))

        url = f"/admin/accounts/account/{owing().pk}/pause/"
        assert client.post(url, {"reason": "x"}).status_code == 403


class TestIsSeen:
    def test_by_the_customer_without_alarm(self):
        payment = paid()
        see(payment)
        account = payment.account
        client = Client()
        client.force_login(MemberFactory(account=account).user)

        for language, words in (
            ("en", ["under dispute", "is not charged automatically at the moment"]),
            ("hu", ["vitatott", "Jelenleg nem vonunk le automatikusan"]),
        ):
            Account.objects.update(language=language)
            page = client.get(f"/accounts/{account.pk}/").content.decode()
            assert [word for word in words if word in page] == words

    def test_by_staff_on_their_first_page(self):
        see(paid())
        client = Client()
        client.force_login(UserFactory(is_staff=True, is_superuser=True))

        assert "1 dispute</a> is open." in client.get("/runs/").content.decode()


class TestAtStripe:
    # What is withdrawn is missing in the provider's payouts, which other tests look at in euros.
    CURRENCY = "CHF"

    def paid(self, stripe) -> Payment:
        account = owing_at_stripe(stripe, currency=self.CURRENCY)
        collect(account)
        return account.payments.get()

    def opened(self, stripe, payment: Payment) -> str:
        stripe.control("disputes", {"payment_intent": payment.provider_ref})
        [seen] = [
            seen
            for seen in gateways.get("stripe").disputes()
            if seen.charge_ref == payment.provider_ref
        ]
        return seen.ref

    @pytest.mark.parametrize("end", ["won", "lost"])
    def test_is_booked_by_its_events(self, stripe, end):
        payment = self.paid(stripe)
        ref = self.opened(stripe, payment)

        told(event("charge.dispute.created", ref), event("charge.dispute.funds_withdrawn", ref))
        dispute = Dispute.objects.get()
        assert (dispute.amount_minor, dispute.fee_minor) == (1234, FEE)
        assert dispute.evidence_due_at is not None
        stripe.control("disputes", {"dispute": ref, "status": end})
        told(event("charge.dispute.closed", ref))

        assert set(outcomes()) == {"APPLIED"}
        dispute.refresh_from_db()
        assert dispute.state == end.upper()
        assert due(payment.account) == (0 if end == "won" else 1234)
        # After a week somebody is told of who is not charged since, and decides.
        waits = [] if end == "won" else ["pause_after_a_dispute"]
        assert_books_hold(as_of=LATER, waiting=waits)
        if waits:
            resume(payment.account)

    def test_of_somebody_elses_charge_is_foreign(self, stripe):
        customer = stripe.customer()
        intent = stripe.post(
            "payment_intents",
            amount=999,
            currency=self.CURRENCY.lower(),
            customer=customer,
            payment_method=stripe.card(customer),
            confirm="true",
            **{"allowed_payment_method_types[]": "card"},
        )
        stripe.control("disputes", {"payment_intent": intent["id"]})
        ref = next(gateways.get("stripe").disputes()).ref

        assert told(event("charge.dispute.created", ref)) == ["FOREIGN"]

    def test_of_a_payment_that_is_not_booked_yet_is_waited_for(self, stripe):
        account = owing_at_stripe(stripe, currency=self.CURRENCY)
        stripe.fault("execute_then_drop", "/confirm$")
        attempt = collect(account)
        stripe.control("disputes", {"payment_intent": attempt.provider_ref})
        ref = next(gateways.get("stripe").disputes()).ref

        assert told(event("charge.dispute.created", ref)) == ["WAITING"]
        charging.drive_due(as_of=AS_OF + timedelta(minutes=2))

        assert told(as_of=AS_OF + timedelta(minutes=2)) == ["APPLIED"]

    def test_whose_events_were_lost_is_found_by_reconciliation(self, stripe):
        payment = self.paid(stripe)
        ref = self.opened(stripe, payment)
        now = datetime.now(UTC)

        def reconciled():
            one = reconciliation.start(gateway="stripe", started_by="test", as_of=now)
            assert reconciliation.work(one, as_of=now)
            one.refresh_from_db()
            return one.counts["disputes"]

        assert reconciled() == 1
        assert is_paused(payment.account)
        stripe.control("disputes", {"dispute": ref, "status": "lost"})
        Dispute.objects.update(opened_at=now - timedelta(days=90))
        assert reconciled() == 1

        assert due(payment.account) == 1234

    @pytest.mark.parametrize(
        ("status", "ours", "is_over", "waits"),
        [
            ("warning_needs_response", INQUIRY, False, True),
            ("warning_under_review", INQUIRY, False, False),
            ("warning_closed", INQUIRY, True, False),
            ("prevented", INQUIRY, True, False),
            ("needs_response", OPEN, False, True),
            ("under_review", OPEN, False, False),
            ("won", WON, True, False),
            ("lost", LOST, True, False),
        ],
    )
    def test_is_read_as_it_stands(self, stripe, status, ours, is_over, waits):
        gateway = StripeGateway()

        seen = gateway._dispute({**AT_STRIPE, "status": status})

        assert (seen.status, seen.is_over, seen.evidence_due_at is not None) == (
            ours,
            is_over,
            waits,
        )
        # A yen has no hundredths; what is settled in another currency says nothing of the fee in this.
        assert (seen.amount_minor, seen.fee_minor, seen.is_withdrawn) == (500, 15, True)

    def test_with_a_status_that_has_no_word_is_unknown(self, stripe):
        gateway = StripeGateway()

        with pytest.raises(gateways.OutcomeUnknown):
            gateway._dispute({**AT_STRIPE, "status": "new"})
        with pytest.raises(Misconfigured):
            gateway._dispute({**AT_STRIPE, "livemode": True})


AT_STRIPE = {
    "id": "du_1",
    "livemode": False,
    "payment_intent": "pi_1",
    "amount": 500,
    "currency": "jpy",
    "status": "needs_response",
    "reason": "general",
    "created": 1_540_000_000,
    "evidence_details": {"due_by": 1_541_000_000},
    "balance_transactions": [
        {"amount": -500, "currency": "jpy", "fee": 15},
        {"amount": -312, "currency": "eur", "fee": 1500},
    ],
}
