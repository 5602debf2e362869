from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import RangeOperators
from django.db import models
from django.db.models import F, Func, Q, Value


class BillingPeriod(models.Model):
    """
    One account's month, half-open: [starts_at, ends_at).

    Cut in the account's time zone when first needed, then stored and never recomputed: a change of
    zone moves the end of the next period, so an account's periods tile without hole or overlap.
    """

    account = models.ForeignKey(
        "accounts.Account", on_delete=models.PROTECT, related_name="periods"
    )
    # The first day of the month it stands for: 2018-10-01 is "October 2018".
    month = models.DateField()
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account", "month"], name="one_period_per_account_and_month"
            ),
            models.CheckConstraint(
                condition=Q(starts_at__lt=F("ends_at")), name="period_ends_after_it_starts"
            ),
            # int8range stands in for btree_gist, which the embedded PostgreSQL does not carry.
            ExclusionConstraint(
                name="periods_of_an_account_never_overlap",
                expressions=[
                    (
                        Func(F("account"), F("account"), Value("[]"), function="int8range"),
                        RangeOperators.OVERLAPS,
                    ),
                    (
                        Func(F("starts_at"), F("ends_at"), function="tstzrange"),
                        RangeOperators.OVERLAPS,
                    ),
                ],
            ),
        ]

    def __str__(self) -> str:
        return f"{self.month:%Y-%m}"
