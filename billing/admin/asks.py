"""What the acts of the admin read of a request: who asks, about which account, and what they have sent."""

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, QueryDict
from django.shortcuts import get_object_or_404

from accounts.models import Account, User


def account_of(request: HttpRequest, account_id: int, permission: str) -> Account:
    """
    Find the account that an act is about.

    :raises PermissionDenied: if whoever asks may not do it.
    :raises Http404: if there is none.
    """
    if not request.user.has_perm(permission):
        raise PermissionDenied
    return get_object_or_404(Account, pk=account_id)


def sent(request: HttpRequest) -> QueryDict | None:
    """What a form is bound to: an empty one that was sent has errors, one that was not has none."""
    return request.POST if request.method == "POST" else None


def email_of(request: HttpRequest) -> str:
    """Who asks, as timelines and Decisions name them."""
    assert isinstance(request.user, User), "the admin lets nobody else in"
    return request.user.email
