"""Settings of an installation that sends parcels as well as mail."""

from config.settings.test import *  # noqa: F403
from config.settings.test import DISPATCHED_KINDS as OURS

DISPATCHED_KINDS = [*OURS, "tests.notifications.parcels.kind"]
