from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class Halt(models.Model):
    """
    An order that all workers begin nothing more, such as before a deployment.

    Written by billing/workers/halting.py alone. Times are the database's own.
    """

    because = models.CharField(max_length=300)
    ordered_by = models.CharField(max_length=254)
    ordered_at = models.DateTimeField(db_default=Now())
    lifted_by = models.CharField(max_length=254, blank=True)
    lifted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                models.Value(1), condition=Q(lifted_at=None), name="one_halt_at_a_time"
            ),
        ]

    def __str__(self) -> str:
        return f"Halted by {self.ordered_by}: {self.because}"
