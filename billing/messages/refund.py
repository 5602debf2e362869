"""The notices that a refund was sent, and that a refund was returned to us."""

import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import partial

from accounts.models import Account
from billing.messages.letters import compose, tell
from billing.messages.rechecks import cancel, keep_or_rerender, look, subject
from billing.models import CreditGrant, Refund
from notifications.catalog import Verdict
from notifications.formats import Reader
from notifications.models import Message
from notifications.outbox import Letter

REFUND_SENT = "REFUND_SENT"
REFUND_RETURNED = "REFUND_RETURNED"


def refund_sent(
    refund: Refund, *, account: Account, due_minor: int, as_of: datetime
) -> Message | None:
    """Tell the customer that a refund was sent, and how."""
    return tell(_refund(REFUND_SENT, refund, account=account, due_minor=due_minor, as_of=as_of))


def refund_returned(
    refund: Refund, *, account: Account, due_minor: int, as_of: datetime
) -> Message | None:
    """Tell the customer that a refund was returned to us, and is their credit now."""
    return tell(_refund(REFUND_RETURNED, refund, account=account, due_minor=due_minor, as_of=as_of))


def _refund(
    kind: str,
    refund: Refund,
    *,
    account: Account,
    due_minor: int,
    as_of: datetime,
    is_credit: bool = True,
) -> Letter:
    payment, reader = refund.payment, Reader.of(account)
    context = {
        "amount": reader.money(refund.amount_minor - refund.lost_minor, refund.currency),
        "method": payment.method,
        "paid_on": reader.date(payment.received_at),
        "is_credit": is_credit,
    }
    fact = f"refund:{refund.pk}:{'sent' if kind == REFUND_SENT else 'returned'}"
    return compose(kind, fact, context, account=account, due_minor=due_minor, as_of=as_of)


def recheck_refund_sent(messages: Sequence[Message], as_of: datetime) -> list[Verdict]:
    """Cancel it once the refund came back to us: its own message tells that, and what it is now."""
    refunds = _refunds(messages)
    verdicts: list[Verdict] = []
    for message, account, standing in look(messages, as_of=as_of):
        refund = refunds[uuid.UUID(subject(message))]
        if refund.state in Refund.UNPAID:
            because = "the refund came to nothing: they do not have it"
            verdicts.append(cancel(message, standing, because=because))
            continue
        again = partial(
            _refund,
            REFUND_SENT,
            refund,
            account=account,
            due_minor=standing.due_minor,
            as_of=as_of,
        )
        verdicts.append(keep_or_rerender(message, standing, again))
    return verdicts


def recheck_refund_returned(messages: Sequence[Message], as_of: datetime) -> list[Verdict]:
    """Cancel it once the credit that it became was paid back again, or went back with its payment."""
    looked = look(messages, as_of=as_of)
    refunds = _refunds(messages)
    grants = {
        grant.token: grant
        for grant in CreditGrant.objects.filter(
            token__in=[*refunds], kind=CreditGrant.Kind.RETURNED
        )
    }
    verdicts: list[Verdict] = []
    for message, account, standing in looked:
        refund = refunds[uuid.UUID(subject(message))]
        gone_minor = _gone_minor(grants.get(refund.pk))
        if gone_minor and gone_minor >= refund.amount_minor - refund.lost_minor:
            because = "it is not their credit any more: it was paid back again, or taken back"
            verdicts.append(cancel(message, standing, because=because))
            continue
        again = partial(
            _refund,
            REFUND_RETURNED,
            refund,
            account=account,
            due_minor=standing.due_minor,
            as_of=as_of,
            is_credit=not gone_minor,
        )
        verdicts.append(keep_or_rerender(message, standing, again))
    return verdicts


def _refunds(messages: Iterable[Message]) -> dict[uuid.UUID, Refund]:
    ids = [uuid.UUID(subject(message)) for message in messages]
    return Refund.objects.select_related("payment").in_bulk(ids)


def _gone_minor(grant: CreditGrant | None) -> int:
    """How much of a grant has left us, or gone back with its payment."""
    return grant.refunded_minor + grant.reversed_minor if grant else 0
