"""Rows that messages are about. Each states only what the test is about."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from django.db.models import F
from django.db.models.functions import Now

from accounts.models import Account, BillingEntity
from notifications import catalog, outbox
from notifications.catalog import Verdict
from notifications.models import Message

AS_OF = datetime(2026, 11, 1, 5, 12, tzinfo=UTC)


def entity() -> BillingEntity:
    return BillingEntity.objects.get_or_create(
        slug="acme-cloud", defaults={"name": "Acme Cloud & Co", "invoice_prefix": "AC-"}
    )[0]


def account(**said: Any) -> Account:
    number = Account.objects.count() + 1
    return Account.objects.create(
        **{
            "entity": entity(),
            "external_id": f"account-{number}",
            "name": f"Customer {number}",
            "currency": "EUR",
            "email": f"customer{number}@example.com",
            "time_zone": "Europe/Budapest",
            **said,
        }
    )


def queued(of: Account | None = None, *, fact: str = "hold:1:lifted", **said: Any) -> Message:
    """A queued message about nothing of billing's: its recheck has nothing to hold it against."""
    context = {"balance": "10", "as_of": "now", "has_due": True, "pay_link": "https://pay.example"}
    letter = outbox.Letter(
        account=of or account(),
        kind="RECEIPT",
        fact=fact,
        context={"amount": "€10.00", "method": "Visa", "paid": [], **context},
        amounts={"due_minor": 1000, "currency": "EUR"},
        as_of=AS_OF,
    )
    [message] = outbox.enqueue_all([letter])
    assert message is not None
    Message.objects.filter(pk=message.pk).update(**{"state": message.state, **said})
    message.refresh_from_db()
    return message


def make_due(message: Message) -> None:
    """Let the waiting time of a message, or the lease on it, pass."""
    Message.objects.filter(pk=message.pk).update(
        next_attempt_at=Now(),
        lease_until=F("created_at"),
    )


@contextmanager
def rechecked_by(recheck: Callable[[Message, datetime], Verdict]) -> Iterator[None]:
    """Receipts are rechecked like this for a while, each by itself."""

    def recheck_each(messages: Sequence[Message], as_of: datetime) -> list[Verdict]:
        return [recheck(message, as_of) for message in messages]

    before = catalog._RECHECKS["RECEIPT"]
    catalog.register("RECEIPT", recheck=recheck_each)
    try:
        yield
    finally:
        catalog.register("RECEIPT", recheck=before)
