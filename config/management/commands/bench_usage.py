"""`manage.py bench_usage`: how fast usage is imported and tallied, and the books are checked, on this machine."""

import json
import subprocess
import sys
import time
from argparse import SUPPRESS, ArgumentParser
from io import StringIO
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing import periods
from config.bench import building, scratch, using
from config.bench.circumstances import circumstances


class Command(BaseCommand):
    """`manage.py bench_usage --events 10000000 --accounts 100000 --json`"""

    help = (
        "In a scratch database: tallies a month of usage events, imports a file and holds it against a bare COPY,"
        " and checks the books over many postings. Prints one JSON document."
    )
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--accounts", type=int, default=1000, help="who uses something (1000)")
        parser.add_argument(
            "--events", type=int, default=300_000, help="of the month, in thirty batches (300000)"
        )
        parser.add_argument("--rows", type=int, default=100_000, help="of the file (100000)")
        parser.add_argument(
            "--postings", type=int, default=100_000, help="in the books that are checked (100000)"
        )
        parser.add_argument("--json", action="store_true", help="(there is no other form)")
        parser.add_argument("--on-scratch", action="store_true", help=SUPPRESS)

    def handle(self, **options: Any) -> None:
        if options["on_scratch"]:
            self._measure(options)
            return
        if options["accounts"] < 1:
            raise CommandError("--accounts must be at least 1")
        arguments = [sys.executable, str(settings.BASE_DIR / "manage.py"), *sys.argv[1:]]
        with scratch.place(latency_ms=0, rate=None) as environment:
            ended = subprocess.run([*arguments, "--on-scratch"], env=environment, check=False)  # noqa: S603
        if ended.returncode:
            raise CommandError("it was not measured: see above", returncode=ended.returncode)

    def _measure(self, options: dict[str, Any]) -> None:
        call_command("migrate", verbosity=0)
        as_of = timezone.now()
        month = periods.latest_month_over(as_of, building.ZONES)
        products = building.build_catalogue(
            since=periods.starts_at(month, "UTC").replace(year=2000)
        )
        entity = building.build_entity(
            "usage",
            accounts=options["accounts"],
            month=month,
            products=products,
            as_of=as_of,
            say=self._say,
        )
        common: dict[str, Any] = {"month": month, "clock": timezone.now}
        document: dict[str, Any] = circumstances() | {"accounts": options["accounts"]}
        if options["events"]:
            document["tally"] = using.measure_tally(
                entity, products=products, events=options["events"], **common
            )
            self._say(json.dumps(document["tally"]))
        if options["rows"]:
            self._say("Importing a file")
            document["import"] = using.measure_import(entity, rows=options["rows"], **common)
            self._say(json.dumps(document["import"]))
        document["check_books"] = self._check_books(
            using.build_postings(entity, postings=options["postings"], as_of=as_of)
        )
        self.stdout.write(json.dumps(document, indent=2))

    def _check_books(self, postings: int) -> dict[str, Any]:
        self._say("Checking the books")
        began, answer = time.monotonic(), StringIO()
        try:
            call_command("check_books", json=True, stdout=answer)
        except SystemExit:
            self._say("The books are not right.")
        seconds = time.monotonic() - began
        return {
            "postings": postings,
            "seconds": round(seconds, 2),
            "violated": json.loads(answer.getvalue())["violated"],
        }

    def _say(self, words: str) -> None:
        self.stderr.write(words, ending="\n")
        self.stderr.flush()
