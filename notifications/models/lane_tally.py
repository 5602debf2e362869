from django.db import models

from notifications.models.lane import Lane


class LaneTally(models.Model):
    """What a lane's calls came to in ten seconds. Kept for a day, to see how fast it really is."""

    lane = models.ForeignKey(Lane, on_delete=models.CASCADE, related_name="tallies")
    starts_at = models.DateTimeField()
    answered = models.PositiveIntegerField(default=0)
    unanswered = models.PositiveIntegerField(default=0)
    throttled = models.PositiveIntegerField(default=0)
    # Pieces of work that came to their end: charges, mails, refunds.
    done = models.PositiveIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["lane", "starts_at"], name="one_tally_per_lane_and_ten_seconds"
            ),
        ]
        indexes = [models.Index(fields=["starts_at"], name="lane_tallies_by_age")]

    def __str__(self) -> str:
        return f"{self.lane} {self.starts_at:%H:%M:%S}"
