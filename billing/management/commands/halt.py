"""`manage.py halt`: workers everywhere begin nothing more, as before a deployment; `--lift` ends it."""

import getpass
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing.workers import halting


class Command(BaseCommand):
    """`manage.py halt --because "release 1.4"`, `manage.py halt --lift`"""

    help = (
        "Has workers everywhere begin nothing more; what is on its way at a provider comes to its end within"
        " seconds. Without an option it says how that stands."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--because", help="halt, and why: people read it")
        what.add_argument("--lift", action="store_true", help="let work go on")

    def handle(self, **options: Any) -> None:
        by = getpass.getuser()
        try:
            if options["because"]:
                halting.order(because=options["because"], by=by)
            elif options["lift"]:
                halting.lift(by=by)
        except (halting.AlreadyHalted, halting.NotHalted) as refused:
            raise CommandError(str(refused)) from refused
        halt = halting.halt()
        self.stdout.write(
            f"{halt}, since {halt.ordered_at:%H:%M:%S} UTC" if halt else "Work goes on"
        )
