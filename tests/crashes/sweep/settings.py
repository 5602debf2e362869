"""The settings of the test suite, with a mail server that remembers and a provider that does not wait."""

from config.settings.test import *  # noqa: F403

EMAIL_BACKEND = "tests.crashes.sweep.mail_sink.SinkBackend"
SANDBOX_SLOW_SECONDS = 0
WORKERS = 1
LOGGING = {"version": 1, "disable_existing_loggers": True}
