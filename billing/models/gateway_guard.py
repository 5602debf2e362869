from django.db import models


class GatewayGuard(models.Model):
    """
    Whether a gateway may be charged through: not while its provider may know more than our database.

    Written by billing/payments/guard.py alone. Its times are the database's own, not `as_of`.
    """

    gateway = models.CharField(max_length=30, unique=True)
    # The database that charges: after a restore or a failover it is another one.
    database_identity = models.CharField(max_length=200)
    # When its server came up: a snapshot of its disk does not change its identity, but this.
    server_started_at = models.DateTimeField()
    # When the provider's newest objects were last all known to us.
    checked_at = models.DateTimeField()
    paused_at = models.DateTimeField(null=True, blank=True)
    paused_because = models.CharField(max_length=300, blank=True)
    # While paused: since when the provider must be listed before it opens; none: from the beginning.
    list_from = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(paused_at__isnull=True, paused_because="", list_from=None)
                | (models.Q(paused_at__isnull=False) & ~models.Q(paused_because="")),
                name="paused_gateway_says_why",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.gateway}: {'paused' if self.paused_at else 'open'}"
