"""What Prometheus asks for."""

from http import HTTPStatus

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST

from accounts import clock
from billing.close.health import metrics

SEE = "billing.view_closerun"


@never_cache
@require_safe
def scrape(request: HttpRequest) -> HttpResponse:
    """Sums of money stand in it: for who has the token, or is staff who may see close runs."""
    if not (_has_token(request) or _is_staff(request)):
        return HttpResponse(
            "Send the METRICS_TOKEN as a bearer token, or sign in as staff.\n",
            status=HTTPStatus.UNAUTHORIZED,
            content_type="text/plain",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return HttpResponse(metrics.text(as_of=clock.now()), content_type=CONTENT_TYPE_LATEST)


def _has_token(request: HttpRequest) -> bool:
    given = request.headers.get("Authorization", "")
    token = settings.METRICS_TOKEN
    return bool(token) and constant_time_compare(given, f"Bearer {token}")


def _is_staff(request: HttpRequest) -> bool:
    return bool(request.user.is_staff and request.user.has_perm(SEE))
