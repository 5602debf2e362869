"""Run a mail server that accepts everything and delivers nothing."""

import asyncio
import signal
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from notifications.sink import Sink


class Command(BaseCommand):
    """`manage.py mail_sink --port 2525`"""

    help = (
        "Runs an SMTP server on 127.0.0.1 that accepts every mail and delivers none: to measure"
        " against, with EMAIL_URL=smtp://127.0.0.1:PORT. Says what it got when it is stopped."
    )
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--port", type=int, default=2525, help="0: one that is free")
        parser.add_argument(
            "--latency-ms", type=float, default=0.0, help="how long it takes to answer"
        )

    def handle(self, **options: Any) -> None:
        sink = Sink(latency_seconds=options["latency_ms"] / 1000)
        asyncio.run(self._run(sink, port=options["port"]))
        self.stdout.write(str(sink))

    async def _run(self, sink: Sink, *, port: int) -> None:
        server = await sink.listen(port=port)
        stopped = asyncio.Event()
        for each in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(each, stopped.set)
        host, port = server.sockets[0].getsockname()
        self.stdout.write(f"mail sink listens on {host}:{port}")
        self.stdout.flush()
        await stopped.wait()
        server.close()
