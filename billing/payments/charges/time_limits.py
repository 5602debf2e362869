"""How long a driver, a provider and a customer may take."""

from datetime import datetime, timedelta

from billing import charge_protocol
from billing.charge_protocol import State
from billing.models import PaymentAttempt

# The longest a driver may be at work on an attempt before the sweeper takes it for dead:
# two provider calls of at most 30 s each.
DRIVE_WINDOW = timedelta(seconds=60)
# What is not sent within half of that is not sent: the other half belongs to the call. So a process that
# slept, or a queue that is long, sends nothing while somebody else drives.
SEND_WITHIN = timedelta(seconds=30)
# Where no answer comes, how long until the driver looks up: whether it still has its lease, or shall stop.
LOOK_UP_SECONDS = 1.0
# After the first answer, how long to wait for others that are written down with it.
GATHER_SECONDS = 0.05
# When to ask the provider again after an answer that did not come, and then hourly.
ASK_AGAIN_AFTER = tuple(timedelta(seconds=s) for s in (5, 30, 120, 600))
ASK_AGAIN_LATER = timedelta(hours=1)
# What waits for its customer may be cancelled at the provider, or paid otherwise, and nobody tell us: noticed
# within minutes. What is at the bank takes days.
LOOK_AGAIN_AFTER = {
    State.REQUIRES_ACTION: timedelta(minutes=10),
    State.PROCESSING: ASK_AGAIN_LATER,
}
# An unknown this old goes to a person. It keeps blocking new attempts: late is better than twice.
REVIEW_AFTER = timedelta(hours=24)
CUSTOMER_MAY_TAKE = charge_protocol.CUSTOMER_MAY_TAKE


def may_confirm_until(attempt: PaymentAttempt) -> datetime:
    """Until when the customer may confirm an attempt with the bank; then it is given up."""
    return (attempt.submitted_at or attempt.created_at) + CUSTOMER_MAY_TAKE
