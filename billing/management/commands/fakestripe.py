"""Run our own payment provider, which speaks Stripe's API and moves no money."""

import contextlib
import sqlite3
from argparse import SUPPRESS, ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from billing.gateways.standins.fakestripe import shared
from billing.gateways.standins.fakestripe.errors import ApiError
from billing.gateways.standins.fakestripe.server import Options, Server, add_arguments

NAMES = Options.__dataclass_fields__


class Command(BaseCommand):
    """`manage.py fakestripe --port 12111`"""

    help = (
        "Runs a payment provider on 127.0.0.1 that speaks Stripe's API and keeps a book of its own."
    )
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_arguments(parser, book=settings.EMBEDDED_DB_DIR.parent / "fakestripe-book.sqlite3")
        # Said by who shares it: end when nobody holds a lock on this file any more.
        parser.add_argument("--users", type=Path, help=SUPPRESS)

    def handle(self, **options: Any) -> None:
        chosen = Options(**{name: options[name] for name in NAMES})
        try:
            server = Server(chosen)
        except (OSError, ValueError, ApiError, sqlite3.OperationalError) as error:
            raise CommandError(f"fakestripe cannot start: {error}") from error
        self.stdout.write(f"fakestripe listens on {server.url}, its book is {chosen.book}")
        self.stdout.flush()
        if options["users"]:
            shared.leave_when_unused(options["users"], server.shutdown)
        with contextlib.suppress(KeyboardInterrupt):
            server.run()
