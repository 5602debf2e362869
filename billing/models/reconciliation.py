from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class Reconciliation(models.Model):
    """
    One comparison of a provider's book with ours, over what the provider made since a moment.

    Worked on in slices, by any process: billing/reconciliation/working.py. What it found amiss are its breaks.
    """

    class State(models.TextChoices):
        RUNNING = "RUNNING", "Running"
        FINISHED = "FINISHED", "Finished"

    # What starts the ones that open a paused gateway.
    AFTER_A_RESTORE = "after a restore"

    gateway = models.CharField(max_length=30)
    state = models.CharField(max_length=10, choices=State, default=State.RUNNING)
    # "nightly", AFTER_A_RESTORE, or the person who asked for it.
    started_by = models.CharField(max_length=254)
    # Objects made since then are listed; None: all of them.
    since = models.DateTimeField(null=True, blank=True)
    as_of = models.DateTimeField()
    started_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True, blank=True)
    # How far the list has come, from the newest object back; and when it was through.
    listed_down_to = models.DateTimeField(null=True, blank=True)
    listed_at = models.DateTimeField(null=True, blank=True)
    # Somebody is working on it until then, by the database's clock.
    lease_until = models.DateTimeField(null=True, blank=True)
    # What stopped the last slice, which is tried again; or why payouts were not compared.
    error = models.CharField(max_length=300, blank=True)
    # listed, foreign, booked, found_again, still_lost, cancelled, breaks.
    counts = models.JSONField(default=dict, blank=True)
    # One row per payout and currency: what the provider says moved, and what our books say.
    payouts = models.JSONField(default=list, blank=True)

    class Meta:
        permissions = [("run_reconciliation", "Can start a reconciliation")]
        constraints = [
            models.UniqueConstraint(
                fields=["gateway"],
                condition=Q(state="RUNNING"),
                name="one_reconciliation_at_a_time_per_gateway",
            ),
            models.CheckConstraint(
                condition=Q(state="RUNNING", finished_at=None)
                | Q(state="FINISHED", finished_at__isnull=False),
                name="finished_reconciliation_says_when",
            ),
        ]
        indexes = [models.Index(fields=["gateway", "-id"], name="reconciliations_of_a_gateway")]

    def __str__(self) -> str:
        return f"{self.gateway} as of {self.as_of:%Y-%m-%d %H:%M}"

    @property
    def compares_payouts(self) -> bool:
        """Not where charging waits for it, nor where our key may not see them."""
        return self.started_by != self.AFTER_A_RESTORE and not self.error

    @property
    def is_finished(self) -> bool:
        return self.state == self.State.FINISHED


class ListedObject(models.Model):
    """A provider's object as it was listed, kept while its reconciliation runs."""

    # Another installation's, or nobody's.
    FOREIGN = "FOREIGN"

    reconciliation = models.ForeignKey(
        "billing.Reconciliation", on_delete=models.CASCADE, related_name="objects_listed"
    )
    provider_ref = models.CharField(max_length=200)
    # What stands in it as ours; none where that is no id of an attempt.
    attempt_id = models.UUIDField(null=True)
    account_ref = models.CharField(max_length=200, blank=True)
    # gateways.Status, or FOREIGN.
    status = models.CharField(max_length=20)
    currency = models.CharField(max_length=3, blank=True)
    amount_minor = models.BigIntegerField(default=0)
    made_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["reconciliation", "provider_ref"], name="object_is_listed_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.provider_ref}: {self.status}"
