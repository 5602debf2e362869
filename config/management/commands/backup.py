"""`manage.py backup FILE`: the whole database in one file."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from config import backups


class Command(BaseCommand):
    help = "Write a backup of the whole database to a file, with pg_dump."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)

    def handle(self, *_args: Any, file: Path, **_options: Any) -> None:
        try:
            backups.back_up(file)
        except backups.ProgramFailed as error:
            raise CommandError(str(error)) from error
        self.stdout.write(
            f"{file}: {file.stat().st_size:,} bytes. Restore it with manage.py restore."
        )
