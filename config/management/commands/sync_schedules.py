"""`manage.py sync_schedules`: what every cluster also does when it starts."""

from typing import Any

from django.core.management.base import BaseCommand

from config import schedules


class Command(BaseCommand):
    help = "Make the schedules in the database those of config/schedules.py."

    def handle(self, *_args: Any, **_options: Any) -> None:
        schedules.sync()
        self.stdout.write(f"Schedules: {', '.join(entry.name for entry in schedules.SCHEDULES)}.")
