"""What every test has: its own sandbox book, and no sleep in the sandbox."""

import pytest
from django.conf import settings as django_settings

from billing.gateways.sandbox import SandboxGateway


@pytest.fixture(autouse=True)
def _own_places(settings, tmp_path):
    settings.SANDBOX_BOOK = tmp_path / "sandbox-book.sqlite3"
    settings.SANDBOX_SLOW_SECONDS = 0


@pytest.fixture
def sandbox() -> SandboxGateway:
    """The sandbox provider, as the code under test sees it: same book, another hand."""
    return SandboxGateway(django_settings.SANDBOX_BOOK)
