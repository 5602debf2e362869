from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class Kind(models.TextChoices):
    """What a usage row, and the line made of it, is."""

    USAGE = "USAGE", "Usage"
    COVERED = "COVERED", "Covered by a commitment"  # reserved usage, billed elsewhere
    FEE = "FEE", "Fee"  # recurring or one-time, whatever was used
    CREDIT = "CREDIT", "Credit"  # usually negative
    ADJUSTMENT = "ADJUSTMENT", "Adjustment"
    TAX = "TAX", "Tax"


class UsageBatch(models.Model):
    """One import, or one delivery, of usage events. Committed whole or not at all."""

    source = models.CharField(max_length=40)  # the format: "aws-cur", "focus", "csv"
    name = models.CharField(max_length=300)  # the file
    sha256 = models.CharField(max_length=64)
    rows_read = models.BigIntegerField(default=0)
    rows_added = models.BigIntegerField(default=0)
    rows_known = models.BigIntegerField(default=0)  # stored by an earlier batch
    rows_rejected = models.BigIntegerField(default=0)
    created_at = models.DateTimeField(db_default=Now())
    # When its events were added to the summaries, in one transaction; null: not yet.
    tallied_at = models.DateTimeField(null=True, blank=True)
    # Where its rejected rows were listed, on the machine that imported it.
    rejects_file = models.CharField(max_length=500, blank=True, default="", db_default="")
    # That its rejected rows will not be billed: said by a person; null: nobody has.
    set_aside_at = models.DateTimeField(null=True, blank=True)
    set_aside_by = models.CharField(max_length=254, blank=True, default="", db_default="")
    set_aside_because = models.CharField(max_length=300, blank=True, default="", db_default="")

    class Meta:
        verbose_name_plural = "usage batches"
        permissions = [("set_aside_rejects", "Can set rejected rows of usage aside")]
        constraints = [
            models.CheckConstraint(
                condition=Q(set_aside_at=None) | ~(Q(set_aside_by="") | Q(set_aside_because="")),
                name="rejects_set_aside_say_who_and_why",
            ),
        ]
        indexes = [
            models.Index(fields=["id"], condition=Q(tallied_at=None), name="batches_to_tally"),
        ]

    def __str__(self) -> str:
        return self.name


class RejectedRow(models.Model):
    """
    A row that could not be billed, with what it says of money, until it comes again or is set aside.

    Written with its batch. What it says as a whole stands in the file of rejects.
    """

    # `rejected_row_is_kept_once` looks it up.
    batch = models.ForeignKey(
        UsageBatch, on_delete=models.PROTECT, related_name="rejected_rows", db_index=False
    )
    number = models.BigIntegerField()  # in the file, its header being 1
    field = models.CharField(max_length=200)
    # What else can be read of it; empty: nothing.
    account = models.CharField(max_length=200, blank=True)
    event_id = models.CharField(max_length=200, blank=True)
    currency = models.CharField(max_length=3, blank=True)
    amount = models.DecimalField(max_digits=30, decimal_places=15, null=True, blank=True)
    month = models.DateField(null=True, blank=True)
    # The import in which the row came again: stored, or rejected once more and kept there.
    again_in = models.ForeignKey(
        UsageBatch,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="follows_up",
        db_index=False,
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["batch", "number"], name="rejected_row_is_kept_once"),
            models.CheckConstraint(
                condition=Q(again_in=None) | ~Q(again_in=models.F("batch")),
                name="rejected_row_comes_again_in_another_import",
            ),
        ]
        indexes = [
            models.Index(
                fields=["batch"], condition=Q(again_in=None), name="rejected_rows_that_wait"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.batch}, row {self.number}: {self.field}"


class UntalliedUsage(models.Model):
    """
    An account's events of a batch that could not be added up, though the others of the batch were.

    Written with the tally of its batch, and deleted in the transaction that adds the events up after all:
    nothing is billed of them before, and nothing is lost.
    """

    # `usage_left_once` looks it up.
    batch = models.ForeignKey(
        UsageBatch, on_delete=models.PROTECT, related_name="untallied", db_index=False
    )
    account = models.ForeignKey(
        "accounts.Account", on_delete=models.PROTECT, related_name="untallied_usage"
    )
    because = models.CharField(max_length=300)
    noted_at = models.DateTimeField()
    # When to try again; sooner where the account was mended.
    again_at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "usage that could not be added up"
        constraints = [
            models.UniqueConstraint(fields=["batch", "account"], name="usage_left_once"),
        ]

    def __str__(self) -> str:
        return f"{self.account}, {self.batch}"


class UsageEvent(models.Model):
    """
    One measurement. Append-only (trigger), partitioned by the month of `effective_at` (migration).

    Its price is either stated per unit, or stated as a whole (`amount`), or neither: then the
    catalogue prices it at the close. Unique per account, source, event id and instant.
    """

    batch = models.ForeignKey(
        UsageBatch, on_delete=models.DO_NOTHING, db_constraint=False, related_name="events"
    )
    account = models.ForeignKey(
        "accounts.Account", on_delete=models.DO_NOTHING, db_constraint=False, related_name="+"
    )
    product = models.ForeignKey(
        "billing.Product", on_delete=models.DO_NOTHING, db_constraint=False, related_name="+"
    )
    source = models.CharField(max_length=40)
    event_id = models.CharField(max_length=200)
    kind = models.CharField(max_length=12, choices=Kind, default=Kind.USAGE)
    item = models.CharField(max_length=300, blank=True)
    unit = models.CharField(max_length=60, blank=True)
    quantity = models.DecimalField(max_digits=36, decimal_places=15)
    unit_price = models.DecimalField(max_digits=26, decimal_places=12, null=True)
    amount = models.DecimalField(max_digits=30, decimal_places=15, null=True)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    # Decides the billing period. The start, unless the source bills it in another month.
    effective_at = models.DateTimeField()
    description = models.CharField(max_length=500, blank=True)
    # What else the source said and reports may want: resource, region, tags.
    attributes = models.JSONField(default=dict)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account", "source", "event_id", "effective_at"],
                name="usage_event_stored_once",
            ),
            models.CheckConstraint(
                condition=Q(unit_price=None) | Q(amount=None), name="usage_price_is_stated_one_way"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.quantity.normalize():f} {self.unit} {self.item}"


