import uuid
from collections.abc import Sequence
from typing import Any, Final

from django.db import models
from django.db.models import F, Q

from notifications import formats
from notifications.models import Dispatched


class Refund(Dispatched):
    """
    Money of a payment that is paid back on purpose: by us, or by somebody on the provider's own pages.

    At most one that we asked for is on its way per payment (constraint); see billing/payments/refunds/ and
    docs/states.md.
    """

    class State(models.TextChoices):
        RESERVED = "RESERVED", "Reserved"  # ours alone; nothing was sent
        SUBMITTED = "SUBMITTED", "Submitted"  # the provider may have it
        PENDING = "PENDING", "On its way"  # the provider has it, the bank does not
        REVIEW = "REVIEW", "In review"  # a person decides; blocks another of the same payment
        SUCCEEDED = "SUCCEEDED", "Paid back"
        FAILED = "FAILED", "Failed"  # never left: refused, or never sent
        RETURNED = "RETURNED", "Sent back"  # by the customer's bank: it is their credit now

    IN_FLIGHT: Final = (State.RESERVED, State.SUBMITTED, State.PENDING, State.REVIEW)
    # The money is with us.
    UNPAID: Final = (State.FAILED, State.RETURNED)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    queue = models.CharField(max_length=50, default="charge", db_default="charge")
    account = models.ForeignKey(
        "accounts.Account", on_delete=models.PROTECT, related_name="refunds"
    )
    payment = models.ForeignKey("billing.Payment", on_delete=models.PROTECT, related_name="refunds")
    gateway = models.CharField(max_length=30)
    currency = models.CharField(max_length=3)
    amount_minor = models.BigIntegerField()
    # The amount, in two parts: what the payment had left as credit and was unused, and what it costs us.
    credit_minor = models.BigIntegerField()
    cost_minor = models.BigIntegerField()
    # Of a refund that came to nothing, the part of that credit which is not theirs again: the payment
    # went back meanwhile, and that credit with it.
    lost_minor = models.BigIntegerField(default=0)
    state = models.CharField(max_length=12, choices=State, default=State.RESERVED)
    # The provider's refund; the token of the form where it was paid back by hand.
    provider_ref = models.CharField(max_length=200, null=True, blank=True)
    # From the form: sent twice, it is one refund. None: made on the provider's own pages.
    token = models.UUIDField(unique=True, null=True, blank=True)
    reason = models.CharField(max_length=300)
    requested_by = models.CharField(max_length=254)
    # Why it ended as it did, or waits, in words.
    because = models.CharField(max_length=300, blank=True)
    # Its idempotency key is good for so long after this.
    first_submitted_at = models.DateTimeField(null=True, blank=True)
    # The dispatcher takes it on from here on.
    next_action_at = models.DateTimeField(null=True, blank=True)
    unknown_since = models.DateTimeField(null=True, blank=True)
    requested_at = models.DateTimeField()
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["payment"],
                condition=Q(
                    state__in=["RESERVED", "SUBMITTED", "PENDING", "REVIEW"], token__isnull=False
                ),
                name="one_refund_in_flight_per_payment",
            ),
            models.UniqueConstraint(
                fields=["gateway", "provider_ref"], name="provider_refund_is_booked_once"
            ),
            models.CheckConstraint(
                condition=Q(
                    amount_minor__gt=0,
                    credit_minor__gte=0,
                    cost_minor__gte=0,
                    amount_minor=F("credit_minor") + F("cost_minor"),
                ),
                name="refund_is_the_sum_of_its_parts",
            ),
            models.CheckConstraint(
                condition=Q(lost_minor=0)
                | Q(
                    lost_minor__gt=0,
                    lost_minor__lte=F("credit_minor"),
                    state__in=["FAILED", "RETURNED"],
                ),
                name="refund_loses_no_more_than_its_credit",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["RESERVED", "SUBMITTED", "REVIEW", "FAILED"])
                | Q(provider_ref__isnull=False),
                name="refund_at_the_provider_has_its_ref",
            ),
        ]
        indexes = [
            models.Index(
                fields=["next_action_at"],
                condition=Q(next_action_at__isnull=False),
                name="refunds_to_drive",
            ),
            models.Index(
                fields=["parked_at"],
                condition=Q(parked_at__isnull=False),
                name="refunds_parked",
            ),
            models.Index(fields=["account", "-requested_at"], name="refunds_of_an_account"),
        ]

    # No column: what whoever has it in hand has found at the provider; None before that.
    looked: Sequence[Any] | None = None

    def __str__(self) -> str:
        amount = formats.money(self.amount_minor, self.currency, "en")
        return f"{amount}: {self.get_state_display().lower()}"
