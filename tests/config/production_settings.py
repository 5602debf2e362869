"""The settings as a public installation sets them, for `manage.py check --deploy`."""

import os

os.environ.setdefault("SECRET_KEY", "only-for-this-check-" + "0123456789abcdefghijklmnopqrstuvwxyz")
os.environ.setdefault("SECURE_COOKIES", "true")
os.environ.setdefault("GATEWAYS", "stripe")
os.environ.setdefault("STRIPE_SECRET_KEY", "sk_live_only_for_this_check")
os.environ.setdefault("STRIPE_LIVE", "true")

from config.settings.base import *  # noqa: F403

# Gunicorn listens on localhost; the proxy in front of it ends TLS, redirects to it and says HSTS.
SILENCED_SYSTEM_CHECKS = ["security.W004", "security.W008"]
