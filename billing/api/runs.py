"""A close run as it stands now, for its page and for scripts."""

from datetime import datetime
from typing import Any

from django.shortcuts import get_object_or_404
from rest_framework.authentication import SessionAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import clock
from billing.models import CloseRun
from billing.reports import pace, progress
from notifications import formats


class MaySeeRuns(BasePermission):
    """Staff who may see close runs."""

    def has_permission(self, request: Request, _view: APIView) -> bool:
        user = request.user
        return bool(user.is_staff and user.has_perm("billing.view_closerun"))


class RunView(APIView):
    """`GET /api/runs/<id>/`: reports.progress, and what follows from its numbers."""

    authentication_classes = [SessionAuthentication]
    permission_classes = [MaySeeRuns]
    renderer_classes = [JSONRenderer]
    http_method_names = ["get", "head", "options"]

    def get(self, _request: Request, run_id: int) -> Response:
        run = get_object_or_404(CloseRun.objects.select_related("entity"), pk=run_id)
        so_far = progress.current(run, as_of=clock.now()).seen
        return Response(so_far | _in_words(so_far), headers={"Cache-Control": "no-store"})


def _in_words(so_far: dict[str, Any]) -> dict[str, Any]:
    as_of = datetime.fromisoformat(so_far["as_of"])
    return {
        "as_of_in_words": formats.instant(as_of, "en", "UTC"),
        "left_in_words": pace.in_words(so_far),
        "share_collected": {
            row["currency"]: pace.share_collected(row) for row in so_far["answer"]["currencies"]
        },
    }