class UsageSummary(models.Model):
    """
    The tally of one account's like events in one period; one line of its invoice.

    Open (no invoice) it grows with every batch; the invoice that takes it freezes it. Events that
    arrive later start a new summary, which the next invoice takes: billed once, and never lost.
    """

    account = models.ForeignKey(
        "accounts.Account", on_delete=models.PROTECT, related_name="summaries"
    )
    # No index of their own: nobody asks by them alone, and every tally and invoice would pay for it.
    period = models.ForeignKey(
        "billing.BillingPeriod", on_delete=models.PROTECT, related_name="summaries", db_index=False
    )
    product = models.ForeignKey(
        "billing.Product", on_delete=models.PROTECT, related_name="+", db_index=False
    )
    kind = models.CharField(max_length=12, choices=Kind)
    item = models.CharField(max_length=300, blank=True)
    unit = models.CharField(max_length=60, blank=True)
    unit_price = models.DecimalField(max_digits=26, decimal_places=12, null=True)
    quantity = models.DecimalField(max_digits=36, decimal_places=15)
    # Sum of the amounts the source stated; null where it stated none.
    amount = models.DecimalField(max_digits=30, decimal_places=15, null=True)
    events = models.BigIntegerField()
    first_at = models.DateTimeField()
    last_at = models.DateTimeField()
    invoice = models.ForeignKey(
        "billing.Invoice",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="summaries",
        db_index=False,  # `summaries_of_an_invoice` below
    )
    # When its first events were tallied: the database's clock, under the account's lock. Tells usage
    # that came too late for an invoice from usage that the invoice has forgotten (check_books).
    created_at = models.DateTimeField(
        db_default=models.Func(function="clock_timestamp", template="%(function)s()")
    )

    class Meta:
        verbose_name_plural = "usage summaries"
        constraints = [
            models.UniqueConstraint(
                "account",
                "period",
                "product",
                "kind",
                "item",
                "unit",
                "unit_price",
                models.ExpressionWrapper(
                    Q(amount__isnull=True), output_field=models.BooleanField()
                ),
                condition=Q(invoice=None),
                nulls_distinct=False,
                name="one_open_summary_per_key",
            ),
        ]
        indexes = [
            models.Index(
                fields=["invoice"],
                condition=Q(invoice__isnull=False),
                name="summaries_of_an_invoice",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.quantity.normalize():f} {self.unit} {self.item}"
