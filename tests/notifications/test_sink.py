"""`manage.py mail_sink`, spoken to by Python's own client."""

import asyncio
import io
import os
import signal
import smtplib
import threading
from collections.abc import Callable

from django.core.management import call_command

from notifications.sink import Sink, _Session

PATIENCE_SECONDS = 30
MAIL = b"Message-ID: <%d@here>\r\nSubject: Hello\r\n\r\n.a line that begins with a dot\r\n"


class Said(io.StringIO):
    """What the command says; its first line tells where to go."""

    def __init__(self) -> None:
        super().__init__()
        self.first_line = threading.Event()

    def flush(self) -> None:
        if self.getvalue():
            self.first_line.set()


def with_a_sink(talk: Callable[[smtplib.SMTP], None], *options: str) -> list[str]:
    """What the sink says in the end."""
    said, errors = Said(), []

    def client() -> None:
        try:
            assert said.first_line.wait(PATIENCE_SECONDS)
            host, port = said.getvalue().split()[-1].split(":")
            with smtplib.SMTP(host, int(port), timeout=PATIENCE_SECONDS) as smtp:
                talk(smtp)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            errors.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=client)
    thread.start()
    call_command("mail_sink", "--port=0", *options, stdout=said)
    thread.join()
    assert not errors, errors
    return said.getvalue().splitlines()[1:]


def test_accepts_everything_and_counts_what_came_twice() -> None:
    def talk(client: smtplib.SMTP) -> None:
        for number in (1, 2, 2):
            assert client.sendmail("a@here", ["b@there"], MAIL % number) == {}
        client.sendmail("a@here", ["b@there"], b"no headers")
        assert client.noop()[0] == 250
        assert client.docmd("WHAT")[0] == 500

    assert with_a_sink(talk) == ["accepted: 4, repeated: 1, connections: 1"]


def test_answers_late_and_all_that_came_together() -> None:
    def talk(client: smtplib.SMTP) -> None:
        client.ehlo()
        assert client.has_extn("pipelining")
        client.send(b"MAIL FROM:<a@here>\r\nRCPT TO:<b@there>\r\nDATA\r\n")
        assert [client.getreply()[0] for _ in range(3)] == [250, 250, 354]
        client.send(MAIL % 1 + b".\r\n")
        assert client.getreply()[0] == 250

    assert with_a_sink(talk, "--latency-ms=5") == ["accepted: 1, repeated: 0, connections: 1"]


def test_waits_for_the_rest_of_a_word() -> None:
    said: list[bytes] = []

    class Wire(asyncio.Transport):
        def write(self, data: bytes) -> None:
            said.append(data)

    session = _Session(Sink())
    session.connection_made(Wire())
    session.data_received(b"NO")
    assert said == [b"220 mail sink\r\n"]
    session.data_received(b"OP\r\n")

    assert said[1:] == [b"250 ok\r\n"]
