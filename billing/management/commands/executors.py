"""Which clusters run, where, for which queues, and when each last gave a sign of life."""

import json
import sys
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from billing.management import tables
from billing.workers import heartbeats


class Command(BaseCommand):
    """`manage.py executors`"""

    help = "Lists the clusters of the last day, by host. One that was silent for a minute is gone."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON document")
        parser.add_argument(
            "--here",
            action="store_true",
            help="only those of this host (HOST_NAME); exit code 1 if none of them lives",
        )

    def handle(self, *, here: bool, **options: Any) -> None:
        found = [each for each in heartbeats.seen() if not here or each.host == settings.HOST_NAME]
        rows = [
            {
                "host": each.host,
                "pid": each.pid,
                "lanes": ",".join(each.queues),
                "workers": each.workers,
                "started_at": each.started_at.isoformat(timespec="seconds"),
                "silent_seconds": round(each.silent_seconds),
                "state": "alive" if each.is_alive else "gone",
            }
            for each in found
        ]
        if options["json"]:
            self.stdout.write(json.dumps(rows, indent=2))
        else:
            self.stdout.write(tables.text(rows, none="No cluster was seen within a day."))
        if here and not any(each.is_alive for each in found):
            sys.exit(1)
