from django.db import models
from django.db.models import Q


class Dispute(models.Model):
    """
    A customer asked their bank for the money of a payment, and the bank asks us; see billing/payments/disputes.py.

    As long as no money was withdrawn it is an inquiry, and the books know nothing of it.
    """

    class State(models.TextChoices):
        INQUIRY = "INQUIRY", "Inquiry"  # no money was withdrawn
        NEEDS_RESPONSE = "NEEDS_RESPONSE", "Open"  # the money is gone until it is decided
        WON = "WON", "Won"  # the money is back, the fee is not
        LOST = "LOST", "Lost"  # the money is gone for good: see its reversal

    account = models.ForeignKey(
        "accounts.Account", on_delete=models.PROTECT, related_name="disputes"
    )
    payment = models.ForeignKey(
        "billing.Payment", on_delete=models.PROTECT, related_name="disputes"
    )
    gateway = models.CharField(max_length=30)
    provider_ref = models.CharField(max_length=200)
    currency = models.CharField(max_length=3)
    amount_minor = models.BigIntegerField()
    # What the provider charged us for it, when the money was withdrawn.
    fee_minor = models.BigIntegerField(default=0)
    state = models.CharField(max_length=20, choices=State, default=State.INQUIRY)
    # As the provider calls it: "fraudulent".
    reason = models.CharField(max_length=60, blank=True)
    # Until when evidence may be handed in; empty where none is waited for.
    evidence_due_at = models.DateTimeField(null=True, blank=True)
    opened_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["gateway", "provider_ref"], name="dispute_is_booked_once"
            ),
            models.CheckConstraint(
                condition=Q(amount_minor__gt=0, fee_minor__gte=0), name="dispute_is_positive"
            ),
            models.CheckConstraint(
                condition=Q(state="INQUIRY")
                | Q(state="NEEDS_RESPONSE", closed_at__isnull=True)
                | Q(state__in=["WON", "LOST"], closed_at__isnull=False),
                name="dispute_is_closed_exactly_when_decided",
            ),
        ]
        indexes = [models.Index(fields=["account", "-id"], name="disputes_of_an_account")]

    def __str__(self) -> str:
        return f"{self.get_state_display()} dispute of {self.payment}"
