from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class Product(models.Model):
    """Something we sell by usage."""

    code = models.CharField(max_length=200, unique=True)
    name = models.CharField(max_length=200)
    created_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.name


class Price(models.Model):
    """
    What a unit of a product costs from a day on, until a later price of the same key starts.

    The price in force when the billing period starts holds for the whole period; one that starts
    within the period counts where none was in force before. A price is never edited once a period
    was closed with it: add one with a later start.
    """

    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="prices")
    # What exactly of the product: "BoxUsage:t2.micro". Empty: whatever has no price of its own.
    item = models.CharField(max_length=300, blank=True)
    unit = models.CharField(max_length=60)
    currency = models.CharField(max_length=3)
    # Major units of the currency per unit, up to 12 decimals.
    unit_price = models.DecimalField(max_digits=26, decimal_places=12)
    # Units per account and period that cost nothing.
    free_quantity = models.DecimalField(max_digits=30, decimal_places=12, default=0)
    # Charged once per account and period in which the product was used, in major units.
    monthly_fee = models.DecimalField(max_digits=20, decimal_places=4, default=0)
    starts_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["product", "item", "unit", "currency", "starts_at"],
                name="one_price_per_item_unit_currency_and_start",
            ),
            models.CheckConstraint(
                condition=Q(unit_price__gte=0) & Q(free_quantity__gte=0) & Q(monthly_fee__gte=0),
                name="prices_are_not_negative",
            ),
            models.CheckConstraint(
                condition=Q(currency__regex=r"^[A-Z]{3}$"), name="price_currency_is_an_iso_code"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.product} {self.item}: {self.unit_price.normalize():f} {self.currency}/{self.unit}"
