from django.db import models
from django.db.models.functions import Now
from django.urls import reverse

from accounts.validators import check_currency, check_language, check_time_zone


class Account(models.Model):
    """
    The customer we bill.

    Its row is the mutex of its money: code that reads a balance to act on it holds this row's lock
    (billing/locks.py). No balance lives here; the ledger derives it.
    """

    class State(models.TextChoices):
        ACTIVE = "ACTIVE", "Active"
        CLOSED = "CLOSED", "Closed"

    entity = models.ForeignKey(
        "accounts.BillingEntity", on_delete=models.PROTECT, related_name="accounts"
    )
    # The name usage exports know this account by. Never changes once usage has come in.
    external_id = models.CharField(max_length=200, unique=True)
    name = models.CharField(max_length=200)
    # ISO 4217. Everything this account owes is in this currency.
    currency = models.CharField(max_length=3, validators=[check_currency])
    # Where this account's month begins and ends. A change holds from the next period on:
    # periods already cut keep their stored bounds.
    time_zone = models.CharField(max_length=64, default="UTC", validators=[check_time_zone])
    language = models.CharField(max_length=10, default="en", validators=[check_language])
    # Where messages go. Empty: no message is sent, and the email step says so.
    email = models.EmailField(blank=True)
    # Moved by billing/closure/ alone, with the closing that says what was decided.
    state = models.CharField(max_length=10, choices=State, default=State.ACTIVE)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        # What staff may do to an account's money, beyond seeing it (billing/admin/groups.py).
        permissions = [
            ("grant_credit", "Can grant credit"),
            ("record_payment", "Can record a payment"),
            ("charge_account", "Can charge an account now"),
            ("refund_payment", "Can pay money back"),
            ("place_hold", "Can place and lift holds by hand"),
            ("pause_charging", "Can pause charging an account, and resume it"),
            ("close_account", "Can close an account, and open it again"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(currency__regex=r"^[A-Z]{3}$"),
                name="account_currency_is_an_iso_code",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.external_id})"

    def get_absolute_url(self) -> str:
        return reverse("admin:accounts_account_change", args=[self.pk])
