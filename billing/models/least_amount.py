from django.db import models
from django.db.models.functions import Now

from billing.money import money


class LeastAmount(models.Model):
    """
    The least amount that an entity asks for in a currency, whatever card is on file.

    What an account owes below it is carried to its next invoice: it is not overdue, holds nobody, and is not
    charged. A transfer may pay it. Without an entity it is everybody's who has none of their own.
    """

    entity = models.ForeignKey(
        "accounts.BillingEntity",
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="+",
        help_text="Empty: for every entity that has none of its own in this currency.",
    )
    currency = models.CharField(max_length=3)
    amount_minor = models.BigIntegerField(
        help_text="In minor units: 50 is EUR 0.50, JPY 50 and KWD 0.050."
    )
    changed_at = models.DateTimeField(auto_now=True, db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["currency", "entity"],
                nulls_distinct=False,
                name="one_least_amount_per_currency_and_entity",
            ),
            models.CheckConstraint(
                condition=models.Q(amount_minor__gt=0), name="least_amount_is_positive"
            ),
        ]

    def __str__(self) -> str:
        return f"{money(self.amount_minor, self.currency)}, {self.entity or 'every entity'}"
