"""Start or resume the close of a month, and stay with it until it is finished."""

import json
import signal
import time
from argparse import ArgumentParser
from datetime import date
from typing import Any, Self

from django.core.management.base import BaseCommand, CommandError

from accounts import clock
from accounts.models import BillingEntity
from billing.close import foreground, rehearsal, runs
from billing.management import progress_bar, tables
from billing.models import CloseRun
from billing.reports import progress as progress_report
from billing.reports import rejected_rows
from billing.workers import halting

INTERRUPTED = 130
FIRST_YEAR = 1970


class Command(BaseCommand):
    """`manage.py close_month 2018-10`"""

    help = (
        "Closes a month: invoices, charges, mails and holds every account. Started again, it resumes"
        " the same run. Works beside any clusters that run."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("month", metavar="YYYY-MM")
        parser.add_argument("--entity", help="slug of the billing entity, where there are several")
        parser.add_argument(
            "--rehearse", action="store_true", help="write nothing, show what a close would invoice"
        )
        parser.add_argument("--watch", action="store_true", help="leave the work to the clusters")
        parser.add_argument("--json", action="store_true", help="print one JSON document")
        parser.add_argument(
            "--when-balance-changed",
            choices=CloseRun.ChangedBalance.values,
            help="what a charge does when the balance is not what was invoiced (default: CHARGE_DUE_NOW)",
        )

    def handle(self, **options: Any) -> None:
        entity = find_entity(options["entity"])
        month = read_month(options["month"])
        if options["rehearse"]:
            self._rehearse(entity, month, as_json=options["json"])
            return
        started_at = time.monotonic()
        run, is_new = self._start(entity, month, options["when_balance_changed"])
        with (
            _Stop() as stop,
            progress_bar.bar(
                f"Closing {run}", total=progress_report.counts(run).everything, unit="steps"
            ) as bar,
        ):
            self._work_on(run, bar, stop, work=not options["watch"])
        self._tell(
            run, is_new=is_new, seconds=time.monotonic() - started_at, as_json=options["json"]
        )
        if stop.asked and not run.is_finished:
            same = f" --entity {options['entity']}" if options["entity"] else ""
            self.stderr.write(
                f"Stopped. Nothing is lost; resume with: manage.py close_month {run.month:%Y-%m}{same}"
            )
            raise SystemExit(INTERRUPTED)

    def _start(
        self, entity: BillingEntity, month: date, policy: str | None
    ) -> tuple[CloseRun, bool]:
        try:
            halting.check_halt()
            run, is_new = runs.start(
                entity=entity,
                month=month,
                started_by="close_month",
                as_of=clock.now(),
                when_balance_changed=policy or CloseRun.ChangedBalance.CHARGE_DUE_NOW,
            )
        except (halting.Halted, runs.NotOverYet) as error:
            raise CommandError(str(error)) from error
        if policy not in {None, run.when_balance_changed}:
            raise CommandError(
                f"--when-balance-changed {policy}: {run} was started with {run.when_balance_changed},"
                " which stays; leave the option out to resume it"
            )
        return run, is_new

    def _work_on(self, run: CloseRun, bar: progress_bar.Bar, stop: "_Stop", *, work: bool) -> None:
        shown = _Shown(bar)
        try:
            foreground.work_on(
                run,
                clock=clock.now,
                on_sight=shown.sight,
                stopped=lambda: stop.asked,
                work=work,
            )
        except halting.Halted as halted:
            raise CommandError(f"{halted}: resume {run} with the same command then") from halted

    def _rehearse(self, entity: BillingEntity, month: date, *, as_json: bool) -> None:
        total = len(runs.accounts_to_close(entity))
        with progress_bar.bar("Rehearsing", total=total, unit="accounts") as bar:
            result = rehearsal.rehearse(
                entity=entity, month=month, as_of=clock.now(), on_progress=bar.advance
            )
        if as_json:
            self.stdout.write(json.dumps(result, indent=2))
            return
        self.stdout.write(f"Rehearsal of {result['month']}: nothing was written.")
        self.stdout.write(tables.text(result["currencies"], none="Nobody would be invoiced."))
        for row in result["blocked"]:
            self.stdout.write(f"blocked: {row['account']}: {row['because']}")
        if result["untallied_batches"]:
            self.stdout.write(
                f"Not in it: {result['untallied_batches']} batches of usage not tallied yet."
            )
        for account in result["untallied_accounts"]:
            self.stdout.write(f"Not in it: usage of {account} that could not be added up.")
        for line in rejected_rows.lines(result["rejected_rows"]):
            self.stdout.write(line)

    def _tell(self, run: CloseRun, *, is_new: bool, seconds: float, as_json: bool) -> None:
        told = progress_report.of(run, as_of=clock.now())
        rejected = rejected_rows.of_run(run)
        if as_json:
            self.stdout.write(
                json.dumps(
                    {
                        **told,
                        "rejected_rows": rejected,
                        "resumed": not is_new,
                        "seconds": round(seconds, 1),
                    },
                    indent=2,
                )
            )
            return
        self.stdout.write(f"{run}: {run.get_state_display().lower()} as of {told['as_of']}")
        self.stdout.write(tables.text(told["answer"]["currencies"], none="Nobody was invoiced."))
        self.stdout.write(tables.text(tables.steps(told["steps"]), none=""))
        for row in told["stuck"]:
            self.stdout.write(f"{row['accounts']} × {row['kind']} {row['state']}: {row['because']}")
        for line in rejected_rows.lines(rejected):
            self.stdout.write(line)
        if told["state"] == CloseRun.State.RUNNING and told["next_at"]:
            self.stdout.write(
                f"Its next step is due at {told['next_at']}; the clusters take it from here."
            )


def find_entity(slug: str | None) -> BillingEntity:
    """
    The billing entity of a slug, or the only one.

    :raises CommandError: if there is none (of that slug), or no slug was given and there are several.
    """
    entities = {entity.slug: entity for entity in BillingEntity.objects.order_by("slug")}
    if not entities:
        raise CommandError("There is no billing entity: make one in the admin.")
    if slug is None and len(entities) > 1:
        raise CommandError(f"--entity is needed, one of: {', '.join(entities)}")
    if slug is not None and slug not in entities:
        raise CommandError(f"--entity {slug!r} is not one of: {', '.join(entities)}")
    return entities[slug] if slug is not None else next(iter(entities.values()))


def read_month(text: str) -> date:
    """
    The first day of the month "YYYY-MM".

    :raises CommandError: if it is no month.
    """
    try:
        month = CloseRun.month_of(text)
    except ValueError:
        month = None
    # Usage was not billed by any earlier year, and the month after the last one of the calendar is none.
    if month is None or not FIRST_YEAR <= month.year < date.max.year:
        raise CommandError(f"{text!r} is not a month: write it as YYYY-MM, such as 2018-10")
    return month


class _Stop:
    """Ctrl-C once: stop after the chunk in hand. Twice: stop now; that is safe too, but takes a lease to heal."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _ask(self, *_: object) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Shown:
    """What the bar shows already."""

    def __init__(self, bar: progress_bar.Bar) -> None:
        self._bar = bar
        self._ended = 0

    def sight(self, sight: foreground.Sight) -> None:
        self._bar.advance(sight.ended - self._ended)
        self._ended = sight.ended
