"""The notice of a payment that was reversed."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from accounts.models import Account
from billing.messages.letters import compose, tell
from billing.messages.prospects import Prospect, prospect_of, words
from billing.messages.rechecks import keep_or_rerender, look, look_ahead, subject
from billing.models import PaymentReversal
from notifications.catalog import Verdict
from notifications.formats import Reader
from notifications.models import Message
from notifications.outbox import Letter

PAYMENT_REVERSED = "PAYMENT_REVERSED"


def payment_reversed(
    reversal: PaymentReversal, *, account: Account, due_minor: int, as_of: datetime
) -> Message | None:
    """Tell the customer that a payment was reversed, and what is owed now."""
    ahead = prospect_of(account, due_minor=due_minor, as_of=as_of)
    return tell(_payment_reversed(reversal, ahead, due_minor=due_minor, as_of=as_of))


def _payment_reversed(
    reversal: PaymentReversal, prospect: Prospect, *, due_minor: int, as_of: datetime
) -> Letter:
    account, payment = prospect.account, reversal.payment
    reader = Reader.of(account)
    context = {
        "amount": reader.money(reversal.amount_minor, payment.currency),
        "method": payment.method,
        "paid_on": reader.date(payment.received_at),
        "is_owed_again": bool(reversal.owed_minor) and due_minor > 0,
        **words(prospect, reader),
    }
    fact = f"reversal:{reversal.pk}"
    return compose(
        PAYMENT_REVERSED, fact, context, account=account, due_minor=due_minor, as_of=as_of
    )


def recheck_payment_reversed(messages: Sequence[Message], as_of: datetime) -> list[Verdict]:
    """Never cancel it: the payment stays reversed. What is owed, and what comes of that, may have changed."""
    looked = look(messages, as_of=as_of)
    reversals = PaymentReversal.objects.select_related("payment").in_bulk(
        [int(subject(message)) for message in messages]
    )
    ahead = look_ahead(looked, as_of=as_of)
    return [
        keep_or_rerender(
            message,
            standing,
            partial(
                _payment_reversed,
                reversals[int(subject(message))],
                ahead[account.pk],
                due_minor=standing.due_minor,
                as_of=as_of,
            ),
        )
        for message, account, standing in looked
    ]
