from django.db import models


class Dispatched(models.Model):
    """
    What every row carries that the dispatcher takes through its calls (notifications/dispatcher/).

    Only the dispatcher writes these, but for `queue` and `priority`, which whoever makes the row says.
    """

    # Whose workers take it. The dispatcher only compares it.
    queue = models.CharField(max_length=50)
    # Higher goes first: what a person waits for, before what comes by the thousand.
    priority = models.SmallIntegerField(default=0, db_default=0)
    # How often it was claimed and may have been sent. At 1 nobody was before us: there is nothing to look for.
    claims = models.PositiveIntegerField(default=0, db_default=0)
    # How often its worker died, or slept, with it in hand, since it last came back with an answer.
    deaths = models.PositiveSmallIntegerField(default=0, db_default=0)
    # It has killed three workers: still in flight, and claimed by nobody until a person orders it.
    parked_at = models.DateTimeField(null=True, blank=True)
    # The fence: nothing is sent of a row whose claim is not ours any more.
    lease_token = models.UUIDField(null=True, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        abstract = True
