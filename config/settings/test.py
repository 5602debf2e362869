"""Settings of the test suite: the same product, a throw-away database that need not survive power cuts."""

import tempfile
from pathlib import Path

from config.settings.base import *  # noqa: F403
from config.settings.base import BASE_DIR, DATABASES, env

# Tests move no real money; an fsync per commit would only make them slow.
DATABASE_MUST_BE_DURABLE = False
if (
    DATABASES["default"]["ENGINE"] == "config.embedded_postgres"
):  # pragma: no branch - or DATABASE_URL
    DATABASES["default"]["OPTIONS"] = {
        "data_dir": Path(env.str("TEST_DB_DIR", default=str(BASE_DIR / ".data" / "test-postgres"))),
        "fsync": False,
    }
# A process that a test starts works on the database of that test.
DATABASES["default"]["NAME"] = env.str("TEST_DATABASE_NAME", default=DATABASES["default"]["NAME"])
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
SANDBOX_BOOK = (
    Path(tempfile.gettempdir()) / "month-close-test-book.sqlite3"
)  # each test takes its own
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
# Whatever the environment says, or a demo has left behind: a test that charges through Stripe says so, and names its provider.
GATEWAYS = []
TRIAL = False
SHARES_PROVIDER = False
SANDBOX_URL = ""
STRIPE_SECRET_KEY = ""
STRIPE_API_BASE = "https://api.stripe.com"
STRIPE_LIVE = False
DEBIT_WEBHOOK_SECRETS = []
# No lane has a limit, unless a test gives it one.
LANES = {}
# Nothing is collected in a fresh clone; WhiteNoise would warn of it, and a warning fails a test.
WHITENOISE_AUTOREFRESH = True
