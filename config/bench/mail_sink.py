"""
A mail server that accepts everything and keeps nothing: `python -m config.bench.mail_sink`.

Its first line on standard output is its port.
"""

import asyncio

ADDRESS = "127.0.0.1"


class Session(asyncio.Protocol):
    """Just enough SMTP (RFC 5321) for a client that sends one mail after another."""

    def __init__(self) -> None:
        self._received = b""
        self._in_text = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        assert isinstance(transport, asyncio.Transport), "SMTP runs over a stream"
        self._transport = transport
        transport.write(b"220 sink\r\n")

    def data_received(self, data: bytes) -> None:
        """Answer each line, or the end of a mail's text."""
        self._received += data
        while True:
            end = b"\r\n.\r\n" if self._in_text else b"\r\n"
            taken, found, rest = self._received.partition(end)
            if not found:
                return
            self._received = rest
            self._transport.write(self._answer(taken))

    def _answer(self, line: bytes) -> bytes:
        if self._in_text:
            self._in_text = False
            return b"250 taken\r\n"
        match line[:4].upper():
            case b"EHLO":
                return b"250-sink\r\n250 8BITMIME\r\n"
            case b"DATA":
                self._in_text = True
                return b"354 go on\r\n"
            case b"QUIT":
                self._transport.close()
                return b"221 bye\r\n"
        return b"250 ok\r\n"


async def serve(*, port: int) -> asyncio.Server:
    """This will listen, and return the server with its port; the caller keeps it alive."""
    return await asyncio.get_running_loop().create_server(Session, ADDRESS, port, backlog=256)


def main() -> None:  # pragma: no cover - a process of its own; what it serves is tested in a thread
    """Serve until killed."""

    async def run() -> None:
        server = await serve(port=0)
        print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - who started us reads it
        await server.serve_forever()

    asyncio.run(run())


if __name__ == "__main__":  # pragma: no cover - as above
    main()
