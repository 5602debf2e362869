from itertools import pairwise

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models

# A page that is served by https shows nothing that is not.
HTTPS = RegexValidator(r"^https://", "Enter an address that begins with https://.")
A_LINK = RegexValidator(
    r"^(https://|mailto:|tel:)\S+$", "Enter a link that begins with https://, mailto: or tel:."
)

# Card networks count retries after a decline, and fine merchants who retry too often.
RETRIES_MAX = 4


def default_retry_days() -> list[int]:
    """After a weekend, once more that week, and after the paydays that may lie between."""
    return [3, 5, 7, 14]


def check_retry_days(days: list[int]) -> None:
    """
    Accept days that come one after the other.

    :raises ValidationError: if one does not come after the one before.
    """
    for before, after in pairwise([0, *days]):
        if after <= before:
            raise ValidationError(
                f"Day {after} does not come after day {before}: enter rising days, such as 3,5,7,14."
            )


class BillingEntity(models.Model):
    """The legal entity that bills. Invoices are numbered, and months closed, per entity."""

    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=200)
    # Stands before every invoice number of this entity: "MC-000017".
    invoice_prefix = models.CharField(max_length=12, unique=True)
    # Written into each invoice at issue: a change holds for invoices to come.
    payment_terms_days = models.PositiveSmallIntegerField(
        default=14,
        null=True,
        blank=True,
        help_text=(
            "Days from the day of issue to the last day to pay. Empty: due at once. A card on file is charged"
            " when the month is closed, whatever the terms."
        ),
    )
    # What happens around the due date is read when it happens. The release before knows none of the three.
    remind_days_before = models.PositiveSmallIntegerField(
        default=3,
        db_default=3,
        null=True,
        blank=True,
        help_text="Days before the due date on which who has not paid is reminded. Empty: nobody is.",
    )
    warn_days_after = models.PositiveSmallIntegerField(
        default=1,
        db_default=1,
        null=True,
        blank=True,
        help_text=(
            "Days after the due date on which who has not paid is told of the hold to come. Empty: as soon as it"
            " is over."
        ),
    )
    grace_days = models.PositiveSmallIntegerField(
        default=7,
        db_default=7,
        null=True,
        blank=True,
        help_text=(
            "Days between that warning and the hold, counted from its delivery: who could not be warned is not"
            " held. Empty: nobody is warned, and the hold comes as soon as something is overdue and not tried"
            " again."
        ),
    )
    # Read at each retry: a change holds for retries to come, but does not move the end of open cases.
    retry_days = ArrayField(
        models.PositiveSmallIntegerField(),
        size=RETRIES_MAX,
        default=default_retry_days,
        blank=True,
        validators=[check_retry_days],
        help_text=(
            "Days after a declined charge on which the card is tried again, at most four, such as 3,5,7,14."
            " Who has not paid on the last is put on hold. Empty: nothing is tried again, and the close"
            " itself places the hold."
        ),
    )

    # What a customer needs for a bank transfer: holder, IBAN, BIC. Printed beside the payment reference;
    # empty: nobody is asked to pay by transfer.
    bank_details = models.TextField(blank=True)

    # What customers see on their pages and mails: the seller, never this software.
    display_name = models.CharField(
        max_length=200,
        blank=True,
        default="",
        db_default="",
        help_text="What customers know the seller by, if not by the name above.",
    )
    logo_url = models.URLField(
        "logo",
        blank=True,
        default="",
        db_default="",
        validators=[HTTPS],
        help_text="Where the seller's logo is, such as https://example.com/logo.png. Mails link to it as well.",
    )
    help_link = models.CharField(
        max_length=300,
        blank=True,
        default="",
        db_default="",
        validators=[A_LINK],
        help_text="Where customers get help: https://example.com/help or mailto:help@example.com.",
    )

    class Meta:
        verbose_name_plural = "billing entities"

    def __str__(self) -> str:
        return self.name

    @property
    def seller(self) -> dict[str, str]:
        """What customers see of it: name, logo and help, the latter two if there are any."""
        return {
            "name": self.display_name or self.name,
            "logo": self.logo_url,
            "help": self.help_link,
        }
