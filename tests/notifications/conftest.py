"""A real SMTP server on a real socket, that answers as the test tells it to."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from config.locale_catalogs import compile_catalogs
from notifications import mail_server


@dataclass
class Sink:
    """What arrived, and what it answers next; with nothing scripted it accepts everything."""

    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    connections: int = 0
    # Answers to RCPT by address, used up one by one.
    refuse_recipient: dict[str, list[str]] = field(default_factory=dict)
    # Answers to the text itself, used up one by one; "" accepts.
    answers: list[str] = field(default_factory=list)
    # Called with each mail while the deliverer waits for the answer.
    on_data: Callable[[EmailMessage], None] | None = None
    # Recipients upon whose text the server drops the connection.
    hang_up_on: set[str] = field(default_factory=set)

    async def handle_EHLO(
        self, _server: Any, session: Any, _envelope: Any, hostname: str, answers: list[str]
    ) -> list[str]:
        self.connections += 1
        session.host_name = hostname
        return answers

    async def handle_RCPT(
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        if answers := self.refuse_recipient.get(address):
            return answers.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, _session: Any, envelope: Any) -> str:
        mail = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        if self.hang_up_on & set(envelope.rcpt_tos):
            server.transport.close()
            return "421 bye"
        if self.answers and (answer := self.answers.pop(0)):
            return answer
        self.mails.append(mail)
        self.recipients += envelope.rcpt_tos
        if self.on_data:
            _in_a_thread(self.on_data, mail)
        return "250 accepted"

    @property
    def message_ids(self) -> list[str]:
        return [mail["Message-ID"] for mail in self.mails]


def _in_a_thread(act: Callable[[EmailMessage], None], mail: EmailMessage) -> None:
    # Database code refuses to run in the thread of an event loop.
    thread = threading.Thread(target=act, args=[mail])
    thread.start()
    thread.join()


class OnAnyPort(Controller):
    """aiosmtpd wants to know its port beforehand; the kernel knows a free one."""

    def _trigger_server(self) -> None:
        assert self.server is not None
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


@pytest.fixture
def sink(settings: Any) -> Iterator[Sink]:
    sink = Sink()
    controller = OnAnyPort(sink, hostname="127.0.0.1", port=0)
    controller.start()
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = controller.hostname, controller.port
    # However slow this machine is just now.
    settings.EMAIL_CONNECTIONS = 1
    settings.DEFAULT_FROM_EMAIL = "Month Close <billing@mail.example.com>"
    yield sink
    mail_server.hang_up()
    controller.stop()


@pytest.fixture(scope="session", autouse=True)
def _catalogs() -> None:
    compile_catalogs()
