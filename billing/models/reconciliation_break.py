from django.db import models
from django.db.models import Q


class ReconciliationBreak(models.Model):
    """
    Something on which a provider's book and ours do not agree, until they do or a person accepts it.

    Found again it is the same row; no longer found, it is resolved.
    """

    class Kind(models.TextChoices):
        ACCOUNT_UNKNOWN = "ACCOUNT_UNKNOWN", "Of an account we do not have"
        OBJECT_UNKNOWN = "OBJECT_UNKNOWN", "Made by no attempt of ours"
        NOT_BOOKED = "NOT_BOOKED", "Money taken, not in our books"
        PAYMENT_UNKNOWN = "PAYMENT_UNKNOWN", "In our books, not taken"
        AMOUNT_DIFFERS = "AMOUNT_DIFFERS", "Another amount"
        PAYOUT_DIFFERS = "PAYOUT_DIFFERS", "Paid out, and not in our books like that"

    class State(models.TextChoices):
        OPEN = "OPEN", "Open"
        RESOLVED = "RESOLVED", "Resolved"
        ACCEPTED = "ACCEPTED", "Accepted"

    kind = models.CharField(max_length=20, choices=Kind)
    gateway = models.CharField(max_length=30)
    # The provider's object it is about.
    provider_ref = models.CharField(max_length=200)
    object_at = models.DateTimeField()
    account = models.ForeignKey(
        "accounts.Account", on_delete=models.PROTECT, null=True, blank=True, related_name="breaks"
    )
    attempt = models.ForeignKey(
        "billing.PaymentAttempt",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="breaks",
    )
    words = models.CharField(max_length=500)
    currency = models.CharField(max_length=3)
    # What the provider says, in minor units.
    amount_minor = models.BigIntegerField()
    state = models.CharField(max_length=10, choices=State, default=State.OPEN)
    # Who looks after it.
    owner = models.CharField(max_length=254, blank=True)
    note = models.CharField(max_length=300, blank=True)
    # The last reconciliation that found it.
    reconciliation = models.ForeignKey(
        "billing.Reconciliation", on_delete=models.PROTECT, related_name="breaks"
    )
    found_at = models.DateTimeField()
    resolved_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        permissions = [("settle_break", "Can take over and accept breaks")]
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "gateway", "provider_ref"], name="break_is_kept_once"
            ),
            models.CheckConstraint(
                condition=Q(state="OPEN", resolved_at=None)
                | (~Q(state="OPEN") & Q(resolved_at__isnull=False)),
                name="ended_break_says_when",
            ),
            models.CheckConstraint(
                condition=~Q(state="ACCEPTED") | ~Q(note=""), name="accepted_break_says_why"
            ),
        ]
        indexes = [
            models.Index(
                fields=["gateway", "object_at"], condition=Q(state="OPEN"), name="breaks_open"
            ),
            models.Index(fields=["gateway", "provider_ref"], name="breaks_of_an_object"),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.provider_ref}"
