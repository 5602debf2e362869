"""What every test has: its own sandbox book, and no sleep in the sandbox."""

import pytest
from django.conf import settings as django_settings
from django.test import TransactionTestCase

from billing import gateways
from billing.gateways.sandbox import SandboxGateway
from config.locale_catalogs import compile_catalogs
from tests.emptying import empty_tables, may_empty
from tests.provider import Provider


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


@pytest.fixture
def provider(monkeypatch, sandbox) -> Provider:
    """The sandbox behind a bad line, as the code under test meets it."""
    behind_a_bad_line = Provider(sandbox)
    real = gateways.get
    monkeypatch.setattr(
        gateways, "get", lambda name: behind_a_bad_line if name == "sandbox" else real(name)
    )
    return behind_a_bad_line


def pytest_configure() -> None:
    """The compiled catalogues are not in git; an editor's single test run needs them too."""
    compile_catalogs()
