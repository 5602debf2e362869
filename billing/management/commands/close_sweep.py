"""Heal what died and start what is due, without any cluster: for a timer."""

import logging
import sys
import time
from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand
from django.db import connection

from accounts import clock
from billing import reconciliation
from billing.close import runs
from billing.close.health import sweeper
from billing.workers import heartbeats

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    """`manage.py close_sweep`"""

    help = (
        "Heals what died, as the clusters do once a minute, and starts the closes and reconciliations"
        " that are due. Needs no cluster and no queue, and any number may run at once."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--every",
            type=float,
            metavar="SECONDS",
            help="go on until stopped, a sweep each so many seconds; where there is no timer",
        )
        parser.add_argument(
            "--younger-than",
            type=float,
            metavar="SECONDS",
            help="sweep nothing; exit code 1 if the last sweep, by whomever, is older",
        )

    def handle(self, *, every: float | None, younger_than: float | None, **_: Any) -> None:
        if younger_than is not None:
            sys.exit(self._tell_of_the_last(younger_than))
        failed = not self._sweep(as_of=clock.now())
        while every is not None:
            time.sleep(every)
            # A database that was restarted is met with a new connection.
            connection.close_if_unusable_or_obsolete()
            self._sweep(as_of=clock.now())
        sys.exit(int(failed))

    def _sweep(self, *, as_of: datetime) -> bool:
        """Each part by itself: one that fails is logged, and stops no other. Whether none failed."""
        went_well = True
        for part in (sweeper.sweep, runs.start_due, reconciliation.start_due):
            try:
                done = part(as_of=as_of)
            except Exception:
                logger.exception("%s failed", part.__name__)
                went_well = False
            else:
                self._tell(done)
        return went_well

    def _tell(self, done: Any) -> None:
        if done == {}:
            self.stdout.write("Swept nothing: workers are halted; `manage.py halt` says why.")
        elif isinstance(done, dict):
            healed = [f"{count} {name}" for name, count in done.items() if count]
            self.stdout.write(f"Swept: {', '.join(healed) or 'nothing to heal'}.")
        else:
            for each in done:
                self.stdout.write(f"Started: {each}.")
        self.stdout.flush()

    def _tell_of_the_last(self, seconds: float) -> int:
        last = heartbeats.last_sweep()
        if last is None:
            self.stdout.write("There never was a sweep.")
            return 1
        sweep, ago = last
        self.stdout.write(f"The last sweep was {ago:.0f} s ago, on {sweep.host}.")
        return int(ago > seconds)
