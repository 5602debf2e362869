from datetime import datetime

from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower, Now

from accounts.models.member import Member


class Invitation(models.Model):
    """
    Somebody is asked to become a member of an account. Ends by being accepted, revoked, or after some days.

    The link that was mailed holds a token; here is only its digest, so that nobody who reads the
    database can accept in their place.
    """

    account = models.ForeignKey(
        "accounts.Account", on_delete=models.PROTECT, related_name="invitations"
    )
    email = models.EmailField()
    role = models.CharField(max_length=10, choices=Member.Role, default=Member.Role.VIEWER)
    token_digest = models.CharField(max_length=64, unique=True)
    invited_by = models.CharField(max_length=254)
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                "account",
                Lower("email"),
                condition=Q(accepted_at=None, revoked_at=None),
                name="one_open_invitation_per_account_and_address",
            ),
            models.CheckConstraint(
                condition=Q(accepted_at=None) | Q(revoked_at=None),
                name="invitation_ends_once",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.email} to {self.account}"

    def is_open(self, as_of: datetime) -> bool:
        return self.accepted_at is None and self.revoked_at is None and as_of < self.expires_at
