"""The notice that a hold was lifted."""

from datetime import datetime

from accounts.models import Account, Hold
from billing.messages.hold_placed import HOLD_PLACED
from billing.messages.letters import compose, tell
from billing.messages.rechecks import Looked, one_by_one
from notifications.catalog import Cancel, Keep, Verdict
from notifications.models import Message

HOLD_LIFTED = "HOLD_LIFTED"


def hold_lifted(hold: Hold, *, account: Account, due_minor: int, as_of: datetime) -> Message | None:
    """Tell the customer that the hold was lifted."""
    fact = f"hold:{hold.pk}:lifted"
    return tell(compose(HOLD_LIFTED, fact, {}, account=account, due_minor=due_minor, as_of=as_of))


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
