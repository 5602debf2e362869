"""`manage.py run`: the site and its workers in one terminal, for looking around. Servers use systemd."""

import os
import sys
from argparse import SUPPRESS, ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand

from accounts.models import User
from billing.demo import charging, provider
from config.cluster import die_with
from config.together import Together

SITE, WORKERS = "site", "workers"
# As in the systemd unit and the image.
WEB_SERVER = "python:config.web_server"
DEMO_ADDRESSES = "@" + provider.STAFF_EMAIL.partition("@")[2]


class Command(BaseCommand):
    help = "Migrate, then run the site and its workers together, until Ctrl-C."
    # `migrate` runs them; the parts it starts need not again.
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--bind", default="127.0.0.1:8000", help="Address and port. Default: 127.0.0.1:8000."
        )
        # Said by the run to the parts it starts: what to become, and whom to die with.
        parser.add_argument("--part", choices=[SITE, WORKERS], help=SUPPRESS)
        parser.add_argument("--started-by", type=int, default=None, help=SUPPRESS)

    def handle(
        self, *_args: Any, bind: str, part: str | None, started_by: int | None, **_options: Any
    ) -> None:
        if part is not None and started_by is not None:
            become(part, bind=bind, started_by=started_by)
            return
        call_command("migrate", verbosity=0)
        call_command("collectstatic", interactive=False, verbosity=0)
        if settings.SHARES_PROVIDER:
            charging.tell(f"http://127.0.0.1:{bind.rpartition(':')[2]}/webhooks/stripe/")
        self.stdout.write(f"The site: http://{bind}/  The admin: http://{bind}/admin/")
        self.stdout.write("\n".join(logins()))
        self.stdout.write("Ctrl-C stops the site and the workers.")
        self.stdout.flush()
        sys.exit(Together(parts(bind), say=self.stderr.write).run())


def logins() -> list[str]:
    """Who may sign in, as far as one may say it aloud: the people of the demo, with their password."""
    if not User.objects.filter(is_staff=True, is_active=True).exists():
        return ["Nobody may sign in yet: manage.py createsuperuser"]
    demo = User.objects.filter(email__endswith=DEMO_ADDRESSES, is_active=True).order_by("pk")
    return [
        f"  {user.email} / {provider.PASSWORD}"
        for user in demo
        if user.check_password(provider.PASSWORD)
    ]


def parts(bind: str) -> dict[str, list[str]]:
    """The commands of this run, by the name they are spoken of."""
    again = [*manage("run"), "--bind", bind, "--started-by", str(os.getpid())]
    return {"The site": [*again, "--part", SITE], "The workers": [*again, "--part", WORKERS]}


def become(part: str, *, bind: str, started_by: int) -> None:
    """Turn this process into a part of the run, which dies with whoever started it."""
    die_with(started_by)
    command = {
        SITE: [
            *(sys.executable, "-m", "gunicorn", "--config", WEB_SERVER, "--bind", bind),
            # A line per request would bury the workers' words.
            *("--log-level", "warning"),
        ],
        WORKERS: [*manage("cluster"), "--supervise"],
    }[part]
    # For looking around: its pages say that no real money moves, as long as none does.
    environment = {"TRIAL": "true", **os.environ}
    os.execve(command[0], command, environment)  # noqa: S606 - our own words, no shell


def manage(name: str) -> list[str]:
    """The words that run one of our commands."""
    return [sys.executable, str(settings.BASE_DIR / "manage.py"), name]
