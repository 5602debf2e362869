"""How long a driver, a provider and a bank may take."""

from datetime import timedelta

# The longest a driver may be at work on a refund before the sweeper takes it for dead.
DRIVE_WINDOW = timedelta(seconds=60)
# How long the same key surely means the same refund: half of what Stripe promises.
KEY_HOLDS = timedelta(hours=12)
ASK_AGAIN_AFTER = timedelta(seconds=30)
ASK_AGAIN_LATER = timedelta(hours=1)
# A bank may send it back for weeks; an event says so, and should that be lost, we ask.
LOOK_AGAIN_AFTER = timedelta(days=5)
BANK_MAY_RETURN = timedelta(days=30)
