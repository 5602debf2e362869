from datetime import date
from typing import Final

from django.db import models
from django.db.models import Func, Q
from django.db.models.functions import Now

from billing import step_kinds


class CloseRun(models.Model):
    """
    One close of one month for one entity. Starting it twice is the same run.

    It ends when no step is open, with dead or blocked ones listed, and then its report is made, once.
    """

    class State(models.TextChoices):
        RUNNING = "RUNNING", "Running"
        FINISHED = "FINISHED", "Finished"

    class ChangedBalance(models.TextChoices):
        """What a charge does when the balance is no longer what the invoice step saw."""

        CHARGE_DUE_NOW = "CHARGE_DUE_NOW", "Charge what is due now"
        SKIP = "SKIP", "Skip"
        HOLD_FOR_PERSON = "HOLD_FOR_PERSON", "Leave to a person"

    entity = models.ForeignKey(
        "accounts.BillingEntity", on_delete=models.PROTECT, related_name="runs"
    )
    month = models.DateField()
    state = models.CharField(max_length=10, choices=State, default=State.RUNNING)
    when_balance_changed = models.CharField(
        max_length=20, choices=ChangedBalance, default=ChangedBalance.CHARGE_DUE_NOW
    )
    started_by = models.CharField(max_length=254)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    # The finance answer at the instant the run finished; reports/finance.py describes its keys.
    report = models.JSONField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["entity", "month"], name="one_run_per_entity_and_month"
            ),
            models.CheckConstraint(condition=Q(month__day=1), name="run_month_is_a_first_day"),
            models.CheckConstraint(
                condition=Q(state="RUNNING", finished_at=None, report=None)
                | Q(state="FINISHED", finished_at__isnull=False, report__isnull=False),
                name="finished_run_has_its_report",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.entity} {self.month:%Y-%m}"

    @property
    def is_finished(self) -> bool:
        return self.state == self.State.FINISHED

    @staticmethod
    def month_of(text: str) -> date:
        """
        Read "2018-10" as the first day of that month.

        :raises ValueError: if the text is no month.
        """
        return date.fromisoformat(f"{text}-01")


class Turn(Func):
    """
    Where a step stands in line: its time, ten minutes earlier for each step of priority.

    So whatever waits ten minutes overtakes what comes then with one priority more. It does not change while
    the step waits, so an index can keep it; without a zone, since PostgreSQL indexes no arithmetic that has one.
    """

    template = "(%(expressions)s * INTERVAL '10 minutes')"
    arg_joiner = " AT TIME ZONE 'UTC' - "

    def __init__(self) -> None:
        super().__init__("run_at", "priority", output_field=models.DateTimeField())


class Step(models.Model):
    """One step of one account in one run: the only record of work. Queue rows are doorbells."""

    class State(models.TextChoices):
        WAITING = "WAITING", "Waiting"  # for the step before it
        READY = "READY", "Ready"  # from run_at on
        RUNNING = "RUNNING", "Running"  # leased
        UNKNOWN = "UNKNOWN", "Unknown"  # its lease ran out: ask the world before acting again
        DONE = "DONE", "Done"
        SKIPPED = "SKIPPED", "Skipped"  # the world had changed; the decision says how
        BLOCKED = "BLOCKED", "Blocked"  # a person has to act; listed
        DEAD = "DEAD", "Dead"  # gave up; listed, with Retry and Cancel
        CANCELLED = "CANCELLED", "Cancelled"  # by a person

    OPEN: Final = (State.WAITING, State.READY, State.RUNNING, State.UNKNOWN)
    CLAIMABLE: Final = (State.READY, State.UNKNOWN)

    # No index of its own: `steps_by_outcome` below begins with it.
    run = models.ForeignKey(
        CloseRun, on_delete=models.PROTECT, related_name="steps", db_index=False
    )
    # Null for the run's report.
    account = models.ForeignKey(
        "accounts.Account", on_delete=models.PROTECT, null=True, blank=True, related_name="steps"
    )
    # Of those in billing/step_kinds.py, or one that is not installed any more: that waits.
    kind = models.CharField(max_length=step_kinds.LENGTH)
    state = models.CharField(max_length=10, choices=State, default=State.WAITING)
    # Higher goes first, and ten minutes of waiting make up for one: see Turn.
    priority = models.SmallIntegerField(default=0)
    run_at = models.DateTimeField(db_default=Now())
    # Whose lane it takes: the mail server's; the card's, as last seen, which the claim puts right. Empty: no
    # provider is called. A column, for what is due is claimed lane by lane: joined to the card, the index
    # `steps_to_claim` could not lead past the thousands that wait in a lane which is shut.
    provider = models.CharField(max_length=30, blank=True, default="", db_default="")
    attempts = models.PositiveSmallIntegerField(default=0)
    # The fence: whoever finishes the step must hold the token it was claimed with.
    lease_token = models.UUIDField(null=True, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    # How often a worker has written its outcome after its lease: refused each time.
    fenced = models.PositiveSmallIntegerField(default=0, db_default=0)
    # How often its worker died, or slept, with it in hand. It is suspected then, and tried with few others,
    # then alone.
    deaths = models.PositiveSmallIntegerField(default=0, db_default=0)
    # Since when its end is unknown. Stays when it is tried again, until it ends or waits for something known.
    unknown_since = models.DateTimeField(null=True, blank=True)
    # What the step before it saw, e.g. {"due_minor": 1200, "currency": "EUR", "as_of": …}.
    expected = models.JSONField(default=dict)
    # The outcome's words: "settled meanwhile".
    because = models.CharField(max_length=300, blank=True)
    last_error = models.TextField(blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["run", "account", "kind"],
                nulls_distinct=False,
                name="one_step_per_run_account_and_kind",
            ),
            models.CheckConstraint(
                condition=Q(state="RUNNING", lease_token__isnull=False, lease_until__isnull=False)
                | (~Q(state="RUNNING") & Q(lease_token=None, lease_until=None)),
                name="running_exactly_when_leased",
            ),
            models.CheckConstraint(
                condition=Q(
                    state__in=["DONE", "SKIPPED", "BLOCKED", "DEAD", "CANCELLED"],
                    finished_at__isnull=False,
                )
                | Q(state__in=["WAITING", "READY", "RUNNING", "UNKNOWN"], finished_at=None),
                name="ended_step_says_when",
            ),
            models.CheckConstraint(
                condition=Q(priority__range=(-10, 10)), name="step_priority_is_ten_at_most"
            ),
        ]
        indexes = [
            models.Index(
                "run",
                "kind",
                "provider",
                Turn(),
                "id",
                condition=Q(state__in=["READY", "UNKNOWN"]),
                name="steps_to_claim",
            ),
            models.Index(fields=["lease_until"], condition=Q(state="RUNNING"), name="steps_leased"),
            models.Index(
                fields=["run"],
                condition=Q(state__in=["WAITING", "READY", "RUNNING", "UNKNOWN"]),
                name="steps_open",
            ),
            models.Index(fields=["run", "kind", "state"], name="steps_by_outcome"),
            # For the run's page, which adds them up: few, so it costs the other steps nothing.
            models.Index(
                fields=["run"],
                condition=Q(fenced__gt=0) | Q(deaths__gt=0),
                name="steps_that_met_trouble",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.title} {self.account or self.run}"

    @property
    def title(self) -> str:
        """What pages call its kind."""
        return step_kinds.title(self.kind)
