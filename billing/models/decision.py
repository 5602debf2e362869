from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from accounts.codes import spelled_out
from billing import step_kinds


class Decision(models.Model):
    """
    What a money step expected, what it saw under the lock, what it did, and why. Append-only (trigger).

    "Did nothing" is a decision too. Support reads them on the account, finance as a list.
    """

    class Did(models.TextChoices):
        DONE = "DONE", "Did it"
        SKIPPED = "SKIPPED", "Did nothing"
        BLOCKED = "BLOCKED", "Left to a person"
        DEAD = "DEAD", "Gave up"
        WAITED = "WAITED", "Waited"  # written once, however often it looks again

    # What was to be decided: a kind of step, or PAY_NOW, LIFT_HOLD, CREDIT, PAYMENT…
    act = models.CharField(max_length=step_kinds.LENGTH)
    did = models.CharField(max_length=10, choices=Did)
    because = models.CharField(max_length=300)
    expected = models.JSONField(default=dict)
    saw = models.JSONField(default=dict)
    # Whether what it saw was not what it expected.
    world_changed = models.BooleanField(default=False)
    account = models.ForeignKey(
        "accounts.Account",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="decisions",
        db_index=False,  # `decisions_of_an_account` below
    )
    run = models.ForeignKey(
        "billing.CloseRun",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="decisions",
    )
    attempt = models.ForeignKey(
        "billing.PaymentAttempt",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="decisions",
        db_index=False,  # most have none: `decisions_of_an_attempt` below
    )
    hold = models.ForeignKey(
        "accounts.Hold",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="decisions",
        db_index=False,  # most have none: `decisions_of_a_hold` below
    )
    actor = models.CharField(max_length=254, default="system")
    decided_at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = [
            models.Index(fields=["account", "-id"], name="decisions_of_an_account"),
            models.Index(
                fields=["attempt"],
                condition=Q(attempt__isnull=False),
                name="decisions_of_an_attempt",
            ),
            models.Index(
                fields=["hold"], condition=Q(hold__isnull=False), name="decisions_of_a_hold"
            ),
            models.Index(
                fields=["run", "id"],
                condition=Q(world_changed=True),
                name="decisions_world_changed",
            ),
        ]

    def __str__(self) -> str:
        return f"{spelled_out(self.act)}: {self.get_did_display()}, {self.because}"
