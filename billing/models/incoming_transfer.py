from django.db import models
from django.db.models import Q
from django.db.models.functions import MD5, Now


class BankStatement(models.Model):
    """One import of a bank's statement, in one file or several. Written before its first transfer."""

    name = models.CharField(max_length=300)  # its files
    # Of its files, one after another.
    sha256 = models.CharField(max_length=64)
    imported_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.name


class IncomingTransfer(models.Model):
    """
    Money that came in on our bank account, as the bank's statement says it.

    Booked to the account it names, or left to a person. What the bank said never changes.
    """

    class State(models.TextChoices):
        WAITING = "WAITING", "Waiting for a person"
        BOOKED = "BOOKED", "Booked"
        RECORDED = "RECORDED", "Recorded before"
        NOT_OURS = "NOT_OURS", "Not ours"

    # What the bank says of it, all of which makes it known again. Banks use their ids anew.
    bank_account = models.CharField(max_length=64, blank=True, default="", db_default="")
    bank_ref = models.CharField(max_length=140)
    received_on = models.DateField()
    currency = models.CharField(max_length=3)
    amount_minor = models.BigIntegerField()
    # What the payer wrote, and who the bank says they are.
    reference = models.CharField(max_length=300, blank=True)
    payer = models.CharField(max_length=200, blank=True)
    # The how-manieth it is of those of which the bank says the same, from 1.
    ordinal = models.PositiveIntegerField(default=1, db_default=1)
    # Null: imported before statements were kept, or counted apart by a person.
    statement = models.ForeignKey(
        BankStatement, on_delete=models.PROTECT, null=True, blank=True, related_name="transfers"
    )
    state = models.CharField(max_length=10, choices=State, default=State.WAITING)
    # Why it waits, or was booked or put aside.
    because = models.CharField(max_length=300, blank=True)
    # Whose it may be, where a person is asked.
    suggested_account = models.ForeignKey(
        "accounts.Account", on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    # The payment that it looks like, recorded before it came; once RECORDED: the one that it is.
    resembles = models.ForeignKey(
        "billing.Payment", on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    payment = models.OneToOneField(
        "billing.Payment",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="transfer",
    )
    # Who decided: "system" where the reference did.
    decided_by = models.CharField(max_length=254, blank=True)
    # Since when it waits, too.
    imported_at = models.DateTimeField(db_default=Now())

    class Meta:
        permissions = [("assign_incomingtransfer", "Can assign bank transfers to accounts")]
        constraints = [
            # The two long texts by their digests: an index holds no more.
            models.UniqueConstraint(
                "bank_ref",
                "received_on",
                "amount_minor",
                "currency",
                "bank_account",
                MD5("reference"),
                MD5("payer"),
                "ordinal",
                name="transfer_is_stored_once",
            ),
            models.CheckConstraint(
                condition=Q(amount_minor__gt=0), name="incoming_transfer_is_positive"
            ),
            models.CheckConstraint(
                condition=Q(state="BOOKED", payment__isnull=False)
                | (~Q(state="BOOKED") & Q(payment__isnull=True)),
                name="transfer_is_booked_exactly_when_it_has_a_payment",
            ),
            models.CheckConstraint(
                condition=~Q(state="RECORDED") | Q(resembles__isnull=False),
                name="recorded_transfer_names_its_payment",
            ),
            models.UniqueConstraint(
                fields=["resembles"],
                condition=Q(state="RECORDED"),
                name="payment_recorded_before_is_one_transfer",
            ),
        ]
        indexes = [
            models.Index(
                fields=["received_on"],
                condition=Q(state="WAITING"),
                name="transfers_that_wait",
            ),
        ]

    def __str__(self) -> str:
        return f"Bank transfer of {self.received_on}, {self.bank_ref}"


class RepeatedTransfer(models.Model):
    """An entry of a statement that was taken for a transfer imported before, and so added nothing."""

    statement = models.ForeignKey(
        BankStatement, on_delete=models.PROTECT, related_name="repeated_transfers"
    )
    # Where it stands; the header of a file is line 1.
    file = models.CharField(max_length=300)
    line = models.IntegerField()
    transfer = models.ForeignKey(
        IncomingTransfer, on_delete=models.PROTECT, related_name="repeated_by"
    )
    # The transfer that a person made of it: it was another one.
    counted_apart_as = models.OneToOneField(
        IncomingTransfer, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.transfer}"
