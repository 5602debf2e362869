"""How an account is written to, where its mails go, and who may see it: looked at by members, changed by owners."""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages as notices
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods, require_POST

from accounts import clock, people
from accounts.models import Member
from accounts.time_zones import known_time_zones
from billing import messages
from billing.views.access import Seat, members_only, owners_only, show

ROLES = {
    Member.Role.OWNER: gettext_lazy("Owner: everything"),
    Member.Role.BILLER: gettext_lazy("Pays: pays, and changes cards"),
    Member.Role.VIEWER: gettext_lazy("Reads only"),
}


class WritingForm(forms.Form):
    """In which language and time zone an account is written to."""

    language = forms.ChoiceField(label=gettext_lazy("Language"), choices=settings.LANGUAGES)
    time_zone = forms.ChoiceField(
        label=gettext_lazy("Time zone"),
        help_text=gettext_lazy(
            "Your months begin and end there. A change holds from the next month on."
        ),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # What the account has may be an old name, which is kept.
        names = sorted({*known_time_zones(), self.initial.get("time_zone", "UTC")})
        self.fields["time_zone"].choices = [(name, name) for name in names]  # type: ignore[attr-defined]


class ContactForm(forms.Form):
    """An address that gets the account's mails as well."""

    email = forms.EmailField(label=gettext_lazy("Email address"))


class InviteForm(forms.Form):
    """Whom to invite, and what they may do."""

    email = forms.EmailField(label=gettext_lazy("Email address"))
    role = forms.ChoiceField(
        label=gettext_lazy("They may"), choices=list(ROLES.items()), initial=Member.Role.VIEWER
    )


@require_http_methods(["GET", "HEAD"])
@members_only
def overview(request: HttpRequest, seat: Seat) -> HttpResponse:
    """Everything on one page."""
    return _page(request, seat)


def _page(request: HttpRequest, seat: Seat, **bound: forms.Form) -> HttpResponse:
    account, as_of = seat.account, clock.now()
    forms_shown = {
        "writing": WritingForm(
            initial={"language": account.language, "time_zone": account.time_zone},
            prefix="writing",
        ),
        "contact": ContactForm(prefix="contact"),
        "invite": InviteForm(prefix="invite"),
        **bound,
    }
    members = account.members.select_related("user").order_by("user__email")
    invited = account.invitations.filter(
        accepted_at=None, revoked_at=None, expires_at__gt=as_of
    ).order_by("email")
    context = {
        "tab": "settings",
        "is_owner": seat.is_owner,
        "forms": forms_shown,
        "language": dict(settings.LANGUAGES).get(account.language, account.language),
        "time_zone": account.time_zone,
        "address": account.email,
        "contacts": [{"id": each.pk, "email": each.email} for each in account.contacts.order_by("email")],
        "members": [
            {
                "id": each.pk,
                "email": each.user.email,
                "role": ROLES[Member.Role(each.role)],
                "is_me": each.user_id == seat.member.user_id,
            }
            for each in members
        ],
        "invitations": [
            {
                "id": each.pk,
                "email": each.email,
                "role": ROLES[Member.Role(each.role)],
                "until": seat.reader.date(each.expires_at),
            }
            for each in invited
        ],
    }  # fmt: skip
    return show(request, seat, "billing/settings.html", context)


@require_POST
@owners_only
def write_in(request: HttpRequest, seat: Seat) -> HttpResponse:
    """Change language and time zone."""
    now = {"language": seat.account.language, "time_zone": seat.account.time_zone}
    form = WritingForm(request.POST, initial=now, prefix="writing")
    if not form.is_valid():
        return _page(request, seat, writing=form)
    people.write_in(account_id=seat.account.pk, by=seat.email, **form.cleaned_data)
    notices.success(request, _("Saved."))
    return _back(seat)


@require_POST
@owners_only
def add_contact(request: HttpRequest, seat: Seat) -> HttpResponse:
    """Send mails to one more address."""
    form = ContactForm(request.POST, prefix="contact")
    if not form.is_valid():
        return _page(request, seat, contact=form)
    email = form.cleaned_data["email"]
    if people.add_contact(account_id=seat.account.pk, email=email, by=seat.email) is None:
        form.add_error("email", _("Mails go there already."))
        return _page(request, seat, contact=form)
    notices.success(request, _("Mails go to %(email)s as well.") % {"email": email})
    return _back(seat)


@require_POST
@owners_only
def remove_contact(request: HttpRequest, seat: Seat, contact_id: int) -> HttpResponse:
    """Send them there no more."""
    people.remove_contact(account_id=seat.account.pk, contact_id=contact_id, by=seat.email)
    notices.success(request, _("Saved."))
    return _back(seat)


@require_POST
@owners_only
def invite(request: HttpRequest, seat: Seat) -> HttpResponse:
    """Invite somebody by mail."""
    form = InviteForm(request.POST, prefix="invite")
    if not form.is_valid():
        return _page(request, seat, invite=form)
    email = form.cleaned_data["email"]
    try:
        _invite(seat, email=email, role=form.cleaned_data["role"])
    except people.AlreadyMember:
        form.add_error("email", _("They are a member already."))
        return _page(request, seat, invite=form)
    notices.success(request, _("%(email)s is invited.") % {"email": email})
    return _back(seat)


@transaction.atomic(durable=True)
def _invite(seat: Seat, *, email: str, role: str) -> None:
    as_of = clock.now()
    invited, token = people.invite(
        account_id=seat.account.pk, email=email, role=role, by=seat.email, as_of=as_of
    )
    messages.invitation(invited, token=token, as_of=as_of)


@require_POST
@owners_only
def revoke(request: HttpRequest, seat: Seat, invitation_id: int) -> HttpResponse:
    """Take an invitation back."""
    people.revoke(
        account_id=seat.account.pk, invitation_id=invitation_id, by=seat.email, as_of=clock.now()
    )
    notices.success(request, _("The invitation is taken back."))
    return _back(seat)


@require_POST
@owners_only
def remove_member(request: HttpRequest, seat: Seat, member_id: int) -> HttpResponse:
    """End somebody's membership, perhaps one's own."""
    try:
        people.remove(account_id=seat.account.pk, member_id=member_id, by=seat.email)
    except people.LastOwner:
        notices.error(request, _("An account needs an owner: invite another one first."))
        return _back(seat)
    notices.success(request, _("They are no member any more."))
    return redirect("overview") if member_id == seat.member.pk else _back(seat)


def _back(seat: Seat) -> HttpResponse:
    return redirect("settings", seat.account.pk)
