from django.db import models


class RunProgress(models.Model):
    """
    What a run's page shows, as it was counted last, and when that was. Written by reports/progress.py alone.

    Counting a hundred thousand accounts takes a moment: their page shows these numbers with their time, and
    counts anew after it has answered. May be deleted at any time.
    """

    run = models.OneToOneField(
        "billing.CloseRun", on_delete=models.CASCADE, related_name="progress"
    )
    counted_at = models.DateTimeField()
    took_ms = models.PositiveIntegerField()
    # reports.progress.of, as it was.
    seen = models.JSONField()
    # How many steps of each kind had ended, and when: {"at": …, "ended": {"CHARGE": 17}}, of the last minutes.
    samples = models.JSONField(default=list)

    def __str__(self) -> str:
        return f"{self.run} as of {self.counted_at:%Y-%m-%d %H:%M:%S}"
