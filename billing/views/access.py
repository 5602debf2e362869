"""
Who may see an account's pages, and as what.

The account stands in the address, so that two tabs with two accounts never pay each other's bills;
whether it is theirs is asked anew with every request. To anyone else it does not exist.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeAlias

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone, translation
from django.views.decorators.cache import cache_control

from accounts import clock
from accounts.models import Account, Member, User
from notifications.formats import Reader

P = ParamSpec("P")
# The account a page without one in its address belongs to: the one looked at last.
LAST_ACCOUNT = "account"
# Whose pages somebody on staff looks at as that customer, and until when.
VIEWING_AS = "viewing_as"
# Long enough for a call; then it is begun anew, and stands on the timeline anew.
VIEW_LASTS = timedelta(hours=1)
SEE_ACCOUNTS = "accounts.view_account"


@dataclass(frozen=True)
class Seat:
    """A signed-in member at one of their accounts; or somebody on staff, who only looks on."""

    member: Member
    accounts: list[Account]
    looks_on: bool = False

    @property
    def account(self) -> Account:
        return self.member.account

    @property
    def is_owner(self) -> bool:
        return self.member.role == Member.Role.OWNER

    @property
    def email(self) -> str:
        return self.member.user.email

    @property
    def reader(self) -> Reader:
        return Reader.of(self.account)


# What follows the account in an address: an invoice's id, say.
Page: TypeAlias = Callable[Concatenate[HttpRequest, Seat, P], HttpResponse]
View: TypeAlias = Callable[..., HttpResponse]


def members_only(page: Page[P]) -> View:
    """
    Show the page to members of the account in its address, in the account's language.

    Also to staff who view as this customer: they read, and change nothing.

    Nothing of it is kept by browsers or proxies: the back button after signing out shows no money.
    """

    @cache_control(private=True, no_store=True)
    @login_required
    @wraps(page)
    def view(request: HttpRequest, account_id: int, *args: Any, **kwargs: Any) -> HttpResponse:
        seat = _seat(request, account_id)
        if not seat.looks_on:
            _remember(request, seat.account)
        elif request.method not in {"GET", "HEAD"}:
            raise PermissionDenied
        with translation.override(seat.reader.locale), timezone.override(seat.reader.time_zone):
            return page(request, seat, *args, **kwargs)

    return view


def payers_only(page: Page[P]) -> View:
    """As `members_only`; refuses those who may only look, with 403."""

    @wraps(page)
    def payers(
        request: HttpRequest, seat: Seat, /, *args: P.args, **kwargs: P.kwargs
    ) -> HttpResponse:
        if not seat.member.may_pay:
            raise PermissionDenied
        return page(request, seat, *args, **kwargs)

    return members_only(payers)


def owners_only(page: Page[P]) -> View:
    """As `members_only`; refuses whoever does not own the account, with 403."""

    @wraps(page)
    def owners(
        request: HttpRequest, seat: Seat, /, *args: P.args, **kwargs: P.kwargs
    ) -> HttpResponse:
        if not seat.is_owner:
            raise PermissionDenied
        return page(request, seat, *args, **kwargs)

    return members_only(owners)


def show(
    request: HttpRequest, seat: Seat, template: str, context: dict[str, Any], *, status: int = 200
) -> HttpResponse:
    """Render a page with what every page of an account shows."""
    frame = {
        "account": {"id": seat.account.pk, "name": seat.account.name},
        "accounts": [{"id": account.pk, "name": account.name} for account in seat.accounts],
        "may_pay": seat.member.may_pay,
        "looks_on": seat.looks_on,
        "locale": seat.reader.locale,
        "seller": seat.account.entity.seller,
    }
    return render(request, template, frame | context, status=status)


def _remember(request: HttpRequest, account: Account) -> None:
    """Where they were last; a page that changes nothing of it writes no session."""
    if request.session.get(LAST_ACCOUNT) != account.pk:
        request.session[LAST_ACCOUNT] = account.pk


def _seat(request: HttpRequest, account_id: int) -> Seat:
    members = {
        member.account_id: member
        for member in Member.objects.filter(user=request.user.pk)
        .select_related("account__entity", "user")
        .order_by("account__name", "account")
    }
    if account_id not in members:
        return _seat_of_staff(request, account_id)
    return Seat(members[account_id], [member.account for member in members.values()])


def _seat_of_staff(request: HttpRequest, account_id: int) -> Seat:
    viewing = request.session.get(VIEWING_AS, {})
    user = request.user
    if (
        viewing.get("account") != account_id
        or clock.now() >= datetime.fromisoformat(viewing["until"])
        or not (isinstance(user, User) and user.is_staff and user.has_perm(SEE_ACCOUNTS))
    ):
        raise Http404
    account = get_object_or_404(Account.objects.select_related("entity"), pk=account_id)
    return Seat(
        Member(account=account, user=user, role=Member.Role.VIEWER), [account], looks_on=True
    )


def begin_view(request: HttpRequest, account: Account) -> None:
    """Let somebody on staff look at an account's pages for a while, as its customer sees them."""
    until = clock.now() + VIEW_LASTS
    request.session[VIEWING_AS] = {"account": account.pk, "until": until.isoformat()}


def end_view(request: HttpRequest) -> None:
    """Take that back."""
    request.session.pop(VIEWING_AS, None)
