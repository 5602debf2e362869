"""Whether this process can answer and reach its database; and whether anything is paused."""

from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from billing import guard


@never_cache
@require_safe
def healthz(_request: HttpRequest) -> HttpResponse:
    """200 after a round trip to the database."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse("ok\n", content_type="text/plain")


@never_cache
@require_safe
def readyz(_request: HttpRequest) -> HttpResponse:
    """200, and a line for each gateway through which charging is paused: the site itself is ready all the same."""
    paused = [f"charging through {each.gateway} is paused\n" for each in guard.paused()]
    return HttpResponse("".join(["ok\n", *paused]), content_type="text/plain")
