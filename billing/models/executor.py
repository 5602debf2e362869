from django.db import models

from billing import step_kinds


class Executor(models.Model):
    """
    A cluster of workers that runs somewhere, and when it last gave a sign of life.

    Written by billing/workers/heartbeats.py alone. Its times are the database's own: the clocks of hosts differ.
    """

    host = models.CharField(max_length=100)
    pid = models.PositiveIntegerField()
    # Comma separated: the queues that it serves.
    lanes = models.CharField(max_length=2000)
    workers = models.PositiveSmallIntegerField()
    started_at = models.DateTimeField()
    beat_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["host", "pid"], name="one_executor_per_process_of_a_host"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.host}/{self.pid}: {self.lanes}"


class Contribution(models.Model):
    """
    How many steps of a kind one process has ended in a run.

    Counted in the transaction that ends them, so it adds up; a row for each process, so that no two
    ever wait for one another's count.
    """

    run = models.ForeignKey(
        "billing.CloseRun", on_delete=models.CASCADE, related_name="contributions"
    )
    kind = models.CharField(max_length=step_kinds.LENGTH)
    host = models.CharField(max_length=100)
    pid = models.PositiveIntegerField()
    steps = models.PositiveIntegerField()
    # When the transaction began that ended its first ones, and when its last ones ended.
    first_at = models.DateTimeField()
    last_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["run", "kind", "host", "pid"],
                name="one_contribution_per_run_kind_and_process",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.host}/{self.pid}: {self.steps} × {self.kind} of {self.run}"


class Sweep(models.Model):
    """The last time that somebody healed what died, one row. Written by billing/workers/heartbeats.py alone."""

    host = models.CharField(max_length=100)
    ended_at = models.DateTimeField()
    # The parts that failed, comma separated; empty: none did.
    failed = models.CharField(max_length=300, blank=True)
    # Written by billing/payments/restores.py: whose last sign of life this is, and when nobody swept for long.
    database_identity = models.CharField(max_length=100, blank=True, default="", db_default="")
    silent_from = models.DateTimeField(null=True, blank=True)
    silent_until = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.ended_at:%Y-%m-%d %H:%M:%S} on {self.host}"
