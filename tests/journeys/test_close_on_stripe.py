"""A month closed through the Stripe gateway: a provider process, its SDK, its webhooks, its own book."""

import time
from datetime import datetime, timedelta

import pytest
from django.db import connection

from billing import books, gateways, ledger
from billing.models import Invoice, Payment, PaymentAttempt, Step
from billing.payments import guard, inbound
from tests import charging
from tests.billing.stripe_builders import told, using
from tests.closing import finish, start_close, step_of, work
from tests.factories import AS_OF, AccountFactory, account_using
from tests.workers import Aside

pytestmark = pytest.mark.django_db(transaction=True)

LATER = AS_OF + timedelta(minutes=2)
NEXT_DAY = AS_OF + timedelta(days=1)
HELD_SECONDS = 2.0


def due(account, *, as_of=NEXT_DAY) -> int:
    return ledger.standing(account.pk, as_of=as_of).due_minor


def assert_both_books_say_the_same(stripe, *, as_of: datetime = NEXT_DAY) -> None:
    """What the provider took is what we booked, customer by customer; and our books hold."""
    objects = {i["id"]: i for i in stripe.dump()["payment_intents"]}
    ours = {i["id"] for i in stripe.intents()}
    taken = {
        ref: (i["metadata"]["account_id"], i["metadata"]["attempt_id"], i["amount_received"])
        for ref, i in objects.items()
        if ref in ours and i["status"] == "succeeded"
    }
    booked = {
        p.provider_ref: (
            p.account.external_id,
            str(p.attempt_id),
            as_the_provider_counts(p.amount_minor, p.currency),
        )
        for p in Payment.objects.filter(gateway="stripe").select_related("account")
    }
    assert booked == taken
    # Factories make summaries without the events behind them.
    names = [p.name for p in books.promises() if p.name != "book_usage_tallied_events_are_counted"]
    broken = books.check(as_of=as_of, only=names)
    assert not broken, [(finding.promise.sentence, finding.rows) for finding in broken]


def as_the_provider_counts(amount_minor: int, currency: str) -> int:
    return {"ISK": 100}.get(currency, 1) * amount_minor


def test_a_close_with_every_kind_of_card(stripe):
    pays = using(stripe, "12.34")
    pays_in_krona = using(stripe, "1500", currency="ISK")
    pays_in_dinar = using(stripe, "5.124", currency="KWD")
    declined = using(stripe, "20.00", card="chargeCustomerFail")
    stolen = using(stripe, "30.00", card="visa_chargeDeclinedStolenCard")
    asked = using(stripe, "40.00", card="authenticationRequired")
    sandboxed = account_using("50.00")
    owes_too_little = using(stripe, "0.49")
    AccountFactory()

    run = start_close()
    work("INVOICE", "CHARGE", "EMAIL", "HOLD")
    asked_attempt = PaymentAttempt.objects.get(account=asked)

    assert [due(a) for a in (pays, pays_in_krona, sandboxed)] == [0, 0, 0]
    # Charged to the last but one decimal; the rest stays due.
    assert due(pays_in_dinar) == 4
    assert [due(a) for a in (declined, stolen, asked, owes_too_little)] == [2000, 3000, 4000, 49]
    assert asked_attempt.state == PaymentAttempt.State.REQUIRES_ACTION
    # The month does not wait for them.
    assert (step_of(asked, "CHARGE").state, step_of(asked, "HOLD").state) == ("DONE", "SKIPPED")
    assert PaymentAttempt.objects.get(account=stolen).decline_code == "stolen_card"
    assert_both_books_say_the_same(stripe, as_of=AS_OF)

    stripe.authenticate(asked_attempt.provider_ref)
    came = told(stripe.event("payment_intent.succeeded", asked_attempt.provider_ref), as_of=LATER)
    run = finish(run, as_of=NEXT_DAY)

    assert came == ["APPLIED"]
    assert due(asked) == 0
    assert step_of(asked, "CHARGE").state == Step.State.DONE
    assert run.is_finished
    assert not PaymentAttempt.objects.filter(state__in=PaymentAttempt.IN_FLIGHT).exists()
    assert_both_books_say_the_same(stripe)


