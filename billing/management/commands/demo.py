"""One month of a made-up cloud provider, closed on real workers while the world changes."""

import os
import shutil
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from accounts import clock
from accounts.models import Account, BillingEntity
from billing.close import foreground, runs
from billing.demo import charging, meddling, provider
from billing.gateways.standins.fakestripe import shared
from billing.management import progress_bar, tables
from billing.models import CloseRun
from billing.reports import progress as progress_report
from billing.usage.imports import FORMATS, Watch, import_usage
from notifications.models import Message

MAIL_AFTER_SECONDS = 60


class Command(BaseCommand):
    """`manage.py demo`, which `make demo` calls."""

    help = "Empties the demo's database, makes 500 customers and a month of usage, and closes it on a cluster."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--workers", type=int, default=2)

    def handle(self, **options: Any) -> None:
        began = time.monotonic()
        self._build()
        with self._cluster(options["workers"]):
            run = self._close()
            self._wait_for_mail()
        right = self._tell(run)
        self.stdout.write(f"\nTime: {time.monotonic() - began:.0f} s")
        self._tell_logins()
        if not right:
            raise CommandError("Something is off: see above.")

    # --- before

    def _build(self) -> None:
        call_command("migrate", verbosity=0)
        try:
            provider.clear()
        except provider.NotADemoDatabase as error:
            raise CommandError(str(error)) from error
        try:
            self._environment = charging.set_up()
        except shared.DoesNotStart as error:
            raise CommandError(f"{error}. Does `make run`, or another demo, still run?") from error
        for leftover in settings.SANDBOX_BOOK.parent.glob(f"{settings.SANDBOX_BOOK.name}*"):
            leftover.unlink()
        shutil.rmtree(settings.EMAIL_FILE_PATH, ignore_errors=True)
        self._save_cards(provider.build())
        usage = _folder() / "usage.csv"
        rows = provider.write_usage(usage)
        self.stdout.write(
            f"Example Cloud: {Account.objects.count()} customers, {rows:,} usage events in {provider.MONTH:%B %Y}"
        )
        with progress_bar.bar("Importing usage", total=usage.stat().st_size, unit="B") as bar:
            imported = import_usage(
                path=usage,
                form=FORMATS["csv"],
                as_of=clock.now(),
                rejects_path=_folder() / "usage.rejects.csv",
                strict=True,
                watch=Watch(on_bytes=bar.advance),
            )
        self.stdout.write(f"{imported.batch.rows_added:,} usage events stored and tallied")

    def _save_cards(self, accounts: list[Account]) -> None:
        holders = charging.chosen(accounts)
        with progress_bar.bar("Entering cards", total=len(holders), unit="cards") as bar:
            charging.save(holders, on_saved=lambda: bar.advance(1))
        charging.trouble()

    # --- the close

    @contextmanager
    def _cluster(self, workers: int) -> Iterator[None]:
        """A supervised cluster, as in production: restarted when it crashes."""
        environment = {**os.environ, **self._environment}
        manage = str(settings.BASE_DIR / "manage.py")
        with (_folder() / "cluster.log").open("w") as log:
            cluster = subprocess.Popen(  # noqa: S603 - our own manage.py
                [sys.executable, manage, "cluster", "--supervise", "--workers", str(workers)],
                env=environment,
                stdout=log,
                stderr=log,
            )
            try:
                yield
            finally:
                cluster.terminate()
                cluster.wait()

    def _close(self) -> CloseRun:
        entity = BillingEntity.objects.get()
        run, _ = runs.start(
            entity=entity, month=provider.MONTH, started_by="demo", as_of=clock.now()
        )
        deeds = meddling.plan(run)
        shown = 0
        with progress_bar.bar(
            f"Closing {run}", total=progress_report.counts(run).everything, unit="steps"
        ) as bar:

            def on_sight(sight: foreground.Sight) -> None:
                nonlocal shown
                bar.advance(sight.ended - shown)
                shown = sight.ended
                meddling.meddle(run, deeds, as_of=clock.now())

            foreground.work_on(
                run, clock=clock.now, on_sight=on_sight, stopped=lambda: False, work=False
            )
        return run

    def _wait_for_mail(self) -> None:
        waiting = Message.objects.filter(state__in=[Message.State.QUEUED, Message.State.SENDING])
        give_up_at = time.monotonic() + MAIL_AFTER_SECONDS
        while waiting.exists() and time.monotonic() < give_up_at:
            time.sleep(0.2)

    # --- after

    def _tell(self, run: CloseRun) -> bool:
        told = progress_report.of(run, as_of=clock.now())
        self.stdout.write(f"\nDid we collect the money yet? {run}, as of {told['as_of']}")
        self.stdout.write(tables.text(told["answer"]["currencies"], none="Nobody was invoiced."))
        self.stdout.write("\nSteps by outcome")
        self.stdout.write(tables.text(tables.steps(told["steps"]), none=""))
        self._tell_changes(run)
        self._tell_mail()
        call_command("check_books", stdout=self.stdout)
        return run.is_finished and not told["stuck"]

    def _tell_changes(self, run: CloseRun) -> None:
        changes = progress_report.changes(run)
        self.stdout.write(f"\nThe world had changed {len(changes)} times")
        counted = Counter((c.act, c.get_did_display(), c.because) for c in changes)
        rows = [
            {"times": times, "step": act.lower(), "decision": did.lower(), "because": because}
            for (act, did, because), times in sorted(counted.items())
        ]
        self.stdout.write(tables.text(rows, none="It never did."))

    def _tell_mail(self) -> None:
        counted = Counter(Message.objects.values_list("kind", "state"))
        rows = [
            {"mails": times, "kind": kind.lower().replace("_", " "), "state": state.lower()}
            for (kind, state), times in sorted(counted.items())
        ]
        self.stdout.write(f"\nMails, as .eml files in {settings.EMAIL_FILE_PATH}")
        self.stdout.write(tables.text(rows, none="None."))

    def _tell_logins(self) -> None:
        paid, owing = Account.objects.order_by("pk")[:2]
        self.stdout.write(
            "\nLook around with `make run`, then open http://127.0.0.1:8000/\n"
            f"  support   {provider.STAFF_EMAIL} / {provider.PASSWORD}   at /admin/ and /runs/\n"
            f"  customer  {paid.email} / {provider.PASSWORD}   {paid.name}, has paid\n"
            f"  customer  {owing.email} / {provider.PASSWORD}   {owing.name}, owes, and is tried again in three days"
        )


def _folder() -> Path:
    """Where the demo keeps its usage file and log: beside the mails."""
    folder = Path(settings.EMAIL_FILE_PATH).parent / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
