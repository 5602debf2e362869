"""
Settings, all read from the environment. `docs/operations.md` holds the table of names.

A file `.env` beside `manage.py` is read first, where there is one.
"""

import socket
from pathlib import Path

import environ
from django.utils.translation import gettext_lazy as _

from config import left_by_demo, silence

BASE_DIR = Path(__file__).resolve().parent.parent.parent

env = environ.Env()
env.read_env(BASE_DIR / ".env")

DEBUG = env.bool("DEBUG", default=False)
# A development key: by its first word `check --deploy` knows it, and refuses it.
SECRET_KEY = env.str(
    "SECRET_KEY", default="django-insecure-development-key-set-SECRET_KEY-before-going-live"
)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
# Links in emails are made from this, never from a request's Host header.
SITE_URL = env.str("SITE_URL", default="http://127.0.0.1:8000").rstrip("/")

# Everything this installation owns on disk: the embedded database, the sandbox provider's book, mails.
EMBEDDED_DB_DIR = Path(env.str("EMBEDDED_DB_DIR", default=str(BASE_DIR / ".data" / "postgres")))

# Said to payment providers with every object, so that two installations never mix.
INSTALLATION_ID = env.str("INSTALLATION_ID", default="month-close")

# Which machine this is, in the list of clusters and in what each has done of a close.
HOST_NAME = env.str("HOST_NAME", default=socket.gethostname())[:100]

INSTALLED_APPS = [
    "config",
    "billing",
    "notifications",
    "accounts",
    "django_q",
    "rest_framework",
    "whitenoise.runserver_nostatic",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
]

MIDDLEWARE = [
    # First, so that whatever the others log bears it.
    "config.request_id.RequestIdMiddleware",
    "config.web_patience.PatienceMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
AUTH_USER_MODEL = "accounts.User"
# How many proxies stand before the site: whose word counts for where somebody signs in from.
WEB_PROXIES = env.int("WEB_PROXIES", default=0)
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "overview"
LOGOUT_REDIRECT_URL = "login"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "config.trial.notice",
            ],
        },
    },
]

# Whether DATABASE_URL leads to pgbouncer in transaction mode (docs/operations.md).
DATABASE_POOLED = env.bool("DATABASE_POOLED", default=False)
# After how long a machine that went silent counts as dead, and the row locks of its sessions are free.
DATABASE_DEAD_AFTER_SECONDS = env.int("DATABASE_DEAD_AFTER_SECONDS", default=60)
if env.str("DATABASE_URL", default=""):  # pragma: no cover - the suite runs with one or the other
    DATABASES = {
        "default": silence.noticed(
            env.db("DATABASE_URL"),
            after_seconds=DATABASE_DEAD_AFTER_SECONDS,
            pooled=DATABASE_POOLED,
        )
    }
else:
    DATABASES = {
        "default": {
            "ENGINE": "config.embedded_postgres",
            "NAME": "month_close",
            "OPTIONS": {"data_dir": EMBEDDED_DB_DIR},
        },
    }
# A reconnect per query costs django-q2 four fifths of its speed (measured: docs/decisions/0003).
DATABASES["default"]["CONN_MAX_AGE"] = None
DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
# A cursor that outlives its transaction needs a session of its own.
DATABASES["default"]["DISABLE_SERVER_SIDE_CURSORS"] = DATABASE_POOLED
# Money is promised to survive a power cut: fsync, full_page_writes and synchronous_commit must be on.
DATABASE_MUST_BE_DURABLE = True

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English")), ("hu", _("Hungarian"))]
LOCALE_PATHS = [BASE_DIR / "locale"]
USE_I18N = True
USE_TZ = True
TIME_ZONE = "UTC"
FORMAT_MODULE_PATH = ["config.formats"]

STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STATICFILES_DIRS = [BASE_DIR / "static"]

# Without EMAIL_URL nothing is sent: each mail becomes a file in EMAIL_FILE_PATH, to be looked at.
if env.str("EMAIL_URL", default=""):  # pragma: no cover - tests name their own mail server
    vars().update(env.email("EMAIL_URL"))
else:
    EMAIL_BACKEND = "config.mail_files.EmlFileBackend"
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default="Billing <billing@localhost>")
# To one mail server, from one worker, at most; opened only as far as its answers are slow.
EMAIL_CONNECTIONS = env.int("EMAIL_CONNECTIONS", default=8)
EMAIL_FILE_PATH = env.str("EMAIL_FILE_PATH", default=str(BASE_DIR / ".data" / "mail"))

# The gateways that are switched on; none named: all that are set up (billing/gateways/registry.py).
GATEWAYS = [name.strip() for name in env.list("GATEWAYS", default=[])]
# Whether this installation is a trial, in which no real money moves: else a stand-in for a payment provider
# fails `check --deploy`. Its pages say so.
TRIAL = env.bool("TRIAL", default=False)

# The sandbox provider's own book: outside our database, so outside our transactions.
SANDBOX_BOOK = Path(
    env.str("SANDBOX_BOOK", default=str(EMBEDDED_DB_DIR.parent / "sandbox-book.sqlite3"))
)
# Where it runs as a process of its own (billing/gateways/standins/sandbox_server.py); empty: it runs in ours.
SANDBOX_URL = env.str("SANDBOX_URL", default="")
# How long each of its answers takes, and those of its slow card.
SANDBOX_LATENCY_SECONDS = env.float("SANDBOX_LATENCY_SECONDS", default=0.0)
SANDBOX_SLOW_SECONDS = env.float("SANDBOX_SLOW_SECONDS", default=2.0)
# The direct-debit sandbox: what it signs its events with (without, there is no such gateway), its own
# book, and how many days before a charge its customer is told of it.
DEBIT_WEBHOOK_SECRETS = env.list("DEBIT_WEBHOOK_SECRETS", default=[])
DEBIT_BOOK = Path(env.str("DEBIT_BOOK", default=str(EMBEDDED_DB_DIR.parent / "debit-book.sqlite3")))
DEBIT_NOTICE_DAYS = env.int("DEBIT_NOTICE_DAYS", default=14)

