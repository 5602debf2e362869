"""How long a driver, a provider and a customer may take."""

from datetime import timedelta

# The longest a driver may be at work on an attempt before the sweeper takes it for dead:
# two provider calls of at most 30 s each.
DRIVE_WINDOW = timedelta(seconds=60)
# When to ask the provider again after an answer that did not come, and then hourly.
ASK_AGAIN_AFTER = tuple(timedelta(seconds=s) for s in (5, 30, 120, 600))
ASK_AGAIN_LATER = timedelta(hours=1)
# An unknown this old goes to a person. It keeps blocking new attempts: late is better than twice.
REVIEW_AFTER = timedelta(hours=24)
# A customer whom the bank asks to confirm has a long weekend for it; then the account is free again.
CUSTOMER_MAY_TAKE = timedelta(hours=72)
