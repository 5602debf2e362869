from django.db import models
from django.db.models import Q


class Restore(models.Model):
    """
    That this database has gone back in time, or to another server; and between which instants it knows nothing.

    Written by billing/payments/restores.py. Dealt with by a person, who alone knows whether usage was sent again.
    """

    # The last sign of life before, and when it was noticed: the database's clock.
    known_until = models.DateTimeField()
    noticed_at = models.DateTimeField()
    because = models.CharField(max_length=300)
    dealt_with_at = models.DateTimeField(null=True, blank=True)
    dealt_with_by = models.CharField(max_length=254, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(dealt_with_at=None) | ~Q(dealt_with_by=""),
                name="restore_dealt_with_says_by_whom",
            ),
        ]
        indexes = [
            models.Index(
                fields=["noticed_at"], condition=Q(dealt_with_at=None), name="restores_open"
            ),
        ]

    def __str__(self) -> str:
        return (
            f"usage and mails between {self.known_until:%Y-%m-%d %H:%M} and"
            f" {self.noticed_at:%Y-%m-%d %H:%M} (UTC)"
        )
