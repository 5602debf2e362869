from django.core.validators import MinValueValidator
from django.db import models


class WaitingLimit(models.Model):
    """How long a state may last, where that is another time than billing/waiting/states.py says."""

    kind = models.CharField(max_length=40, unique=True)
    seconds = models.PositiveIntegerField(validators=[MinValueValidator(60)])

    def __str__(self) -> str:
        return f"{self.kind}: {self.seconds} s"


class WaitingOwner(models.Model):
    """Who looks after a row that waits for a person. Written by billing/waiting/queue.py alone."""

    kind = models.CharField(max_length=40)
    # The row's primary key, as text.
    ref = models.CharField(max_length=40)
    owner = models.CharField(max_length=254)
    taken_at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "needs a person"
        constraints = [
            models.UniqueConstraint(fields=["kind", "ref"], name="one_owner_per_row_that_waits"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.ref}: {self.owner}"
