"""
A mail server that accepts everything and delivers nothing: to measure against, and to try things out.

It speaks as much SMTP as a client needs (EHLO, MAIL, RCPT, DATA, RSET, NOOP, QUIT), pipelined as well.
"""

import asyncio
import re

WORDS = {b"MAIL", b"RCPT", b"RSET", b"NOOP"}
MESSAGE_ID = re.compile(rb"^message-id:\s*(<[^>]+>)", re.IGNORECASE | re.MULTILINE)


class Sink:
    """What arrived. Answers each word after `latency_seconds`, as a server that is far away does."""

    def __init__(self, *, latency_seconds: float = 0.0) -> None:
        self.latency_seconds = latency_seconds
        self.accepted = 0
        self.repeated = 0
        self.connections = 0
        self._seen: set[bytes] = set()

    async def listen(self, *, port: int) -> asyncio.Server:
        """Listen on 127.0.0.1; port 0 is one that is free."""
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: _Session(self), "127.0.0.1", port)

    def take(self, mail: bytes) -> None:
        """Count a mail; as a repeat if its Message-ID came before."""
        found = MESSAGE_ID.search(mail)
        message_id = found[1] if found else b""
        self.accepted += 1
        self.repeated += message_id in self._seen
        self._seen.add(message_id)

    def __str__(self) -> str:
        return (
            f"accepted: {self.accepted}, repeated: {self.repeated}, connections: {self.connections}"
        )


class _Session(asyncio.Protocol):
    """One connection. Commands that arrive together are answered together."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._unread = bytearray()
        self._in_mail = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "a socket"
        self._transport = transport
        self._sink.connections += 1
        self._say([b"220 mail sink"])

    def data_received(self, data: bytes) -> None:
        self._unread += data
        answers: list[bytes] = []
        while (answer := self._read()) is not None:
            answers.append(answer)
        if answers:
            self._say(answers)

    def _read(self) -> bytes | None:
        """The answer to the next complete command or mail in the buffer; None if there is none."""
        end = b"\r\n.\r\n" if self._in_mail else b"\r\n"
        said, found, rest = self._unread.partition(end)
        if not found:
            return None
        self._unread = rest
        if self._in_mail:
            self._in_mail = False
            self._sink.take(bytes(said))
            return b"250 accepted"
        return self._answer(bytes(said).split(b" ", 1)[0].upper())

    def _answer(self, word: bytes) -> bytes:
        match word:
            case b"EHLO":
                return b"250-mail sink\r\n250-PIPELINING\r\n250 8BITMIME"
            case b"DATA":
                self._in_mail = True
                return b"354 go ahead"
            case b"QUIT":
                return b"221 bye"
        return b"250 ok" if word in WORDS else b"500 what?"

    def _say(self, answers: list[bytes]) -> None:
        said = b"".join(answer + b"\r\n" for answer in answers)
        if self._sink.latency_seconds:
            loop = asyncio.get_running_loop()
            loop.call_later(self._sink.latency_seconds, self._write, said)
        else:
            self._write(said)

    def _write(self, said: bytes) -> None:
        self._transport.write(said)
        if said.endswith(b"221 bye\r\n"):
            self._transport.close()
