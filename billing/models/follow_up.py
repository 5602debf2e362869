from django.db import models
from django.db.models.functions import Now


class FollowUp(models.Model):
    """
    When to look next at an account that has not paid all it owes: to remind, to warn, to hold.

    A row for each account with an open invoice, made by the sweep and gone when nothing is owed any more. What
    is done is decided by what is true then (billing/payments/unpaid.py): a row that is lost costs an hour.
    """

    account = models.OneToOneField(
        "accounts.Account", on_delete=models.CASCADE, primary_key=True, related_name="+"
    )
    look_at = models.DateTimeField()
    # What it waited for when it was looked at last, in words.
    because = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = [models.Index(fields=["look_at"], name="follow_ups_to_look_at")]

    def __str__(self) -> str:
        return f"{self.account}: {self.because or 'to be looked at'}"
