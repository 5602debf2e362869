import calendar
from collections.abc import Iterable
from datetime import date, datetime
from typing import Final, Self
from zoneinfo import ZoneInfo

from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _


class PaymentMethods(models.QuerySet["PaymentMethod"]):
    """Payment methods, and which of them are charged."""

    def defaults(self) -> Self:
        """Narrow down to those that are charged: at most one of each account (constraint)."""
        return self.filter(is_default=True, state=PaymentMethod.State.ACTIVE)

    def default_of(self, accounts: Iterable[int]) -> Self:
        """Narrow down to those that are charged for these accounts, by primary key."""
        return self.defaults().filter(account__in=list(accounts))

    def blocked(self, methods: Iterable["PaymentMethod"]) -> set[tuple[str, str]]:
        """Return gateway and token of those among these methods that are blocked on any account."""
        tokens = {method.token for method in methods}
        return set(
            self.filter(token__in=tokens, blocked_at__isnull=False).values_list("gateway", "token")
        )

    def gateway_by_account(self) -> dict[int, str]:
        """Return the gateway of each, by account; meant for defaults."""
        return dict(self.values_list("account", "gateway"))


class PaymentMethod(models.Model):
    """
    A card or a mandate, known to us by the gateway's token.

    The row of a removed one stays, because attempts refer to it. A card is good until its expiry. A mandate
    lets us collect from a bank account, and is good as long as its status says so.
    """

    class State(models.TextChoices):
        ACTIVE = "ACTIVE", "Active"
        REMOVED = "REMOVED", "Removed"
        BLOCKED = "BLOCKED", "Blocked"  # its bank said never to charge it again

    class MandateStatus(models.TextChoices):
        PENDING = "PENDING", _("waiting for the bank")
        ACTIVE = "ACTIVE", _("active")
        CANCELLED = "CANCELLED", _("cancelled")
        EXPIRED = "EXPIRED", _("expired")

    ENDED: Final = (MandateStatus.CANCELLED, MandateStatus.EXPIRED)

    account = models.ForeignKey(
        "accounts.Account", on_delete=models.PROTECT, related_name="payment_methods"
    )
    gateway = models.CharField(max_length=30)
    token = models.CharField(max_length=200)
    # The gateway's customer that it belongs to; empty if the gateway keeps none. Written once, with the token.
    customer_ref = models.CharField(max_length=200, blank=True)
    brand = models.CharField(max_length=30)
    last_four = models.CharField(max_length=4)
    # Cards only; a mandate has none.
    expiry_month = models.PositiveSmallIntegerField(null=True, blank=True)
    expiry_year = models.PositiveSmallIntegerField(null=True, blank=True)
    # Mandates only: what its provider said last. Empty for a card.
    mandate_status = models.CharField(max_length=10, choices=MandateStatus, blank=True)
    is_default = models.BooleanField(default=False)
    state = models.CharField(max_length=10, choices=State, default=State.ACTIVE)
    created_at = models.DateTimeField(db_default=Now())
    removed_at = models.DateTimeField(null=True, blank=True)
    # When it was removed because its provider had it no more. None: its holder removed it.
    gone_at = models.DateTimeField(null=True, blank=True)
    # When its bank said never to charge it again, and in what words. Written once. It stays when the card is
    # removed, so that the same token is not charged on any account.
    blocked_at = models.DateTimeField(null=True, blank=True)
    blocked_because = models.CharField(max_length=300, blank=True)

    objects = PaymentMethods.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account"],
                condition=models.Q(is_default=True, state="ACTIVE"),
                name="one_default_payment_method_per_account",
            ),
            models.CheckConstraint(
                condition=models.Q(expiry_month__range=(1, 12)), name="expiry_month_is_a_month"
            ),
            models.CheckConstraint(
                condition=models.Q(
                    mandate_status="", expiry_month__isnull=False, expiry_year__isnull=False
                )
                | (
                    ~models.Q(mandate_status="")
                    & models.Q(expiry_month__isnull=True, expiry_year__isnull=True)
                ),
                name="card_has_an_expiry_and_a_mandate_a_status",
            ),
            models.CheckConstraint(
                condition=models.Q(state="REMOVED", removed_at__isnull=False)
                | (~models.Q(state="REMOVED") & models.Q(removed_at__isnull=True)),
                name="removed_payment_method_says_when",
            ),
            models.CheckConstraint(
                condition=models.Q(state="BLOCKED", blocked_at__isnull=False, is_default=False)
                | models.Q(state="ACTIVE", blocked_at__isnull=True)
                | models.Q(state="REMOVED"),
                name="blocked_payment_method_says_when_and_is_no_default",
            ),
        ]
        indexes = [
            models.Index(
                fields=["gateway", "token"],
                condition=models.Q(blocked_at__isnull=False),
                name="blocked_payment_methods",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.brand} ···· {self.last_four}"

    @property
    def is_mandate(self) -> bool:
        return bool(self.mandate_status)

    @property
    def good_until(self) -> str:
        """The month a card expires, or the status of a mandate: "12/2031", "active"."""
        if self.expiry_month is None:
            return str(self.get_mandate_status_display())
        return f"{self.expiry_month:02d}/{self.expiry_year}"

    def has_expired(self, as_of: datetime) -> bool:
        """
        Whether it is no longer good.

        A card is good through the last day of its expiry month, anywhere on earth; a mandate until the
        payer, their bank or its provider has ended it.
        """
        if self.expiry_month is None or self.expiry_year is None:
            return self.mandate_status in self.ENDED
        last_day = calendar.monthrange(self.expiry_year, self.expiry_month)[1]
        return as_of.astimezone(ZoneInfo("Etc/GMT+12")).date() > date(
            self.expiry_year, self.expiry_month, last_day
        )
