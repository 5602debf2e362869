from django.db import models
from django.db.models.functions import Now


class TimelineEvent(models.Model):
    """One thing that happened to an account, in words for support. Never changed or deleted (trigger)."""

    account = models.ForeignKey(
        "accounts.Account",
        on_delete=models.PROTECT,
        related_name="timeline",
        db_index=False,  # `timeline_newest_first` below
    )
    happened_at = models.DateTimeField(db_default=Now())
    # A stable dotted name: "invoice.issued", "payment.received", "hold.placed".
    kind = models.CharField(max_length=60)
    # Who did it: a user's email, or "system".
    actor = models.CharField(max_length=254, default="system")
    summary = models.CharField(max_length=500)
    details = models.JSONField(default=dict)

    class Meta:
        indexes = [models.Index(fields=["account", "-id"], name="timeline_newest_first")]

    def __str__(self) -> str:
        return f"{self.kind}: {self.summary}"
