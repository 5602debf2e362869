import uuid
from typing import Final

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from billing import charge_protocol
from notifications import formats
from notifications.models import Dispatched

# In the protocol's order, which an index and the choices keep.
IN_FLIGHT: Final = [each for each in charge_protocol.State if each in charge_protocol.IN_FLIGHT]
STATES: Final = [(each.value, each.label) for each in charge_protocol.State]
DECLINE_CLASSES: Final = [(each.value, each.label) for each in charge_protocol.DeclineClass]


class Payment(models.Model):
    """
    Money received: by a gateway, by bank transfer ("transfer"), or recorded by hand ("manual").

    Append-only (trigger).
    """

    account = models.ForeignKey(
        "accounts.Account", on_delete=models.PROTECT, related_name="payments"
    )
    attempt = models.OneToOneField(
        "billing.PaymentAttempt",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="payment",
    )
    gateway = models.CharField(max_length=30)
    # The provider's charge, the bank's id, or the token of the form it was recorded with: books once.
    provider_ref = models.CharField(max_length=200)
    currency = models.CharField(max_length=3)
    amount_minor = models.BigIntegerField()
    # What the customer knows it by: "Visa ···· 4242", a bank reference.
    method = models.CharField(max_length=200)
    reason = models.CharField(max_length=300, blank=True)
    recorded_by = models.CharField(max_length=254, default="system")
    received_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["gateway", "provider_ref"], name="payment_is_booked_once"
            ),
            models.CheckConstraint(condition=Q(amount_minor__gt=0), name="payment_is_positive"),
        ]
        indexes = [models.Index(fields=["account", "-id"], name="payments_of_an_account")]

    def __str__(self) -> str:
        return f"{self.method} {self.received_at:%Y-%m-%d}"


class PaymentAttempt(Dispatched):
    """
    One try to receive a payment through a gateway: reserve, prepare, recheck, submit, settle.

    Taken through its calls by the dispatcher (charges/attempt_kind.py), or by the step of the close that began it.

    At most one is in flight per account and currency (constraint). Ends only by what the provider
    says; see billing/payments/ and docs/states.md.
    """

    State = charge_protocol.State
    IN_FLIGHT: Final = tuple(IN_FLIGHT)

    class Kind(models.TextChoices):
        AUTO = "AUTO", "Automatic"  # by the close
        RETRY = "RETRY", "Tried again"  # by dunning, on the schedule's days
        ON_SESSION = "ON_SESSION", "By the customer"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    queue = models.CharField(max_length=50, default="charge", db_default="charge")
    # 1 by default: who reserves it drives it, unless it is left to the dispatcher, which then begins at 0.
    claims = models.PositiveIntegerField(default=1, db_default=1)
    account = models.ForeignKey(
        "accounts.Account", on_delete=models.PROTECT, related_name="attempts"
    )
    run = models.ForeignKey(
        "billing.CloseRun", on_delete=models.PROTECT, null=True, blank=True, related_name="attempts"
    )
    kind = models.CharField(max_length=12, choices=Kind)
    currency = models.CharField(max_length=3)
    amount_minor = models.BigIntegerField()
    payment_method = models.ForeignKey(
        "accounts.PaymentMethod", on_delete=models.PROTECT, related_name="attempts"
    )
    gateway = models.CharField(max_length=30)
    state = models.CharField(max_length=20, choices=STATES, default=State.RESERVED.value)
    # The provider's object: single-use, so it is the fence.
    provider_ref = models.CharField(max_length=200, null=True, blank=True)
    # What the provider answered when it said no: "insufficient_funds".
    decline_code = models.CharField(max_length=60, blank=True)
    # What its bank, or the card's network, advises after that: "do_not_try_again".
    advice_code = models.CharField(max_length=60, blank=True)
    decline_class = models.CharField(max_length=20, choices=DECLINE_CLASSES, blank=True)
    # The case that its decline opened, or was noted in.
    case = models.ForeignKey(
        "billing.DunningCase",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="attempts",
    )
    # Why it ended as it did, or waits, in words.
    because = models.CharField(max_length=300, blank=True)
    # Who looks after it while it is in review, and who has ended that by what they saw at the provider.
    review_owner = models.CharField(max_length=254, blank=True)
    resolved_by = models.CharField(max_length=254, blank=True)
    # Rises with each send after an answer we could not use, so that no cached answer repeats for ever.
    key_generation = models.PositiveSmallIntegerField(default=0)
    # It is driven on from here on. A step that works on it moves this ahead first; the dispatcher claims it.
    # Of a released one: it collects what is due instead, since no step of a close will.
    next_action_at = models.DateTimeField(null=True, blank=True)
    # A direct debit's: the day its customer was told of. Not submitted before it.
    charge_date = models.DateField(null=True, blank=True)
    submitted_at = models.DateTimeField(null=True, blank=True)
    unknown_since = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        permissions = [("resolve_paymentattempt", "Can resolve payments in review")]
        constraints = [
            models.UniqueConstraint(
                fields=["account", "currency"],
                condition=Q(state__in=[state.value for state in IN_FLIGHT]),
                name="one_attempt_in_flight_per_account_and_currency",
            ),
            models.UniqueConstraint(
                fields=["gateway", "provider_ref"], name="provider_object_belongs_to_one_attempt"
            ),
            models.CheckConstraint(condition=Q(amount_minor__gt=0), name="attempt_is_positive"),
        ]
        indexes = [
            models.Index(
                fields=["next_action_at"],
                condition=Q(next_action_at__isnull=False),
                name="attempts_to_drive",
            ),
            models.Index(
                fields=["parked_at"],
                condition=Q(parked_at__isnull=False),
                name="attempts_parked",
            ),
            # What is left of them is left to a person.
            models.Index(
                fields=["unknown_since"],
                condition=Q(state="RELEASED", unknown_since__isnull=False),
                name="attempts_left_to_a_person",
            ),
            models.Index(fields=["account", "-created_at"], name="attempts_of_an_account"),
        ]

    def __str__(self) -> str:
        amount = formats.money(self.amount_minor, self.currency, "en")
        return f"{amount}: {self.get_state_display().lower()}"

    # No column: whether whoever has it in hand has asked the provider how it stands.
    was_asked = False

    @property
    def is_in_flight(self) -> bool:
        return self.state in self.IN_FLIGHT


class ProviderRecord(models.Model):
    """
    One line of a provider's own book, copied in by check_books to be held against ours.

    Written and rolled back within the check: outside one, this table is empty.
    """

    gateway = models.CharField(max_length=30)
    provider_ref = models.CharField(max_length=200)
    own_reference = models.CharField(max_length=200)  # our attempt's id, as the provider kept it
    status = models.CharField(max_length=30)
    currency = models.CharField(max_length=3)
    amount_minor = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["gateway", "provider_ref"], name="provider_lists_an_object_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.provider_ref}: {self.status}"
