"""Staff invite somebody to an account: its first owner, above all."""

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import messages as notices
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render

from accounts import clock, people
from accounts.models import Account, Member, User
from billing import messages


class InviteForm(forms.Form):
    """Whom to invite, and as what."""

    email = forms.EmailField(help_text="The link that is mailed there works for two weeks.")
    role = forms.ChoiceField(choices=Member.Role.choices, initial=Member.Role.OWNER)


def invite(
    request: HttpRequest, account_id: int, *, site: Callable[[HttpRequest], dict[str, Any]]
) -> HttpResponse:
    """Ask whom, then mail the invitation."""
    if not request.user.has_perm("accounts.add_member"):
        raise PermissionDenied
    account = get_object_or_404(Account, pk=account_id)
    form = InviteForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        assert isinstance(request.user, User), "the admin lets nobody else in"
        try:
            _invite(account, by=request.user.email, **form.cleaned_data)
        except people.AlreadyMember:
            form.add_error("email", "They are a member already.")
        else:
            notices.success(request, f"{form.cleaned_data['email']} is invited.")
            return redirect(account)
    context = {"title": "Invite", "account": account, "form": form}
    return render(request, "admin/accounts/account/invite.html", site(request) | context)


@transaction.atomic(durable=True)
def _invite(account: Account, *, email: str, role: str, by: str) -> None:
    as_of = clock.now()
    invited, token = people.invite(
        account_id=account.pk, email=email, role=role, by=by, as_of=as_of
    )
    messages.invitation(invited, token=token, as_of=as_of)
