from django.db import models
from django.db.models.functions import Now

from notifications.models import Dispatched


class Parcel(Dispatched):
    """One thing that a carrier is to take."""

    state = models.CharField(max_length=10, default="WAITING")
    carrier = models.CharField(max_length=30, default="cart")
    due_at = models.DateTimeField(db_default=Now())
    # How it ended, or why it did not.
    because = models.CharField(max_length=300, default="")
    rechecks = models.IntegerField(default=0)

    class Meta:
        app_label = "parcels"
