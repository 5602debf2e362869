"""Mails to a person about how they sign in: an invitation, a new password, another address."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from django.urls import reverse

from accounts.models import Account, Invitation, User
from billing.messages.letters import tell
from notifications.catalog import Cancel, Keep, Verdict
from notifications.formats import Reader
from notifications.models import Message
from notifications.outbox import Letter

INVITATION = "INVITATION"
PASSWORD_RESET = "PASSWORD_RESET"  # noqa: S105 - the name of a kind
EMAIL_CHANGE = "EMAIL_CHANGE"
EMAIL_CHANGED = "EMAIL_CHANGED"


def invitation(invited: Invitation, *, token: str, as_of: datetime) -> Message | None:
    """Ask somebody to become a member: by whom, and where."""
    account = invited.account
    context = {
        "inviter": invited.invited_by,
        "until": Reader.of(account).instant(invited.expires_at),
        "link": _link("invitation", token),
    }
    fact = f"invitation:{invited.pk}"
    return _tell(INVITATION, fact, context, to=invited.email, account=account, as_of=as_of)


def password_reset(
    user: User, *, account: Account, uid: str, token: str, as_of: datetime
) -> Message | None:
    """Show somebody who has forgotten their password where to choose another; once a minute."""
    context = {"link": _link("password_reset_confirm", uid, token)}
    fact = f"user:{user.pk}:password:{as_of:%Y%m%d%H%M}"
    return _tell(PASSWORD_RESET, fact, context, to=user.email, account=account, as_of=as_of)


def email_change(
    user: User, *, account: Account, email: str, token: str, as_of: datetime
) -> Message | None:
    """Ask whoever reads the new address whether it is theirs."""
    context = {"link": _link("email-confirm", token), "before": user.email}
    fact = f"user:{user.pk}:email:{uuid.uuid4().hex}"
    return _tell(EMAIL_CHANGE, fact, context, to=email, account=account, as_of=as_of)


def email_changed(user: User, *, account: Account, before: str, as_of: datetime) -> Message | None:
    """Tell the address before that it is used no more, so that nobody is moved away unseen."""
    fact = f"user:{user.pk}:moved:{uuid.uuid4().hex}"
    context = {"new_email": user.email}
    return _tell(EMAIL_CHANGED, fact, context, to=before, account=account, as_of=as_of)


def recheck_invitations(messages: Sequence[Message], as_of: datetime) -> list[Verdict]:
    """Cancel what is not open any more: its link leads nowhere."""
    invited = Invitation.objects.in_bulk(int(each.fact.split(":")[1]) for each in messages)
    return [
        Keep()
        if (found := invited.get(int(each.fact.split(":")[1]))) and found.is_open(as_of)
        else Cancel("the invitation was accepted or taken back")
        for each in messages
    ]


def recheck_persons(messages: Sequence[Message], as_of: datetime) -> list[Verdict]:
    """Cancel what is for somebody who may not sign in any more."""
    able = set(
        User.objects.filter(
            pk__in={int(each.fact.split(":")[1]) for each in messages}, is_active=True
        ).values_list("pk", flat=True)
    )
    return [
        Keep() if int(each.fact.split(":")[1]) in able else Cancel("they may not sign in any more")
        for each in messages
    ]


def _tell(
    kind: str, fact: str, context: dict[str, Any], *, to: str, account: Account, as_of: datetime
) -> Message | None:
    return tell(
        Letter(
            account=account,
            kind=kind,
            fact=fact,
            context=context,
            amounts={},
            as_of=as_of,
            recipient=to,
        )
    )


def _link(name: str, *args: str) -> str:
    return f"{settings.SITE_URL}{reverse(name, args=args)}"
