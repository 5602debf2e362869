from django.db import models
from django.db.models.functions import Lower, Now


class BillingContact(models.Model):
    """
    An address beside the account's own that gets every mail about its money, such as an accountant's.

    Whoever reads there need not be a member: it is an address, not a person who signs in.
    """

    account = models.ForeignKey(
        "accounts.Account", on_delete=models.PROTECT, related_name="contacts"
    )
    email = models.EmailField()
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(
                "account", Lower("email"), name="billing_contact_is_kept_once_per_account"
            ),
        ]

    def __str__(self) -> str:
        return self.email
