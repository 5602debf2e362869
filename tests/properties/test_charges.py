"""
Whatever fails, in whatever order, and whatever the customer does in between: charged once at most.

The protocol was model-checked before it was written (docs/payments.md); this is the same search on
the code itself: kills, lost and unsent calls at any point, payments by hand, cards taken and given
back, and drivers that come by at any time.
"""

from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.models import PaymentMethod
from billing import payments
from billing.gateways import Misconfigured, NotSent, OutcomeUnknown, RateLimited
from billing.models import PaymentAttempt
from billing.payments import CannotCollect
from tests.billing.builders import assert_books_balance, collect, grant, owing, pay_by_hand
from tests.emptying import empty_tables
from tests.factories import AS_OF
from tests.provider import Killed

pytestmark = pytest.mark.django_db(transaction=True)

MOMENTS = st.sampled_from(["before", "after"])
CALLS = st.sampled_from(["prepare", "submit", "read", "cancel"])
ERRORS = st.sampled_from(
    [Killed(), OutcomeUnknown("?"), NotSent("?"), Misconfigured("?"), RateLimited(1)]
)
FAULTS = st.lists(st.tuples(MOMENTS, CALLS, ERRORS), max_size=3)
ACTS = st.sampled_from(
    [
        "collect",
        "collect",
        "sweep",
        "sweep",
        "pay all",
        "pay some",
        "grant",
        "lose card",
        "find card",
    ]
)
SCRIPTS = st.lists(st.tuples(FAULTS, ACTS), min_size=1, max_size=6)


def perform(act: str, account, *, as_of) -> None:
    cards = PaymentMethod.objects.filter(account=account)
    match act:
        case "collect":
            collect(account, as_of=as_of)
        case "sweep":
            payments.drive_due(as_of=as_of)
        case "pay all":
            pay_by_hand(account, 1234, as_of=as_of)
        case "pay some":
            pay_by_hand(account, 200, as_of=as_of)
        case "grant":
            grant(account, 500, as_of=as_of)
        case "lose card":
            cards.update(state="REMOVED", removed_at=as_of)
        case "find card":
            cards.update(state="ACTIVE", removed_at=None)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(script=SCRIPTS, declines=st.booleans())
def test_charged_once_at_most_and_every_attempt_ends(script, declines, provider):
    account = owing("12.34", card="sandbox_declined" if declines else "sandbox_visa")
    as_of = AS_OF

    for faults, act in script:
        as_of += timedelta(minutes=7)
        for moment, call, error in faults:
            getattr(provider, moment)(call, error)
        with suppress(Killed, CannotCollect):
            perform(act, account, as_of=as_of)
    provider.heals()
    for hours in (1, 3, 30, 33):
        payments.drive_due(as_of=as_of + timedelta(hours=hours))

    taken = [seen for seen in provider.sandbox.book() if seen.status == "SUCCEEDED"]
    assert len(taken) <= (0 if declines else 1)
    assert set(PaymentAttempt.objects.values_list("state", flat=True)) <= {
        "SUCCEEDED",
        "FAILED",
        "RELEASED",
    }
    assert_books_balance(provider.sandbox)
    empty_tables()
    provider.sandbox._book.unlink(missing_ok=True)
