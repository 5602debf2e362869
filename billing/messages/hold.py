"""The notices that a hold was placed, and that it was lifted."""

from datetime import datetime

from accounts.models import Account, Hold
from billing.messages.letters import compose, tell
from billing.messages.rechecks import Looked, cancel, keep_or_rerender, one_by_one, subject
from notifications.catalog import Cancel, Keep, Verdict
from notifications.models import Message
from notifications.outbox import Letter

HOLD_PLACED = "HOLD_PLACED"
HOLD_LIFTED = "HOLD_LIFTED"


def hold_placed(hold: Hold, *, account: Account, due_minor: int, as_of: datetime) -> Message | None:
    """Tell the customer that the account is on hold, and what lifts the hold."""
    return tell(_hold_placed(hold, account=account, due_minor=due_minor, as_of=as_of))


def _hold_placed(hold: Hold, *, account: Account, due_minor: int, as_of: datetime) -> Letter:
    context = {"is_overdue": hold.reason == Hold.Reason.OVERDUE}
    fact = f"hold:{hold.pk}:placed"
    return compose(HOLD_PLACED, fact, context, account=account, due_minor=due_minor, as_of=as_of)


def hold_lifted(hold: Hold, *, account: Account, due_minor: int, as_of: datetime) -> Message | None:
    """Tell the customer that the hold was lifted."""
    fact = f"hold:{hold.pk}:lifted"
    return tell(compose(HOLD_LIFTED, fact, {}, account=account, due_minor=due_minor, as_of=as_of))


@one_by_one
def recheck_hold_placed(looked: Looked, as_of: datetime) -> Verdict:
    """Cancel it once the hold was lifted."""
    message, account, standing = looked
    hold = Hold.objects.get(pk=int(subject(message)))
    if hold.lifted_at is not None:
        return cancel(message, standing, because="the hold was lifted meanwhile", hold=hold)
    return keep_or_rerender(
        message,
        standing,
        lambda: _hold_placed(hold, account=account, due_minor=standing.due_minor, as_of=as_of),
        hold=hold,
    )


@one_by_one
def recheck_hold_lifted(looked: Looked, as_of: datetime) -> Verdict:
    """Cancel it if the customer was never told of the hold: its end would only puzzle them."""
    message, _account, _standing = looked
    placed = message.fact.replace(":lifted", ":placed")
    if Message.objects.filter(
        kind=HOLD_PLACED, fact=placed, state=Message.State.CANCELLED
    ).exists():
        return Cancel("they were never told of the hold")
    return Keep()
