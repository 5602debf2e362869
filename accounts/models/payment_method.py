import calendar
from datetime import date, datetime
from zoneinfo import ZoneInfo

from django.db import models
from django.db.models.functions import Now


class PaymentMethod(models.Model):
    """A card, known to us by the gateway's token. Removed ones stay, so that attempts keep their card."""

    class State(models.TextChoices):
        ACTIVE = "ACTIVE", "Active"
        REMOVED = "REMOVED", "Removed"

    account = models.ForeignKey(
        "accounts.Account", on_delete=models.PROTECT, related_name="payment_methods"
    )
    gateway = models.CharField(max_length=30)
    token = models.CharField(max_length=200)
    # Whom the gateway keeps it under; empty where it keeps no customers. Written once, with the token.
    customer_ref = models.CharField(max_length=200, blank=True)
    brand = models.CharField(max_length=30)
    last_four = models.CharField(max_length=4)
    expiry_month = models.PositiveSmallIntegerField()
    expiry_year = models.PositiveSmallIntegerField()
    is_default = models.BooleanField(default=False)
    state = models.CharField(max_length=10, choices=State, default=State.ACTIVE)
    created_at = models.DateTimeField(db_default=Now())
    removed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account"],
                condition=models.Q(is_default=True, state="ACTIVE"),
                name="one_default_payment_method_per_account",
            ),
            models.CheckConstraint(
                condition=models.Q(expiry_month__range=(1, 12)), name="expiry_month_is_a_month"
            ),
            models.CheckConstraint(
                condition=models.Q(state="REMOVED", removed_at__isnull=False)
                | models.Q(state="ACTIVE", removed_at__isnull=True),
                name="removed_payment_method_says_when",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.brand} ···· {self.last_four}"

    def has_expired(self, as_of: datetime) -> bool:
        """A card is good through the last day of its expiry month, anywhere on earth."""
        last_day = calendar.monthrange(self.expiry_year, self.expiry_month)[1]
        return as_of.astimezone(ZoneInfo("Etc/GMT+12")).date() > date(
            self.expiry_year, self.expiry_month, last_day
        )
