from datetime import date
from zoneinfo import ZoneInfo

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from notifications import formats


class NumberSeries(models.Model):
    """
    The gapless counter of invoice numbers of one entity.

    A row, not a SEQUENCE: a rolled-back transaction gives its numbers back. Locked last.
    """

    entity = models.OneToOneField(
        "accounts.BillingEntity", on_delete=models.PROTECT, related_name="number_series"
    )
    next_number = models.BigIntegerField(default=1)
    # When the last number was given. Moves forward only, under this row's lock: a worker that read its
    # clock earlier, or whose clock is behind, issues at this instant, so that times rise with numbers.
    last_issued_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "number series"

    def __str__(self) -> str:
        return f"{self.entity.invoice_prefix}: next {self.next_number}"


class Invoice(models.Model):
    """
    The bill of one account for one period. A draft may change; an issued one never does (trigger),
    but for `settled_at`.
    """

    class State(models.TextChoices):
        DRAFT = "DRAFT", "Draft"
        ISSUED = "ISSUED", "Issued"

    # No index of their own: constraints below begin with entity and account, and none asks by period.
    entity = models.ForeignKey(
        "accounts.BillingEntity", on_delete=models.PROTECT, related_name="+", db_index=False
    )
    account = models.ForeignKey(
        "accounts.Account", on_delete=models.PROTECT, related_name="invoices", db_index=False
    )
    period = models.ForeignKey(
        "billing.BillingPeriod", on_delete=models.PROTECT, related_name="+", db_index=False
    )
    state = models.CharField(max_length=10, choices=State, default=State.DRAFT)
    # Whom it was addressed to, as it was then.
    account_name = models.CharField(max_length=200)
    currency = models.CharField(max_length=3)
    # Sum of the rounded lines, in minor units. Negative where credits outweigh usage.
    total_minor = models.BigIntegerField(default=0)
    # 1, 2, 3… per entity without a gap; `number` is what people read: "MC-000001".
    sequence = models.BigIntegerField(null=True, blank=True)
    number = models.CharField(max_length=40, null=True, blank=True)
    issued_at = models.DateTimeField(null=True, blank=True)
    # The last day to pay; older releases issued without one.
    due_date = models.DateField(null=True, blank=True)
    # Where that day ends: the account's zone as it was then. Empty: it is due at once, at the instant of issue.
    time_zone = models.CharField(max_length=64, blank=True, default="", db_default="")
    # From here on it is past due: the first instant after that day.
    due_at = models.DateTimeField(null=True, blank=True)
    # When allocations reached the total. Written under the account's lock: by billing/invoices/issuing.py
    # where there is nothing to pay, else by billing/ledger/settlement.py; a payment that goes back empties
    # it again (billing/payments/reversals.py). check_books holds it against the allocations.
    settled_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account", "period"], name="one_invoice_per_account_and_period"
            ),
            models.UniqueConstraint(
                fields=["entity", "sequence"], name="invoice_numbers_are_unique_per_entity"
            ),
            models.UniqueConstraint(fields=["number"], name="invoice_number_is_unique"),
            models.CheckConstraint(
                condition=Q(
                    state="DRAFT",
                    sequence=None,
                    number=None,
                    issued_at=None,
                    due_at=None,
                    settled_at=None,
                )
                | Q(
                    state="ISSUED",
                    sequence__isnull=False,
                    number__isnull=False,
                    issued_at__isnull=False,
                    due_at__isnull=False,
                ),
                name="numbered_exactly_when_issued",
            ),
        ]
        indexes = [
            models.Index(
                fields=["account", "id"],
                condition=Q(state="ISSUED", settled_at=None),
                name="open_invoices",
            ),
        ]

    def __str__(self) -> str:
        return self.number or f"draft for {self.account_name}"

    @property
    def is_draft(self) -> bool:
        return self.state == self.State.DRAFT

    def last_day(self, time_zone: str) -> date:
        """The last day to pay; of what an older release issued, the day of `due_at` in this zone."""
        assert self.due_at is not None, f"{self} is not issued"
        return self.due_date or self.due_at.astimezone(ZoneInfo(time_zone)).date()


class LineItem(models.Model):
    """One line, which explains itself: what, how much, at which price, when. Rounded here, once."""

    # No index of its own: a constraint below begins with it. Nobody asks by product.
    invoice = models.ForeignKey(
        Invoice, on_delete=models.PROTECT, related_name="lines", db_index=False
    )
    position = models.PositiveIntegerField()
    kind = models.CharField(max_length=12)  # a billing.models.usage.Kind
    product = models.ForeignKey(
        "billing.Product", on_delete=models.PROTECT, related_name="+", db_index=False
    )
    # The tally it bills; null for a monthly fee.
    summary = models.OneToOneField(
        "billing.UsageSummary", on_delete=models.PROTECT, null=True, blank=True, related_name="line"
    )
    # The catalogue's price it was priced with; null where the source stated its own.
    price = models.ForeignKey(
        "billing.Price", on_delete=models.PROTECT, null=True, blank=True, related_name="lines"
    )
    description = models.CharField(max_length=500)
    quantity = models.DecimalField(max_digits=36, decimal_places=15)
    # How much of the quantity was free.
    free_quantity = models.DecimalField(max_digits=36, decimal_places=15, default=0)
    unit = models.CharField(max_length=60, blank=True)
    # Null where the source stated the amount as a whole.
    unit_price = models.DecimalField(max_digits=26, decimal_places=12, null=True, blank=True)
    # (quantity - free_quantity) * unit_price in major units, before rounding.
    amount_unrounded = models.DecimalField(max_digits=40, decimal_places=18)
    amount_minor = models.BigIntegerField()
    # The period the usage was in, which for late usage is not the invoice's.
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["invoice", "position"], name="line_positions_are_unique"
            ),
        ]

    def __str__(self) -> str:
        return self.description


class Allocation(models.Model):
    """
    So much of a payment, or of a credit grant, went to this invoice. Append-only (trigger).

    Where the payment went back, a second one below zero takes back the first, whole or in part.
    """

    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="allocations")
    payment = models.ForeignKey(
        "billing.Payment",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="allocations",
    )
    grant = models.ForeignKey(
        "billing.CreditGrant",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="allocations",
    )
    amount_minor = models.BigIntegerField()
    # Below zero only: which allocation it takes back, and why.
    reverses = models.ForeignKey(
        "self", on_delete=models.PROTECT, null=True, blank=True, related_name="reversed_by"
    )
    reversal = models.ForeignKey(
        "billing.PaymentReversal",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="allocations",
    )
    allocated_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(amount_minor__gt=0, reverses=None, reversal=None)
                | Q(amount_minor__lt=0, reverses__isnull=False, reversal__isnull=False),
                name="allocation_is_positive_or_takes_one_back",
            ),
            models.CheckConstraint(
                condition=Q(payment=None, grant__isnull=False)
                | Q(payment__isnull=False, grant=None),
                name="allocation_has_one_source",
            ),
        ]

    def __str__(self) -> str:
        return f"{formats.money(self.amount_minor, self.invoice.currency, 'en')} to {self.invoice}"
