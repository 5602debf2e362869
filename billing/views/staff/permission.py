"""Pages that only staff may see, and only with the right permission."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase
from django.views.decorators.cache import cache_control

P = ParamSpec("P")


def staff_only(
    permission: str,
) -> Callable[
    [Callable[Concatenate[HttpRequest, P], HttpResponseBase]], Callable[..., HttpResponseBase]
]:
    """Show the page to staff who have the permission; 403 to others, sign-in to strangers."""

    def guard(
        page: Callable[Concatenate[HttpRequest, P], HttpResponseBase],
    ) -> Callable[..., HttpResponseBase]:
        @cache_control(private=True, no_store=True)
        @login_required
        @wraps(page)
        def view(request: HttpRequest, /, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if not (request.user.is_staff and request.user.has_perm(permission)):
                raise PermissionDenied
            return page(request, *args, **kwargs)

        return view

    return guard
