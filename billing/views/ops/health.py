"""Whether this process lives, and whether it may be sent requests; with what an operator should know."""

from collections.abc import Iterator
from dataclasses import asdict
from http import HTTPStatus

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from billing.close.health import readiness
from billing.close.health.readiness import NotReady, Readiness


@never_cache
@require_safe
def healthz(_request: HttpRequest) -> HttpResponse:
    """200: the process answers. Asks nobody, for a process is not mended by starting it again when the database is away."""
    return HttpResponse("ok\n", content_type="text/plain")


@never_cache
@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    """
    200 where pages work, 503 where none would. Its first line is `ok`, `degraded` or `not ready`.

    As text, or with `?format=json` as one JSON document.
    """
    try:
        ready = readiness.look()
    except NotReady as error:
        return _answer(
            request,
            {"status": "not ready", "because": str(error)},
            [f"not ready: {error}"],
            status=HTTPStatus.SERVICE_UNAVAILABLE,
        )
    status = "degraded" if ready.degraded else "ok"
    facts = asdict(ready)
    # The key has kept the name that monitoring knows.
    document = {"status": status, "lanes": facts.pop("queues"), **facts}
    return _answer(request, document, [status, *_lines(ready)])


def _answer(
    request: HttpRequest,
    document: dict[str, object],
    lines: list[str],
    *,
    status: HTTPStatus = HTTPStatus.OK,
) -> HttpResponse:
    if request.GET.get("format") == "json":
        return JsonResponse(document, status=status)
    return HttpResponse("\n".join([*lines, ""]), content_type="text/plain", status=status)


def _lines(ready: Readiness) -> Iterator[str]:
    yield from ready.degraded
    for name, queue in ready.queues.items():
        due = queue.oldest_due_seconds
        waits = "nothing is due" if due is None else f"the oldest step is due for {due} s"
        yield f"queue {name}: {queue.clusters} clusters, {waits}"
    if ready.last_sweep_seconds is not None:
        yield f"last sweep: {ready.last_sweep_seconds} s ago"
    if (run := ready.last_close) is not None:
        yield (
            f"last close: {run['month']} of {run['entity']}, {run['state'].lower()},"
            f" {run['dead']} dead and {run['blocked']} blocked steps"
        )