# The steps of the close, as dotted paths of their modules, each after the one it follows (docs/extending.md).
CLOSE_STEPS = env.list(
    "CLOSE_STEPS",
    default=[
        "billing.close.steps.invoice",
        "billing.close.steps.charge",
        "billing.close.steps.email",
        "billing.close.steps.hold",
        "billing.close.steps.report",
    ],
)

# How long a charge or email step belongs to the worker that took it; longer than the slowest batch of
# provider calls. A worker that is killed leaves its steps lying for as long.
STEP_LEASE_SECONDS = env.int("STEP_LEASE_SECONDS", default=60)

# How many calls to payment providers one process has on their way at the most, each in a thread that only
# waits. In flight is the rate times the latency, twice that for a charge: 100 a second at 300 ms are 60.
CALLS_AT_ONCE = env.int("CALLS_AT_ONCE", default=128)

# The site's processes, and the threads of each (config/web_server.py): half of these at the most wait for a
# provider. And how long a page waits for one, whatever it asks.
WEB_WORKERS = env.int("WEB_WORKERS", default=2)
WEB_THREADS = env.int("WEB_THREADS", default=8)
WEB_PATIENCE_SECONDS = env.float("WEB_PATIENCE_SECONDS", default=5.0)

# What the demo was charged through, if there was one: a provider process of our own on this machine. It
# stands in for Stripe until a key is given; never beside a database that was given (docs/fakestripe.md).
PROVIDER_DIR = EMBEDDED_DB_DIR.parent / "provider"
_left = {}
if not (env.str("DATABASE_URL", default="") or env.str("STRIPE_SECRET_KEY", default="")):
    _left = left_by_demo.provider(PROVIDER_DIR)
SHARES_PROVIDER = bool(_left)

# Stripe (docs/stripe.md). Without a key there is no such gateway; a live one works only with STRIPE_LIVE.
STRIPE_SECRET_KEY = env.str("STRIPE_SECRET_KEY", default=_left.get("STRIPE_SECRET_KEY", ""))
STRIPE_LIVE = env.bool("STRIPE_LIVE", default=False)
# Several, so that a new one can be added before the old one goes.
STRIPE_WEBHOOK_SECRETS = env.list(
    "STRIPE_WEBHOOK_SECRETS", default=_left.get("STRIPE_WEBHOOK_SECRETS", [])
)
# Anything that speaks Stripe's API, such as the provider process of our own.
STRIPE_API_BASE = env.str(
    "STRIPE_API_BASE", default=_left.get("STRIPE_API_BASE", "https://api.stripe.com")
)

# What each provider takes from us a second, until somebody sets it in the admin ("Lanes"); 0: no limit.
# Stripe allows a live key 100 writes a second, and a charge is two: half of that is left to customers.
_stripe_rate = 25.0 if STRIPE_API_BASE == "https://api.stripe.com" else 0.0
LANES = {
    "stripe": {
        "credential": STRIPE_SECRET_KEY,
        "limits": {"rate": env.float("STRIPE_RATE", default=_stripe_rate) or None},
    },
    "debit": {
        "credential": str(DEBIT_BOOK),
        "limits": {"rate": env.float("DEBIT_RATE", default=0.0) or None},
    },
    "sandbox": {
        "credential": str(SANDBOX_BOOK),
        "limits": {"rate": env.float("SANDBOX_RATE", default=0.0) or None},
    },
    "smtp": {
        "credential": env.str("EMAIL_URL", default=""),
        "limits": {"rate": env.float("SMTP_RATE", default=0.0) or None},
    },
}

# What leaves the database, kind by kind: modules as notifications/dispatcher/kind.py says (docs/dispatcher.md).
DISPATCHED_KINDS = ["notifications.delivery"]

# django-q2 is a doorbell (docs/decisions/0003): see config/cluster.py for the reasons of each number.
WORKERS = env.int("WORKERS", default=2)
Q_CLUSTER = {
    "name": "default",
    "orm": "default",
    "broker_class": "config.cluster.SkipLockedBroker",
    "workers": WORKERS,
    "queue_limit": WORKERS,
    "bulk": 1,
    "timeout": 120,
    "retry": 600,
    "ack_failures": True,
    "max_attempts": 1,
    "save_limit": -1,
    "catch_up": False,
    "guard_cycle": 0.5,
    "recycle": 200,
    "poll": 0.2,
    "ALT_CLUSTERS": {},
}

SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_SECURE = env.bool("SECURE_COOKIES", default=False)
CSRF_COOKIE_SECURE = env.bool("SECURE_COOKIES", default=False)

# What Prometheus shows as a bearer token at /metrics. Without one only signed-in staff may look.
METRICS_TOKEN = env.str("METRICS_TOKEN", default="")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": "config.logs.LineFormatter",
            "format": "{asctime} {levelname} {name} {message}",
            "style": "{",
        },
        "json": {"()": "config.logs.JsonFormatter"},
    },
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "formatter": env.str("LOG_FORMAT", default="line"),
        }
    },
    "root": {"handlers": ["console"], "level": env.str("LOG_LEVEL", default="WARNING")},
}
