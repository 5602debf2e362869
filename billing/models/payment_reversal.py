from django.db import models
from django.db.models import F, Q


class PaymentReversal(models.Model):
    """
    A payment, or a part of it, went back against our will: its bank returned it, or a dispute was lost.

    What it had settled is owed again. Append-only (trigger).
    """

    account = models.ForeignKey(
        "accounts.Account", on_delete=models.PROTECT, related_name="reversals"
    )
    payment = models.ForeignKey(
        "billing.Payment", on_delete=models.PROTECT, related_name="reversals"
    )
    gateway = models.CharField(max_length=30)
    # The return or the dispute, as the provider calls it: books once.
    provider_ref = models.CharField(max_length=200)
    amount_minor = models.BigIntegerField()
    # The amount, in three parts: what the payment had left as credit and was unused, what the
    # customer owes again, and what we had paid back before and so have lost.
    credit_minor = models.BigIntegerField()
    owed_minor = models.BigIntegerField()
    lost_minor = models.BigIntegerField()
    reason = models.CharField(max_length=300)
    recorded_by = models.CharField(max_length=254, default="system")
    reversed_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["gateway", "provider_ref"], name="reversal_is_booked_once"
            ),
            models.CheckConstraint(
                condition=Q(
                    amount_minor__gt=0,
                    credit_minor__gte=0,
                    owed_minor__gte=0,
                    lost_minor__gte=0,
                    amount_minor=F("credit_minor") + F("owed_minor") + F("lost_minor"),
                ),
                name="reversal_is_the_sum_of_its_parts",
            ),
        ]
        indexes = [models.Index(fields=["account", "-id"], name="reversals_of_an_account")]

    def __str__(self) -> str:
        return f"{self.payment}: {self.reason}"
