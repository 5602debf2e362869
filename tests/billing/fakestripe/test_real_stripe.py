"""
The same contract against Stripe's own test mode: `STRIPE_TEST_KEY=sk_test_… pytest <this file>`.

Opt-in, for it needs the network and a key; without it our provider is checked against the SDK's
types and against localstripe only.
"""

import os

import pytest

from tests.billing.fakestripe import contract
from tests.billing.fakestripe.conftest import speaking_to

KEY = os.environ.get("STRIPE_TEST_KEY", "")
URL = os.environ.get("STRIPE_TEST_URL", "https://api.stripe.com")

pytestmark = pytest.mark.skipif(
    not KEY.startswith("sk_test_"), reason="STRIPE_TEST_KEY is not set: Stripe itself is not asked"
)


@pytest.fixture
def client():
    with speaking_to(URL, KEY) as client:
        yield client


@pytest.fixture
def stranger():
    with speaking_to(URL, "sk_test_wrong") as client:
        yield client


class TestCustomersAndCards(contract.CustomersAndCards):
    pass


class TestIntents(contract.Intents):
    pass


class TestRefunds(contract.Refunds):
    pass


class TestRefusals(contract.Refusals):
    pass
