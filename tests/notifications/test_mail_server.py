"""Connections to a mail server, against one that a script plays word by word."""

import smtplib
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from notifications import mail_server
from notifications.delivery import MESSAGES
from notifications.dispatcher import NotBegun
from notifications.dispatcher.window import Window
from notifications.mail_server import MailServerDown
from notifications.models import Message
from tests.notifications.test_mail import message

SOON = 10.0
HANG_UP = "hang up"


class Played:
    """A mail server in a thread, that says yes to everything but what `says` has for a word."""

    def __init__(self) -> None:
        self.says: dict[str, list[str]] = {}
        self.extensions = ["250-PIPELINING"]
        self.heard: list[list[str]] = []
        self.mails: list[str] = []
        self.seconds_a_mail = 0.0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def stop(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.heard.append([])
            talk = threading.Thread(target=self._talk, args=[connection, self.heard[-1]])
            self._threads.append(talk)
            talk.start()

    def _talk(self, connection: socket.socket, heard: list[str]) -> None:
        with connection, connection.makefile("rwb", buffering=0) as line:
            line.write(b"220 here\r\n")
            while said := line.readline().decode().strip():
                word = said.partition(" ")[0].partition(":")[0].upper()
                heard.append(word)
                answer = self._answer(word)
                if answer == HANG_UP:
                    return
                line.write(answer.encode() + b"\r\n")
                if answer.startswith("354") and not self._text(line):
                    return

    def _answer(self, word: str) -> str:
        if scripted := self.says.get(word):
            return scripted.pop(0)
        if word == "EHLO":
            return "\r\n".join(["250-here", *self.extensions, "250 SIZE"])
        return "354 go ahead" if word == "DATA" else "250 ok"

    def _text(self, line: Any) -> bool:
        """Whether the connection goes on after it."""
        mail = b""
        while not mail.endswith(b"\r\n.\r\n"):
            if not (more := line.readline()):
                return False
            mail += more
        time.sleep(self.seconds_a_mail)
        answer = self._answer("TEXT")
        if answer == HANG_UP:
            return False
        if answer.startswith("250"):
            self.mails.append(mail.decode())
        line.write(answer.encode() + b"\r\n")
        return True


@pytest.fixture
def server(settings: Any) -> Iterator[Played]:
    mail_server.hang_up()
    played = Played()
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", played.port
    # However slow this machine is just now.
    settings.EMAIL_CONNECTIONS = 1
    yield played
    mail_server.hang_up()
    played.stop()


def messages(count: int) -> list[Message]:
    return [message(recipient=f"a{number}@example.com", pk=uuid.uuid4()) for number in range(count)]


def window_of(told: Sequence[Message], *, within: float = SOON) -> Window:
    window = Window(MESSAGES)
    for each in told:
        window.begin(each, each, before=time.monotonic() + within)
    return window


def send(*told: Message, within: float = SOON) -> list[Exception | None]:
    window = window_of(told, within=within)
    said = dict[Message, Exception | None]()
    while window:
        said.update(window.answers())
    window.close()
    return [said[each] for each in told]


ENVELOPE = ["MAIL", "RCPT", "DATA"]


class TestSend:
    @pytest.mark.parametrize("extensions", [["250-PIPELINING"], ["250-8BITMIME"]])
    def test_says_the_same_words_pipelined_or_not(
        self, server: Played, extensions: list[str]
    ) -> None:
        server.extensions = extensions

        assert send(*messages(2)) == [None, None]

        assert server.heard == [["EHLO", *ENVELOPE, *ENVELOPE]]
        assert len(server.mails) == 2

    @pytest.mark.parametrize("extensions", [["250-PIPELINING"], ["250-8BITMIME"]])
    @pytest.mark.parametrize(
        ("says", "error"),
        [
            ({"MAIL": "530 who are you"}, smtplib.SMTPSenderRefused),
            ({"RCPT": "550 no such user"}, smtplib.SMTPRecipientsRefused),
            ({"DATA": "451 later"}, smtplib.SMTPDataError),
            ({"TEXT": "554 we do not want this"}, smtplib.SMTPDataError),
        ],
    )
    def test_a_refusal_is_one_message_s_and_the_connection_stays(
        self, server: Played, says: dict[str, str], error: type, extensions: list[str]
    ) -> None:
        server.says = {word: [answer] for word, answer in says.items()}
        server.extensions = extensions
        if "250-PIPELINING" in extensions and {"MAIL", "RCPT"} & set(says):
            # It is said before the refusal is heard.
            server.says["DATA"] = ["503 whose text?"]

        first, second = send(*messages(2))

        assert type(first) is error
        assert second is None
        assert len(server.heard) == len(server.mails) == 1

    def test_a_server_that_waits_for_the_text_of_a_refused_mail_is_left(
        self, server: Played
    ) -> None:
        server.says = {"RCPT": ["550 no such user"]}

        first, second = send(*messages(2))

        assert isinstance(first, smtplib.SMTPRecipientsRefused)
        assert second is None
        assert len(server.heard) == 2
        assert "a1@example.com" in server.mails[0]

    def test_a_connection_that_was_kept_too_long_costs_no_message_a_try(
        self, server: Played
    ) -> None:
        send(*messages(1))
        server.says = {"MAIL": ["421 idle for too long"]}

        assert send(*messages(2)) == [None, None]

        assert (len(server.heard), len(server.mails)) == (2, 3)

    def test_a_server_that_hangs_up_before_the_text_is_asked_once_more(
        self, server: Played
    ) -> None:
        server.says = {"MAIL": [HANG_UP, HANG_UP]}

        first, second = send(*messages(2))

        assert "NotHandedOver" in repr(first)
        assert second is None

    def test_one_that_goes_away_says_nothing_about_what_is_left(self, server: Played) -> None:
        server.says = {
            "TEXT": ["250 ok", HANG_UP],
            "EHLO": ["250 SIZE", "554 closed"],
            "HELO": ["554 closed"],
        }

        first, second, third = send(*messages(3))

        assert first is None
        assert isinstance(second, smtplib.SMTPServerDisconnected)
        assert isinstance(third, MailServerDown)

    def test_what_there_is_no_time_for_is_not_begun(self, server: Played) -> None:
        tried = send(*messages(2), within=0)

        assert [type(error) for error in tried] == [NotBegun, NotBegun]
        assert server.mails == []

    def test_a_slow_server_gets_more_connections_and_keeps_them(
        self, server: Played, settings: Any
    ) -> None:
        settings.EMAIL_CONNECTIONS = 3
        server.seconds_a_mail = 0.05

        assert send(*messages(12)) == [None] * 12
        assert len(server.heard) == 3
        assert send(*messages(12)) == [None] * 12

        assert len(server.heard) == 3
        assert len(server.mails) == 24

    def test_whoever_stops_listening_leaves_no_thread_behind(self, server: Played) -> None:
        server.seconds_a_mail = 0.2
        before = threading.active_count()
        window = window_of(messages(30))
        window.answers()

        window.close()

        names = [thread.name for thread in threading.enumerate()]
        assert "message-call" not in names
        assert threading.active_count() >= before
        assert len(server.mails) < 30

    def test_a_connection_to_another_server_is_not_used(
        self, server: Played, settings: Any
    ) -> None:
        send(*messages(1))
        other = Played()
        settings.EMAIL_PORT = other.port

        send(*messages(1))
        mail_server.hang_up()
        other.stop()

        assert (len(server.mails), len(other.mails)) == (1, 1)


class TestReach:
    def test_raises_where_nobody_listens(self, settings: Any) -> None:
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_PORT = 1

        with pytest.raises(MailServerDown, match="refused"):
            mail_server.reach()

    def test_leaves_a_connection_for_what_follows(self, server: Played) -> None:
        mail_server.reach()

        send(*messages(1))

        assert len(server.heard) == 1


class TestOtherBackends:
    def test_are_asked_for_one_mail_at_a_time(self, mailoutbox: list[Any]) -> None:
        assert send(*messages(2)) == [None, None]

        assert [mail.to for mail in mailoutbox] == [["a0@example.com"], ["a1@example.com"]]

    def test_a_mail_that_fails_does_not_stop_the_next(
        self, mailoutbox: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from django.core.mail.backends import locmem

        real = locmem.EmailBackend.send_messages
        answers = [ZeroDivisionError("a defect")]

        def once_broken(self: Any, mails: Any) -> int:
            if answers:
                raise answers.pop()
            return real(self, mails)

        monkeypatch.setattr(locmem.EmailBackend, "send_messages", once_broken)

        first, second = send(*messages(2))

        assert isinstance(first, ZeroDivisionError)
        assert second is None
