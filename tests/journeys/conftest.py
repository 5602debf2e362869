"""After every journey, the books balance."""

from collections.abc import Iterator

import pytest

from tests.closing import assert_books_hold
from tests.provider import Provider


@pytest.fixture(autouse=True)
def _books_hold_afterwards(transactional_db: None) -> Iterator[None]:
    yield
    assert_books_hold()


@pytest.fixture
def provider(provider: Provider) -> Provider:
    """One whose book can be read, too, for the books to be held against it."""
    provider.book = provider.sandbox.book
    return provider
