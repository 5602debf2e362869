from django.db import models


class Member(models.Model):
    """A user who may see, or act on, an account."""

    class Role(models.TextChoices):
        OWNER = "OWNER", "Owner"  # everything
        BILLER = "BILLER", "Biller"  # pays, changes payment methods
        VIEWER = "VIEWER", "Viewer"  # reads

    account = models.ForeignKey(
        "accounts.Account", on_delete=models.PROTECT, related_name="members"
    )
    user = models.ForeignKey("accounts.User", on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role, default=Role.OWNER)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account", "user"], name="one_role_per_account_and_user"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user} at {self.account}"

    @property
    def may_pay(self) -> bool:
        return self.role in {self.Role.OWNER, self.Role.BILLER}
