"""What all letters share: they state the balance, and are queued in the caller's transaction."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from django.urls import reverse

from accounts import timeline
from accounts.models import Account, TimelineEvent
from billing.models import PaymentAttempt
from notifications import outbox
from notifications.formats import Reader
from notifications.models import Message
from notifications.outbox import Letter


def compose(
    kind: str,
    fact: str,
    context: dict[str, Any],
    *,
    account: Account,
    due_minor: int,
    as_of: datetime,
    **stated: Any,
) -> Letter:
    """
    Make a letter of a kind about a fact, with the balance and its instant added to the context.

    `stated`: what else it says that may change until it is sent, kept beside the balance.
    """
    reader = Reader.of(account)
    balance = {
        "has_due": due_minor > 0,
        "balance": reader.money(due_minor, account.currency),
        "as_of": reader.instant(as_of),
        "pay_link": pay_link(account),
    }
    return Letter(
        account=account,
        kind=kind,
        fact=fact,
        context={**context, **balance},
        amounts={"due_minor": due_minor, "currency": account.currency, **stated},
        as_of=as_of,
    )


def tell(letter: Letter) -> Message | None:
    """Queue one letter; see `tell_all`."""
    return tell_all([letter])[0]


def tell_all(letters: Sequence[Letter]) -> list[Message | None]:
    """
    Queue letters, and return their messages in order; None where nothing was queued.

    That is so where the fact was told before. Accounts without an email address get a line on their timeline.
    """
    addressed = [letter for letter in letters if letter.recipient or letter.account.email]
    is_addressed = set(map(id, addressed))
    timeline.record(*(_not_written(each) for each in letters if id(each) not in is_addressed))
    told = dict(zip(map(id, addressed), outbox.enqueue_all(addressed), strict=True))
    return [told.get(id(letter)) for letter in letters]


def _not_written(letter: Letter) -> TimelineEvent:
    return timeline.event(
        account_id=letter.account.pk,
        kind="message.not_written",
        summary=f"Nobody was told ({letter.kind}): the account has no email address",
        fact=letter.fact,
    )


def pay_link(account: Account) -> str:
    """The page where the customer sees and pays the balance. Never built from a request's Host header."""
    return f"{settings.SITE_URL}{reverse('account', args=[account.pk])}"


def attempt_link(attempt: PaymentAttempt) -> str:
    """The page where the customer sees the state of one payment, and confirms it with the bank."""
    return f"{settings.SITE_URL}{reverse('attempt', args=[attempt.account_id, attempt.pk])}"
