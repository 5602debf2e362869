"""The product's own settings, in a folder of the storm's, with its faults installed."""

from pathlib import Path

from config.settings.base import *  # noqa: F403
from config.settings.base import INSTALLED_APPS, LOGGING, env

INSTALLED_APPS = [*INSTALLED_APPS, "tests.storm"]
# What the log tells of a recovery is counted, in every process and for as long as it logs at all.
LOGGING = LOGGING | {
    "handlers": {**LOGGING["handlers"], "storm": {"class": "tests.storm.faults.Listener"}},
    "root": {**LOGGING["root"], "handlers": ["console", "storm"]},
}
STORM_FOLDER = Path(env.str("STORM_FOLDER"))
STORM_SEED = env.int("STORM_SEED")
MAIL_SINK = STORM_FOLDER / "mail.jsonl"
EMAIL_BACKEND = "tests.crashes.sweep.mail_sink.SinkBackend"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
# A frozen worker wakes up after this, and finds its lease gone.
STEP_LEASE_SECONDS = 5
SANDBOX_LATENCY_SECONDS = 0.05
SANDBOX_SLOW_SECONDS = 2.0
# The second provider: a process that speaks Stripe's API, and is killed like the others.
STRIPE_SECRET_KEY = "sk_test_storm"
STRIPE_WEBHOOK_SECRETS = ["whsec_storm"]
STRIPE_API_BASE = env.str("STORM_PROVIDER")
