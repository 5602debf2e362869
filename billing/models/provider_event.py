from django.db import models


class ProviderEvent(models.Model):
    """
    One thing that a provider told us unasked, kept as it was signed.

    Written by the webhook before it is answered, and worked on later: see billing/payments/inbound.py. What it
    says is never believed, only what the provider says when it is asked about the object.
    """

    class Outcome(models.TextChoices):
        WAITING = "WAITING", "Waiting"  # to be worked on, or for our own row to appear
        APPLIED = "APPLIED", "Applied"
        IGNORED = "IGNORED", "Ignored"  # of a type that we do nothing about
        FOREIGN = "FOREIGN", "Not ours"  # about an object that no row of ours knows
        FAILED = "FAILED", "Failed"  # could not be worked on for three days: a person looks

    gateway = models.CharField(max_length=30)
    # The provider's id of the event: delivered twice, it is stored once.
    event_id = models.CharField(max_length=200)
    type = models.CharField(max_length=100)
    # What kind of object it is about: gateways.About.
    about = models.CharField(max_length=10)
    object_ref = models.CharField(max_length=200, blank=True)
    body = models.TextField()
    is_live = models.BooleanField()
    received_at = models.DateTimeField()
    outcome = models.CharField(max_length=10, choices=Outcome, default=Outcome.WAITING)
    # What stood in its way the last time.
    error = models.CharField(max_length=300, blank=True)
    tries = models.PositiveSmallIntegerField(default=0)
    # When it is worked on next. A process that works on it moves this ahead first.
    next_try_at = models.DateTimeField(null=True, blank=True)
    processed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["gateway", "event_id"], name="provider_event_is_stored_once"
            ),
            models.CheckConstraint(
                condition=models.Q(
                    outcome="WAITING", processed_at__isnull=True, next_try_at__isnull=False
                )
                | (
                    ~models.Q(outcome="WAITING")
                    & models.Q(processed_at__isnull=False, next_try_at__isnull=True)
                ),
                name="provider_event_waits_or_is_processed",
            ),
        ]
        indexes = [
            models.Index(
                fields=["next_try_at"],
                condition=models.Q(next_try_at__isnull=False),
                name="provider_events_to_process",
            ),
            models.Index(fields=["gateway", "object_ref"], name="provider_events_of_an_object"),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.event_id}"
