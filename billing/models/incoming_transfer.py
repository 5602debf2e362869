from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class IncomingTransfer(models.Model):
    """
    Money that came in on our bank account, as the bank's statement says it.

    Booked to the account it names, or left to a person. What the bank said never changes.
    """

    class State(models.TextChoices):
        WAITING = "WAITING", "Waiting for a person"
        BOOKED = "BOOKED", "Booked"
        NOT_OURS = "NOT_OURS", "Not ours"

    # The bank's own id of it: imported once.
    bank_ref = models.CharField(max_length=140, unique=True)
    received_on = models.DateField()
    currency = models.CharField(max_length=3)
    amount_minor = models.BigIntegerField()
    # What the payer wrote, and who the bank says they are.
    reference = models.CharField(max_length=300, blank=True)
    payer = models.CharField(max_length=200, blank=True)
    state = models.CharField(max_length=10, choices=State, default=State.WAITING)
    # Why it waits, or was booked or put aside.
    because = models.CharField(max_length=300, blank=True)
    payment = models.OneToOneField(
        "billing.Payment",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="transfer",
    )
    # Who decided: "system" where the reference did.
    decided_by = models.CharField(max_length=254, blank=True)
    imported_at = models.DateTimeField(db_default=Now())

    class Meta:
        permissions = [("assign_incomingtransfer", "Can assign bank transfers to accounts")]
        constraints = [
            models.CheckConstraint(
                condition=Q(amount_minor__gt=0), name="incoming_transfer_is_positive"
            ),
            models.CheckConstraint(
                condition=Q(state="BOOKED", payment__isnull=False)
                | (~Q(state="BOOKED") & Q(payment__isnull=True)),
                name="transfer_is_booked_exactly_when_it_has_a_payment",
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
