"""No page waits long for a payment provider (billing/gateways/patience.py)."""

import time
from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from billing.gateways import patience


class PatienceMiddleware:
    """Whatever a request calls at a provider, all of it together has these few seconds."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        with patience.until(time.monotonic() + settings.WEB_PATIENCE_SECONDS):
            return self.get_response(request)
