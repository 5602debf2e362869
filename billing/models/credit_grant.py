import uuid

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now


class CreditGrant(models.Model):
    """
    Value a customer may use against invoices: given by us, or left over from a payment.

    `remaining_minor` moves only under the account's lock: used and expired by billing/invoices/credits.py,
    taken and given back by billing/payments/refunds/, taken by billing/payments/reversals.py. check_books
    compares it with allocations, expiry, refunds, reversals and the ledger.
    """

    class Kind(models.TextChoices):
        PROMOTIONAL = "PROMOTIONAL", "Promotional"
        GOODWILL = "GOODWILL", "Goodwill"
        SURPLUS = "SURPLUS", "Paid too much"  # real money: never expires
        RETURNED = "RETURNED", "Refund sent back"  # real money too
        INVOICE = "INVOICE", "Invoiced credit"  # an invoice whose total was negative
        WRITE_OFF = "WRITE_OFF", "Written off"  # a debt that nobody pays any more: used at once

    account = models.ForeignKey("accounts.Account", on_delete=models.PROTECT, related_name="grants")
    # From the form or the source: the same grant sent twice is one grant.
    token = models.UUIDField(unique=True, default=uuid.uuid4)
    kind = models.CharField(max_length=12, choices=Kind)
    currency = models.CharField(max_length=3)
    amount_minor = models.BigIntegerField()
    # What is not used, expired, refunded or reversed.
    remaining_minor = models.BigIntegerField()
    expired_minor = models.BigIntegerField(default=0)
    # Paid back to the customer on purpose; and gone back, because the payment did.
    refunded_minor = models.BigIntegerField(default=0)
    reversed_minor = models.BigIntegerField(default=0)
    # The payment whose money it is; null where it is not anybody's payment.
    payment = models.ForeignKey(
        "billing.Payment", on_delete=models.PROTECT, null=True, blank=True, related_name="grants"
    )
    expires_at = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=300)
    granted_by = models.CharField(max_length=254, default="system")
    granted_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(amount_minor__gt=0), name="grant_is_positive"),
            models.CheckConstraint(
                condition=Q(remaining_minor__gte=0)
                & Q(expired_minor__gte=0)
                & Q(refunded_minor__gte=0)
                & Q(reversed_minor__gte=0)
                & Q(
                    amount_minor__gte=F("remaining_minor")
                    + F("expired_minor")
                    + F("refunded_minor")
                    + F("reversed_minor")
                ),
                name="grant_is_never_overspent",
            ),
        ]
        indexes = [
            models.Index(
                fields=["account", "expires_at"],
                condition=Q(remaining_minor__gt=0),
                name="usable_grants",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.reason}"
