"""Who may see and do what at an account, where its mails go, and how it is written to: each act on its timeline."""

import hashlib
import secrets
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models.functions import Lower

from accounts import timeline
from accounts.models import Account, BillingContact, Invitation, Member, User

# Over a week's holiday, with some days to spare.
INVITATION_LASTS = timedelta(days=14)


class AlreadyMember(Exception):
    """Who is invited is a member of the account already."""


class LastOwner(Exception):
    """Nobody could invite or remove people any more."""


class NotOpen(Exception):
    """The invitation was accepted, revoked, or is too old."""


def invite(
    *, account_id: int, email: str, role: str, by: str, as_of: datetime
) -> tuple[Invitation, str]:
    """
    Invite somebody in the caller's transaction; returns the token of the link, which is kept nowhere.

    An open invitation of the same address ends: its link may be lost.

    :raises AlreadyMember: if they are one.
    """
    account = _locked(account_id)
    if account.members.alias(lowered=Lower("user__email")).filter(lowered=email.lower()).exists():
        raise AlreadyMember(email)
    before = account.invitations.alias(lowered=Lower("email")).filter(lowered=email.lower())
    before.filter(accepted_at=None, revoked_at=None).update(revoked_at=as_of)
    token = secrets.token_urlsafe(32)
    invitation = Invitation.objects.create(
        account=account,
        email=email,
        role=role,
        token_digest=_digest(token),
        invited_by=by,
        expires_at=as_of + INVITATION_LASTS,
    )
    _note(account, "member.invited", f"{email} was invited as {invitation.get_role_display()}", by)
    return invitation, token


def invitation_of(token: str, *, as_of: datetime) -> Invitation:
    """
    Return the open invitation of a link's token.

    :raises NotOpen: if there is none (any more).
    """
    found = (
        Invitation.objects.select_related("account__entity")
        .filter(token_digest=_digest(token))
        .first()
    )
    if found is None or not found.is_open(as_of):
        raise NotOpen
    return found


@transaction.atomic(durable=True)
def join(*, token: str, user: User, as_of: datetime) -> Member:
    """
    Make a user a member, as they were invited.

    :raises NotOpen: if the invitation has ended meanwhile.
    """
    return _join(invitation_of(token, as_of=as_of), user, as_of=as_of)


@transaction.atomic(durable=True)
def sign_up(*, token: str, password: str, as_of: datetime) -> Member:
    """
    Make a user of somebody who was invited and has none, and a member of that user.

    :raises NotOpen: if the invitation has ended meanwhile, or there is such a user by now.
    """
    invitation = invitation_of(token, as_of=as_of)
    _locked(invitation.account_id)
    if User.objects.of_email(invitation.email) is not None:
        raise NotOpen
    user = User.objects.create_user(invitation.email, password)
    return _join(invitation, user, as_of=as_of)


def _join(invitation: Invitation, user: User, *, as_of: datetime) -> Member:
    account = _locked(invitation.account_id)
    invitation = Invitation.objects.get(pk=invitation.pk)
    if not invitation.is_open(as_of):
        raise NotOpen
    invitation.accepted_at = as_of
    invitation.save(update_fields=["accepted_at"])
    member, is_new = Member.objects.get_or_create(
        account=account, user=user, defaults={"role": invitation.role}
    )
    if is_new:
        joined = f"{user.email} joined as {member.get_role_display()}"
        _note(account, "member.joined", joined, user.email)
    return member


@transaction.atomic(durable=True)
def revoke(*, account_id: int, invitation_id: int, by: str, as_of: datetime) -> None:
    """Take an invitation back; one that has ended stays as it is."""
    account = _locked(account_id)
    revoked = account.invitations.filter(
        pk=invitation_id, accepted_at=None, revoked_at=None
    ).first()
    if revoked is not None:
        revoked.revoked_at = as_of
        revoked.save(update_fields=["revoked_at"])
        _note(account, "member.revoked", f"The invitation of {revoked.email} was taken back", by)


@transaction.atomic(durable=True)
def remove(*, account_id: int, member_id: int, by: str) -> None:
    """
    End a membership; one that is gone stays gone.

    :raises LastOwner: if they are the only owner.
    """
    account = _locked(account_id)
    member = account.members.select_related("user").filter(pk=member_id).first()
    if member is None:
        return
    owners = account.members.filter(role=Member.Role.OWNER).exclude(pk=member.pk)
    if member.role == Member.Role.OWNER and not owners.exists():
        raise LastOwner
    member.delete()
    _note(account, "member.removed", f"{member.user.email} is no member any more", by)


@transaction.atomic(durable=True)
def add_contact(*, account_id: int, email: str, by: str) -> BillingContact | None:
    """Send the account's mails to this address too. None if they go there already."""
    account = _locked(account_id)
    known = account.contacts.alias(lowered=Lower("email")).filter(lowered=email.lower())
    if email.lower() == account.email.lower() or known.exists():
        return None
    contact = BillingContact.objects.create(account=account, email=email)
    _note(account, "contact.added", f"Mails go to {email} as well", by)
    return contact


@transaction.atomic(durable=True)
def remove_contact(*, account_id: int, contact_id: int, by: str) -> None:
    """Send them there no more."""
    account = _locked(account_id)
    contact = account.contacts.filter(pk=contact_id).first()
    if contact is not None:
        contact.delete()
        _note(account, "contact.removed", f"Mails do not go to {contact.email} any more", by)


@transaction.atomic(durable=True)
def write_in(*, account_id: int, language: str, time_zone: str, by: str) -> bool:
    """Write to an account in this language and time zone from now on. False if it is so already."""
    account = _locked(account_id)
    if (account.language, account.time_zone) == (language, time_zone):
        return False
    account.language, account.time_zone = language, time_zone
    account.save(update_fields=["language", "time_zone"])
    _note(account, "account.changed", f"Language {language}, time zone {time_zone}", by)
    return True


@transaction.atomic(durable=True)
def change_email(*, user: User, email: str) -> bool:
    """Have a user sign in by another address. False if somebody else does already."""
    other = User.objects.of_email(email)
    if other is not None and other.pk != user.pk:
        return False
    before = user.email
    user.email = email
    user.save(update_fields=["email"])
    for member in user.memberships.select_related("account"):
        _note(member.account, "member.renamed", f"{before} signs in as {email} now", before)
    return True


def _locked(account_id: int) -> Account:
    return Account.objects.select_for_update(no_key=True).get(pk=account_id)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _note(account: Account, kind: str, summary: str, by: str) -> None:
    timeline.record(timeline.event(account_id=account.pk, kind=kind, summary=summary, actor=by))
