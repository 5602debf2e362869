from django.db import models
from django.db.models.functions import Now


class SignInTries(models.Model):
    """
    How often somebody tried to sign in, of late: to an address of ours, from an address of theirs, or both.

    Written by accounts/signing_in/tries.py before a password is looked at. Rows that are over are deleted there.
    """

    # A digest: the table says of nobody that they tried.
    key = models.CharField(max_length=64, primary_key=True)
    tries = models.PositiveIntegerField()
    since = models.DateTimeField(db_default=Now(), db_index=True)

    def __str__(self) -> str:
        return f"{self.tries} tries since {self.since}"
