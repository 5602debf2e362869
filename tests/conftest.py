"""What every test has: its own sandbox book, and no sleep in the sandbox."""

import pytest
from django.conf import settings as django_settings
from django.test import TransactionTestCase

from billing.gateways.sandbox import SandboxGateway
from tests.emptying import empty_tables, may_empty


@pytest.fixture(scope="session", autouse=True)
def _quick_flush():
    """A flush of sixty tables takes a second; emptying the few that a test filled does not."""
    flush = TransactionTestCase._fixture_teardown

    def empty_or_flush(test_case):
        empty_tables() if may_empty() else flush(test_case)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", empty_or_flush)
        yield


@pytest.fixture(autouse=True)
def _own_places(settings, tmp_path):
    settings.SANDBOX_BOOK = tmp_path / "sandbox-book.sqlite3"
    settings.SANDBOX_SLOW_SECONDS = 0


@pytest.fixture
def sandbox() -> SandboxGateway:
    """The sandbox provider, as the code under test sees it: same book, another hand."""
    return SandboxGateway(django_settings.SANDBOX_BOOK)
