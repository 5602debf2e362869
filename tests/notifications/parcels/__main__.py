"""A worker of the queue "parcels": works until nothing is due. Told to stop by SIGTERM, it gives back."""

import os
import signal

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.notifications.parcels.settings"
django.setup()

from accounts import clock  # noqa: E402
from notifications import dispatcher  # noqa: E402

told: list[int] = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
dispatcher.run("parcels", clock=clock.now, until=lambda: False, stopping=lambda: bool(told))
