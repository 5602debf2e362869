"""The finance answer of a month: what was invoiced, and did we collect it yet? And which host did how much."""

import csv
import json
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts import clock
from billing.management import tables
from billing.management.commands.close_month import find_entity, read_month
from billing.models import CloseRun
from billing.reports import csv_cells, finance, hosts, lines, rejected_rows


class Command(BaseCommand):
    """`manage.py close_report 2018-10 --by account,product --csv`"""

    help = "Prints what a month invoiced and collected, by currency; or its lines, by account and product."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("month", metavar="YYYY-MM")
        parser.add_argument("--entity", help="slug of the billing entity, where there are several")
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--by", help="account, product, or account,product")
        what.add_argument("--hosts", action="store_true", help="which machine ended how many steps")
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true", help="print one JSON document")
        form.add_argument("--csv", action="store_true", help="print CSV")

    def handle(self, **options: Any) -> None:
        entity, month = find_entity(options["entity"]), read_month(options["month"])
        run = CloseRun.objects.filter(entity=entity, month=month).select_related("entity").first()
        if run is None:
            raise CommandError(
                f"{month:%Y-%m} was never closed for {entity.slug}: manage.py close_month {month:%Y-%m}"
            )
        if options["hosts"]:
            worked = hosts.worked(run)
            self._print(worked, worked, hosts.COLUMNS, options, none="No step has ended.")
        elif options["by"]:
            try:
                rows = lines.invoiced(entity_id=entity.pk, month=month, by=options["by"].split(","))
            except lines.UnknownDimension as error:
                raise CommandError(str(error)) from error
            columns = [*options["by"].split(","), *lines.COLUMNS]
            self._print(rows, rows, columns, options)
        else:
            answer = finance.answer(run, as_of=clock.now())
            answer["rejected_rows"] = rejected_rows.of_run(run)
            self._print(answer, answer["currencies"], finance.COLUMNS, options)
            if not options["json"] and not options["csv"]:
                self.stdout.write(f"as of {answer['as_of']}")
            # CSV is read by programs: people are told beside it.
            beside = self.stderr if options["csv"] else self.stdout
            if not options["json"]:
                for line in rejected_rows.lines(answer["rejected_rows"]):
                    beside.write(line)

    def _print(
        self,
        document: object,
        rows: Sequence[dict[str, Any]],
        columns: Sequence[str],
        options: dict[str, Any],
        *,
        none: str = "Nothing was invoiced.",
    ) -> None:
        if options["json"]:
            self.stdout.write(json.dumps(document, indent=2))
        elif options["csv"]:
            writer = csv.DictWriter(self.stdout, fieldnames=columns)
            writer.writeheader()
            writer.writerows(csv_cells.safe(row) for row in rows)
        else:
            self.stdout.write(tables.text(rows, none=none))
