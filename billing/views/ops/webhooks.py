"""Where payment providers tell us what happened: checked, stored, answered; nothing else."""

import logging

from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from accounts import clock
from billing import gateways
from billing.payments import inbound

logger = logging.getLogger(__name__)

# The largest event of Stripe's is a fraction of it.
LARGEST_BYTES = 256 * 1024


@csrf_exempt
@require_POST
def receive(request: HttpRequest, gateway: str) -> HttpResponse:
    """
    200 when it is ours to keep, 400 when it is not the provider's, 413 when it is no event at all.

    503 while our own keys do not fit together: the provider comes back with it.
    """
    if gateway not in gateways.names():
        raise Http404
    if int(request.headers.get("Content-Length") or 0) > LARGEST_BYTES:
        return HttpResponse("too large\n", status=413, content_type="text/plain")
    try:
        hints = gateways.get(gateway).parse_webhook(request.headers, request.body)
    except gateways.NotAuthentic as refused:
        logger.warning(
            "refused a webhook of %s from %s: %s",
            gateway,
            request.META.get("REMOTE_ADDR"),
            refused,
        )
        return HttpResponse("not authentic\n", status=400, content_type="text/plain")
    except gateways.Misconfigured:
        logger.exception("cannot check a webhook of %s", gateway)
        return HttpResponse("come back later\n", status=503, content_type="text/plain")
    inbound.receive(gateway=gateway, hints=hints, body=request.body, as_of=clock.now())
    return HttpResponse("ok\n", content_type="text/plain")
