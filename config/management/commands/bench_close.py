"""`manage.py bench_close`: builds accounts in a scratch database, closes them, prints the figures."""

import json
import subprocess
import sys
from argparse import SUPPRESS, ArgumentParser
from io import StringIO
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from accounts import clock
from billing import periods
from billing.management import tables
from config.bench import building, closing, scratch, stepping
from config.bench.circumstances import circumstances


class Command(BaseCommand):
    """`manage.py bench_close --accounts 1000 --json`"""

    help = (
        "Builds accounts with a month of usage in a scratch database, closes them on real clusters against a"
        " provider process, and prints what it took and what PostgreSQL alone needs for it."
    )
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--accounts", type=int, default=1000, help="how many to close (1000)")
        parser.add_argument(
            "--latency-ms", type=float, default=200, help="of each call to the provider (200)"
        )
        parser.add_argument(
            "--rate", type=float, default=None, help="charges a second that the lane allows (any)"
        )
        parser.add_argument(
            "--workers", type=int, default=2, help="worker processes per lane, and per step (2)"
        )
        parser.add_argument(
            "--steps",
            type=int,
            default=2000,
            metavar="N",
            help="measure each step by itself on so many accounts of their own (2000; 0: do not)",
        )
        parser.add_argument(
            "--baseline",
            action="store_true",
            help="also close some accounts the old way, one after another in one process",
        )
        parser.add_argument(
            "--baseline-accounts", type=int, default=50, metavar="N", help="how many (50)"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON document")
        parser.add_argument("--on-scratch", action="store_true", help=SUPPRESS)
        parser.add_argument("--work", help=SUPPRESS)

    def handle(self, **options: Any) -> None:
        if options["work"]:
            self._work(options["work"])
        elif options["on_scratch"]:
            self._measure(options)
        else:
            self._set_up(options)

    def _set_up(self, options: dict[str, Any]) -> None:
        """Run ourselves anew, where the settings name a database that is only ours."""
        if options["accounts"] < 1 or options["workers"] < 1:
            raise CommandError("--accounts and --workers must be at least 1")
        arguments = [sys.executable, str(settings.BASE_DIR / "manage.py"), *sys.argv[1:]]
        with scratch.place(latency_ms=options["latency_ms"], rate=options["rate"]) as environment:
            ended = subprocess.run([*arguments, "--on-scratch"], env=environment, check=False)  # noqa: S603
        if ended.returncode:
            raise CommandError("it was not measured: see above", returncode=ended.returncode)

    def _work(self, kind: str) -> None:
        connection.ensure_connection()
        self.stdout.write("ready")
        self.stdout.flush()
        sys.stdin.readline()
        self.stdout.write(json.dumps(stepping.work(kind, clock=clock.now)))

    def _measure(self, options: dict[str, Any]) -> None:
        call_command("migrate", verbosity=0)
        as_of = clock.now()
        month = periods.latest_month_over(as_of, building.ZONES)
        products = building.build_catalogue(
            since=periods.starts_at(month, "UTC").replace(year=2000)
        )

        def build(slug: str, accounts: int) -> Any:
            return building.build_entity(
                slug, accounts=accounts, month=month, products=products, as_of=as_of, say=self._say
            )

        common: dict[str, Any] = {"month": month, "clock": clock.now}
        document: dict[str, Any] = {**self._circumstances(options), "steps": {}}
        if sample := options["steps"]:
            document["steps"] = stepping.measure_steps(
                build("steps", sample), workers=options["workers"], accounts=sample, **common
            )
        if options["baseline"]:
            few = options["baseline_accounts"]
            document["baseline"] = stepping.measure_one_by_one(
                build("onebyone", few), accounts=few, **common
            )
        closed = closing.close(
            build("close", options["accounts"]), workers=options["workers"], **common
        )
        document["close_seconds"] = round(closed.seconds, 2)
        document["accounts_per_second"] = round(options["accounts"] / closed.seconds, 1)
        document |= closed.document
        document["limits"] = self._limits(document, options)
        document["ratios"] = self._ratios(document)
        document["check_books"] = self._check_books()
        self._print(document, as_json=options["json"])

    @staticmethod
    def _circumstances(options: dict[str, Any]) -> dict[str, Any]:
        return {
            "accounts": options["accounts"],
            "lines_per_account": building.LINES_PER_ACCOUNT,
            "latency_ms": options["latency_ms"],
            "rate_per_second": options["rate"],
            "workers_per_lane": options["workers"],
            **circumstances(),
        }

    @staticmethod
    def _limits(document: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        steps = {kind: step["limit"] for kind, step in document["steps"].items() if "limit" in step}
        return {**steps, "CHARGE": {"rate_per_second": options["rate"]}}

    @staticmethod
    def _ratios(document: dict[str, Any]) -> dict[str, Any]:
        steps = document["steps"].items()
        ratios = {
            f"{kind}_to_bare_insert{suffix}": step[f"times_the_limit{suffix}"]
            for kind, step in steps
            for suffix in ("", "_in_cpu")
            if f"times_the_limit{suffix}" in step
        }
        rate, charge = document["rate_per_second"], document["steps_in_the_close"]["CHARGE"]
        if rate:
            ratios["CHARGE_to_rate"] = round(charge["accounts_per_second"] / rate, 3)
        if "baseline" in document:
            slow = document["baseline"]["accounts_per_second"]
            ratios["close_to_baseline"] = round(document["accounts_per_second"] / slow, 1)
        return ratios

    def _check_books(self) -> dict[str, Any]:
        self._say("Checking the books")
        answer = StringIO()
        try:
            call_command("check_books", json=True, stdout=answer)
        except SystemExit:
            self._say("The books are not right.")
        told: dict[str, Any] = json.loads(answer.getvalue())
        return told

    def _say(self, words: str) -> None:
        self.stderr.write(words, ending="\n")
        self.stderr.flush()

    def _print(self, document: dict[str, Any], *, as_json: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps(document, indent=2))
            return
        rows = [
            {
                "step": kind.lower(),
                "seconds": step["seconds"],
                "a second": step["accounts_per_second"],
                "times the bare insert": step.get("times_the_limit", ""),
                "peak MB": step["peak_worker_mb"],
                "rows": step["rows_written"],
            }
            for kind, step in document["steps"].items()
        ]
        self.stdout.write("Each step by itself")
        self.stdout.write(tables.text(rows, none="Not measured."))
        self.stdout.write(
            f"\nThe whole close of {document['accounts']:,} accounts: {document['close_seconds']} s,"
            f" {document['accounts_per_second']} accounts a second"
        )
        for name, ratio in document["ratios"].items():
            self.stdout.write(f"{name.replace('_', ' ').lower()}: {ratio}")
        self.stdout.write(f"check_books: {document['check_books']['violated']} broken")
