"""Staff look at an account's pages as its customer sees them: read only, and told on the timeline."""

from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from accounts import timeline
from accounts.models import Account, User
from billing.views import access
from billing.views.staff.permission import staff_only


@require_http_methods(["GET", "HEAD", "POST"])
@staff_only(access.SEE_ACCOUNTS)
def begin(request: HttpRequest, account_id: int) -> HttpResponse:
    """Say what it means, then begin."""
    account = get_object_or_404(Account, pk=account_id)
    if request.method != "POST":
        return render(request, "billing/view_as.html", {"account": account})
    assert isinstance(request.user, User), "staff_only lets nobody else in"
    with transaction.atomic():
        timeline.record(
            timeline.event(
                account_id=account.pk,
                kind="account.viewed_as_customer",
                summary=f"{request.user.email} looked at the customer's pages as the customer sees them",
                actor=request.user.email,
            )
        )
    access.begin_view(request, account)
    return redirect("account", account.pk)


@require_POST
@staff_only(access.SEE_ACCOUNTS)
def end(request: HttpRequest, account_id: int) -> HttpResponse:
    """Back to the account's page in the admin."""
    access.end_view(request)
    messages.info(request, "You no longer view as this customer.")
    return redirect("admin:accounts_account_change", account_id)
