"""`manage.py cluster`: runs what django-q2 is asked to run, and crashes rather than limps."""

import os
import sys
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django_q.conf import Conf

from billing.workers.doorbell import UnknownQueue
from billing.workers.doorbell import queues as every_queue
from config import schedules
from config.cluster import die_with, parse_queues, queues_in_environment, run_cluster
from config.supervisor import Supervisor


class Command(BaseCommand):
    help = "Run a cluster of workers. Exit code 0 after SIGTERM or SIGINT, 70 after a crash."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--queues",
            # Its name before.
            "--lanes",
            default=queues_in_environment(),
            help=f"Which queues to serve, comma separated. All of them unless said: {','.join(every_queue())}.",
        )
        parser.add_argument(
            "--workers",
            type=int,
            default=settings.WORKERS,
            help="How many worker processes. Default: the setting WORKERS.",
        )
        parser.add_argument(
            "--supervise",
            action="store_true",
            help="Start the cluster again when it crashes, where nothing else would.",
        )
        # Said by --supervise to the cluster it starts: whom to die with.
        parser.add_argument("--supervised-by", type=int, default=None, help="(internal)")

    def handle(
        self,
        *_args: Any,
        queues: str,
        workers: int,
        supervise: bool,
        supervised_by: int | None,
        **_options: Any,
    ) -> None:
        served = self.checked(queues, workers)
        if supervise:
            sys.exit(self.supervise(served, workers))
        if supervised_by is not None:
            die_with(supervised_by)
        schedules.sync()
        self.stdout.write(f"Cluster: queues {', '.join(served)}; {workers} workers.")
        self.stdout.flush()
        sys.exit(run_cluster(queues=served, workers=workers))

    def checked(self, queues: str, workers: int) -> tuple[str, ...]:
        """The queues to serve. Raises `CommandError` for what could never run."""
        if workers < 1:
            raise CommandError(f"--workers must be at least 1, not {workers}.")
        if Conf.CLUSTER_NAME != Conf.PREFIX:
            raise CommandError(
                f"Unset Q_CLUSTER_NAME (now {Conf.CLUSTER_NAME!r}): a cluster of another name fires "
                "no schedules. Choose what it serves with --queues."
            )
        try:
            return parse_queues(queues)
        except UnknownQueue as error:
            raise CommandError(str(error)) from error

    def supervise(self, queues: tuple[str, ...], workers: int) -> int:
        """Keep a cluster running in a process of its own, until told to stop."""
        manage = [sys.executable, str(settings.BASE_DIR / "manage.py")]
        command = [*manage, "cluster", "--queues", ",".join(queues), "--workers", str(workers)]
        command += ["--supervised-by", str(os.getpid())]
        return Supervisor(command, say=self.stderr.write).run()
