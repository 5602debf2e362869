from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class Lane(models.Model):
    """
    What one provider takes from us through one credential.

    People set rate, burst and cap in the admin, and pause and resume it; all else is written by
    lanes/traffic.py, under this row's lock and by the database's clock.
    """

    # A gateway's name, or "smtp".
    provider = models.CharField(max_length=30)
    # A fingerprint: providers count by key, and the key itself stays out of the database.
    credential = models.CharField(max_length=16)

    # Pieces of work begun per second; none: as many as come.
    rate = models.FloatField(null=True, blank=True, validators=[MinValueValidator(0.01)])
    # How many may be begun at once after a quiet time.
    burst = models.PositiveIntegerField(default=50, validators=[MinValueValidator(1)])
    # Leases that may be alive at once; none: as many as the workers take.
    cap = models.PositiveIntegerField(null=True, blank=True, validators=[MinValueValidator(1)])

    # The bucket. Below zero after work that does not wait, such as a customer's own payment.
    tokens = models.FloatField(default=0)
    refilled_at = models.DateTimeField(db_default=Now())

    # After "slow down", and after an outage: where the rate began to grow back, and when.
    slowed_rate = models.FloatField(null=True, blank=True)
    slowed_at = models.DateTimeField(null=True, blank=True)
    # Nothing is begun before: the provider's Retry-After.
    throttled_until = models.DateTimeField(null=True, blank=True)

    # The breaker. Calls without an answer, in a row; and while it is open, since when.
    unanswered = models.PositiveIntegerField(default=0)
    opened_at = models.DateTimeField(null=True, blank=True)
    # When the next probe may be made; while one is out, when it is taken for dead.
    probe_at = models.DateTimeField(null=True, blank=True)
    is_probing = models.BooleanField(default=False)
    # Between two probes; it grows.
    probe_pause_seconds = models.PositiveIntegerField(default=0)
    closed_at = models.DateTimeField(null=True, blank=True)

    # By hand.
    paused_at = models.DateTimeField(null=True, blank=True)
    paused_by = models.CharField(max_length=254, blank=True)
    paused_because = models.CharField(max_length=300, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["provider", "credential"], name="one_lane_per_provider_and_credential"
            ),
            models.CheckConstraint(
                condition=Q(paused_at=None, paused_by="", paused_because="")
                | (Q(paused_at__isnull=False) & ~Q(paused_by="") & ~Q(paused_because="")),
                name="paused_lane_says_who_and_why",
            ),
            models.CheckConstraint(
                condition=Q(opened_at=None, probe_at=None, is_probing=False)
                | Q(opened_at__isnull=False, probe_at__isnull=False),
                name="open_breaker_says_when_it_probes",
            ),
            models.CheckConstraint(
                condition=Q(slowed_rate=None, slowed_at=None)
                | Q(slowed_rate__gt=0, slowed_at__isnull=False),
                name="slowed_lane_says_since_when",
            ),
            models.CheckConstraint(
                condition=Q(rate=None) | Q(rate__gt=0), name="lane_rate_is_positive"
            ),
        ]

    def __str__(self) -> str:
        return self.provider
