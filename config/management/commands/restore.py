"""`manage.py restore FILE`: a backup in the place of the database, which is kept."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from config import backups


class Command(BaseCommand):
    help = "Restore a backup into a fresh database, which then takes the name of the present one."
    # The database may be as damaged as it likes.
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument(
            "--no-input",
            action="store_true",
            help="Do not ask whether the database is to be replaced.",
        )

    def handle(self, *_args: Any, file: Path, no_input: bool, **_options: Any) -> None:
        name = connection.settings_dict["NAME"]
        if not no_input and input(f"To replace the database, type its name, {name}: ") != name:
            raise CommandError("Nothing was done.")
        try:
            kept = backups.restore(file, say=self.stdout.write)
        except (backups.CannotRestore, backups.ProgramFailed) as error:
            raise CommandError(f"{error}. The database {name} is as it was.") from error
        self.stdout.write(
            f"{name} is restored. What was there before is kept as {kept}; drop it when all is well:"
            f" DROP DATABASE {kept}.\n"
            "Charging pauses until the providers have been listed; what you have to do stands in"
            " docs/operations.md, After a restore from a backup."
        )
