import uuid
from collections.abc import Iterable

from django.db import models
from django.db.models import F, Func, Q


class ClosureQuerySet(models.QuerySet["AccountClosure"]):
    """Closures of accounts."""

    def standing(self, account_ids: Iterable[int]) -> "ClosureQuerySet":
        """Of these accounts, those that are closed now. To act on it, hold the accounts' locks."""
        return self.filter(account__in=account_ids, reopened_at=None)


class AccountClosure(models.Model):
    """
    That an account was closed, what was decided about its debt and its credit, and that it was opened again.

    Written by billing/closure/ under the account's lock. While one stands, no close takes the account, and
    nothing is charged by itself.
    """

    class Debt(models.TextChoices):
        COLLECT = "COLLECT", "Still to be paid"
        CHARGE = "CHARGE", "Charged once, then still to be paid"
        WRITE_OFF = "WRITE_OFF", "Written off"

    class Credit(models.TextChoices):
        KEEP = "KEEP", "Kept"
        PAY_BACK = "PAY_BACK", "Paid back"

    account = models.ForeignKey(
        "accounts.Account", on_delete=models.PROTECT, related_name="closures"
    )
    # From the form: sent twice it closes once.
    token = models.UUIDField(unique=True, default=uuid.uuid4)
    debt = models.CharField(max_length=10, choices=Debt)
    credit = models.CharField(max_length=10, choices=Credit)
    because = models.CharField(max_length=300)
    closed_at = models.DateTimeField()
    closed_by = models.CharField(max_length=254)
    # When it was written, under the account's lock: check_books holds later charges against it.
    locked_at = models.DateTimeField(
        db_default=Func(function="clock_timestamp", template="%(function)s()")
    )
    # For what was used and not invoiced; null: nothing was.
    final_invoice = models.ForeignKey(
        "billing.Invoice", on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    written_off_minor = models.BigIntegerField(default=0)
    paid_back_minor = models.BigIntegerField(default=0)
    # When to make the one charge that was decided; null: it is made, or there is none.
    charge_at = models.DateTimeField(null=True, blank=True)
    reopened_at = models.DateTimeField(null=True, blank=True)
    reopened_by = models.CharField(max_length=254, blank=True)
    reopened_because = models.CharField(max_length=300, blank=True)

    objects = ClosureQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account"], condition=Q(reopened_at=None), name="account_is_closed_once"
            ),
            models.CheckConstraint(
                condition=Q(reopened_at=None) | ~(Q(reopened_by="") | Q(reopened_because="")),
                name="account_reopened_says_who_and_why",
            ),
            models.CheckConstraint(
                condition=Q(written_off_minor__gte=0, paid_back_minor__gte=0),
                name="closure_amounts_are_not_negative",
            ),
            models.CheckConstraint(
                condition=Q(reopened_at=None) | Q(reopened_at__gte=F("closed_at")),
                name="account_is_reopened_after_it_closed",
            ),
        ]
        indexes = [
            models.Index(
                fields=["charge_at"],
                condition=Q(charge_at__isnull=False),
                name="closures_to_charge",
            ),
        ]

    def __str__(self) -> str:
        return f"closed on {self.closed_at:%Y-%m-%d} by {self.closed_by}: {self.because}"
