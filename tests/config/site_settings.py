"""The suite's settings, for a site of its own whose payment provider stands where the environment says."""

import os

from config.settings.test import *  # noqa: F403

GATEWAYS = ["stripe"]
STRIPE_SECRET_KEY = "sk_test_elsewhere"
STRIPE_WEBHOOK_SECRETS = ["whsec_elsewhere"]
STRIPE_API_BASE = os.environ["PROVIDER_URL"]
