"""
A month's webhooks as badly as they can come: the same end as if each had come once, in order, at once.

Of what the provider would deliver, 30 % comes two to five times, 5 % never, all of it in any order and with
forged, old and foreign ones in between. WEBHOOK_EVENTS says how many deliveries; 300 unless told otherwise.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import Account
from billing import ledger
from billing.models import PaymentAttempt, ProviderEvent
from billing.payments import inbound
from billing.payments.charges import Request
from tests import charging
from tests.billing.builders import assert_books_balance, bill
from tests.billing.stripe_builders import event, using
from tests.factories import AS_OF
from tests.stripe_provider import signed

pytestmark = pytest.mark.django_db(transaction=True)

DELIVERIES = int(os.environ.get("WEBHOOK_EVENTS", "300"))
# What is delivered of one account, copies included.
DELIVERIES_OF_AN_ACCOUNT = 6
SEED = 20181102
CONFIRMED = "authenticationRequired"
CARDS = ("visa", "visa", "chargeCustomerFail", CONFIRMED, CONFIRMED)
COPIED, NEVER, FORGED, OLD, FOREIGN = 0.3, 0.05, 0.02, 0.02, 0.01
# Worked on after so many; meanwhile the sweeper comes by.
AT_A_TIME = 50
ANSWERED_WITHIN_SECONDS = 0.2
ENDS = ("SUCCEEDED", "FAILED", "RELEASED")

Delivery = tuple[str, dict[str, Any]]


def charged_accounts(stripe, *, faults: str = "") -> list[Account]:
    """Accounts of every kind, charged; those who had to confirm have done so, or could not."""
    count = DELIVERIES // DELIVERIES_OF_AN_ACCOUNT
    accounts = [using(stripe, "12.34", card=CARDS[n % len(CARDS)]) for n in range(count)]
    bill(*accounts)
    # Who has to confirm gets to that point; the others' replies may be lost.
    asked = [a for n, a in enumerate(accounts) if CARDS[n % len(CARDS)] == CONFIRMED]
    charge(asked)
    if faults:
        stripe.control("faults", {"odds": faults})
    charge([account for account in accounts if account not in asked])
    stripe.heal()
    waiting = PaymentAttempt.objects.filter(account__in=asked, state="REQUIRES_ACTION")
    for number, attempt in enumerate(waiting.order_by("account")):
        stripe.authenticate(attempt.provider_ref, succeeds=bool(number % 2))
    return accounts


def charge(accounts: Sequence[Account]) -> None:
    requests = [Request(account.pk, PaymentAttempt.Kind.ON_SESSION) for account in accounts]
    charging.collect_all(requests, as_of=timezone.now())


def events_about(stripe, accounts: Sequence[Account]) -> list[dict[str, Any]]:
    refs = {attempt.provider_ref for account in accounts for attempt in account.attempts.all()} - {
        None
    }
    return [
        told
        for told in stripe.dump()["events"]
        if told["data"]["object"]["id"] in refs
        or told["data"]["object"].get("payment_intent") in refs
    ]


def disorder(events: Sequence[dict[str, Any]], stranger: str) -> list[Delivery]:
    """What arrives of it, and how."""
    rng = random.Random(SEED)
    arriving: list[Delivery] = []
    for told in events:
        if rng.random() < NEVER:
            continue
        copies = rng.randint(2, 5) if rng.random() < COPIED else 1
        arriving += [("genuine", told)] * copies
        for kind, chance in (("forged", FORGED), ("old", OLD)):
            if rng.random() < chance:
                arriving.append((kind, {**told, "id": f"{told['id']}_{kind}"}))
        if rng.random() < FOREIGN:
            about = event("payment_intent.succeeded", stranger, event_id=f"{told['id']}_foreign")
            arriving.append(("foreign", about))
    rng.shuffle(arriving)
    return arriving


def deliver(arriving: Sequence[Delivery]) -> Iterator[tuple[str, int, float]]:
    """Each to the site's own address: what kind, how it was answered, and how long that took."""
    client = Client()
    for kind, told in arriving:
        how = {"forged": {"secret": "whsec_guessed"}, "old": {"age_seconds": 301}}.get(kind, {})
        delivery = signed(told, **how)
        began = time.perf_counter()
        answer = client.post(
            "/webhooks/stripe/",
            delivery["body"],
            content_type="application/json",
            headers=delivery["headers"],
        )
        yield kind, answer.status_code, time.perf_counter() - began


def ended() -> set[Any]:
    return set(PaymentAttempt.objects.filter(state__in=ENDS).values_list("pk", flat=True))


def at_rest(accounts: Sequence[Account]) -> list[tuple[Any, ...]]:
    """What it comes to, account by account, when everything is worked on."""
    for hours in (1, 2, 73, 74, 75):
        as_of = timezone.now() + timedelta(hours=hours)
        inbound.process_due(as_of=as_of, limit=DELIVERIES)
        charging.drive_due(as_of=as_of, limit=DELIVERIES)
    return [
        (
            ledger.standing(account.pk, as_of=AS_OF).due_minor,
            ledger.standing(account.pk, as_of=AS_OF).credit_minor,
            Counter(account.attempts.values_list("state", flat=True)),
            sorted(account.payments.values_list("amount_minor", flat=True)),
        )
        for account in accounts
    ]


def test_ends_as_if_each_had_come_once_and_in_order(stripe, record_testsuite_property):
    in_order = charged_accounts(stripe)
    list(deliver([("genuine", told) for told in events_about(stripe, in_order)]))
    expected = at_rest(in_order)
    ProviderEvent.objects.all().delete()

    accounts = charged_accounts(stripe, faults="execute_then_drop=0.2,drop_before=0.1")
    stranger = stripe.post("payment_intents", amount=500, currency="eur")["id"]
    arriving = disorder(events_about(stripe, accounts), stranger)
    answers: list[tuple[str, int, float]] = []
    over: set[Any] = set()
    for start in range(0, len(arriving), AT_A_TIME):
        answers += deliver(arriving[start : start + AT_A_TIME])
        as_of = timezone.now() + timedelta(minutes=1 + start // AT_A_TIME)
        inbound.process_due(as_of=as_of, limit=AT_A_TIME)
        charging.drive_due(as_of=as_of)
        # Nothing moves backwards.
        assert over <= (over := ended())

    assert at_rest(accounts) == expected
    assert {(kind, code) for kind, code, _ in answers} >= {("genuine", 200), ("forged", 400)}
    assert all(code == (400 if kind in {"forged", "old"} else 200) for kind, code, _ in answers)
    assert not ProviderEvent.objects.filter(outcome="WAITING").exists()
    taken = sum(intent["amount_received"] for intent in stripe_intents(stripe, accounts))
    assert taken == sum(sum(amounts) for *_, amounts in expected)
    assert_books_balance()
    seconds = sorted(took for _, _, took in answers)
    p99 = seconds[int(len(seconds) * 0.99)]
    assert p99 < ANSWERED_WITHIN_SECONDS
    record_testsuite_property("deliveries", len(answers))
    record_testsuite_property("answered_p99_ms", round(p99 * 1000))


def stripe_intents(stripe, accounts: Sequence[Account]) -> list[dict[str, Any]]:
    """The provider's own book of these accounts, objects left behind included."""
    names = {account.external_id for account in accounts}
    return [
        intent
        for intent in stripe.dump()["payment_intents"]
        if intent["metadata"].get("account_id") in names
    ]
