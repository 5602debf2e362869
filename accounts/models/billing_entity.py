from django.db import models


class BillingEntity(models.Model):
    """The legal entity that bills. Invoices are numbered, and months closed, per entity."""

    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=200)
    # Stands before every invoice number of this entity: "MC-000017".
    invoice_prefix = models.CharField(max_length=12, unique=True)
    # Days from issue to due date. Zero: a card on file is charged on the day of issue.
    payment_terms_days = models.PositiveSmallIntegerField(default=0)

    # What a customer needs for a bank transfer: holder, IBAN, BIC. Printed beside the payment reference;
    # empty: nobody is asked to pay by transfer.
    bank_details = models.TextField(blank=True)

    class Meta:
        verbose_name_plural = "billing entities"

    def __str__(self) -> str:
        return self.name