def test_a_close_over_a_bad_line_charges_everybody_once(stripe, hours_pass_in_lanes):
    accounts = [using(stripe, f"{n}.00") for n in range(10, 22)]
    # Looked at while the line is good; else charging waits, and nobody is in trouble.
    guard.watch(["stripe"])
    stripe.control(
        "faults",
        {"odds": "drop_before=0.1,execute_then_drop=0.15,execute_then_500=0.1,409=0.05,429=0.05"},
    )

    run = start_close()
    work("INVOICE", "CHARGE")
    in_trouble = PaymentAttempt.objects.filter(state__in=PaymentAttempt.IN_FLIGHT).count()
    stripe.heal()
    for minutes in (2, 5, 15, 80):
        as_of = AS_OF + timedelta(minutes=minutes)
        inbound.process_due(as_of=as_of)
        charging.drive_due(as_of=as_of)
    run = finish(run, as_of=NEXT_DAY)

    assert in_trouble
    assert run.is_finished
    assert [due(account) for account in accounts] == [0] * len(accounts)
    assert Invoice.objects.filter(settled_at=None).count() == 0
    assert len([i for i in stripe.intents() if i["status"] == "succeeded"]) == len(accounts)
    assert_both_books_say_the_same(stripe)


def test_while_the_provider_holds_a_request_no_session_of_ours_is_idle_in_transaction(stripe):
    """A provider that takes half a minute must not hold rows of ours: here, two seconds for every call."""
    # Importing its SDK takes half a second as well, the first time.
    gateways.get("stripe")
    accounts = [using(stripe, f"{n}.00") for n in range(10, 14)]
    declined = using(stripe, "20.00", card="chargeCustomerFail")
    start_close()
    work("INVOICE")
    stripe.control("faults", {"odds": f"slow=1:{HELD_SECONDS}"})

    charging = Aside(lambda: work("CHARGE"))
    seen = []
    while charging.is_at_work:
        seen.append(idle_in_transaction())
        time.sleep(0.02)
    charging.join()
    stripe.heal()

    # Prepared, submitted, and one of them cancelled: looked at all through these calls.
    assert len(seen) > 3 * HELD_SECONDS * 10
    assert not [session for look in seen for session in look]
    assert [due(account) for account in accounts] == [0] * 4
    assert due(declined) == 2000
    assert_both_books_say_the_same(stripe)


def idle_in_transaction() -> list[tuple[str, str]]:
    """Sessions that have had a transaction open for longer than it takes to send the next statement."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT query, now() - state_change FROM pg_stat_activity"
            " WHERE datname = current_database() AND state LIKE 'idle in transaction%%'"
            " AND clock_timestamp() - state_change > make_interval(secs => %s)",
            [HELD_SECONDS * 0.75],
        )
        return list(cursor.fetchall())


def test_every_event_of_a_close_told_twice_and_backwards_changes_nothing(stripe):
    accounts = [
        using(stripe, "12.34"),
        using(stripe, "20.00", card="chargeCustomerFail"),
        using(stripe, "30.00"),
    ]
    finish(start_close())
    before = [due(account) for account in accounts], Payment.objects.count()
    ours = {intent["id"] for intent in stripe.intents()}
    events = [
        event
        for event in stripe.dump()["events"]
        if event["data"]["object"]["id"] in ours
        or event["data"]["object"].get("payment_intent") in ours
    ]
    twice = [{**event, "id": f"{event['id']}{copy}"} for event in events for copy in "ab"]

    told(*reversed(twice), as_of=LATER)

    assert len(twice) > 10
    assert before == ([due(account) for account in accounts], Payment.objects.count())
    assert_both_books_say_the_same(stripe)
