from django.db import models


class ChargingPause(models.Model):
    """
    A stop of automatic charges to an account, by the close and by retries. Open until resumed.

    The customer may still pay. There is at most one open pause for each reason; one is enough to pause.
    """

    class Reason(models.TextChoices):
        DISPUTE = "DISPUTE", "A payment is or was disputed"
        MANUAL = "MANUAL", "Paused by hand"

    account = models.ForeignKey("accounts.Account", on_delete=models.PROTECT, related_name="pauses")
    reason = models.CharField(max_length=20, choices=Reason)
    because = models.CharField(max_length=300)
    paused_at = models.DateTimeField()
    paused_by = models.CharField(max_length=254, default="system")
    resumed_at = models.DateTimeField(null=True, blank=True)
    resumed_by = models.CharField(max_length=254, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account", "reason"],
                condition=models.Q(resumed_at__isnull=True),
                name="one_open_pause_per_account_and_reason",
            ),
            models.CheckConstraint(
                condition=models.Q(resumed_at__isnull=True, resumed_by="")
                | models.Q(resumed_at__isnull=False) & ~models.Q(resumed_by=""),
                name="pause_is_resumed_by_somebody",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_reason_display()} since {self.paused_at:%Y-%m-%d}"
