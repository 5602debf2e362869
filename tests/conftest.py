"""What every test has: its own sandbox book, and no sleep in the sandbox."""

import itertools
import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings as django_settings
from django.test import TransactionTestCase

from billing import gateways
from billing.gateways.standins.fakedebit import DirectDebit
from billing.gateways.standins.sandbox import SandboxGateway
from billing.reports import progress
from config.locale_catalogs import compile_catalogs
from notifications import mail_server
from notifications.lanes import lane_clock
from tests.emptying import empty_tables, may_empty
from tests.provider import Provider
from tests.stripe_provider import SECRET, StripeProvider, start_provider


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


@pytest.fixture(autouse=True)
def _runs_are_counted_for_each_page(monkeypatch):
    """However slow the machine is: what a page shows goes by the rows, not by the clock."""
    monkeypatch.setattr(progress, "QUICK_MS", 3_600_000)


@pytest.fixture(autouse=True)
def _no_connection_is_kept() -> Iterator[None]:
    """As between tasks: one test's connection to the mail server is not the next one's."""
    yield
    mail_server.hang_up()


@pytest.fixture
def hours_pass_in_lanes(monkeypatch) -> None:
    """Whenever a lane looks at its clock another hour is over: who was to wait has waited."""
    began_at, looks = datetime(2018, 11, 2, tzinfo=UTC), itertools.count()
    monkeypatch.setattr(lane_clock, "now", lambda: began_at + timedelta(hours=next(looks)))


@pytest.fixture
def sandbox() -> SandboxGateway:
    """The sandbox provider, as the code under test sees it: same book, another hand."""
    return SandboxGateway(django_settings.SANDBOX_BOOK)


@pytest.fixture
def debit(settings, tmp_path) -> DirectDebit:
    """The gateway "debit", two days' notice; and the provider behind it, whose days the test lets pass."""
    settings.DEBIT_WEBHOOK_SECRETS = ["whsec_debit"]
    settings.DEBIT_BOOK = tmp_path / "debit-book.sqlite3"
    settings.DEBIT_NOTICE_DAYS = 2
    return DirectDebit(settings.DEBIT_BOOK)


@pytest.fixture
def provider(monkeypatch, sandbox) -> Provider:
    """The sandbox behind a bad line, as the code under test meets it."""
    behind_a_bad_line = Provider(sandbox)
    real = gateways.get
    monkeypatch.setattr(
        gateways, "get", lambda name: behind_a_bad_line if name == "sandbox" else real(name)
    )
    return behind_a_bad_line


@pytest.fixture(scope="session")
def stripe_process(tmp_path_factory) -> Iterator[StripeProvider]:
    """Our Stripe-like provider, or Stripe itself where a test key is given. Started when first asked for."""
    if test_key := os.environ.get("STRIPE_TEST_KEY"):
        yield StripeProvider("https://api.stripe.com", key=test_key)
        return
    process = start_provider(tmp_path_factory.mktemp("stripe") / "book.sqlite3")
    yield StripeProvider(process.url)
    process.stop()


@pytest.fixture
def stripe(settings, stripe_process) -> Iterator[StripeProvider]:
    """The gateway "stripe" behind which that provider is, without faults; an installation of its own."""
    settings.STRIPE_SECRET_KEY = stripe_process.key
    settings.STRIPE_WEBHOOK_SECRETS = [SECRET]
    settings.STRIPE_API_BASE = stripe_process.url
    settings.INSTALLATION_ID = f"test-{uuid.uuid4().hex}"
    yield stripe_process
    stripe_process.heal()


def pytest_configure() -> None:
    """The compiled catalogues are not in git; an editor's single test run needs them too."""
    compile_catalogs()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first, or at the end one core waits minutes for the other."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
