"""The notice that a card can no longer be charged, and what is charged instead."""

from datetime import datetime

from accounts.models import Account, PaymentMethod
from billing.messages.letters import compose, tell
from billing.messages.rechecks import Looked, cancel, keep_or_rerender, one_by_one, subject
from notifications.catalog import Verdict
from notifications.models import Message
from notifications.outbox import Letter

CARD_GONE = "CARD_GONE"


def card_gone(
    method: PaymentMethod,
    other: PaymentMethod | None,
    *,
    account: Account,
    due_minor: int,
    as_of: datetime,
) -> Message | None:
    """Tell the customer that a card is gone at its provider; and which other one is charged from now on, if any."""
    return tell(_card_gone(method, other, account=account, due_minor=due_minor, as_of=as_of))


def _card_gone(
    method: PaymentMethod,
    other: PaymentMethod | None,
    *,
    account: Account,
    due_minor: int,
    as_of: datetime,
) -> Letter:
    context = {
        "card": str(method),
        "is_mandate": method.is_mandate,
        "other": str(other) if other else "",
    }
    fact = f"card:{method.pk}"
    return compose(CARD_GONE, fact, context, account=account, due_minor=due_minor, as_of=as_of)


@one_by_one
def recheck_card_gone(looked: Looked, as_of: datetime) -> Verdict:
    """Cancel it once they have chosen another card themselves; name the one that is charged now."""
    message, account, standing = looked
    method = PaymentMethod.objects.get(pk=int(subject(message)))
    other = PaymentMethod.objects.default_of([account.pk]).first()
    if other is not None and not account.charges_other_cards:
        return cancel(message, standing, because="they have another card by now")
    return keep_or_rerender(
        message,
        standing,
        lambda: _card_gone(
            method, other, account=account, due_minor=standing.due_minor, as_of=as_of
        ),
    )
