"""Our provider keeps the contract that the real one keeps."""

import pytest

from tests.billing.fakestripe import contract
from tests.billing.fakestripe.conftest import speaking_to


@pytest.fixture
def stranger(server):
    with speaking_to(server.url, "pk_wrong") as client:
        yield client


class TestCustomersAndCards(contract.CustomersAndCards):
    pass


class TestIntents(contract.Intents):
    pass


class TestRefunds(contract.Refunds):
    pass


class TestRefusals(contract.Refusals):
    pass
