"""
Whatever fails, in whatever order, and whatever the customer does in between: charged once at most.

The protocol was model-checked before it was written (docs/payments.md); this is the same search on
the code itself: kills, lost and unsent calls at any point, payments by hand, cards taken and given
back, and drivers that come by at any time.
"""

from contextlib import suppress
from datetime import datetime, timedelta

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.models import Account, PaymentMethod
from billing.gateways import Misconfigured, NotSent, Observation, OutcomeUnknown, RateLimited
from billing.models import PaymentAttempt
from billing.payments.charges import CannotCollect
from tests import charging
from tests.billing.builders import assert_books_balance, collect, due, grant, owing, pay_by_hand
from tests.emptying import empty_tables
from tests.factories import AS_OF
from tests.provider import Killed, Provider

pytestmark = pytest.mark.django_db(transaction=True)

# A round: one thing goes wrong, a driver comes by, the world changes. Weighted to where it hurts.
FAULTS = st.none() | st.tuples(
    st.sampled_from(["before", "after"]),
    st.sampled_from(["submit", "submit", "submit", "prepare", "read", "cancel"]),
    st.sampled_from(
        [Killed(), OutcomeUnknown("?"), NotSent("?"), Misconfigured("?"), RateLimited(1)]
    ),
)
DRIVERS = st.sampled_from(["the sweeper", "the sweeper", "the customer"])
WORLD = st.sampled_from(
    [None, "pays all", "pays all", "pays some", "gets credit", "loses the card", "finds the card"]
)
ROUNDS = st.lists(st.tuples(FAULTS, DRIVERS, WORLD), min_size=2, max_size=5)


def drive(driver: str, account: Account, *, as_of: datetime) -> None:
    with suppress(Killed, CannotCollect):
        if driver == "the customer":
            collect(account, as_of=as_of)
        else:
            charging.drive_due(as_of=as_of)


def change(what: str | None, account: Account, *, as_of: datetime) -> None:
    cards = PaymentMethod.objects.filter(account=account)
    match what:
        case "pays all":
            pay_by_hand(account, 1234, as_of=as_of)
        case "pays some":
            pay_by_hand(account, 200, as_of=as_of)
        case "gets credit":
            grant(account, 500, as_of=as_of)
        case "loses the card":
            cards.update(state="REMOVED", removed_at=as_of)
        case "finds the card":
            cards.update(state="ACTIVE", removed_at=None)


class WatchedLine:
    """Looks over the shoulder of every submit: is it still due, at this very moment?"""

    def __init__(self, provider: Provider) -> None:
        self._submit = provider.sandbox.submit
        self.sent_in_vain: list[str] = []

    def __call__(self, ref: str, *, key: str) -> Observation:
        attempt = PaymentAttempt.objects.get(provider_ref=ref)
        if due(attempt.account) < attempt.amount_minor:
            self.sent_in_vain.append(ref)
        connection.close()
        return self._submit(ref, key=key)


@pytest.fixture
def line(provider, monkeypatch) -> WatchedLine:
    watched = WatchedLine(provider)
    monkeypatch.setattr(provider.sandbox, "submit", watched)
    return watched


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(rounds=ROUNDS, card=st.sampled_from(["sandbox_visa", "sandbox_visa", "sandbox_declined"]))
def test_charged_once_at_most_and_every_attempt_ends(
    rounds, card, provider, line, hours_pass_in_lanes
):
    account = owing("12.34", card=card, email="")
    as_of = AS_OF

    for number, (fault, driver, event) in enumerate(rounds):
        as_of += timedelta(minutes=7)
        if fault is not None:
            moment, call, error = fault
            getattr(provider, moment)(call, error)
        drive(driver if number else "the customer", account, as_of=as_of)
        change(event, account, as_of=as_of)
    provider.heals()
    for hours in (1, 3, 30, 33):
        charging.drive_due(as_of=as_of + timedelta(hours=hours))

    taken = [seen for seen in provider.sandbox.book() if seen.status == "SUCCEEDED"]
    assert len(taken) <= (1 if card == "sandbox_visa" else 0)
    assert not line.sent_in_vain
    assert set(PaymentAttempt.objects.values_list("state", flat=True)) <= {
        "SUCCEEDED",
        "FAILED",
        "RELEASED",
    }
    assert_books_balance(provider.sandbox)
    empty_tables()
    provider.sandbox._book.unlink(missing_ok=True)
