from django.db import models
from django.db.models import Q

from accounts.models import RETRIES_MAX
from billing.models.payment import DECLINE_CLASSES


class DunningCase(models.Model):
    """
    The follow-up of a declined charge: retried on the schedule's days, the account held at its end.

    Opened in the transaction that ends a declined automatic charge; closed in the one that brings the due
    to zero, or at the schedule's end. At most one is open per account (constraint). Written by
    billing/dunning/cases.py and billing/payments/retries.py, under the account's lock.
    """

    account = models.ForeignKey(
        "accounts.Account", on_delete=models.PROTECT, related_name="dunning_cases"
    )
    opened_at = models.DateTimeField()
    # What the last decline said, and what that means.
    decline_class = models.CharField(max_length=20, choices=DECLINE_CLASSES)
    decline_code = models.CharField(max_length=60)
    # Declines since it was opened, by a retry or by a later month's close.
    retries_made = models.PositiveSmallIntegerField(default=0)
    # When the card is charged again by itself; none where that waits for the customer.
    next_try_at = models.DateTimeField(null=True, blank=True)
    # The end of the schedule: an account that is overdue then, and has nothing on its way, is held.
    ends_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True, blank=True)
    closed_because = models.CharField(max_length=300, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account"],
                condition=Q(closed_at__isnull=True),
                name="one_open_dunning_case_per_account",
            ),
            models.CheckConstraint(
                condition=Q(retries_made__lte=RETRIES_MAX),
                name="dunning_case_retries_at_most_four_times",
            ),
            models.CheckConstraint(
                condition=Q(closed_at__isnull=True) | Q(next_try_at__isnull=True),
                name="closed_dunning_case_tries_no_more",
            ),
        ]
        indexes = [
            models.Index(
                fields=["next_try_at", "ends_at"],
                condition=Q(closed_at__isnull=True),
                name="dunning_cases_to_look_at",
            ),
        ]

    def __str__(self) -> str:
        if self.closed_at is not None:
            return f"closed: {self.closed_because}"
        if self.next_try_at is not None:
            return f"next try on {self.next_try_at:%Y-%m-%d}"
        return f"waits for the customer until {self.ends_at:%Y-%m-%d}"
