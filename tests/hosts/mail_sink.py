"""An SMTP server that counts what it accepted: `python -m tests.hosts.mail_sink ADDRESS PORT FILE`."""

import sys
import threading
from email import message_from_bytes
from pathlib import Path

from aiosmtpd.controller import Controller


class Sink:
    """Writes the Message-ID of each mail."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def handle_DATA(self, _server, _session, envelope) -> str:
        with self._path.open("a") as file:
            file.write(f"{message_from_bytes(envelope.content)['Message-ID']}\n")
        return "250 OK"


if __name__ == "__main__":
    Controller(Sink(Path(sys.argv[3])), hostname=sys.argv[1], port=int(sys.argv[2])).start()
    threading.Event().wait()
