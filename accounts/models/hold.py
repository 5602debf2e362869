from django.db import models


class Hold(models.Model):
    """
    A restriction on an account. Open until lifted; placed and lifted by a Decision, which says why.

    What a hold means for running services is the operator's decision; they read holds from here.
    """

    class Reason(models.TextChoices):
        OVERDUE = "OVERDUE", "Overdue invoices"
        MANUAL = "MANUAL", "Placed by hand"

    account = models.ForeignKey("accounts.Account", on_delete=models.PROTECT, related_name="holds")
    reason = models.CharField(max_length=20, choices=Reason)
    placed_at = models.DateTimeField()
    lifted_at = models.DateTimeField(null=True, blank=True)
    # Of one for overdue invoices, where its entity warns first: how many days that gave, and when the warning
    # it rests on was delivered. Written once.
    grace_days = models.PositiveSmallIntegerField(null=True, blank=True)
    warned_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account", "reason"],
                condition=models.Q(lifted_at__isnull=True),
                name="one_open_hold_per_account_and_reason",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_reason_display()} since {self.placed_at:%Y-%m-%d}"
