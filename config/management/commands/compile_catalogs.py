"""`manage.py compile_catalogs`: what installing the project does, so that it speaks its languages."""

import sys
from argparse import ArgumentParser
from io import BytesIO
from typing import Any

from babel.messages.pofile import write_po
from django.core.management.base import BaseCommand

from config import locale_catalogs


class Command(BaseCommand):
    help = "Compile the translations. With --missing, print what is not translated; exit code 1 if any."
    # It runs while installing, before there is a database.
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--missing",
            action="store_true",
            help="Compile nothing; print the untranslated strings as .po entries to fill in.",
        )

    def handle(self, *_args: Any, missing: bool, **_options: Any) -> None:
        if missing:
            sys.exit(self.print_missing())
        for path in locale_catalogs.compile_catalogs():
            self.stdout.write(f"Compiled {path}")

    def print_missing(self) -> int:
        """The exit code: 1 where any string of any language lacks its translation."""
        lacking = {
            language: locale_catalogs.missing(language) for language in locale_catalogs.languages()
        }
        for language, catalog in lacking.items():
            self.stdout.write(f"# {language}: {len(catalog)} strings to translate")
            entries = BytesIO()
            write_po(entries, catalog, omit_header=True)
            self.stdout.write(entries.getvalue().decode())
        return int(any(len(catalog) for catalog in lacking.values()))
