from django.db import models
from django.db.models import Q


class LedgerAccount(models.Model):
    """
    An account of the books, in one currency.

    Customer-side ones (receivable, credit) belong to an account and carry a running balance in
    each posting. Company-side ones are only summed, so that no hot row serialises the close.
    """

    class Kind(models.TextChoices):
        # Customer-side.
        RECEIVABLE = "RECEIVABLE", "Receivable"  # debit: they owe us
        CUSTOMER_CREDIT = "CUSTOMER_CREDIT", "Customer credit"  # credit: we owe them
        # Company-side.
        REVENUE = "REVENUE", "Revenue"
        CASH = "CASH", "Cash"  # one per gateway
        DISPUTED = (
            "DISPUTED",
            "Disputed",
        )  # withdrawn from cash until a dispute is decided; one per gateway
        DISPUTE_FEES = "DISPUTE_FEES", "Dispute fees"
        PROMOTIONS = "PROMOTIONS", "Promotions"  # what credits given away cost us
        BAD_DEBT = "BAD_DEBT", "Bad debt"  # what was written off
        REFUNDS = "REFUNDS", "Refunds"  # what was paid back without being owed: less revenue
        REFUNDS_IN_TRANSIT = "REFUNDS_IN_TRANSIT", "Refunds in transit"  # on their way, per gateway

    CUSTOMER_SIDE = (Kind.RECEIVABLE, Kind.CUSTOMER_CREDIT)

    kind = models.CharField(max_length=20, choices=Kind)
    currency = models.CharField(max_length=3)
    account = models.ForeignKey(
        "accounts.Account",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="ledger_accounts",
    )
    entity = models.ForeignKey(
        "accounts.BillingEntity", on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    gateway = models.CharField(max_length=30, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "currency", "account", "entity", "gateway"],
                nulls_distinct=False,
                name="one_ledger_account_per_purpose",
            ),
            models.CheckConstraint(
                condition=Q(
                    kind__in=["RECEIVABLE", "CUSTOMER_CREDIT"], account__isnull=False, entity=None
                )
                | (
                    ~Q(kind__in=["RECEIVABLE", "CUSTOMER_CREDIT"])
                    & Q(account=None, entity__isnull=False)
                ),
                name="ledger_account_is_customer_side_or_company_side",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.currency}"


class LedgerEntry(models.Model):
    """
    One balanced business event. Append-only (trigger); its postings sum to zero (deferred trigger).

    A wrong one is corrected by another entry. Unique per kind and source: booked once.
    """

    class Kind(models.TextChoices):
        INVOICE_ISSUED = "INVOICE_ISSUED", "Invoice issued"
        CREDIT_GRANTED = "CREDIT_GRANTED", "Credit granted"
        CREDIT_APPLIED = "CREDIT_APPLIED", "Credit applied"
        CREDIT_EXPIRED = "CREDIT_EXPIRED", "Credit expired"
        PAYMENT_RECEIVED = "PAYMENT_RECEIVED", "Payment received"
        PAYMENT_REVERSED = "PAYMENT_REVERSED", "Payment reversed"
        DISPUTE_OPENED = "DISPUTE_OPENED", "Dispute opened"
        DISPUTE_WON = "DISPUTE_WON", "Dispute won"
        REFUND_RESERVED = "REFUND_RESERVED", "Refund reserved"
        REFUND_SENT = "REFUND_SENT", "Refund sent"
        REFUND_UNDONE = "REFUND_UNDONE", "Refund undone"
        REFUND_RETURNED = "REFUND_RETURNED", "Refund returned"
        REFUND_FROM_CREDIT = "REFUND_FROM_CREDIT", "Refund taken of credit"

    kind = models.CharField(max_length=30, choices=Kind)
    # What it books: "invoice:17", "payment:4", "grant:2", "allocation:9".
    source = models.CharField(max_length=100)
    currency = models.CharField(max_length=3)
    account = models.ForeignKey(
        "accounts.Account",
        on_delete=models.PROTECT,
        related_name="entries",
        db_index=False,  # `entries_of_an_account` below
    )
    description = models.CharField(max_length=300)
    # When the event took place.
    effective_at = models.DateTimeField()
    # When it entered the books, by the database's clock, under the account's lock: never backwards
    # within an account. "Balance as of T" goes by this one.
    posted_at = models.DateTimeField(
        db_default=models.Func(function="clock_timestamp", template="%(function)s()")
    )

    class Meta:
        verbose_name_plural = "ledger entries"
        constraints = [
            models.UniqueConstraint(fields=["kind", "source"], name="one_entry_per_business_event"),
        ]
        indexes = [models.Index(fields=["account", "-id"], name="entries_of_an_account")]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.description}"


class Posting(models.Model):
    """One debit (positive) or credit (negative) of an entry, in minor units. Append-only (trigger)."""

    entry = models.ForeignKey(LedgerEntry, on_delete=models.PROTECT, related_name="postings")
    ledger_account = models.ForeignKey(
        LedgerAccount,
        on_delete=models.PROTECT,
        related_name="postings",
        db_index=False,  # a constraint below begins with it
    )
    amount_minor = models.BigIntegerField()
    # Customer-side only: 1, 2, 3… per ledger account. Two writers who read the same balance
    # collide on it, so a balance can never be built on a stale one.
    version = models.BigIntegerField(null=True)
    balance_minor = models.BigIntegerField(null=True)
    posted_at = models.DateTimeField(
        db_default=models.Func(function="clock_timestamp", template="%(function)s()")
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["ledger_account", "version"], name="running_balance_has_one_next_posting"
            ),
            models.CheckConstraint(condition=~Q(amount_minor=0), name="posting_is_not_zero"),
            models.CheckConstraint(
                condition=Q(version=None, balance_minor=None)
                | Q(version__isnull=False, version__gte=1, balance_minor__isnull=False),
                name="running_balance_is_whole",
            ),
        ]
        indexes = [
            models.Index(
                fields=["ledger_account", "-posted_at"],
                condition=Q(version__isnull=False),
                name="balance_as_of",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount_minor:+d} {self.ledger_account}"
