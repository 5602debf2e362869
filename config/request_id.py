"""Every request has an id: in its log lines, and in the answer's header, so that both are found together."""

import re
import uuid
from collections.abc import Callable

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from billing.workers import log_context

HEADER = "X-Request-ID"
# What a proxy may say; anything else could forge lines of the log.
SANE = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestIdMiddleware:
    """Takes the id that the proxy gave, or gives one."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        given = request.headers.get(HEADER, "")
        request_id = given if SANE.fullmatch(given) else uuid.uuid4().hex
        with log_context.about(request=request_id):
            response = self.get_response(request)
        response[HEADER] = request_id
        return response
