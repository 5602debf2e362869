"""How people get in: by invitation, by another password, by another address. All of it is mailed by the outbox."""

from datetime import timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages as notices
from django.contrib.auth import login, update_session_auth_hash
from django.contrib.auth.decorators import login_required
from django.contrib.auth.forms import PasswordResetForm, SetPasswordForm
from django.contrib.auth.views import redirect_to_login
from django.core import signing
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import translation
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import cache_control, never_cache
from django.views.decorators.http import require_http_methods

from accounts import clock, people
from accounts.models import Account, User
from billing import messages
from notifications.formats import Reader

# For the link that is mailed to a new address.
SALT = "billing.views.profile.email"
EMAIL_LINK_LASTS = timedelta(days=1)


# --- a forgotten password


class ForgottenForm(PasswordResetForm):
    """Django's, which mails by the outbox. Who asks learns nothing of who has an account."""

    def save(self, *, token_generator: Any, **_options: Any) -> None:  # type: ignore[override]
        """Mail a link to each user of the address; staff who are no members have theirs set in the admin."""
        for user in self.get_users(self.cleaned_data["email"]):
            account = _account_of(user)
            if account is not None:
                _mail_reset(user, account, token=token_generator.make_token(user))


@transaction.atomic(durable=True)
def _mail_reset(user: User, account: Account, *, token: str) -> None:
    messages.password_reset(
        user,
        account=account,
        uid=urlsafe_base64_encode(force_bytes(user.pk)),
        token=token,
        as_of=clock.now(),
    )


def _account_of(user: Any) -> Account | None:
    """The account in whose language a member is written to: their first."""
    members = user.memberships.select_related("account__entity").order_by("account__name", "pk")
    member = members.first()
    return member.account if member else None


# --- one's own address


class EmailForm(forms.Form):
    """Another address to sign in by."""

    email = forms.EmailField(label=gettext_lazy("New email address"))


@require_http_methods(["GET", "HEAD", "POST"])
@cache_control(private=True, no_store=True)
@login_required
def profile(request: HttpRequest) -> HttpResponse:
    """By which address one signs in; another one is asked by mail before it counts."""
    user = request.user
    assert isinstance(user, User), "login_required lets nobody else in"
    account = _account_of(user)
    form = EmailForm(request.POST if request.method == "POST" else None)
    if account is not None and form.is_valid():
        email = form.cleaned_data["email"]
        # Whether somebody else has it is not told here: the mail would not arrive, or is not theirs.
        if User.objects.of_email(email) is None or email.lower() == user.email.lower():
            _mail_email_change(user, account, email=email)
        notices.success(
            request,
            _("We have written to %(email)s: open the link there, then it counts.")
            % {"email": email},
        )
        return redirect("profile")
    context = {"form": form, "may_change": account is not None}
    return _show(request, account, "accounts/profile.html", context)


@transaction.atomic(durable=True)
def _mail_email_change(user: User, account: Account, *, email: str) -> None:
    token = signing.dumps({"user": user.pk, "before": user.email, "email": email}, salt=SALT)
    messages.email_change(user, account=account, email=email, token=token, as_of=clock.now())


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def confirm_email(request: HttpRequest, token: str) -> HttpResponse:
    """Ask once more, for mail programs open links by themselves; then the address counts."""
    try:
        said = signing.loads(token, salt=SALT, max_age=EMAIL_LINK_LASTS)
    except signing.BadSignature:
        return render(request, "accounts/link_over.html", status=410)
    # Signed for the address before: used once, it is over.
    user = User.objects.filter(pk=said["user"], email=said["before"], is_active=True).first()
    if user is None:
        return render(request, "accounts/link_over.html", status=410)
    if request.method != "POST":
        context = {"email": said["email"]}
        return _show(request, _account_of(user), "accounts/email_confirm.html", context)
    if not people.change_email(user=user, email=said["email"]):
        return render(request, "accounts/link_over.html", status=410)
    account = _account_of(user)
    if account is not None:
        _tell_email_changed(user, account, before=said["before"])
    if request.user.pk == user.pk:
        update_session_auth_hash(request, user)
    notices.success(request, _("You sign in as %(email)s from now on.") % {"email": said["email"]})
    return redirect("overview")


@transaction.atomic(durable=True)
def _tell_email_changed(user: User, account: Account, *, before: str) -> None:
    messages.email_changed(user, account=account, before=before, as_of=clock.now())


# --- an invitation


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def invitation(request: HttpRequest, token: str) -> HttpResponse:
    """Become a member: with a new password, or as who one is already."""
    try:
        invited = people.invitation_of(token, as_of=clock.now())
    except people.NotOpen:
        return render(request, "accounts/link_over.html", status=410)
    known = User.objects.of_email(invited.email)
    if known is None:
        return _sign_up(request, token, invited.account, invited.email)
    if not request.user.is_authenticated:
        return redirect_to_login(request.get_full_path(), settings.LOGIN_URL)
    context = {"account": invited.account, "email": invited.email, "inviter": invited.invited_by}
    if request.user.pk != known.pk:
        return _show(
            request, invited.account, "accounts/invitation_of_another.html", context, status=403
        )
    if request.method != "POST":
        return _show(request, invited.account, "accounts/invitation.html", context)
    try:
        member = people.join(token=token, user=known, as_of=clock.now())
    except people.NotOpen:
        return render(request, "accounts/link_over.html", status=410)
    return redirect("account", member.account_id)


def _sign_up(request: HttpRequest, token: str, account: Account, email: str) -> HttpResponse:
    form = SetPasswordForm(User(email=email), request.POST if request.method == "POST" else None)
    if not form.is_valid():
        context = {"account": account, "email": email, "form": form}
        return _show(request, account, "accounts/sign_up.html", context)
    try:
        member = people.sign_up(
            token=token, password=form.cleaned_data["new_password1"], as_of=clock.now()
        )
    except people.NotOpen:
        return render(request, "accounts/link_over.html", status=410)
    login(request, member.user, backend=settings.AUTHENTICATION_BACKENDS[0])
    return redirect("account", member.account_id)


def _show(
    request: HttpRequest,
    account: Account | None,
    template: str,
    context: dict[str, Any],
    *,
    status: int = 200,
) -> HttpResponse:
    """Render a page in the language of the account that its reader is of, or will be."""
    locale = Reader.of(account).locale if account else translation.get_language()
    with translation.override(locale):
        return render(request, template, context, status=status)
