from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Now


class ClaimMarker(models.Model):
    """
    Steps that a worker began in one transaction; gone with its commit.

    A worker that dies rolls all back but this, which is committed by itself: so it is known which steps
    it had in hand. Written by billing/close/engine/markers.py alone.
    """

    step_ids = ArrayField(models.BigIntegerField())
    noted_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return f"{len(self.step_ids)} steps since {self.noted_at:%H:%M:%S}"
